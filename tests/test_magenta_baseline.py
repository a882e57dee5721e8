"""Magenta's own baseline, on its own variables, is ours; its checkpoints convert, every variable accounted for."""

import itertools
from pathlib import Path

import bundles
import numpy as np
import pytest
import torch

from wavenet_ae import checkpoint, magenta
from wavenet_ae.magenta.bundle import open_bundle
from wavenet_ae.models.spectral import SpectralAutoencoder
from wavenet_ae.training.objectives import spectral_error

GOLDEN = Path(__file__).parent / "data" / "magenta_baseline"


@pytest.fixture(scope="module")
def golden():
    """What the original computed, with batch normalisation as after training."""
    with np.load(GOLDEN / "golden.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def model():
    return magenta.load(GOLDEN)


@pytest.fixture(scope="module")
def reading(model, golden):
    with torch.inference_mode():
        return model(golden["audio"], golden["pitch"])


@pytest.fixture(scope="module")
def variables():
    bundle = open_bundle(GOLDEN)
    return {name: bundle.read(name) for name in bundle.entries}


def test_the_golden_outputs_would_show_a_fault(golden):
    assert golden["z"].std() > 0.1
    assert golden["reconstruction"].std() > 0.005
    assert golden["spectrogram"].std() > 0.05


def test_spectrogram_within_1e_4(reading, golden):
    torch.testing.assert_close(reading.level[:, 0], golden["spectrogram"], atol=1e-4, rtol=0)


def test_latent_within_1e_4(reading, golden):
    torch.testing.assert_close(reading.mean, golden["z"][:, 0, 0], atol=1e-4, rtol=0)


def test_reconstruction_within_1e_4(reading, golden):
    torch.testing.assert_close(reading.again[:, 0, ::4, ::4], golden["reconstruction"], atol=1e-4, rtol=0)


def test_loss_within_1e_4(reading, golden):
    torch.testing.assert_close(spectral_error(reading), golden["loss"], rtol=1e-4, atol=0)


def test_the_pitch_is_heard(model, golden, reading):
    with torch.inference_mode():
        other = model(golden["audio"], golden["pitch"] + 1)
    assert (other.again - reading.again).abs().max() > 1e-3


def test_every_variable_is_used_once_or_listed(variables):
    found = magenta.read(GOLDEN)
    assert found.description["channels"] == [8, 8, 8, 16, 16, 16, 32, 32, 32, 64]
    assert found.step == 5
    assert len(set(found.used.values())) == len(found.used) == len(found.model.state_dict())
    assert found.left == {"counters": ["global_step"]}
    assert sorted([*found.used.values(), "global_step"]) == sorted(variables)


def test_what_training_adds_is_listed(variables, tmp_path):
    slots = {f"{name}/Adam": np.zeros_like(value) for name, value in variables.items() if name.endswith("/weights")}
    found = magenta.read(bundles.write(tmp_path / "model.ckpt-9", variables | slots))
    assert sorted(found.left) == ["counters", "optimizer slots"]
    assert len(list(itertools.chain(*found.left.values()))) == len(slots) + 1


def test_the_variant_without_pitch_converts(variables, tmp_path):
    blind = {name: value for name, value in variables.items() if "PitchEmbedding" not in name}
    first = "decoder/0_Layer/0/weights"
    blind[first] = blind[first][..., :124]
    model = magenta.load(bundles.write(tmp_path / "model.ckpt-9", blind))
    assert isinstance(model, SpectralAutoencoder)
    assert model.pitch is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder/3_Layer/3/BatchNorm/beta", None, "decoder/3_Layer/3/BatchNorm/beta is missing$"),
        ("encoder/z_Layer/z/weights", None, "NSynth's baseline without encoder/z_Layer/z/weights"),
        ("decoder/mag_Layer/mag/biases", np.zeros(2, np.float32), r"mag/biases is \[2\], expected \[1\]$"),
    ],
)
def test_variables_that_do_not_fit_are_named(variables, tmp_path, name, value, message):
    changed = {key: each for key, each in variables.items() if key != name}
    if value is not None:
        changed[name] = value
    with pytest.raises(ValueError, match=message):
        magenta.load(bundles.write(tmp_path / "model.ckpt-9", changed))


def test_the_command_converts_it(command, tmp_path, model, golden):
    done = command("convert", f"input={GOLDEN}", "out=baseline.safetensors")
    assert done.status == 0, done.err
    meta = checkpoint.describe(tmp_path / "baseline.safetensors")
    assert (meta.hop, meta.step, meta.weights) == (65_536, 5, "raw")
    again = checkpoint.load(tmp_path / "baseline.safetensors")
    stored = again.state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in model.state_dict().items())
    with torch.inference_mode():  # the same weights at another place in memory: sums may differ in the last bit
        torch.testing.assert_close(again.embed(golden["audio"]), model.embed(golden["audio"]), rtol=0, atol=1e-6)
