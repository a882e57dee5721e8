"""The folds are exact, and every layout can be read back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wavenet_ae import mulaw
from wavenet_ae.sampler import weights

SIZES = [{}, {"kernel_size": 2, "layers": 5, "stages": 4}, {"kernel_size": 1}, {"layers": 1}, {"kernel_size": 4}]
SAMPLES = 24


def lagged(level, lags):
    """[lag, time]: level[time - lag], zero before the first."""
    return np.stack([np.pad(level, (lag, 0))[: len(level)] for lag in range(lags)])


@pytest.fixture(params=SIZES, ids=str)
def decoder(request, tiny):
    return tiny(**request.param)


@pytest.fixture
def level():
    return np.random.default_rng(0).uniform(-1, 1, SAMPLES)


def start_of(decoder, level):
    with torch.inference_mode():
        return decoder.start(torch.from_numpy(level)[None, None])


def test_the_first_layer_is_columns_of_the_levels(decoder, level):
    folded = weights.fold(decoder)
    with torch.inference_mode():
        block = decoder.blocks[0]
        expected = block.dilated(start_of(decoder, level))[0].numpy()
    columns = folded.first.T @ lagged(level, len(folded.first))
    heard = np.minimum(np.arange(SAMPLES), len(folded.start) - 1)
    bias = folded.first_bias[heard].T + block.dilated.bias.detach().numpy()[:, None]
    np.testing.assert_allclose(columns + bias, expected, rtol=0, atol=1e-13)
    assert expected.std() > 0.1


def test_what_the_start_says_is_columns_of_the_levels(decoder, level):
    folded = weights.fold(decoder)
    with torch.inference_mode():
        expected = decoder.start_skip(start_of(decoder, level))[0].numpy()
    biases = sum(block.skip.bias.detach().numpy() for block in decoder.blocks)
    said = folded.said.T @ lagged(level, len(folded.said)) + (folded.said_bias - biases)[:, None]
    np.testing.assert_allclose(said, expected, rtol=0, atol=1e-13)


def folded_logits(f, level, embedding, hop):
    """The whole decoder in a dozen lines of float64, from nothing but the fold."""
    taps, width = f.start.shape
    x, logits = np.zeros((len(f.dilation), SAMPLES, width)), []
    for t in range(SAMPLES):
        heard = lagged(level, 2 * taps - 1)[:, t]
        told = [f.condition[i].T @ embedding[:, t // hop] + f.condition_bias[i] for i in range(len(f.dilation))]
        said = f.said_bias + f.said.T @ heard[:taps]
        for i, dilation in enumerate(f.dilation):
            if i == 0:
                gates = f.first.T @ heard + f.first_bias[min(t, taps - 1)]
            else:
                times = [t - tap * dilation for tap in range(taps - 1, 0, -1)]
                past = np.concatenate([x[i, s] if s >= 0 else np.zeros(width) for s in times] or [np.zeros(0)])
                gates = f.current[i - 1] @ x[i, t] + f.past[i - 1] @ past
            gates = gates + told[i]
            gated = np.tanh(gates[width:]) / (1 + np.exp(-gates[:width]))
            said = said + f.skip[i] @ gated
            if i + 1 < len(f.dilation):
                before = x[i, t] if i else f.start.T @ heard[:taps]
                x[i + 1, t] = before + f.residual[i] @ gated + f.residual_bias[i]
        hidden = f.out @ np.maximum(said, 0) + f.out_condition.T @ embedding[:, t // hop] + f.out_bias
        logits.append(f.logits @ np.maximum(hidden, 0) + f.logits_bias)
    return np.stack(logits, axis=1)


def test_the_fold_is_the_decoder(decoder):
    torch.manual_seed(2)
    code, embedding = torch.randint(256, (1, SAMPLES)), torch.randn(1, 4, SAMPLES // 8, dtype=torch.float64)
    with torch.inference_mode():
        expected = decoder(code, embedding)[0].numpy()
    heard = np.append(0.0, mulaw.level(code[0], torch.float64).numpy()[:-1])
    actual = folded_logits(weights.fold(decoder), heard, embedding[0].numpy(), decoder.hop)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    assert expected.std() > 0.1


def test_the_last_residual_is_never_heard(tiny):
    decoder, code, embedding = tiny(), torch.arange(16)[None], torch.ones(1, 4, 2, dtype=torch.float64)
    with torch.inference_mode():
        before = decoder(code, embedding)
        decoder.blocks[-1].residual.weight.fill_(torch.nan)
        assert torch.equal(decoder(code, embedding), before)
    folded = weights.fold(decoder)
    assert len(folded.residual) == len(folded.residual_bias) == len(decoder.blocks) - 1
    assert all(np.isfinite(array).all() for array in folded.residual)


def unpack(flat, scale, layer, inputs, precision):
    """A matrix out of its panels, as the kernel reads it."""
    panels = flat.reshape(len(scale), -1, inputs, weights.PANEL)[layer]
    if precision == "bf16":  # low halves of 16 words are 16 rows, high halves the next 16
        pairs = (panels.astype(np.uint32) << 16).view(np.float32).reshape(*panels.shape[:2], -1, 16, 2)
        panels = pairs.swapaxes(-1, -2).reshape(panels.shape)
    return panels.transpose(0, 2, 1).reshape(-1, inputs) * scale[layer][:, None]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("width", [5, 64, 70])
def test_packed_matrices_can_be_read_back(tiny, precision, width):
    folded = weights.fold(tiny(torch.float32, width=width, skip_width=9, layers=3))
    packed, wide = weights.pack(folded, np.dtype(np.float32), precision), weights.padded(width)
    order = weights.gate_rows(width)
    for layer, matrix in enumerate(folded.past):
        actual = unpack(packed.past, packed.past_scale, layer, 2 * wide, precision).reshape(-1, 2, wide)
        assert not actual[order < 0].any()
        assert not actual[:, :, width:].any()
        close(actual[order >= 0][:, :, :width], matrix.reshape(-1, 2, width)[order[order >= 0]], precision)
    for layer, matrix in enumerate(folded.skip):
        actual = unpack(packed.skip, packed.skip_scale, layer, wide, precision)
        close(actual[:9, :width], matrix, precision)
        assert not actual[9:].any()


def close(actual, expected, precision):
    largest = np.abs(expected).reshape(len(expected), -1).max(axis=1).reshape(-1, *[1] * (expected.ndim - 1))
    allowed = {"fp32": 0, "bf16": np.abs(expected) * 2.0**-8, "int8": largest / 127 * 0.5001}[precision]
    assert (np.abs(actual - expected) <= allowed).all()
    assert precision == "fp32" or not np.array_equal(actual, expected)


def test_a_panel_of_gates_holds_both_gates_of_its_channels():
    for width in (1, 5, 32, 64, 100):
        order = weights.gate_rows(width).reshape(-1, 2, weights.HALF)
        assert order.size == 2 * weights.padded(width)
        sigmoid, tanh = order[:, 0].ravel(), order[:, 1].ravel()
        assert sigmoid[:width].tolist() == list(range(width))
        assert tanh[:width].tolist() == list(range(width, 2 * width))
        assert set(sigmoid[width:]) | set(tanh[width:]) <= {-1}


@given(hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
def test_bf16_is_rounded_as_torch_rounds(numbers):
    expected = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert weights.to_bf16(numbers).tolist() == expected.tolist()


def test_bf16_ties_go_to_even():
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert weights.to_bf16(ties).tolist() == [0x3F80, 0x3F82]


@given(hnp.arrays(np.float64, (3, 5), elements=st.floats(-1e6, 1e6)))
def test_int8_is_within_half_a_step(matrix):
    whole, scale = weights.to_int8(matrix)
    assert np.abs(whole.astype(int)).max() <= 127
    assert (np.abs(whole * scale[:, None] - matrix) <= scale[:, None] * 0.5 * (1 + 1e-9)).all()


def test_arrays_begin_at_a_cache_line(tiny):
    packed = weights.pack(weights.fold(tiny()), np.dtype(np.float32), "bf16")
    for name, array in packed._asdict().items():
        assert array.ctypes.data % 64 == 0 or name == "dilation"
        assert array.flags.c_contiguous
