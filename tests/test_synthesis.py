"""A sound is its own: neither neighbours, voices nor order change a sample of it."""

import math
import threading

import pytest
import torch

from wavenet_ae import mulaw, sampler
from wavenet_ae.sampler import dice
from wavenet_ae.synthesis import Sampling, Sound, _Playing, render

LENGTHS = [1, 7, 8, 9, 24, 25, 40]  # of a hop of 8


@pytest.fixture
def sounds():
    torch.manual_seed(2)
    return [Sound(f"sound {n}", torch.randn(4, -(-n // 8) + 1, dtype=torch.float64), n) for n in LENGTHS]


def heard(decoder, sounds, **settings):
    return {sounds[index].name: wave for index, wave in render(decoder, sounds, Sampling(**settings))}


def test_a_sound_is_as_long_as_asked_for_to_the_sample(tiny, sounds):
    waves = heard(tiny(), sounds)
    assert {sound.name: waves[sound.name].numel() for sound in sounds} == {s.name: s.samples for s in sounds}


@pytest.mark.parametrize("voices", [1, 2, 3, 7, 20])
def test_a_sound_does_not_depend_on_neighbours_voices_or_order(tiny, sounds, voices):
    decoder = tiny()
    alone = {sound.name: heard(decoder, [sound])[sound.name] for sound in sounds}
    assert torch.cat(list(alone.values())).unique().numel() > 30, "all alike: this test would prove nothing"
    for some in (sounds, sounds[::-1], sounds[2:]):
        together = heard(decoder, some, batch=voices)
        assert together.keys() == {sound.name for sound in some}
        assert all(torch.equal(wave, alone[name]) for name, wave in together.items())


def test_a_sound_is_what_the_sampler_generates_from_its_name_s_dice(tiny, sounds):
    decoder, sound = tiny(), sounds[-1]
    uniform = dice.throw(5, dice.note_key(sound.name), 0, 40)
    code = sampler.open_voices(decoder, 1, engine="reference").generate(sound.embedding[None, :, :5], uniform[None])
    assert torch.equal(heard(decoder, [sound], seed=5)[sound.name], mulaw.decode(code[0]))


def test_name_and_seed_decide_and_a_shorter_sound_is_the_same_one_cut(tiny, sounds):
    decoder, sound = tiny(), sounds[-1]
    [wave] = heard(decoder, [sound]).values()
    assert not torch.equal(heard(decoder, [sound._replace(name="another")])["another"], wave)
    assert not torch.equal(heard(decoder, [sound], seed=1)[sound.name], wave)
    assert torch.equal(heard(decoder, [sound._replace(samples=13)])[sound.name], wave[:13])


@pytest.mark.parametrize(
    ("count", "batch", "devices", "expected"), [(9, 8, 1, 5), (8, 8, 1, 8), (1, 8, 1, 1), (7, 2, 3, 2)]
)
def test_voices_are_no_more_than_keep_all_rounds_even(tiny, monkeypatch, count, batch, devices, expected):
    opened = []
    monkeypatch.setattr(
        Sampling, "open", lambda _, decoder, voices: opened.append(voices) or sampler.open_voices(decoder, voices)
    )
    sounds = [Sound(f"sound {n}", torch.zeros(4, 1, dtype=torch.float64), 8) for n in range(count)]
    heard(tiny(), sounds, batch=batch, devices=("cpu",) * devices if devices > 1 else ())
    assert max(opened) == expected


def test_progress_adds_up_to_the_samples_wanted(tiny, sounds):
    told = []
    list(render(tiny(), sounds, Sampling(batch=3), told.append))
    assert sum(told) == sum(LENGTHS)


def test_finished_sounds_are_handed_out_before_all_are_done(tiny, sounds):
    told, made_before = [], {}
    for index, _ in render(tiny(), sounds, Sampling(batch=2), told.append):
        made_before[index] = sum(told)
    assert sorted(made_before) == list(range(7))
    assert min(made_before.values()) < 0.6 * sum(LENGTHS), "a sound waits for no other"
    assert made_before[max(range(7), key=LENGTHS.__getitem__)] < sum(LENGTHS), "the longest begins first"
    assert list(render(tiny(), [], Sampling())) == []


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_several_devices_make_the_same_sounds_as_one(tiny, sounds, batch):
    decoder, told = tiny(), []
    alone = heard(decoder, sounds, engine="cached")
    settings = Sampling(engine="cached", batch=batch, devices=("cpu", "cpu", "cpu"))
    together = {sounds[index].name: wave for index, wave in render(decoder, sounds, settings, told.append)}
    assert together.keys() == alone.keys()
    assert all(torch.equal(wave, alone[name]) for name, wave in together.items())
    assert sum(told) == sum(LENGTHS)


def test_the_engine_is_chosen_for_the_job_not_for_a_device_s_share_of_it(tiny, sounds, monkeypatch):
    """Else sounds that several devices make would be another engine's than those of one."""
    opened = []
    monkeypatch.setitem(sampler.FASTEST, "cpu", ((3, "cached"), (math.inf, "batched")))
    true = sampler.open_voices
    monkeypatch.setattr(
        sampler, "open_voices", lambda *given, **how: opened.append((given[1], how["engine"])) or true(*given, **how)
    )
    for devices in ((), ("cpu",), ("cpu", "cpu"), ("cpu", "cpu", "cpu")):
        for batch, engine in ((3, "cached"), (4, "batched")):
            for some in (sounds, sounds[:1]):
                opened.clear()
                list(render(tiny(), some, Sampling(batch=batch, devices=devices)))
                assert {name for _, name in opened} == {engine}
                assert max(voices for voices, _ in opened) <= batch


def test_what_was_chosen_for_a_piece_of_work_is_not_chosen_again(tiny, sounds, monkeypatch):
    chosen = Sampling(batch=3, devices=("cpu",)).check(tiny())
    assert (chosen.engine, chosen.precision, chosen.batch) == ("cpu", "fp32", 3)
    monkeypatch.setattr(sampler, "choose", lambda *_, **__: 1 / 0)
    assert len(list(render(tiny(), sounds, chosen))) == len(sounds)
    with pytest.raises(ZeroDivisionError):
        list(render(tiny(), sounds, Sampling(batch=3)))


def test_a_device_that_fails_ends_the_rest_and_so_does_a_listener_who_leaves(tiny, sounds, monkeypatch):
    settings = Sampling(engine="cached", batch=1, devices=("cpu", "cpu"))
    before = set(threading.enumerate())
    rest = render(tiny(), sounds, settings)
    next(rest)
    rest.close()
    assert set(threading.enumerate()) <= before
    monkeypatch.setattr(_Playing, "wave", lambda playing: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(render(tiny(), sounds, settings))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("samples", [0, -1, 17])
def test_a_length_that_the_frames_do_not_give_is_refused_first(tiny, samples):
    fine = Sound("fine", torch.zeros(4, 2, dtype=torch.float64), 16)
    with pytest.raises(ValueError, match=f"odd: {samples} samples do not fit 2 frames of 8"):
        next(render(tiny(), [fine, fine._replace(name="odd", samples=samples)], Sampling()))


def test_an_embedding_that_is_not_finite_is_refused_first(tiny):
    fine = Sound("fine", torch.zeros(4, 2, dtype=torch.float64), 16)
    with pytest.raises(ValueError, match="odd: its embedding is not finite"):
        next(render(tiny(), [fine, fine._replace(name="odd", embedding=fine.embedding / 0)], Sampling()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0 and threads None: expected at least 1 of each"),
        ({"threads": 0}, "expected at least 1 of each"),
        ({"temperature": -1.0}, "temperature is -1.0: expected 0"),
        ({"top_p": 1.5}, "top_p is 1.5: expected more than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_an_unknown_engine_is_refused_with_the_known_ones(tiny, sounds):
    with pytest.raises(ValueError, match="unknown engine 'gpu': choose one of auto, reference"):
        next(render(tiny(), sounds, Sampling(engine="gpu")))
