"""Magenta's own outputs, on Magenta's own variables, are ours."""

import itertools
from pathlib import Path

import bundles
import numpy as np
import pytest
import torch

from wavenet_ae import magenta, mulaw, sampler
from wavenet_ae.magenta.bundle import open_bundle
from wavenet_ae.models.wavenet import WaveNetAutoencoder

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet"
CHECKPOINT = GOLDEN / "model.ckpt-200000"
SMALL = {"layers": 3, "width": 6, "skip_width": 5, "ae_width": 4, "embedding_dims": 2}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Layers this narrow take fifty times longer when two threads share them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden():
    """What the original computed; see the folder's golden.npz."""
    with np.load(GOLDEN / "golden.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def model():
    return magenta.load(CHECKPOINT)


@pytest.fixture
def small(tmp_path):
    """A checkpoint of a training run of a smaller model, and its variables."""
    variables = bundles.training(bundles.variables(**SMALL))
    return bundles.write(tmp_path / "model.ckpt-1234", variables), variables


def change(prefix, variables, **changes):
    """The checkpoint with some variables replaced, or removed where None."""
    changed = variables | {name.replace("__", "/"): value for name, value in changes.items()}
    return bundles.write(prefix, {name: value for name, value in changed.items() if value is not None})


# Parity


def test_the_golden_outputs_would_show_a_fault(golden):
    assert golden["full_probabilities"].std() > 0.01
    assert golden["encoding"].std() > 0.1
    assert golden["quantized"].unique().numel() > 100


def test_quantized_equal(golden):
    assert torch.equal(mulaw.encode(golden["audio"]) - 128, golden["quantized"].long())


def test_encoding_within_1e_5(model, golden):
    with torch.inference_mode():
        embedding = model.embed(golden["audio"])
    torch.testing.assert_close(embedding.transpose(1, 2), golden["encoding"], atol=1e-5, rtol=0)


def test_loss_within_1e_4(model, golden):
    code = mulaw.encode(golden["audio"])
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(model(code), code)
    torch.testing.assert_close(loss, golden["loss"].float(), rtol=1e-4, atol=0)


def test_parallel_decoder_within_2e_5_of_both_of_magentas(model, golden):
    code, embedding = mulaw.encode(golden["audio"]), golden["encoding"].transpose(1, 2)
    with torch.inference_mode():
        probability = model.decoder(code, embedding).softmax(1).transpose(1, 2)
    torch.testing.assert_close(probability[:, :640], golden["fast_probabilities"], atol=2e-5, rtol=0)
    torch.testing.assert_close(probability[:, -256:], golden["full_probabilities"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("engine", sampler.ENGINES)
def test_every_engine_within_2e_5_of_both_of_magentas(model, golden, engine):
    code, embedding = mulaw.encode(golden["audio"]), golden["encoding"].transpose(1, 2).contiguous()
    try:
        sampler.open_voices(model.decoder, 1, engine=engine)
    except ValueError as error:
        pytest.skip(str(error))
    with torch.inference_mode():
        probability = sampler.score(model.decoder, code, embedding, engine=engine).exp().transpose(1, 2).float().cpu()
    torch.testing.assert_close(probability[:, :640], golden["fast_probabilities"], atol=2e-5, rtol=0)
    torch.testing.assert_close(probability[:, -256:], golden["full_probabilities"], atol=2e-5, rtol=0)


def test_the_moving_averages_are_other_weights(model, golden):
    averaged = magenta.load(CHECKPOINT, weights="ema")
    for (name, raw), ema in zip(model.named_parameters(), averaged.parameters(), strict=True):
        torch.testing.assert_close(ema, raw * 0.9, rtol=1e-6, atol=1e-9, msg=name)
    with torch.inference_mode():
        difference = averaged.embed(golden["audio"]) - model.embed(golden["audio"])
    assert difference.abs().max() > 0.1


# The account of what was read


def test_sizes_are_read_off_the_shapes(small):
    found = magenta.read(small[0])
    assert found.description == {
        "_target_": "wavenet_ae.models.wavenet.WaveNetAutoencoder",
        "encoder": {
            "_target_": "wavenet_ae.models.wavenet.Encoder",
            "layers": 3,
            "stages": 10,
            "width": 4,
            "kernel_size": 3,
            "embedding_dims": 2,
            "hop": 512,
        },
        "decoder": {
            "_target_": "wavenet_ae.models.wavenet.Decoder",
            "layers": 3,
            "stages": 10,
            "width": 6,
            "skip_width": 5,
            "kernel_size": 3,
            "embedding_dims": 2,
            "hop": 512,
        },
        "pitch_conditioning": False,
        "pitch_reading": False,
    }
    assert isinstance(found.model, WaveNetAutoencoder)
    assert not found.model.training
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert (found.source, found.step) == (str(small[0]), 1234)


def test_every_variable_is_used_once_or_listed(small):
    found = magenta.read(small[0])
    assert len(set(found.used.values())) == len(found.used) == len(found.model.state_dict())
    assert {kind: len(names) for kind, names in found.left.items()} == {
        "counters": 1,
        "moving averages": len(found.used),
        "optimizer slots": 2 * len(found.used) + 2,
    }
    assert sorted([*found.used.values(), *itertools.chain(*found.left.values())]) == sorted(small[1])
    averaged = magenta.read(small[0], "ema")
    assert sorted([*averaged.used.values(), *itertools.chain(*averaged.left.values())]) == sorted(small[1])
    assert averaged.left["raw weights"] == sorted(found.used.values())


def test_what_is_not_known_is_listed_as_such(small):
    prefix = change(*small, mine__W=np.zeros(3, np.float32), global_step=None)
    found = magenta.read(prefix)
    assert found.left["unknown"] == ["mine/W"]
    assert found.step is None


def test_taps_keep_their_direction_and_inputs_their_side(small):
    prefix, variables = small
    model = magenta.load(prefix)
    ours = model.decoder.blocks[1].dilated.weight
    for tap in range(3):
        for source in range(6):
            expected = torch.from_numpy(variables["dilatedconv_2/W"][0, tap, source])
            assert torch.equal(ours[:, source, tap], expected)


def test_the_model_owns_its_weights(small):
    model = magenta.load(small[0])
    before = Path(f"{small[0]}.data-00000-of-00001").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert Path(f"{small[0]}.data-00000-of-00001").read_bytes() == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_stages_and_hop_are_given_where_they_differ(small):
    model = magenta.load(small[0], stages=2, hop=64)
    assert [block.dilated.dilation[0] for block in model.decoder.blocks] == [1, 2, 1]
    assert model.hop == 64
    with pytest.raises(ValueError, match="stages is 0: expected at least 1"):
        magenta.load(small[0], stages=0)


# Refusals


def test_another_model_is_refused_by_name(tmp_path):
    other = bundles.write(tmp_path / "model.ckpt-1", {"generator/W": np.zeros((2, 2), np.float32)})
    with pytest.raises(
        ValueError, match=r"a checkpoint of another model: ae_startconv/W, .* missing, found generator/W; expected"
    ):
        magenta.load(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"res_2__W": None}, "res_2/W is missing$"),
        ({"skip_3__biases": None, "res_2__W": None}, "res_2/W is missing; skip_3/biases is missing$"),
        ({"dilatedconv_2__W": None}, "dilatedconv_2/W is missing$"),
        ({"dilatedconv_3__W": None}, "dilatedconv_3/W is missing$"),
        (
            {"res_4__W": np.zeros((1, 1, 6, 6), np.float32)},
            "dilatedconv_4/W is missing; dilatedconv_4/biases is missing; ",
        ),
        ({"out1__W": np.zeros((1, 1, 5, 4), np.float32)}, r"out1/W is \[1, 1, 5, 4\], expected \[1, 1, 5, 5\]$"),
        (
            {"logits__W": np.zeros((1, 1, 5, 255), np.float32)},
            r"logits/W is \[1, 1, 5, 255\], expected \[1, 1, 5, 256\]$",
        ),
        ({"startconv__biases": np.zeros(7, np.float32)}, r"startconv/biases is \[7\], expected \[6\]$"),
        ({"dilatedconv_999999999__W": np.zeros((1, 1, 1, 1), np.float32)}, "dilatedconv_4/W is missing; "),
        ({"ae_startconv__W": np.zeros((1, 2, 1, 4), np.float32)}, "kernel_size is 2: expected an odd number"),
        ({"startconv__W": np.zeros((1, 0, 1, 6), np.float32)}, "kernel_size is 0: expected at least 1"),
        ({"startconv__W": np.zeros((3, 1, 6), np.float32)}, "of another model: startconv/W missing"),
    ],
)
def test_variables_that_do_not_fit_are_named(small, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        magenta.load(change(*small, **changes))
    assert str(small[0]) in str(caught.value)


def test_a_checkpoint_without_averages_has_none_to_give(tmp_path):
    prefix = bundles.write(tmp_path / "model.ckpt-1", bundles.variables(**SMALL))
    with pytest.raises(ValueError, match=r"keeps no moving averages of its weights .*: use weights=raw"):
        magenta.load(prefix, weights="ema")
    with pytest.raises(ValueError, match=r"unknown weights 'EMA': choose raw .* or ema"):
        magenta.load(prefix, weights="EMA")


def test_a_checkpoint_with_some_averages_names_the_missing(small):
    prefix = change(*small, res_2__W__ExponentialMovingAverage=None)
    magenta.load(prefix)
    with pytest.raises(ValueError, match=r"res_2/W/ExponentialMovingAverage is missing$"):
        magenta.load(prefix, weights="ema")


def test_only_what_is_used_is_checked(small):
    prefix, _ = small
    entry = open_bundle(prefix).entries["res_2/W/Adam"]
    data = Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[entry.offset] ^= 1
    data.write_bytes(content)
    magenta.load(prefix)
    entry = open_bundle(prefix).entries["res_2/W"]
    content[entry.offset + entry.size - 1] ^= 1
    data.write_bytes(content)
    with pytest.raises(ValueError, match=r"^res_2/W in .* is damaged \(wrong checksum\)"):
        magenta.load(prefix)
