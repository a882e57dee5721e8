"""What mixing, arranging and stretching embeddings promises."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet_ae import embeddings
from wavenet_ae.embeddings import Embedding


def values(seed=0, frames=7, dims=4, dtype=torch.float32):
    return torch.randn(dims, frames, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sound(frames, seed=0, **changes):
    made = Embedding(values(seed, frames), "0123456789abcdef", 512, 16_000, frames * 512 - 100, f"{seed}.wav")
    return made._replace(**changes)


SILENCE = torch.tensor([[0.3], [-0.2], [0.1], [0.9]])
seeds, lengths = st.integers(0, 2**31), st.integers(1, 40)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(sum).map(lambda all: [w / sum(all) for w in all])


# --- mix, analogy, slerp


@given(seed=seeds, weights=shares)
@settings(max_examples=50, deadline=None)
def test_a_mix_is_the_weighted_sum_and_of_one_sound_with_itself_that_sound(seed, weights):
    sounds = [values(seed + n) for n in range(len(weights))]
    expected = sum(weight * each.double() for weight, each in zip(weights, sounds, strict=True))
    assert torch.equal(embeddings.mix(sounds, weights), expected.float())
    assert torch.equal(embeddings.mix(sounds[:1] * len(weights), weights), sounds[0])


@pytest.mark.parametrize("corner", range(4))
def test_weights_at_a_corner_give_that_corner_bit_for_bit(corner):
    sounds = [values(seed) for seed in range(4)]
    assert torch.equal(embeddings.mix(sounds, [n == corner for n in range(4)]), sounds[corner])
    corners = embeddings.grid(*sounds, rows=3, columns=5)[::2, ::4].flatten(0, 1)
    assert torch.equal(corners[corner], sounds[corner])
    assert torch.equal(embeddings.line(sounds, 4 + 3 * 2)[3 * corner], sounds[corner])


def test_weights_may_change_with_time():
    a, b = values(1), values(2)
    over = torch.linspace(0, 1, 7, dtype=torch.float64)
    mixed = embeddings.mix([a, b], torch.stack([1 - over, over]))
    for frame in range(7):
        alone = embeddings.mix([a, b], [1 - float(over[frame]), float(over[frame])])
        assert torch.equal(mixed[:, frame], alone[:, frame])


@pytest.mark.parametrize("weights", [[1.5, -0.5], [2, 0], [0.2, 0.2]])
def test_weights_beyond_a_mix_work_and_say_so(caplog, weights):
    a, b = values(1), values(2)
    torch.testing.assert_close(embeddings.mix([a, b], weights), weights[0] * a + weights[1] * b)
    assert "are not all in 0..1 with a sum of 1" in caplog.text
    assert f"{weights[0]}" in caplog.text


def test_a_mix_in_between_says_nothing(caplog):
    caplog.set_level(logging.INFO)
    embeddings.mix([values(1), values(2), values(3)], [1 / 3] * 3)
    embeddings.grid(*[values(n) for n in range(4)], rows=7, columns=6)
    assert not caplog.text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights do not fit 2 sounds: expected one for each"),
        ([0.5, 0.25, 0.25], "3 weights do not fit 2 sounds"),
        ([0.5, math.nan], r"weights \[0.5, nan\] are not all finite"),
        ([math.inf, 0.5], "are not all finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        embeddings.mix([values(1), values(2)], weights)


def test_sounds_of_unequal_lengths_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"shapes \[\[4, 7\], \[4, 8\]\] cannot be mixed: .*embeddings.align"):
        embeddings.mix([values(1), values(2, 8)], [0.5, 0.5])
    with pytest.raises(ValueError, match="0 weights do not fit 0 sounds"):
        embeddings.mix([], [])


def test_an_analogy_adds_what_one_has_beyond_another():
    a, b, c = (values(seed) for seed in range(3))
    torch.testing.assert_close(embeddings.analogy(a, b, c), a - b + c)
    assert torch.equal(embeddings.analogy(a, a, c), c)
    assert torch.equal(embeddings.analogy(a, b, b), a)


def test_an_arc_turns_evenly_and_changes_length_evenly():
    a, b = torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [4.0]])
    third = embeddings.slerp(a, b, 1 / 3)
    length = 2 + 2 / 3
    torch.testing.assert_close(third, length * torch.tensor([[math.cos(math.pi / 6)], [math.sin(math.pi / 6)]]))
    seen_from = torch.tensor([[5.0], [5.0]])
    torch.testing.assert_close(embeddings.slerp(a + 5, b + 5, 1 / 3, seen_from), third + 5)


@given(seed=seeds, weight=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_an_arc_begins_and_ends_at_its_sounds_is_the_same_from_both_ends_and_of_one_sound_that_sound(seed, weight):
    a, b = values(seed), values(seed + 1)
    assert torch.equal(embeddings.slerp(a, b, 0), a)
    assert torch.equal(embeddings.slerp(a, b, 1, SILENCE), b)
    torch.testing.assert_close(embeddings.slerp(a, b, weight), embeddings.slerp(b, a, 1 - weight))
    assert torch.equal(embeddings.slerp(a, a, weight), a)


def test_frames_without_a_direction_go_straight():
    a = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    b = torch.tensor([[-1.0, 3.0, 2.0], [0.0, 1.0, 2.0]])  # opposite, from nothing, parallel
    assert torch.equal(embeddings.slerp(a, b, 0.25), embeddings.mix([a, b], [0.75, 0.25]))


# --- lines and grids


def test_a_grid_is_bilinear_and_mirrors_with_its_corners():
    nw, ne, sw, se = (values(seed) for seed in range(4))
    made = embeddings.grid(nw, ne, sw, se, rows=5, columns=4)
    assert made.shape == (5, 4, 4, 7)
    expected = 0.75 * (nw * 2 / 3 + ne / 3) + 0.25 * (sw * 2 / 3 + se / 3)
    torch.testing.assert_close(made[1, 1], expected)
    torch.testing.assert_close(made.flip(0), embeddings.grid(sw, se, nw, ne, rows=5, columns=4))
    torch.testing.assert_close(made.flip(1), embeddings.grid(ne, nw, se, sw, rows=5, columns=4))
    torch.testing.assert_close(made.transpose(0, 1), embeddings.grid(nw, sw, ne, se, rows=4, columns=5))


def test_one_sound_may_stand_at_all_corners():
    alone = values()
    assert bool((embeddings.grid(alone, alone, alone, alone, rows=3, columns=3) == alone).all())


def test_a_line_goes_through_all_its_sounds():
    a, b, c = (values(seed) for seed in range(3))
    made = embeddings.line([a, b, c], 5)
    for step, expected in enumerate([a, (a + b) / 2, b, (b + c) / 2, c]):
        torch.testing.assert_close(made[step], expected)


@pytest.mark.parametrize("size", [0, 1, -3])
def test_too_few_steps_are_refused(size):
    a, b = values(1), values(2)
    with pytest.raises(ValueError, match=f"{size} steps between 2 sounds: expected at least 2 of each"):
        embeddings.line([a, b], size)
    with pytest.raises(ValueError, match="expected at least 2"):
        embeddings.grid(a, b, a, b, rows=2, columns=size)


# --- alignment


def test_padding_is_the_model_s_silence_and_never_zeros():
    short, long = embeddings.align([sound(3, 1), sound(8, 2)], "pad", SILENCE)
    assert torch.equal(short.values[:, :3], values(1, 3))
    assert torch.equal(short.values[:, 3:], SILENCE.expand(-1, 5))
    assert torch.equal(long.values, values(2, 8))
    assert (short.samples, long.samples) == (8 * 512 - 100,) * 2
    with pytest.raises(ValueError, match="nothing to pad with: give the model's encoding of silence"):
        embeddings.align([sound(3, 1), sound(8, 2)], "pad")


def test_stretching_and_trimming_make_one_length():
    for how, frames in (("stretch", 8), ("trim", 3)):
        made = embeddings.align([sound(3, 1), sound(8, 2), sound(5, 3)], how)
        assert {each.values.shape for each in made} == {(4, frames)}
        assert {each.samples for each in made} == {frames * 512 - 100}
        assert [each.source for each in made] == ["1.wav", "2.wav", "3.wav"]
    assert torch.equal(made[1].values, values(2, 8)[:, :3])


def test_sounds_of_one_length_are_left_as_they_are():
    for how in embeddings.ALIGNMENTS:
        assert torch.equal(embeddings.align([sound(4)], how)[0].values, sound(4).values)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "another"}, "2.wav was encoded by model another, 1.wav by 0123456789abcdef: .*encode both by one"),
        ({"hop": 256, "samples": 300}, "2.wav has 4 numbers every 256 samples, 1.wav 4 every 512"),
        ({"values": values(2, 3, dims=5)}, "2.wav has 5 numbers every 512 samples, 1.wav 4"),
    ],
)
def test_numbers_of_different_models_do_not_meet(other, message):
    with pytest.raises(ValueError, match=message):
        embeddings.align([sound(3, 1), sound(3, 2, **other)], "trim")


def test_an_unknown_model_is_taken_on_trust_but_does_not_bring_strangers_together():
    unknown = sound(3, 1, model="")
    embeddings.align([unknown, sound(3, 2), unknown], "trim")
    with pytest.raises(ValueError, match=r"3\.wav was encoded by model another"):
        embeddings.align([unknown, sound(3, 2), sound(3, 3, model="another")], "trim")
    with pytest.raises(ValueError, match="unknown alignment 'loop': choose one of pad, stretch, trim"):
        embeddings.align([unknown], "loop")


def test_silence_is_what_the_encoder_makes_of_long_silence_in_its_middle(tiny_autoencoder):
    model = tiny_autoencoder(torch.float32)
    silence = embeddings.silence(model)
    assert silence.abs().max() > 0.01, "a zero embedding would prove nothing"
    frames = embeddings.encode(model, torch.zeros(40 * model.hop))
    torch.testing.assert_close(silence, frames[:, 20:21])


# --- time


@given(seed=seeds, frames=lengths)
@settings(max_examples=30, deadline=None)
def test_stretching_by_one_changes_no_bit_and_by_others_gives_that_length(seed, frames):
    for dtype in (torch.float32, torch.float64):
        made = values(seed, frames, dtype=dtype)
        assert torch.equal(embeddings.stretch(made, 1), made)
        assert embeddings.stretch(made, 2.5).shape == (4, round(frames * 2.5))
        assert embeddings.stretch(made, 1e-9).shape == (4, 1)


def test_stretching_keeps_slow_things_and_folds_no_fast_ones():
    time = (torch.arange(200) + 0.5) / 200
    slow = torch.sin(2 * math.pi * 3 * time)[None]
    for factor in (0.5, 0.77, 2, 3.1):
        made = embeddings.stretch(slow, factor)[0]
        expected = torch.sin(2 * math.pi * 3 * (torch.arange(len(made)) + 0.5) / len(made))
        inner = slice(len(made) // 20, -len(made) // 20)
        torch.testing.assert_close(made[inner], expected[inner], atol=0.01, rtol=0)
    fast = torch.cos(math.pi * torch.arange(200.0))[None]
    assert embeddings.stretch(fast, 1 / 8).abs().max() < 0.15, "every other frame up and down: nothing, on the whole"


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_a_stretch_that_means_nothing_is_refused(factor):
    with pytest.raises(ValueError, match=r"cannot be stretched by .*: expected a positive number"):
        embeddings.stretch(values(), factor)


@pytest.mark.parametrize("curve", embeddings.CURVES)
def test_a_crossfade_begins_as_one_sound_and_ends_as_the_other(curve):
    a, b = values(1, 20), values(2, 20)
    made = embeddings.crossfade(a, b, curve, start=5, stop=15)
    assert torch.equal(made[:, :6], a[:, :6])
    assert torch.equal(made[:, 14:], b[:, 14:])
    share = ((made - a) / (b - a)).mean(dim=0)
    assert bool((share.diff()[5:14] > 0).all()), "always on its way"
    whole = embeddings.crossfade(a, b, curve)
    assert torch.equal(whole[:, 0], a[:, 0])
    assert torch.equal(whole[:, -1], b[:, -1])
    assert torch.equal(embeddings.crossfade(a, a, curve), a)


def test_a_morph_passes_through_every_sound_in_turn():
    sounds = [values(seed, 9) for seed in range(3)]
    made = embeddings.morph(sounds)
    for number, frame in enumerate((0, 4, 8)):
        assert torch.equal(made[:, frame], sounds[number][:, frame])
    torch.testing.assert_close(made[:, 1], (0.75 * sounds[0] + 0.25 * sounds[1])[:, 1])
    torch.testing.assert_close(made[:, 6], (0.5 * sounds[1] + 0.5 * sounds[2])[:, 6])
    late = embeddings.morph(sounds, "late")
    torch.testing.assert_close(late[:, 2], (0.75 * sounds[0] + 0.25 * sounds[1])[:, 2])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 3), (-1, 5), (0, 21), (19, None)])
def test_no_time_to_change_is_refused(start, stop):
    with pytest.raises(ValueError, match="of 20 leave no time to change: expected two frames at least"):
        embeddings.crossfade(values(1, 20), values(2, 20), start=start, stop=stop)
    with pytest.raises(ValueError, match="unknown curve 'wavy': choose one of linear, cosine, early, late"):
        embeddings.crossfade(values(1, 20), values(2, 20), "wavy")


def test_a_fade_ends_in_silence_and_leaves_what_is_before():
    made = embeddings.fade(values(1, 10), SILENCE, 4)
    assert torch.equal(made[:, :6], values(1, 10)[:, :6])
    assert torch.equal(made[:, -1:], SILENCE)
    torch.testing.assert_close(made[:, 7], (values(1, 10)[:, 7] + SILENCE[:, 0]) / 2)
    for frames in (0, 11):
        with pytest.raises(ValueError, match=f"a fade of {frames} frames does not fit 10"):
            embeddings.fade(values(1, 10), SILENCE, frames)


@given(frames=st.integers(1, 90), edges=st.tuples(st.integers(0, 9), st.integers(1, 10)), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_a_sustained_sound_has_the_length_asked_for_and_keeps_its_beginning_and_end(frames, edges, seed):
    start, stop = min(edges), max(max(edges), min(edges) + 1)
    made = values(seed, 10)
    for how in ("hold", "loop"):
        held = embeddings.sustain(made, frames, start, stop, how)
        assert held.shape == (4, frames)
        assert torch.equal(held[:, : min(start, frames)], made[:, : min(start, frames)])
        if frames > 10 - (stop - start):
            assert torch.equal(held[:, frames - (10 - stop) :], made[:, stop:])
        assert torch.equal(embeddings.sustain(made, 10, start, stop, how), made)


def test_holding_goes_through_once_and_looping_back_and_forth_at_its_own_pace():
    ramp = torch.arange(10.0)[None]
    assert torch.equal(embeddings.sustain(ramp, 18, 4, 5), torch.tensor([[0.0, 1, 2, 3, *[4] * 9, 5, 6, 7, 8, 9]]))
    held = embeddings.sustain(ramp, 30, 2, 8)[0]
    assert bool((held.diff() > 0).all())
    looped = embeddings.sustain(ramp, 4 + 6 * 3, 2, 8, "loop")[0]
    assert looped.tolist() == [0, 1, *[2, 3, 4, 5, 6, 7], *[7, 6, 5, 4, 3, 2], *[2, 3, 4, 5, 6, 7], 8, 9]
    assert embeddings.sustain(ramp, 60, 2, 8, "loop").diff().abs().max() < 1.5, "no jump anywhere"


@pytest.mark.parametrize(("frames", "start", "stop"), [(0, 2, 5), (9, 5, 5), (9, -1, 5), (9, 5, 11)])
def test_nothing_to_hold_is_refused(frames, start, stop):
    with pytest.raises(ValueError, match="expected at least one frame, and a region of at least one within the sound"):
        embeddings.sustain(values(1, 10), frames, start, stop)
    with pytest.raises(ValueError, match="unknown way to sustain 'freeze': choose hold or loop"):
        embeddings.sustain(values(1, 10), 9, 2, 5, "freeze")


def test_scaling_is_per_dimension_and_about_silence_if_asked():
    made = values()
    assert torch.equal(embeddings.scale(made, [1, 1, 1, 1], SILENCE), made)
    torch.testing.assert_close(
        embeddings.scale(made, [2, 0, -1, 1])[:3], torch.stack([2 * made[0], 0 * made[1], -made[2]])
    )
    silent = SILENCE.expand(-1, 3)
    torch.testing.assert_close(embeddings.scale(silent, [3, 0, -2, 5], SILENCE), silent)
    for factors in ([1, 1], [1, 1, 1, math.nan]):
        with pytest.raises(ValueError, match="expected 4 finite numbers, one for each dimension"):
            embeddings.scale(made, factors)


def test_nothing_is_changed_in_place():
    a, b = values(1), values(2)
    before = a.clone(), b.clone()
    embeddings.mix([a, b], [0.5, 0.5])
    embeddings.slerp(a, b, 0.5)
    embeddings.crossfade(a, b)
    embeddings.fade(a, SILENCE, 3)
    embeddings.sustain(a, 12, 2, 4, "loop")
    embeddings.scale(a, [2.0] * 4)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
