"""encode and generate, end to end: what a user types, what is made of it, and what is said when it cannot be."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from wavenet_ae import audio, checkpoint, embeddings, models

MODEL = {
    "_target_": "wavenet_ae.models.wavenet.WaveNetAutoencoder",
    "pitch_conditioning": False,
    "encoder": {
        "_target_": "wavenet_ae.models.wavenet.Encoder",
        **{"layers": 4, "stages": 4, "width": 6, "kernel_size": 3, "embedding_dims": 16, "hop": 512},
    },
    "decoder": {
        "_target_": "wavenet_ae.models.wavenet.Decoder",
        **{"layers": 4, "stages": 4, "width": 8, "skip_width": 8, "kernel_size": 3, "embedding_dims": 16, "hop": 512},
    },
}


def save_model(path, seed=0, **changes):
    torch.manual_seed(seed)
    description = MODEL | changes
    model = models.build(description)
    meta = checkpoint.Meta(description, 16_000, 512, 0, "raw", "tones", "CC0-1.0")
    checkpoint.save(path, model, meta)
    return checkpoint.fingerprint(model)


@pytest.fixture
def here(command, tmp_path):
    """An empty folder, the current one, with model.safetensors in it."""
    save_model(tmp_path / "model.safetensors")
    return tmp_path


def noise(path, samples, seed=0):
    torch.manual_seed(seed)
    audio.write(path, torch.rand(samples) - 0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# --- both


@pytest.mark.parametrize("samples", [1, 511, 512, 513, 5000])
def test_a_sound_comes_back_as_long_as_it_was(here, command, samples):
    noise("a.wav", samples)
    done = command("encode", "checkpoint=model.safetensors", "input=a.wav")
    assert done.status == 0, done.err
    assert "1 embeddings in embeddings" in done.out
    assert embeddings.read("embeddings/a.npz").values.shape == (16, -(-samples // 512))
    short = min(samples, 600)
    seconds = f"seconds={short / 16_000}"
    done = command("generate", "checkpoint=model.safetensors", "input=embeddings/a.npz", seconds)
    assert done.status == 0, done.err
    assert audio.inspect("generated/a.wav") == (16_000, 1, short)
    done = command("generate", "checkpoint=model.safetensors", "input=a.wav", "out=direct")
    assert done.status == 0, done.err
    assert audio.inspect("direct/a.wav") == (16_000, 1, samples)
    direct, twice = audio.read("direct/a.wav"), audio.read("generated/a.wav")
    assert torch.equal(direct[:short], twice), "by way of an embedding file is the same sound"


def test_a_generated_sound_can_be_known_as_one(here, command):
    noise("viola.wav", 100)
    assert command("generate", "checkpoint=model.safetensors", "input=viola.wav", "seed=7").status == 0
    with soundfile.SoundFile("generated/viola.wav") as file:
        assert file.subtype == "PCM_16"
        made = file.comment
    fingerprint = checkpoint.fingerprint(checkpoint.load("model.safetensors"))
    assert "machine-made" in made
    assert f"model {fingerprint}, seed 7, temperature 1, top_p 1, viola.wav" in made
    done = command("generate", "checkpoint=model.safetensors", "input=viola.wav", "out=fine", "subtype=FLOAT")
    assert done.status == 0, done.err
    assert soundfile.info("fine/viola.wav").subtype == "FLOAT"


@pytest.mark.parametrize(
    ("verb", "folder", "suffix"), [("encode", "embeddings", "npz"), ("generate", "generated", "wav")]
)
def test_one_bad_file_among_ten_is_named_and_nine_are_done(here, command, verb, folder, suffix):
    for number in range(9):
        noise(f"in/{number}.wav", 40 + number)
    Path("in/5b.wav").write_text("not a sound at all")
    Path("in/README.txt").write_text("left out")
    done = command(verb, "checkpoint=model.safetensors", "input=in")
    assert done.status == 1
    assert "10 files taken, 1 left out: README.txt" in done.out
    assert f"{verb}: 1 of 10 inputs failed:\n  in/5b.wav cannot be read as audio: Format not recognised" in done.err
    assert [path.name for path in sorted(Path(folder).iterdir())] == [f"{number}.{suffix}" for number in range(9)]
    before = contents(folder)
    noise("in/5b.wav", 50)
    again = command(verb, "checkpoint=model.safetensors", "input=in")
    assert again.status == 0, again.err
    assert f"9 of 10 are in {folder} already: skipped (overwrite=true makes them again)" in again.out
    assert {name: data for name, data in contents(folder).items() if not name.startswith("5b")} == before
    assert len(contents(folder)) == 10
    last = command(verb, "checkpoint=model.safetensors", "input=in")
    assert last.status == 0, "all done is done"


def test_other_rates_and_channels_are_taken_with_a_notice_and_formats_of_all_kinds(here, command):
    audio._said.clear()
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (4410, 2))
    Path("in").mkdir()
    for name, subtype in (("a.wav", "PCM_24"), ("b.flac", "PCM_16"), ("c.mp3", "MPEG_LAYER_III"), ("d.ogg", "VORBIS")):
        soundfile.write(f"in/{name}", wave, 44_100, subtype=subtype)
    done = command("encode", "checkpoint=model.safetensors", "input=in")
    assert done.status == 0, done.err
    assert done.err.count("2 channels averaged to one and 44100 Hz resampled to 16000 Hz (said once; first in") == 1
    assert [embeddings.read(f"embeddings/{name}.npz").samples for name in "abcd"] == [1600] * 4


@pytest.mark.parametrize(
    "name", ["my (1).wav", "a,b.wav", "käse=gut.wav", "it's.wav", "sp ace.wav", "[x].wav", "a\\b.wav"]
)
def test_a_file_may_be_called_anything(here, command, name):
    noise(name, 40)
    done = command("encode", "checkpoint=model.safetensors", f"input={name}")
    assert done.status == 0, done.err
    assert Path("embeddings", name).with_suffix(".npz").exists()


@pytest.mark.parametrize("verb", ["encode", "generate"])
def test_results_go_where_they_are_asked_for_or_nothing_is_started(here, command, verb):
    noise("in/a.wav", 40)
    noise("in/deeper/a.wav", 40)
    done = command(verb, "checkpoint=model.safetensors", "input=in", "out=mirrored")
    assert done.status == 0, "notes of one name in two folders are two: " + done.err
    assert {path.parent.name for path in Path("mirrored").rglob("a.*")} == {"mirrored", "deeper"}
    noise("in/deeper/a.flac", 40)
    clash = command(verb, "checkpoint=model.safetensors", "input=in")
    assert clash.status == 1
    assert "in/deeper/a.flac and in/deeper/a.wav would both become" in clash.err
    Path("in/deeper/a.wav").unlink()
    Path("taken").write_text("a file")
    done = command(verb, "checkpoint=model.safetensors", "input=in/a.wav", "out=taken")
    assert done.status == 1
    assert "taken is a file: expected a folder for the results" in done.err
    done = command(verb, "checkpoint=model.safetensors", "input=[in/a.wav,in/deeper/a.flac]", "out=7")
    assert done.status == 1
    done = command(verb, "checkpoint=model.safetensors", "input=in/a.wav", "out=7")
    assert done.status == 0, "a name made of digits is a name: " + done.err
    assert len(contents("7")) == 1
    done = command(verb, "checkpoint=model.safetensors", "input=in/deeper", "out=in/deeper/new/er")
    assert done.status == 0, done.err
    assert len(contents("in/deeper/new/er")) == 1
    done = command(verb, "checkpoint=model.safetensors", "input=in/deeper", "out=in/deeper/new/er")
    assert done.status == 0, "its own results are no input: " + done.err


@pytest.mark.parametrize("verb", ["encode", "generate"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing given for checkpoint, input: add checkpoint=... input=..."),
        (["checkpoint=model.safetensors", "input=nowhere"], "nowhere does not exist: expected a file or a folder"),
        (["checkpoint=model.safetensors", "input=empty"], "no input in empty: found nothing, expected files ending in"),
        (
            ["checkpoint=nowhere.safetensors", "input=a.wav"],
            "nowhere.safetensors does not exist: expected a checkpoint",
        ),
        (
            ["checkpoint=text.safetensors", "input=a.wav"],
            "text.safetensors is not a safetensors file: expected a check",
        ),
        (["checkpoint=foreign.safetensors", "input=a.wav"], "foreign.safetensors does not say which model it holds"),
        (["checkpoint=half.safetensors", "input=a.wav"], "half.safetensors holds a Decoder: expected an autoencoder"),
        (["checkpoint=model.safetensors", "input=a.wav", "device=tpu"], "device 'tpu' is not here: expected auto, "),
        (["checkpoint=model.safetensors", "input=a.wav", "ouput=x"], "Key 'ouput' is not in struct"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) and value else "",
)
def test_what_cannot_be_is_one_message_before_anything_is_made(here, command, verb, arguments, message):
    noise("a.wav", 40)
    Path("empty").mkdir()
    Path("text.safetensors").write_text("weights, honestly")
    save_file({"weight": torch.zeros(3)}, "foreign.safetensors")
    torch.manual_seed(0)
    decoder = models.build(MODEL["decoder"])
    checkpoint.save(
        "half.safetensors", decoder, checkpoint.Meta(MODEL["decoder"], 16_000, 512, 0, "raw", "tones", "CC0-1.0")
    )
    before = sorted(here.rglob("*"))
    done = command(verb, *arguments)
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert sorted(here.rglob("*")) == before


# --- generate


def test_the_same_seed_gives_the_same_files_whatever_the_voices_or_company(here, command):
    for number, samples in enumerate((700, 90, 1025, 513, 30)):
        noise(f"in/{number}.wav", samples, seed=number)
    made = {}
    for voices in (1, 2, 5):
        done = command("generate", "checkpoint=model.safetensors", "input=in", f"batch={voices}", f"out=out{voices}")
        assert done.status == 0, done.err
        made[voices] = contents(f"out{voices}")
    assert made[1] == made[2] == made[5]
    assert command("generate", "checkpoint=model.safetensors", "input=in/2.wav", "out=alone").status == 0
    assert contents("alone")["2.wav"] == made[1]["2.wav"]
    assert command("generate", "checkpoint=model.safetensors", "input=in/2.wav", "out=other", "seed=1").status == 0
    assert contents("other")["2.wav"] != made[1]["2.wav"]
    refused = command("generate", "checkpoint=model.safetensors", "input=in/2.wav", "out=alone", "seed=1")
    assert refused.status == 1
    assert "alone/2.wav is there already, made with model " in refused.err
    assert contents("alone")["2.wav"] == made[1]["2.wav"], "what is there is left"
    again = ["out=alone", "seed=1", "overwrite=true"]
    assert command("generate", "checkpoint=model.safetensors", "input=in/2.wav", *again).status == 0
    assert contents("alone") == contents("other")


def test_results_of_another_model_or_setting_are_not_taken_for_these(here, command):
    other = save_model("other.safetensors", seed=1)
    noise("a.wav", 40)
    assert command("generate", "checkpoint=model.safetensors", "input=a.wav").status == 0
    assert command("encode", "checkpoint=model.safetensors", "input=a.wav").status == 0
    remedy = "give another folder by out=, or make it again by overwrite=true"
    for change in ("checkpoint=other.safetensors", "temperature=0.5", "top_p=0.5", "seed=3"):
        arguments = {"checkpoint": "checkpoint=model.safetensors", change.split("=")[0]: change}
        done = command("generate", "input=a.wav", *arguments.values())
        assert done.status == 1
        assert "generated/a.wav is there already, made with model" in done.err
        assert remedy in done.err
    done = command("encode", "checkpoint=other.safetensors", "input=a.wav")
    assert done.status == 1
    assert re.search(rf"embeddings/a.npz is there already, made with model \w+; asked for is model {other}", done.err)
    audio.write("generated/a.wav", torch.zeros(40))
    done = command("generate", "checkpoint=model.safetensors", "input=a.wav")
    assert "generated/a.wav is there already, made with what it does not say" in done.err
    assert command("encode", "checkpoint=other.safetensors", "input=a.wav", "overwrite=true").status == 0
    assert embeddings.read("embeddings/a.npz").model == other


def test_embeddings_of_another_model_are_refused_unless_asked_for(here, command):
    other = save_model("other.safetensors", seed=1)
    noise("a.wav", 40)
    assert command("encode", "checkpoint=other.safetensors", "input=a.wav").status == 0
    done = command("generate", "checkpoint=model.safetensors", "input=embeddings")
    assert done.status == 1
    assert f"a.npz was encoded by model {other}, this is " in done.err
    assert "use the model's own checkpoint, or any_model=true" in done.err
    done = command("generate", "checkpoint=model.safetensors", "input=embeddings", "any_model=true")
    assert done.status == 0, done.err
    np.save("embeddings/magenta.npy", np.zeros((1, 2, 16), np.float32))
    np.save("embeddings/wide.npy", np.zeros((2, 17), np.float32))
    Path("embeddings/a.npz").unlink()
    done = command("generate", "checkpoint=model.safetensors", "input=embeddings", "out=two", "seconds=0.05")
    assert done.status == 1
    assert "wide.npy holds 17 numbers every 512 samples, the model reads 16 every 512" in done.err
    assert audio.inspect("two/magenta.wav").samples == 800


def test_a_model_conditioned_on_pitch_asks_for_one(here, command):
    save_model("pitched.safetensors", pitch_conditioning=True)
    noise("tune.wav", 40)
    noise("reed_acoustic_001-060-100.wav", 40)
    done = command("generate", "checkpoint=pitched.safetensors", "input=[tune.wav,reed_acoustic_001-060-100.wav]")
    assert done.status == 1
    assert "tune.wav does not say its pitch and the model is conditioned on it: add pitch=..." in done.err
    assert list(contents("generated")) == ["reed_acoustic_001-060-100.wav"], "the one whose name says its pitch"
    done = command("generate", "checkpoint=pitched.safetensors", "input=tune.wav", "pitch=200")
    assert "tune.wav: this model is conditioned on pitch" in done.err, "and so it is where the message does not"
    done = command("generate", "checkpoint=pitched.safetensors", "input=tune.wav", "pitch=60")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("subtype=MP3", "a wav file does not hold MP3: expected PCM_16, PCM_24 or FLOAT"),
        ("engine=gpu", "unknown engine 'gpu': choose one of auto, reference, "),
        ("precision=fp8", "unknown precision 'fp8'"),
        ("temperature=-1.0", "temperature is -1.0: expected 0"),
        ("top_p=0.0", "top_p is 0.0: expected more than 0"),
        ("batch=0", "batch is 0"),
        ("seed=-1", "seed is -1: expected an integer from 0"),
        ("seconds=0.0", "0 samples"),
    ],
)
def test_settings_that_mean_nothing_stop_before_the_first_sample(here, command, argument, message):
    noise("a.wav", 40)
    done = command("generate", "checkpoint=model.safetensors", "input=a.wav", argument)
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not Path("generated").exists()


# --- as processes


def begin(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_generating_goes_on_after_a_kill_and_gives_the_same_files(here, command):
    for number in range(12):
        noise(f"in/{number:02d}.wav", 1500 + number, seed=number)
    done = command("generate", "checkpoint=model.safetensors", "input=in", "out=whole", "engine=cached")
    assert done.status == 0, done.err
    arguments = ["wavenet_ae.generate", "checkpoint=model.safetensors", "input=in", "batch=2", "engine=cached"]
    process = begin(*arguments)
    while not Path("generated").exists() or len(list(Path("generated").glob("*.wav"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = [path.name for path in Path("generated").glob("[0-9]*.wav")]
    assert len(finished) < 12, "it was over before it could be killed"
    assert all(contents("generated")[name] == contents("whole")[name] for name in finished)
    done = command(*("generate", "checkpoint=model.safetensors", "input=in", "batch=3", "engine=cached"))
    assert done.status == 0, done.err
    assert f"{len(finished)} of 12 are in generated already" in done.out
    made = {name: data for name, data in contents("generated").items() if not name.startswith(".")}
    assert made == contents("whole")


def test_an_interrupt_is_a_word_and_not_a_traceback(here, command):
    noise("a.wav", 160_000)
    process = begin("wavenet_ae.generate", "checkpoint=model.safetensors", "input=a.wav", "engine=reference")
    seen = ""
    while "generate:" not in seen:  # its progress bar
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "generate: interrupted; what was finished is kept" in err
    assert "Traceback" not in err
    assert not Path("generated").exists() or not contents("generated")


def test_a_full_disk_stops_with_one_message(here, command):
    noise("a.wav", 20_000)
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.argv = sys.argv[1:];"
        "runpy.run_module('wavenet_ae.encode', run_name='__main__')"
    )
    arguments = ["encode", "checkpoint=model.safetensors", "input=a.wav"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "encode: cannot write embeddings/a.npz: File too large; nothing was changed there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not contents("embeddings")


@pytest.mark.parametrize("verb", ["train", "encode", "generate", "interpolate", "prepare", "convert", "demo"])
def test_help_shows_three_examples_and_every_setting(command, verb):
    module = f"{verb}.__main__" if verb in ("prepare", "interpolate") else verb
    done = command(module, "--help")
    assert done.status == 0
    assert done.out.count(f"python -m wavenet_ae.{verb}") >= 3
    assert "Settings (" in done.out
    assert "\nhydra:" not in done.out, "what is Hydra's own is no setting"


def test_help_shows_the_choices_of_groups(command):
    out = command("train", "--help").out
    assert re.search(r"model: .*nsynth, small, tiny", out)
    assert re.search(r"experiment: .*nsynth, overfit_one_note, small, smoke", out)


def test_metadata_is_json_that_others_can_read(here, command):
    noise("a.wav", 40)
    assert command("encode", "checkpoint=model.safetensors", "input=a.wav").status == 0
    with np.load("embeddings/a.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
    assert meta["source"] == "a.wav"
    assert (meta["samples"], meta["hop"], meta["sample_rate"]) == (40, 512, 16_000)
    assert meta["model"] == checkpoint.fingerprint(checkpoint.load("model.safetensors"))
