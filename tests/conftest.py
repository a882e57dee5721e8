"""Shared fixtures: models small enough to check exhaustively."""

import contextlib
import importlib
import importlib.util
import logging
import math
import os
import signal
import sys
from typing import NamedTuple

import pytest
import torch

from wavenet_ae import audio, notes
from wavenet_ae.models.wavenet import Decoder, Encoder, WaveNetAutoencoder

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
torch.set_num_threads(1)  # models this small are faster so, and much faster on a busy machine


@pytest.fixture(scope="session")
def tiny():
    """Build a decoder whose receptive field (31) fits in four 8-sample frames, with uneven widths."""

    def build(dtype=torch.float64, **changes):
        torch.manual_seed(0)
        sizes = {"layers": 6, "stages": 3, "width": 5, "skip_width": 7, "kernel_size": 3, "embedding_dims": 4, "hop": 8}
        decoder = Decoder(**(sizes | changes))
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(2.0)  # far enough from linear that a wrong gate shows
        return decoder.to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def tiny_autoencoder(tiny):
    """Build an autoencoder around the tiny decoder; its encoder sees 15 samples either side."""

    def build(dtype=torch.float64, *, pitch_conditioning=False, pitch_reading=False):
        decoder = tiny()
        encoder = Encoder(layers=6, stages=3, width=6, kernel_size=3, embedding_dims=4, hop=8)
        pitch = {"pitch_conditioning": pitch_conditioning, "pitch_reading": pitch_reading}
        return WaveNetAutoencoder(encoder=encoder, decoder=decoder, **pitch).to(dtype).eval()

    return build


def tone(pitch, seconds=1.0, partials=4):
    """A note of a few partials that fades: something real enough to learn."""
    time = torch.arange(round(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    hz = 440 * 2 ** ((pitch - 69) / 12)
    wave = sum(torch.sin(2 * math.pi * hz * k * time) / k for k in range(1, partials + 1))
    return 0.4 * wave * torch.exp(-2 * time)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A corpus of tones in NSynth's layout: two instruments to learn, one to validate on, one to test on."""
    root = tmp_path_factory.mktemp("corpus")
    for split, families in (("train", ["bass", "organ"]), ("valid", ["reed"]), ("test", ["flute"])):
        entries = []
        for instrument, family in enumerate(families):
            for pitch in (45, 57, 64):
                key = notes.Key(f"{family}_synthetic_{instrument:03d}", pitch, 100)
                entries.append(notes.describe(key, note=len(entries), instrument=instrument))
                audio.write(root / split / "audio" / f"{notes.name(key)}.wav", tone(pitch, partials=len(family)))
        notes.write_examples(root / split, entries)
    return root


@pytest.fixture
def unprivileged():
    """Be nobody, to whom permissions apply, in folders it can reach: `with unprivileged(folder, ...): ...`."""

    @contextlib.contextmanager
    def being_nobody(*folders):
        if os.geteuid() != 0:
            yield
            return
        for path in {path for folder in folders for path in (folder, *folder.parents)}:  # pytest's own are root's alone
            if path.stat().st_mode & 0o001 == 0:
                path.chmod(path.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return being_nobody


@pytest.fixture(scope="session")
def ray():
    """A Ray cluster of two cores on this machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'wavenet_ae[ray]'")
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.path.dirname(__file__))  # where its processes find the work of the tests
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        yield ray
        ray.shutdown()


class Done(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command as `python -m wavenet_ae.<verb>` does, but in this process, which has torch already."""
    monkeypatch.chdir(tmp_path)
    handlers, level = list(logging.root.handlers), logging.root.level

    def run(verb, *arguments):
        module = importlib.import_module(f"wavenet_ae.{verb}")
        monkeypatch.setattr(sys, "argv", [verb, *arguments])
        capsys.readouterr()
        try:
            module.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return Done(status, *capsys.readouterr())

    yield run
    logging.root.handlers, logging.root.level = handlers, level  # Hydra put its own there
