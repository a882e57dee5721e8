"""What goes wrong in a long training, in one place: kills, full disks, broken notes, corpora that are read only.

Exact resumption and the politer ends are in test_resume.py, damaged states in test_training.py, lost workers in
test_distributed.py.
"""

import importlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from memory import PEAK, needs_proc
from test_resume import last_step, measured

from wavenet_ae import audio, checkpoint, notes
from wavenet_ae.command import CONF
from wavenet_ae.training.run import Run

SMOKE = ["experiment=smoke", "run=run", "listen_every=0", "validate_every=0"]
KILLS = 20

# A run without a model: what is torn apart here is the folder, and 20 starts of torch would take minutes.
WRITER = """
    import os, sys, torch
    from pathlib import Path
    from wavenet_ae.training.run import Run
    run = Run("run")
    if not Path("run").exists():
        run.create("settings")
    parent = os.getpid()
    while True:
        child = os.fork()  # it has torch already
        if child:
            print(child, flush=True)
            os.waitpid(child, 0)
            continue
        with run.locked():
            step, weights = 0, torch.zeros(30_000)
            if run.states():
                step, state = run.restore()
                weights = state["weights"]
                assert (weights == step).all(), "a state is of one step"
            while os.getppid() == parent:
                step, weights = step + 1, weights + 1
                run.log(step, {"nats": 1.0 / step})
                run.save(step, {"weights": weights})
        os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_twenty_kills_at_random_moments_cost_nothing_before_the_last_state(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    kept = 0
    try:
        for _ in range(KILLS):
            child = int(process.stdout.readline())
            end = time.monotonic() + 30
            while (last_step(tmp_path / "run") <= kept) and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            states = Run(tmp_path / "run").states()
            assert states[-1] >= kept, "no state was lost"
            kept = states[-1]
    finally:
        process.kill()
        process.communicate()
        time.sleep(0.2)  # the last child sees that it is alone
    run = Run(tmp_path / "run")
    step, state = run.restore()
    assert step >= kept >= KILLS
    assert (state["weights"] == step).all()
    assert [line["step"] for line in run.metrics()] == list(range(1, step + 1)), "each step once, none missing"
    assert not list(tmp_path.rglob(".*.partial.*")), "what was half written is swept up"


def test_of_many_who_begin_in_one_folder_at_one_moment_one_does(tmp_path):
    for number in range(30):
        folder = tmp_path / str(number)
        if number % 2:
            folder.mkdir()
        gate = threading.Barrier(8)

        def begin(name, folder=folder, gate=gate):
            gate.wait()
            try:
                Run(folder).create(f"it: {name}")
            except ValueError as error:
                assert "exists already: a new run needs a new folder" in str(error)  # noqa: PT017
                return None
            return f"it: {name}"

        with ThreadPoolExecutor(8) as pool:
            begun = [text for text in pool.map(begin, range(8)) if text]
        assert len(begun) == 1
        assert (folder / "config.yaml").read_text() == begun[0]


@pytest.fixture
def full_disk():
    """No file may grow past 64 kB meanwhile: too little for a state, enough for settings and measurements."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_during_a_state_costs_none(command, corpus, request):
    begun = [*SMOKE, f"notes.root={corpus}", "checkpoint_every=2"]
    assert command("train", *begun, "steps=4").status == 0
    model = Path("run/model.safetensors").read_bytes()
    request.getfixturevalue("full_disk")
    done = command("train", "resume=run", "steps=8")
    assert done.status == 1
    assert "cannot write run/states/state-00000006.safetensors" in done.err
    assert "nothing was changed there" in done.err
    run = Run("run")
    assert run.states() == [2, 4]
    assert run.restore()[0] == 4, "whole, both of them"
    assert run.restore(2)[0] == 2
    assert Path("run/model.safetensors").read_bytes() == model
    assert not list(Path("run").rglob(".*.partial.*"))


def spoilt(corpus, folder, names):
    """A copy of the corpus in which some notes of the train split are no sound files."""
    for path in corpus.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"no sound" if path.stem in names else path.read_bytes())
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_note_is_named_and_another_takes_its_place(corpus, tmp_path, caplog, workers):
    name = "bass_synthetic_000-057-100"
    train = notes.load(spoilt(corpus, tmp_path, [name]), "train")
    crops = {"batch": 2, "crop": 512, "seed": 0, "steps": 6, "workers": workers}
    with caplog.at_level(logging.WARNING):
        found = list(notes.batches(train, **crops, max_unreadable=1))
    assert len(found) == 6
    assert all(len(batch.names) == 2 and name not in batch.names for batch in found)
    said = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(said) == 1, "once, however often it comes"
    assert said[0].startswith(f"{name} is left out, another note takes its place: ")
    assert str(train[0].path.parent / f"{name}.wav") in said[0]
    whole = list(notes.batches(notes.load(corpus, "train"), **crops))
    others = [(a, b) for a, b in zip(found, whole, strict=True) if name not in b.names]
    assert others, "or nothing is compared"
    assert all(torch.equal(a.wave, b.wave) for a, b in others), "the other crops are as they were"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_note_that_breaks_while_it_is_learnt_from_is_left_out_from_then_on(corpus, tmp_path, caplog, workers):
    train = notes.load(spoilt(corpus, tmp_path, []), "train")
    batches = notes.batches(train, batch=2, crop=512, seed=0, steps=30, workers=workers, max_unreadable=1)
    whole = list(notes.batches(notes.load(corpus, "train"), batch=2, crop=512, seed=0, steps=30))
    victim = whole[0].names[0]
    first = next(batches)
    assert victim in first.names, "it was good once"
    path = next(note.path for note in train if note.name == victim)
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        rest = list(batches)
    assert len(rest) == 29
    late = rest[5:]  # a worker reads ahead
    assert any(victim in batch.names for batch in whole[6:])
    assert not any(victim in batch.names for batch in late)
    assert caplog.text.count(f"{victim} is left out, another note takes its place") == 1


def test_too_many_broken_notes_are_an_error_and_the_limit_is_a_setting(command, corpus, tmp_path):
    names = ["bass_synthetic_000-057-100", "organ_synthetic_001-064-100"]
    begun = [*SMOKE, f"notes.root={spoilt(corpus, tmp_path / 'spoilt', names)}", "steps=12"]
    done = command("train", *begun, "max_unreadable=1", "checkpoint_every=1")
    assert done.status == 1
    assert any(f"{name}.wav" in done.err for name in names)
    assert command("train", *begun, "run=other", "max_unreadable=2").status == 0


def test_a_corpus_that_cannot_be_written_to_is_only_read(command, corpus, tmp_path, unprivileged):
    copy = spoilt(corpus, tmp_path / "corpus", [])
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    for path in sorted(copy.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.chmod(0o555)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    with unprivileged(tmp_path, CONF):  # a clone may lie in a folder of root's alone
        done = command("train", *SMOKE[:1], *SMOKE[2:], "run=runs/one", f"notes.root={copy}", "steps=2")
    copy.chmod(0o755)
    assert done.status == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_clock_set_back_neither_ends_a_run_nor_spoils_its_measurements(command, corpus, monkeypatch):
    importlib.import_module("wavenet_ae.train")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6 * random.random())
    done = command("train", *SMOKE, f"notes.root={corpus}", "steps=4", "minutes=5.0", "log_every=1")
    assert done.status == 0, done.err
    assert "all steps done after 4 steps" in done.out
    seconds = [line["seconds"] for line in Run("run").metrics()]
    assert seconds == sorted(seconds)
    assert checkpoint.describe("run/model.safetensors").step == 4
    assert len(measured(Path("run"))) == 4


@needs_proc
def test_learning_from_a_hundred_thousand_notes_begins_in_seconds_and_bounded_memory(tmp_path, corpus):
    """NSynth has three times as many; one entry of examples.json and one tiny file each."""
    folder = tmp_path / "train"
    (folder / "audio").mkdir(parents=True)
    like = notes.describe(notes.Key("bass_synthetic_000", 60, 100), note=0, instrument=0)
    entries = {}
    for number in range(100_000):
        instrument, rest = divmod(number, 88 * 5)
        label = {"instrument_str": f"bass_synthetic_{instrument:03d}", "instrument": instrument, "note": number}
        label |= {"pitch": rest // 5 + 21, "velocity": (25, 50, 75, 100, 127)[rest % 5]}
        name = f"{label['instrument_str']}-{label['pitch']:03d}-{label['velocity']:03d}"
        entries[name] = {**like, **label, "note_str": name}
    (folder / "examples.json").write_text(json.dumps(entries))
    shutil.copytree(corpus / "valid", tmp_path / "valid")
    for number, name in enumerate(entries):
        if number % 50_000 == 0:  # a file has no more than some 65,000 names
            tiny = folder / "audio" / f"{name}.wav"
            audio.write(tiny, torch.linspace(-0.5, 0.5, 100))
        else:
            os.link(tiny, folder / "audio" / f"{name}.wav")
    script = PEAK + textwrap.dedent("""
        import sys, time
        from wavenet_ae import notes, train
        seconds, megabytes = time.process_time(), peak()
        train.main()
        print(time.process_time() - seconds, peak() - megabytes)
    """)
    settings = [*SMOKE, f"notes.root={tmp_path}", "steps=2", "threads=1"]
    done = subprocess.run(
        [sys.executable, "-c", script, *settings], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "100000 notes to learn, 3 held out" in done.stdout
    assert "all steps done after 2 steps" in done.stdout
    seconds, megabytes = done.stdout.split()[-2:]
    assert float(seconds) < 60, "of processor time, two steps among it: about 3 s where nobody else works"
    assert int(megabytes) < 900
