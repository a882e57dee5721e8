"""Chunked encoding is encoding; embedding files come back, Magenta's too, and bad ones say what is wrong."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import PEAK, needs_proc

from wavenet_ae import audio, checkpoint, embeddings, mulaw
from wavenet_ae.embeddings import Embedding


def whole_file(model, wave):
    code = F.pad(mulaw.encode(wave), (0, -len(wave) % model.hop), value=mulaw.SILENCE)
    with torch.inference_mode():
        return model.encoder(code[None])[0]


@given(samples=st.integers(1, 300), chunk_frames=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_chunks_equal_the_whole_for_every_length(tiny_autoencoder, samples, chunk_frames):
    model = tiny_autoencoder()
    wave = torch.rand(samples, generator=torch.Generator().manual_seed(samples), dtype=torch.float64) * 2 - 1
    expected = whole_file(model, wave)
    actual = embeddings.encode(model, wave, chunk_frames=chunk_frames)
    assert actual.shape == (4, -(-samples // 8))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual, model.embed(wave[None])[0], rtol=0, atol=1e-12)


def test_chunks_in_float32_differ_by_rounding_only(tiny_autoencoder):
    model, wave = tiny_autoencoder(torch.float32), torch.rand(3001) * 2 - 1
    expected = whole_file(model, wave)
    assert expected.std() > 0.01, "all frames alike: this test would prove nothing"
    for chunk_frames in (1, 7, 100):
        actual = embeddings.encode(model, wave, chunk_frames=chunk_frames)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_nothing_cannot_be_encoded(tiny_autoencoder):
    with pytest.raises(ValueError, match="0 samples cannot be encoded: expected at least one"):
        embeddings.encode(tiny_autoencoder(), torch.zeros(0, dtype=torch.float64))


LONG = PEAK + textwrap.dedent("""
    import sys, torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from wavenet_ae import embeddings, models
    from wavenet_ae.command import CONF
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train")
    model = models.build(OmegaConf.to_container(cfg.model, resolve=True)).eval()
    before = peak()
    minutes = float(sys.argv[1])
    shape = embeddings.encode(model, torch.rand(round(minutes * 60 * 16_000)) - 0.5).shape
    print(*shape, before, peak())
""")


def memory_of_encoding(minutes):
    """(frames, MB before, MB at most) of encoding so many minutes in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(minutes)], capture_output=True, text=True, check=True, timeout=550
    )
    dims, *rest = map(int, done.stdout.split())
    assert dims == 16
    return rest


@needs_proc
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_and_stays_under_2_gb():
    """Of the small model: ten minutes took 794 MB, 501 of them before it began; whole, 1.2 minutes would add 614."""
    frames, before, most = memory_of_encoding(1.2)
    assert frames == 2250
    assert most - before < 400, f"{before} MB before, {most} at most"
    assert most + (10 - 1.2) * 60 * 16_000 * 4 / 2**20 < 2000, "what more minutes add is the sound itself"


def test_an_embedding_file_comes_back(tmp_path):
    values = torch.randn(16, 5)
    embedding = Embedding(values, "0123456789abcdef", 512, 16_000, 2_333, "viola.wav", 60, 100)
    embeddings.write(tmp_path / "new" / "viola.npz", embedding)
    back = embeddings.read(tmp_path / "new" / "viola.npz")
    assert torch.equal(back.values, values)
    assert back[1:] == embedding[1:]
    with np.load(tmp_path / "new" / "viola.npz", allow_pickle=False) as plain:
        assert plain["embedding"].shape == (5, 16), "frames first, as Magenta's"
        assert plain["embedding"].dtype == np.float32
        assert json.loads(str(plain["meta"]))["samples"] == 2_333


@pytest.mark.parametrize("shape", [(125, 16), (1, 125, 16)], ids=str)
def test_magenta_s_files_are_read(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "note.npy", values)
    embedding = embeddings.read(tmp_path / "note.npy")
    assert np.array_equal(embedding.values.numpy().T, values.reshape(125, 16))
    assert embedding[1:] == ("", 512, 16_000, 64_000, "note.npy", None, None)


def test_a_sound_s_name_gives_its_pitch_and_velocity(tmp_path, tiny_autoencoder):
    for name in ("bass_synthetic_033-036-025.wav", "my viola.wav"):
        audio.write(tmp_path / name, torch.rand(1001) - 0.5)
    model = tiny_autoencoder(torch.float32)
    known = embeddings.of_file(model, checkpoint.fingerprint(model), tmp_path / "bass_synthetic_033-036-025.wav")
    assert (known.pitch, known.velocity, known.samples) == (36, 25, 1001)
    assert known.model == checkpoint.fingerprint(model)
    unknown = embeddings.of_file(model, "", tmp_path / "my viola.wav")
    assert (unknown.pitch, unknown.velocity, unknown.source) == (None, None, "my viola.wav")


GOOD = np.zeros((4, 16), np.float32)
VALUES = {"nan": GOOD * np.nan, "integers": GOOD.astype(int), "flat": GOOD[0], "no frames": GOOD[:0]}
SAYING = {"samples": '{"samples": 9999}', "no JSON": "{", "list": "[1]", "a hop of words": '{"hop": "wide"}'}


def bad(tmp_path, fault):
    """An embedding file with that fault."""
    path = tmp_path / ("a.npy" if fault == "pickled" else "a.npz")
    if fault == "a folder":
        path.mkdir()
    elif fault == "pickled":
        np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    elif fault == "other arrays":
        np.savez(path, something=GOOD)
    elif fault != "missing":
        np.savez(path, embedding=VALUES.get(fault, GOOD), meta=np.array(SAYING.get(fault, "{}")))
        data = path.read_bytes()
        flipped = data[:200] + bytes([data[200] ^ 0xFF]) + data[201:]
        contents = {"text": b"hello\n", "empty": b"", "truncated": data[:200], "flipped": flipped}
        path.write_bytes(contents.get(fault, data))
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "is not there: expected an embedding file"),
        ("a folder", "is a folder: expected an embedding file"),
        ("empty", "cannot be read as an embedding"),
        ("text", "cannot be read as an embedding .*: expected an .npz made by python -m wavenet_ae.encode"),
        ("truncated", "cannot be read as an embedding"),
        ("flipped", "cannot be read as an embedding"),
        ("pickled", "cannot be read as an embedding"),
        ("other arrays", "cannot be read as an embedding .*embedding"),
        ("no JSON", "cannot be read as an embedding"),
        ("list", "cannot be read as an embedding|expected"),
        ("a hop of words", "cannot be read as an embedding .*wide"),
        ("samples", r"says it holds 9999 samples in 4 frames of 512: expected as many as the frames give, or fewer"),
        ("nan", r"holds float32 values of shape \[4, 16\], some of them not finite: expected finite floats"),
        ("integers", r"holds int64 values of shape \[4, 16\]: expected finite floats \[frames, dims\]"),
        ("flat", r"holds float32 values of shape \[16\]: expected"),
        ("no frames", r"holds float32 values of shape \[0, 16\]: expected"),
    ],
)
def test_a_bad_embedding_file_is_named_with_what_is_wrong(tmp_path, fault, message):
    path = bad(tmp_path, fault)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        embeddings.read(path)
    assert str(path) in str(raised.value)
