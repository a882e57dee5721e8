"""interpolate, end to end: lines, grids, ways through time, keyboards; what is shown of them, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_commands import save_model

from wavenet_ae import audio, checkpoint, embeddings, figures, models, page, synthesis
from wavenet_ae.interpolate import cost, keyboard, plan, show
from wavenet_ae.interpolate.plan import Shape
from wavenet_ae.synthesis import Sampling, Sound

SHEET = figures.sheet  # the real one
MODEL = "checkpoint=model.safetensors"


@pytest.fixture
def here(command, tmp_path, monkeypatch):
    """An empty folder, the current one, with a model and four sounds of unequal lengths in it; pictures stay blank."""
    monkeypatch.setattr(figures, "sheet", lambda path, rows, **_: Path(path).write_text(f"{len(rows)} rows"))
    save_model(tmp_path / "model.safetensors")
    for number, samples in enumerate((1500, 900, 2000, 512)):
        noise(tmp_path / f"{'abcd'[number]}.wav", samples, number)
    return tmp_path


def noise(path, samples, seed=0, level=1.0):
    audio.write(path, level * (torch.rand(samples, generator=torch.Generator().manual_seed(seed)) - 0.5))


def interpolate(command, *arguments, good=True):
    done = command("interpolate.__main__", *arguments)
    assert (done.status == 0) == good, done.err
    assert "Traceback" not in done.err
    return done


def contents(folder):
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cells_of(folder):
    return json.loads(Path(folder, "manifest.json").read_text("utf-8"))["cells"]


# --- one set of sounds


def test_a_line_of_two_sounds_of_unequal_length_has_the_longer_one_s(here, command):
    done = interpolate(command, MODEL, "inputs=[a.wav,b.wav]", "steps=3")
    assert "3 sounds: 4,500 samples to make, 0.1 MB of memory, 0.0 MB of disk" in done.out
    assert "listen and look: mixes/index.html" in done.out
    assert [audio.inspect(f"mixes/linear_{n}.wav").samples for n in range(3)] == [1500] * 3
    model = checkpoint.load("model.safetensors")
    a, b = (embeddings.encode(model, audio.read(name)) for name in ("a.wav", "b.wav"))
    padded = torch.cat([b, embeddings.silence(model)], dim=-1)
    middle = embeddings.read("mixes/linear_1.npz")
    torch.testing.assert_close(middle.values, (a + padded) / 2)
    assert (middle.source, middle.samples) == ("0.5 a.wav + 0.5 b.wav", 1500)
    assert middle.model == checkpoint.fingerprint(model)
    assert torch.equal(embeddings.read("mixes/linear_0.npz").values, a)
    assert torch.equal(embeddings.read("mixes/linear_2.npz").values, padded)


@pytest.mark.parametrize(
    ("arguments", "names", "samples"),
    [
        (["mode=linear", "align=trim"], [f"linear_{n}" for n in range(5)], 900),
        (["mode=linear", "weights=[0.7,0.3]", "align=stretch"], ["mix"], 1500),
        (["mode=spherical", "steps=2"], ["spherical_0", "spherical_1"], 1500),
        (["mode=crossfade", "curve=cosine"], ["crossfade"], 1500),
        (["mode=morph", "gain=equal"], ["morph", "sound_0", "sound_1"], 1500),
    ],
    ids=str,
)
def test_every_mode_makes_what_it_says(here, command, arguments, names, samples):
    interpolate(command, MODEL, "inputs=[a.wav,b.wav]", *arguments)
    made = {Path(name).stem for name in contents("mixes") if name.endswith(".wav")}
    assert made == set(names)
    assert all(audio.inspect(f"mixes/{name}.wav").samples == samples for name in names)
    assert all(embeddings.read(f"mixes/{name}.npz").samples == samples for name in names)
    html = Path("mixes/index.html").read_text("utf-8")
    assert all(f'src="{name}.wav"' in html for name in names)
    assert 'class="pad"' not in html


def test_a_grid_is_made_as_one_batch_shown_with_a_pad_and_goes_on_where_it_stopped(here, command, monkeypatch):
    asked, render = [], synthesis.render
    monkeypatch.setattr(
        synthesis, "render", lambda d, sounds, *rest: asked.append(len(sounds)) or render(d, sounds, *rest)
    )
    grid = [MODEL, "inputs=[a.wav,b.wav,c.wav,a.wav]", "mode=grid", "steps=[2,3]"]
    interpolate(command, *grid)
    assert asked == [6], "all mixes are one batch of voices"
    whole = contents("mixes")
    assert [(cell["row"], cell["column"]) for cell in cells_of("mixes")] == [(r, c) for r in (0, 1) for c in (0, 1, 2)]
    assert cells_of("mixes")[4]["weights"] == [0, 0, 0.5, 0.5]
    html = Path("mixes/index.html").read_text("utf-8")
    squares = json.loads(re.search(r'data-squares="(.+?)"', html)[1].replace("&quot;", '"'))
    assert squares == {"": [[f"grid_{r}_{c}.wav" for c in range(3)] for r in range(2)]}
    assert '<b style="top: 0; right: 0">b.wav</b>' in html
    Path("mixes/grid_0_1.wav").unlink()
    Path("mixes/grid_1_2.npz").unlink()
    Path("mixes/grid_1_2.wav").unlink()
    done = interpolate(command, *grid, "batch=1")
    assert "4 of 6 are there already: skipped (overwrite=true makes them again)" in done.out
    assert asked == [6, 2]
    assert contents("mixes") == whole, "the same seed gives the same files, however many voices"
    assert interpolate(command, *grid).out.count("mixes/index.html") == 1
    assert contents("mixes") == whole


def test_the_sheet_has_the_rows_of_the_grid(here, command, monkeypatch):
    monkeypatch.setattr(figures, "sheet", SHEET)
    interpolate(command, MODEL, "inputs=[d.wav,d.wav,d.wav,b.wav]", "mode=grid", "steps=2")
    assert Path("mixes/rainbowgrams.png").stat().st_size > 5000
    monkeypatch.setattr(
        figures, "sheet", lambda path, rows, **_: Path(path).write_text(str([len(row) for row in rows]))
    )
    interpolate(command, MODEL, "inputs=[d.wav,d.wav,d.wav,b.wav]", "mode=grid", "steps=2")
    assert Path("mixes/rainbowgrams.png").read_text() == "[2, 2]"


def test_equal_gain_makes_each_mix_as_loud_as_its_weights_say(here, command, monkeypatch):
    line = [MODEL, "inputs=[a.wav,b.wav]", "steps=3", "gain=equal"]
    monkeypatch.setattr(show, "levelled", lambda wave, weights, sounds: torch.full_like(wave, sum(sounds) / 200))
    interpolate(command, *line)
    first, middle, last = (audio.read(f"mixes/linear_{n}.wav") for n in range(3))
    expected = (show.loudness(first) + show.loudness(last)) / 200
    assert middle[0].item() == pytest.approx(expected, abs=1 / 32768), "measured in the files beside it"
    Path("mixes/linear_1.wav").unlink()
    interpolate(command, *line)
    assert torch.equal(audio.read("mixes/linear_1.wav"), middle), "and so after a restart"


def test_loudness_lies_between_the_sounds_without_clipping_and_silence_stays():
    quiet, loud = 0.01 * torch.ones(100), 0.5 * torch.ones(100)
    levels = [show.loudness(quiet), show.loudness(loud)]
    assert levels == pytest.approx([-40, -6.0206], abs=1e-3)
    middle = show.levelled(loud, [0.5, 0.5], levels)
    assert show.loudness(middle) == pytest.approx((levels[0] + levels[1]) / 2, abs=1e-3)
    peaky = torch.zeros(100)
    peaky[3] = 0.5
    assert show.levelled(peaky, [0.0, 1.0], levels).abs().max() == pytest.approx(1)
    assert torch.equal(show.levelled(torch.zeros(100), [0.5, 0.5], levels), torch.zeros(100))


def test_weights_beyond_a_mix_work_and_say_so(here, command):
    done = interpolate(command, MODEL, "inputs=[a.wav,b.wav]", "weights=[1.5,-0.5]")
    assert "weights [1.5, -0.5] are not all in 0..1" in done.err
    assert embeddings.read("mixes/mix.npz").source == "1.5 a.wav + -0.5 b.wav"


@pytest.mark.parametrize("names", [("my sound (1).wav", "käse_1.2.wav"), ("it's.wav", "ohne_ü =.wav")])
def test_sounds_may_be_called_anything(here, command, names):
    for number, name in enumerate(names):
        noise(name, 600 + number, number)
    interpolate(command, MODEL, f"inputs=[{','.join(names)}]", "steps=2")
    assert [cell["source"] for cell in cells_of("mixes")] == [f"1 {name}" for name in names]


def test_embeddings_and_sounds_of_any_rate_are_mixed(here, command):
    soundfile.write("high.wav", np.random.default_rng(0).uniform(-0.3, 0.3, (4410, 2)), 44_100)
    model = checkpoint.load("model.safetensors")
    made = embeddings.of_file(model, checkpoint.fingerprint(model), "a.wav")
    embeddings.write("a.npz", made)
    np.save("magenta.npy", made.values.T.numpy())
    interpolate(command, MODEL, "inputs=[high.wav,a.npz,magenta.npy]", "mode=morph")
    assert audio.inspect("mixes/morph.wav").samples == 1600


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inputs=[a.wav]"], "1 sounds for mode=linear: expected 2 or more"),
        (["inputs=a.wav"], "1 sounds for mode=linear"),
        (["inputs=[a.wav,b.wav]", "mode=grid"], "2 sounds for mode=grid: expected 4, in the order NW NE SW SE"),
        (["inputs=[a.wav,b.wav,c.wav]", "mode=crossfade"], "3 sounds for mode=crossfade: expected 2"),
        (["inputs=[a.wav,b.wav]", "mode=cubic"], "unknown mode 'cubic': choose one of linear, spherical, grid, cross"),
        (["inputs=[a.wav,b.wav]", "align=cut"], "unknown align 'cut': choose one of pad, stretch, trim"),
        (["inputs=[a.wav,b.wav]", "curve=wavy"], "unknown curve 'wavy'"),
        (["inputs=[a.wav,b.wav]", "gain=loud"], "unknown gain 'loud': choose one of keep, equal"),
        (["inputs=[a.wav,b.wav]", "steps=1"], "steps [1] for mode=linear: expected a number of at least 2"),
        (["inputs=[a.wav,b.wav,c.wav,d.wav]", "mode=grid", "steps=[3,1]"], "expected two numbers of at least 2, rows"),
        (["inputs=[a.wav,b.wav]", "weights=[1.0]"], "1 weights do not fit 2 sounds"),
        (["inputs=[a.wav,b.wav]", "weights=[nan,1]"], "are not all finite"),
        (
            ["inputs=[a.wav,b.wav]", "mode=morph", "weights=[0.5,0.5]"],
            "expected mode=linear, of which they are one mix",
        ),
        (["inputs=[a.wav,nowhere.wav]"], "nowhere.wav does not exist: expected a sound, an embedding or a folder"),
        (["inputs=[a.wav,folder]"], "folder among sounds: expected sounds only, or folders only"),
        (["inputs=[a.wav,text.wav]"], "1 of 2 inputs cannot be mixed:\n  text.wav cannot be read as audio"),
        (["inputs=[a.wav,other.npz]"], "was encoded by model 0123456789abcdef, this is"),
        (["inputs=[a.wav,wide.npy]"], "wide.npy holds 17 numbers every 512 samples, the model reads 16 every 512"),
        (["inputs=[d.wav,short.wav]", "mode=crossfade"], "frames 0 to 1 of 1 leave no time to change"),
        ([], "nothing given for inputs: add inputs=..."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_message_before_anything_is_made(here, command, arguments, message):
    Path("folder").mkdir()
    Path("text.wav").write_text("not a sound")
    noise("short.wav", 100)
    other = embeddings.Embedding(torch.zeros(16, 2), "0123456789abcdef", 512, 16_000, 1000, "other")
    embeddings.write("other.npz", other)
    np.save("wide.npy", np.zeros((2, 17), np.float32))
    done = interpolate(command, MODEL, *arguments, good=False)
    assert message in done.err
    assert not Path("mixes").exists()


@pytest.mark.parametrize("change", ["seed=1", "temperature=0.5", "top_p=0.9", "align=trim", "steps=4", "b.wav=c.wav"])
def test_what_is_there_is_not_taken_for_something_else(here, command, change):
    line = [MODEL, "inputs=[a.wav,b.wav]", "steps=3"]
    interpolate(command, *line)
    before = contents("mixes")
    changed = [MODEL, "inputs=[a.wav,c.wav]", "steps=3"] if "c.wav" in change else [*line, change]
    done = interpolate(command, *changed, good=False)
    assert re.search(r"mixes/linear_\d.wav is there already, made with model \w+, seed 0, temperature 1,", done.err)
    assert "give another folder by out=, or make it again by overwrite=true" in done.err
    assert contents("mixes") == before
    interpolate(command, *changed, "overwrite=true")
    assert contents("mixes") != before


def test_a_model_conditioned_on_pitch_asks_where_the_sounds_disagree(here, command):
    save_model(here / "model.safetensors", pitch_conditioning=True)
    for pitch in (60, 62):
        noise(f"reed_acoustic_001-{pitch:03d}-100.wav", 600, pitch)
    both = "inputs=[reed_acoustic_001-060-100.wav,reed_acoustic_001-062-100.wav]"
    done = interpolate(command, MODEL, both, "steps=2", good=False)
    assert "the inputs do not agree on a pitch and the model is conditioned on it: add pitch=..." in done.err
    interpolate(command, MODEL, both, "steps=2", "pitch=61")


# --- a keyboard


@pytest.fixture
def instruments(here):
    """Four folders of notes named in four ways; the last lacks a key."""
    names = ("reed_acoustic_001-{:03d}-100", "viola {}", "{:03d}", "my.organ_{:03d}")
    for number, name in enumerate(names):
        for pitch in (60, 61, 62)[: 2 if number == 3 else 3]:
            noise(here / "wxyz"[number] / f"{name.format(pitch)}.wav", 520 + 10 * pitch, pitch + 100 * number)
    (here / "x" / "viola 60.wav").rename(here / "x" / "viola C4.wav")
    return [MODEL, "inputs=[w,x,y,z]", "mode=grid", "steps=2", "out=keys"]


def test_a_keyboard_is_every_common_key_s_grid_in_folders_that_are_instruments(instruments, command):
    done = interpolate(command, *instruments)
    assert "062-100 is not in z: skipped (missing=nearest takes the nearest note)" in done.out
    assert "8 sounds: " in done.out
    made = [name for name in contents("keys") if name.endswith(".wav")]
    assert made == [
        f"grid_{r}_{c}/mix_synthetic_{2 * r + c:03d}-{p:03d}-100.wav" for r in (0, 1) for c in (0, 1) for p in (60, 61)
    ]
    assert {(cell["pitch"], cell["velocity"]) for cell in cells_of("keys")} == {(60, 100), (61, 100)}
    assert keyboard.chords([Path("keys/grid_0_0"), Path("keys/grid_1_1")], "skip")[0].keys() == {(60, 100), (61, 100)}
    html = Path("keys/index.html").read_text("utf-8")
    assert "<option>060-100</option><option>061-100</option>" in html
    assert "Key 061-100, one of 2." in html
    whole = contents("keys")
    for name in made[:3]:
        Path("keys", name).unlink()
    assert "5 of 8 are there already" in interpolate(command, *instruments).out
    assert contents("keys") == whole


def test_a_missing_key_may_be_taken_from_the_nearest(instruments, command):
    done = interpolate(command, *instruments, "missing=nearest", "mode=linear")
    assert "062-100 is not in z: the nearest note stands in" in done.out
    cell = next(cell for cell in cells_of("keys") if cell["pitch"] == 62 and cell["weights"][3] == 1)
    assert cell["source"] == "1 my.organ_061.wav"


def test_folders_that_are_no_instruments_are_named(instruments, command):
    shutil.copy("w/reed_acoustic_001-060-100.wav", "w/other_acoustic_001-060-100.wav")
    shutil.copy("a.wav", "w/nameless.wav")
    done = interpolate(command, *instruments, good=False)
    assert "w is no instrument:" in done.err
    assert (
        "w/nameless.wav does not say its pitch: expected a name ending in a MIDI number or note, as C4 or 060"
        in done.err
    )
    assert "both key 060-100: expected one instrument in a folder" in done.err
    for path in Path("x").iterdir():
        path.rename(path.with_name(f"viola {int(path.stat().st_ino) % 40 + 70}.wav"))
    shutil.rmtree("w")
    shutil.copytree("y", "w")
    done = interpolate(command, *instruments, good=False)
    assert "the folders have no key in common:" in done.err
    assert "062-100 is not in x, z: skipped" in done.err
    done = interpolate(command, *instruments, "missing=guess", good=False)
    assert "unknown missing 'guess': choose skip or nearest" in done.err


def test_a_job_that_cannot_fit_is_refused_before_it_starts(instruments, command, monkeypatch):
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**7))
    done = interpolate(command, *instruments, good=False)
    assert re.search(r"0.0 MB of disk are needed, 10.0 MB are free: expected 67.1 MB to spare", done.err)
    assert not Path("keys").exists()


def test_a_cost_is_counted(tiny):
    sounds = [Sound(str(n), torch.randn(4, 60, dtype=torch.float64), 450) for n in range(5)]
    found = cost.estimate(tiny(), sounds, Sampling(batch=2, engine="cached"), 2)
    assert found.samples == 2250
    assert found.disk == 2 * 2250 + 4 * 5 * 240
    assert 0 < found.seconds < 60
    assert re.match(r"2,250 samples to make, about \d+\.\d s here, 0.0 MB of memory, 0.0 MB of disk", str(found))
    assert cost.estimate(tiny(), sounds[:1], Sampling(engine="cached"), 2).seconds is not None
    short = [sound._replace(samples=45) for sound in sounds]
    assert cost.estimate(tiny(), short, Sampling(engine="cached"), 2).seconds is None, "the trial would be the job"
    assert "about 3.0 h here, 2.0 GB of memory" in str(cost.Cost(10_800, 10_800.0, 2 * 10**9, 1))
    with pytest.raises(ValueError, match=r"of memory are needed"):
        cost.check(cost.Cost(1, 1.0, 10**15, 1), Path("not/yet/there"))


# --- cells


def test_spherical_lines_pass_through_every_sound_and_turn_about_silence():
    sounds = [
        embeddings.Embedding(torch.randn(4, 3, generator=torch.Generator().manual_seed(n)), "m", 8, 16_000, 24, str(n))
        for n in range(3)
    ]
    silence = torch.full((4, 1), 0.3)
    made = plan.cells(sounds, Shape("spherical", (5,), "pad", "linear"), silence)
    for step, sound in ((0, 0), (2, 1), (4, 2)):
        assert torch.equal(made[step].embedding.values, sounds[sound].values)
        assert made[step].sound == sound
    expected = embeddings.slerp(sounds[1].values, sounds[2].values, 0.5, silence)
    assert torch.equal(made[3].embedding.values, expected)
    assert made[3].weights == (0, 0.5, 0.5)
    assert made[3].sound is None


def test_a_page_without_a_pad_needs_no_script(tmp_path):
    page.write(tmp_path / "index.html", "Quiet", [page.Section("One", "sound", [page.Cell("a", tmp_path / "a.wav")])])
    html = (tmp_path / "index.html").read_text()
    assert "<script>" not in html
    assert 'class="row"' in html


def test_the_spectral_baseline_s_latent_is_mixed_by_the_same_command(here, command):
    sizes = {"channels": [2] * 6, "latent": 3, "variational": False, "momentum": 0.1, "pitch_conditioning": False}
    description = {"_target_": "wavenet_ae.models.spectral.SpectralAutoencoder", **sizes}
    model = models.build(description)
    checkpoint.save("spectral.safetensors", model, checkpoint.Meta(description, 16_000, model.hop, 0, "raw", "", ""))
    noise("short.wav", model.hop - 20, 7)
    noise("long.wav", model.hop, 8)
    both = ["checkpoint=spectral.safetensors", "inputs=[short.wav,long.wav]", "iterations=2"]
    interpolate(command, *both, "steps=3")
    values = [embeddings.read(f"mixes/linear_{n}.npz").values for n in range(3)]
    assert values[0].shape == (4, 1), "one frame a note"
    torch.testing.assert_close(values[1], (values[0] + values[2]) / 2)
    assert audio.inspect("mixes/linear_1.wav").samples == model.hop
    done = interpolate(command, *both, "steps=3", "iterations=3", good=False)
    assert "seed 0, iterations 2, momentum 0.99, linear" in done.err
    done = interpolate(command, *both, "mode=morph", good=False)
    assert "frames 0 to 1 of 1 leave no time to change" in done.err
