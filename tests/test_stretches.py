"""Blocks computed a stretch of time at a time say and learn what the model does, whatever the sizes and threads."""

import copy
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae import notes
from wavenet_ae.models.wavenet import Decoder, Encoder, WaveNetAutoencoder
from wavenet_ae.sampler.cpu.caching import checksum
from wavenet_ae.training import stretches
from wavenet_ae.training.objectives import Likelihood
from wavenet_ae.training.processes import ALONE
from wavenet_ae.training.schedule import Steps
from wavenet_ae.training.stretches import decoder, encoder
from wavenet_ae.training.stretches.stretch import LENGTH, SOURCES


def built(*, hop=16, width=32, own=32, skip=32, taps=3, layers=4, encoder_layers=3):
    torch.manual_seed(1)
    sizes = {"stages": 3, "embedding_dims": 3, "hop": hop}
    return WaveNetAutoencoder(
        encoder=Encoder(layers=encoder_layers, width=own, kernel_size=3, **sizes),
        decoder=Decoder(layers=layers, width=width, skip_width=skip, kernel_size=taps, **sizes),
        pitch_conditioning=False,
    )


def in_stretches(model):
    model = copy.deepcopy(model)
    stretches.replace(model)
    return model


def learnt(model, code, restart=0):
    """Logits, and the gradient of each weight, None for those without."""
    logits = model(code, restart=restart)
    F.cross_entropy(logits, code).backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def check(model, code, restart=0):
    logits, gradients = learnt(in_stretches(model), code, restart)
    wanted, exact = learnt(copy.deepcopy(model).double(), code, restart)
    torch.testing.assert_close(logits.double(), wanted, rtol=0, atol=1e-5)
    assert {name for name, gradient in gradients.items() if gradient is None} == {
        name for name, gradient in exact.items() if gradient is None
    }, "a weight that nothing asks of is told nothing"
    for name, gradient in exact.items():
        if gradient is not None:
            assert (gradients[name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-8, name
    places = [
        each.untyped_storage().data_ptr() + 4 * each.storage_offset() for each in gradients.values() if each is not None
    ]
    assert len(set(places)) == len(places), "clipping would shorten a gradient twice"


@settings(max_examples=15, deadline=None)  # compiled code is read from disk the first time
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([1, 7, 50, LENGTH, LENGTH + 1]),
    st.sampled_from([32, 64]),
    st.sampled_from([32, 64]),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_outputs_and_gradients_are_the_model_s(crops, frames, hop, width, own, taps, threads):
    model = built(hop=hop, width=width, own=own, skip=96 - width, taps=taps)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(model, torch.randint(256, (crops, frames * hop), generator=torch.Generator().manual_seed(frames)))
    finally:
        torch.set_num_threads(before)


def test_a_decoder_that_begins_anew_does_so_here():
    check(built(hop=8), torch.randint(256, (4, 64), generator=torch.Generator().manual_seed(0)), restart=16)


def test_crops_of_another_size_may_follow():
    model, exact = in_stretches(built()), built()
    for crops, samples in ((2, 160), (1, 32), (3, 96)):
        code = torch.randint(256, (crops, samples))
        torch.testing.assert_close(model(code), exact(code), rtol=0, atol=1e-5)


PRODUCT = """
    import sys
    import numpy as np
    from llvmlite import binding
    true = binding.get_host_cpu_features()
    found = type(true)(dict.fromkeys(sys.argv[1:], True))
    found.flatten = true.flatten  # numba itself compiles for the machine there is
    binding.get_host_cpu_features = lambda: found
    from wavenet_ae.training.stretches.tile import IS_FOR_THIS_CORE, LANES, PANEL, ROWS, multiply
    die = np.random.default_rng(0)

    def number(*shape):
        return die.standard_normal(shape).astype(np.float32)

    for rows in (1, 4, 5, 6, 17, 96):
        for count in (1, 3, 64):
            a, b, c = number(rows, count), number(count, 64), number(rows, 64)
            along = a, count, 1
            down = a.T.copy(), 1, rows
            panels = b.reshape(count, -1, PANEL).swapaxes(0, 1).copy(), count * PANEL, PANEL
            for left, row, step in (along, down):
                for right, panel, line in (panels, (b, PANEL, 64)):
                    room = np.full((rows + 2, 64), 7, np.float32)
                    room[1:-1] = c
                    left, right = left.ravel(), right.ravel()
                    multiply(left, 0, row, step, right, 0, panel, line, room.ravel(), 64, 64, rows, 64, count)
                    assert np.abs(room[1:-1] - (c + a.astype(float) @ b)).max() < 1e-4
                    assert (room[[0, -1]] == 7).all(), "it wrote beside its rows"
    print(IS_FOR_THIS_CORE, LANES, PANEL, ROWS)
"""


@pytest.mark.parametrize(
    ("features", "shape"),
    [(["avx512f", "avx"], "True 16 32 12"), (["avx"], "True 8 16 6"), ([], "False 8 16 6")],
    ids=str,
)
def test_products_are_right_on_every_kind_of_core(features, shape, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PRODUCT), *features]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.strip() == shape, done.stderr


def objective_of(model, **how):
    optimizer, rate = torch.optim.Adam(model.parameters(), lr=1e-3), Steps(table={0: 1e-3}, warmup=0)
    how = {"autocast": None} | how
    autocast = how.pop("autocast")
    objective = Likelihood(model, optimizer, rate, ema_decay=0.9, max_grad_norm=1.0, autocast=autocast, skip=0)
    objective.arrange(ALONE, **how)
    return objective


def losses(steps=50, **how):
    objective, die = objective_of(built(), **how), torch.Generator().manual_seed(0)
    waves = [torch.rand(4, 160, generator=die) / 8 for _ in range(steps)]
    crops = [notes.Batch(wave, torch.full((4,), 60), ["noise"] * 4) for wave in waves]
    return [objective.learn(batch, step)["nats"] for step, batch in enumerate(crops)]


def test_a_run_has_the_losses_of_the_model_s_own_step():
    found = losses(by_stretches=True)
    assert found[-1] < found[0] - 1, "it learns"
    assert found == pytest.approx(losses(), abs=1e-4)
    assert found == pytest.approx(losses(by_stretches=True, accumulate=2), abs=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_is_the_same_to_the_last_bit_when_it_is_run_again(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert losses(steps=10, by_stretches=True) == losses(steps=10, by_stretches=True)
    finally:
        torch.set_num_threads(before)


def test_a_fault_in_one_thread_is_raised_and_the_next_step_is_whole(monkeypatch):
    model, exact, code = in_stretches(built()), built(), torch.randint(256, (2, 160))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    true = decoder.back

    def broken(*given):
        if given[-1].thread == 1:
            raise MemoryError
        return true(*given)

    try:
        cost = model(code).sum()
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "back", broken)
            with pytest.raises(MemoryError):
                cost.backward()
        model.zero_grad(set_to_none=True)
        for each in (model, exact):
            each(code).sum().backward()
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert (ours.grad - theirs.grad).norm() <= 2e-5 * theirs.grad.norm() + 1e-8


def test_a_copy_computes_with_its_own_weights():
    model = in_stretches(built())
    twin, code = copy.deepcopy(model), torch.randint(256, (1, 32))
    before = model(code)
    with torch.no_grad():
        twin.decoder.blocks[0].dilated.weight.zero_()
        assert not torch.equal(twin(code), before)
        assert torch.equal(model(code), before)
    with pytest.raises(AssertionError, match=r"float64: the model was made another after"):
        twin.double()(code)


def test_where_it_is_possible_is_found_out():
    taken = [
        "through" in objective_of(model, **how).model.decoder.__dict__
        for model, how in (
            (built(), {"by_stretches": None}),
            (built(), {"by_stretches": False}),
            (built(), {"by_stretches": None, "recompute": True}),
            (built(), {"by_stretches": None, "autocast": torch.bfloat16}),
            (built(width=16), {"by_stretches": None}),
        )
    ]
    assert taken == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("model", "how", "said"),
    [
        (built(width=16), {}, "its widths are 32, 16, 32: not all are multiples of 32"),
        (built().double(), {}, "float32 on a CPU, not in float64 on cpu"),
        (built(layers=1), {}, "its decoder has one block"),
        (built(width=160), {}, "its widths are 32, 160, 32: not all are multiples of 32 up to 128"),
        (built(), {"recompute": True}, "recompute computes them in another way"),
        (built(), {"autocast": torch.bfloat16}, "float32, not in bfloat16"),
    ],
)
def test_where_it_is_not_possible_it_says_why(model, how, said):
    with pytest.raises(ValueError, match=said):
        objective_of(model, by_stretches=True, **how)


def test_the_code_is_compiled_anew_when_any_of_its_files_changes():
    names = {path.name for path in SOURCES}
    read = {"decoder.py", "encoder.py", "stretch.py", "tile.py"}
    for name in sorted(read):  # compiled code comes from these and from what these import
        text = (Path(stretches.__file__).parent / name).read_text()
        read |= {f"{room}.py" for room in re.findall(r"^from wavenet_ae\.sampler\.cpu\.(\w+) import", text, re.M)}
    assert read - {"caching.py"} == names
    for entry in (decoder.forth, decoder.back, encoder.forth, encoder.back):
        closure = dict(zip(entry.py_func.__code__.co_freevars, entry.py_func.__closure__, strict=True))
        assert closure["sources"].cell_contents == checksum(SOURCES), "it is not part of the key"
    assert all(Path(path).is_file() for path in SOURCES)
