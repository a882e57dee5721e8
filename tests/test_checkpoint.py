import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from wavenet_ae import checkpoint, models
from wavenet_ae.models.wavenet import WaveNetAutoencoder

ROOM = "wavenet_ae.models.wavenet"
ENCODER = {"layers": 4, "stages": 2, "width": 6, "kernel_size": 3, "embedding_dims": 4, "hop": 8}
DECODER = {"layers": 4, "stages": 2, "width": 5, "skip_width": 7, "kernel_size": 3, "embedding_dims": 4, "hop": 8}
MODEL = {
    "_target_": f"{ROOM}.WaveNetAutoencoder",
    "encoder": {"_target_": f"{ROOM}.Encoder", **ENCODER},
    "decoder": {"_target_": f"{ROOM}.Decoder", **DECODER},
    "pitch_conditioning": False,
}
META = checkpoint.Meta(
    model=MODEL, sample_rate=16_000, hop=8, step=7, weights="raw", corpus="toy notes", licence="CC-BY-4.0"
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.build(MODEL)


@pytest.fixture
def path(model, tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    checkpoint.save(path, model, META)
    return path


def rewrite(path, tensors=None, metadata=None):
    """The file as another tool might leave it."""
    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    save_file(load_file(path) if tensors is None else tensors, path, kept if metadata is None else metadata)


def test_what_is_saved_comes_back(path, model):
    loaded = checkpoint.load(path)
    assert isinstance(loaded, WaveNetAutoencoder)
    assert not loaded.training
    assert checkpoint.describe(path) == META
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    code = torch.randint(0, 256, (2, 16))
    assert torch.equal(loaded(code), model.eval()(code))


def test_a_loaded_model_can_be_trained_without_changing_the_file(path):
    before, loaded = path.read_bytes(), checkpoint.load(path)
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
    loaded(torch.randint(0, 256, (1, 16))).square().mean().backward()
    optimizer.step()
    assert path.read_bytes() == before
    assert checkpoint.fingerprint(loaded) != checkpoint.fingerprint(checkpoint.load(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_loads_as_float32(path, model, dtype):
    rewrite(path, {name: tensor.to(dtype) for name, tensor in load_file(path).items()})
    loaded = checkpoint.load(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.encoder.start.weight, model.encoder.start.weight.to(dtype).float())


def test_a_half_precision_model_is_saved_as_it_is(path, model):
    full = path.stat().st_size
    checkpoint.save(path, model.half(), META)
    assert path.stat().st_size < 0.75 * full
    assert checkpoint.load(path).decoder.start.weight.dtype == torch.float32


def test_loading_needs_neither_pickle_nor_hydra_and_draws_no_random_numbers(path):
    script = f"""
import pickle, sys, torch
pickle.Unpickler = pickle.load = pickle.loads = None
torch.load = None
from wavenet_ae import checkpoint
before = torch.get_rng_state()
checkpoint.load({str(path)!r})
assert torch.equal(before, torch.get_rng_state()), "loading moved the random numbers of the caller"
assert not {{"hydra", "omegaconf", "soundfile", "tensorboard"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_the_fingerprint_is_of_the_weights_alone(path, model, tmp_path):
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, model, META._replace(step=8, corpus="others"))
    hashes = {checkpoint.fingerprint(m) for m in (model, checkpoint.load(path), checkpoint.load(other))}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 16
    before = checkpoint.fingerprint(model)
    with torch.no_grad():
        model.decoder.logits.bias[3] += 1e-6
    assert checkpoint.fingerprint(model) != before


def test_the_fingerprint_knows_names_and_shapes():
    flat, tall = nn.Linear(6, 1, bias=False), nn.Linear(1, 6, bias=False)
    tall.weight.data = flat.weight.data.T.contiguous()
    names = {checkpoint.fingerprint(m) for m in (flat, tall, nn.Sequential(flat))}
    assert len(names) == 3


def test_the_fingerprint_never_changes_between_versions():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(0.5)
    assert checkpoint.fingerprint(layer) == "19c820b46f1a3cb3"


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist: expected a checkpoint"):
        checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="is a folder: expected a checkpoint"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"RIFF" * 400], ids=["empty", "text", "wav"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a safetensors file: expected a checkpoint of wavenet_ae"):
        checkpoint.load(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_cut_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"is damaged or cut short \(.+\): copy or download it again"):
        checkpoint.load(path)


def test_a_flipped_bit_in_the_weights_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged \(its weights are not those that were saved\)"):
        checkpoint.load(path)


def test_every_damaged_head_is_our_error(path):
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for position in range(0, head, 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        try:
            checkpoint.load(path)
        except ValueError:
            refused += 1
    assert refused > head / 11 * 0.8  # the rest is the name of the corpus and the like


def test_a_file_without_our_metadata_is_refused(path):
    rewrite(path, metadata={})
    with pytest.raises(ValueError, match="does not say which model it holds"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "in a way this version cannot read: JSONDecodeError"),
        (json.dumps(META._asdict() | {"hop": "8"}), "gives hop as '8': expected int"),
        (json.dumps({"model": MODEL}), r"cannot read: KeyError\('sample_rate'\)"),
    ],
)
def test_a_damaged_description_is_refused(path, text, message):
    rewrite(path, metadata={"wavenet_ae": text})
    with pytest.raises(ValueError, match=message):
        checkpoint.describe(path)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"_target_": "os.system"}, "os.system is not a model: expected a class inside wavenet_ae.models"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "torch.nn.Linear is not a model"),
        (MODEL | {"encoder": {"_target_": "builtins.eval"}}, "builtins.eval is not a model"),
        (MODEL | {"width": 3}, "cannot be built from"),
        (MODEL | {"decoder": 3}, "describes a model that cannot be built"),
        (MODEL | {"encoder": MODEL["encoder"] | {"stages": 0}}, "describes a model that cannot be built"),
    ],
)
def test_only_this_packages_networks_are_made(path, description, message):
    rewrite(path, metadata={"wavenet_ae": json.dumps(META._asdict() | {"model": description})})
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path)


def test_tensors_that_do_not_fit_are_named(path):
    tensors = load_file(path)
    tensors["decoder.out.weight"] = torch.zeros(3, 3, 1)
    tensors["surplus"] = tensors.pop("encoder.start.bias")
    rewrite(path, tensors)
    with pytest.raises(ValueError, match="does not fit its description") as caught:
        checkpoint.load(path)
    for part in (
        "encoder.start.bias is missing",
        "surplus is unknown",
        "decoder.out.weight is [3, 3, 1], expected [7, 7, 1]",
    ):
        assert part in str(caught.value)


def test_a_checkpoint_that_would_not_load_is_not_written(model, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="does not fit its description: encoder"):
        checkpoint.save(path, model, META._replace(model=MODEL | {"encoder": MODEL["encoder"] | {"width": 9}}))
    with pytest.raises(ValueError, match="is not plain data"):
        checkpoint.save(path, model, META._replace(model=MODEL | {"pitch_conditioning": torch.tensor(0)}))
    with pytest.raises(ValueError, match="gives corpus as 5: expected str"):
        checkpoint.save(path, model, META._replace(corpus=5))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(path, model, monkeypatch):
    before = path.read_bytes()

    def full(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left on device; nothing was changed there"):
        checkpoint.save(path, model, META)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
