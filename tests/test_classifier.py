"""The ear that models are measured by: what it hears, how it learns, and the one that is shipped."""

import math
from pathlib import Path

import pytest
import torch
from conftest import tone

from wavenet_ae import audio, checkpoint, notes, spectra
from wavenet_ae.models.classifier import Classifier, labels
from wavenet_ae.training.recognition import SEMITONES, Recognition, transposed
from wavenet_ae.training.schedule import Steps

DATA = Path(__file__).parents[1] / "data"
SHIPPED = DATA / "models" / "classifier.safetensors"


def small():
    torch.manual_seed(0)
    return Classifier(bands=32, n_fft=1024, hop=256, widths=[8, 12], features=16)


def objective(model, lr=1e-2):
    options = {"ema_decay": 0.5, "max_grad_norm": 1.0, "autocast": None, "seed": 0}
    return Recognition(model, torch.optim.Adam(model.parameters(), lr=lr), Steps(table={0: lr}, warmup=0), **options)


def batch():
    names = ["bass_acoustic_000-045-100", "organ_electronic_001-057-100"]
    return notes.Batch(torch.stack([tone(45, 0.5), tone(57, 0.5)]), torch.tensor([45, 57]), names)


@pytest.mark.parametrize("samples", [1, 100, 5000])
def test_a_sound_of_any_length_is_heard_and_loudness_and_neighbours_do_not_count(samples):
    model = small().eval()
    wave = torch.stack([torch.rand(samples) - 0.5, torch.zeros(samples)])
    said = model(wave)
    assert [each.shape for each in said] == [(2, 128), (2, 11), (2, 3)]
    assert all(bool(each.isfinite().all()) for each in said), "silence too"
    for alone, together in zip(model(wave[:1] / 8), said, strict=True):
        torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_silence_after_a_sound_hardly_counts():
    model = small().eval()
    sound = tone(57, 0.5)
    alone, followed = model.features(torch.stack([sound]))[0], model.features(torch.cat([sound, 0 * sound])[None])[0]
    assert float((alone - followed).norm() / alone.norm()) < 0.1


def test_labels_are_read_off_the_name_and_unknown_ones_are_minus_one():
    names = ["synth_lead_synthetic_003-060-100", "whistle_acoustic_000-000-100"]
    truth = labels(torch.tensor([60, 0]), names)
    assert truth.pitch.tolist() == [60, -1]
    assert truth.family.tolist() == [notes.FAMILIES.index("synth_lead"), -1]
    assert truth.source.tolist() == [2, 0]


def test_knowing_nothing_costs_the_logarithm_of_all_answers():
    model = small()
    with torch.no_grad():
        for head in (model.pitch, model.family, model.source):
            head.weight.zero_()
            head.bias.zero_()
    nats = objective(model).measure(batch())["nats"]
    assert nats == pytest.approx(Recognition.knowing_nothing) == pytest.approx(math.log(128 * 11 * 3))


def test_two_notes_are_learnt_and_notes_without_labels_teach_nothing():
    learner = objective(small())
    before = learner.measure(batch())["nats"]
    for step in range(80):
        learner.learn(batch(), step)
    found = learner.measure(batch())
    assert found["nats"] < before / 4
    assert (found["family"], found["source"]) == (1, 1)
    unlabelled = batch()._replace(pitch=torch.tensor([0, 0]), names=["whistle_acoustic_000-000-100"] * 2)
    said = learner.measure(unlabelled)
    assert (said["pitch"], said["family"]) == (0, 0)
    assert math.isfinite(said["nats"])


def test_transposing_moves_the_pitch_by_as_much_and_every_step_its_own_way():
    wave = torch.sin(2 * math.pi * 440 * torch.arange(16_384) / audio.SAMPLE_RATE)[None]
    for semitones in (-SEMITONES, 0, 3, SEMITONES):
        moved = transposed(wave, semitones)
        bin_hz = audio.SAMPLE_RATE / 1024
        loudest = float(spectra.stft(moved).abs().mean(-1).argmax()) * bin_hz
        assert abs(loudest - 440 * 2 ** (semitones / 12)) <= bin_hz
    shifts = [objective(small())._semitones(step) for step in range(200)]
    assert set(shifts) == set(range(-SEMITONES, SEMITONES + 1))


def test_every_crop_hears_noise_of_its_own_beside_itself_but_silence():
    learner = objective(small())
    wave = torch.full((200, 4000), 0.1) * (torch.arange(200) > 0)[:, None]
    noise = learner._noise(3, wave)
    level = 20 * (noise.square().mean(dim=1).sqrt() / 0.1).log10()
    assert level[0] == -math.inf, "silence stays silence"
    assert -60.5 < level[1:].min() < -55 < -5 < level[1:].max() < 0.5
    assert abs(noise.mean(dim=1)).max() < 0.1 / 10
    assert torch.equal(noise, learner._noise(3, wave)), "the same again"
    assert not torch.equal(noise, learner._noise(4, wave)), "and another at another step"


def test_bands_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="30 bands cannot be halved 2 times: expected a multiple"):
        Classifier(bands=30, n_fft=1024, hop=256, widths=[8, 12], features=16)


def test_the_shipped_one_is_small_and_hears_the_pitch_of_every_held_out_note():
    assert SHIPPED.stat().st_size < 5e6
    meta, model = checkpoint.describe(SHIPPED), checkpoint.load(SHIPPED)
    assert meta.licence.startswith("MIT")
    test = notes.load(DATA / "notes", "test")[::4]
    with torch.inference_mode():
        waves = torch.stack([audio.read(note.path)[:32_000] for note in test])
        noise = torch.randn(len(test), 32_000, generator=torch.Generator().manual_seed(0))
        said = model(waves)
        noisy = model(waves + 0.1 * waves.square().mean(dim=1, keepdim=True).sqrt() * noise)
    assert said.pitch.argmax(dim=-1).tolist() == [note.pitch for note in test]
    assert noisy.pitch.argmax(dim=-1).tolist() == [note.pitch for note in test], "in noise 20 dB below them too"


def test_it_trains_by_the_command_and_is_not_asked_for_sound(command, corpus):
    tiny = ["model.bands=32", "model.n_fft=1024", "model.widths=[4]", "model.features=8", "crop=4096", "batch=2"]
    rate = ["~schedule.table", "+schedule.table={0:1e-3}"]  # as the error for so few steps says
    pace = [*rate, "steps=3", "validate_every=2", "log_every=1", "threads=1"]
    given = ["experiment=classifier", f"notes.root={corpus}", "run=run", *tiny, *pace]
    refused = command("train", *given, "listen_every=1")
    assert refused.status == 1
    assert "expected 0, for a classifier makes no sound" in refused.err
    done = command("train", *given)
    assert done.status == 0, done.err
    assert isinstance(checkpoint.load("run/model.safetensors"), Classifier)
