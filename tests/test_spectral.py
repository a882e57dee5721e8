"""The spectral baseline: shapes, level, silence, any length, pitch, the Gaussian; it learns, resumes and is heard."""

import json
import math

import pytest
import torch
from conftest import tone

from wavenet_ae import audio, checkpoint, embeddings, notes, spectra, synthesis
from wavenet_ae.models.spectral import BatchNorm, SpectralAutoencoder, same_padding
from wavenet_ae.synthesis import Sampling
from wavenet_ae.training.objectives import Reconstruction, divergence, spectral_error
from wavenet_ae.training.processes import ALONE
from wavenet_ae.training.schedule import Steps

SIZES = {
    "channels": [4, 4, 4, 8, 8, 8],
    "latent": 12,
    "pitch_conditioning": True,
    "variational": False,
    "momentum": 0.1,
}
HOP = 256  # 16 frames of 16 samples
TINY = ["model=baseline_tiny", "crop=4000", "batch=2", "listen_every=0", "run=run", "steps=6", "threads=1", "skip=0"]


def built(**changes):
    torch.manual_seed(0)
    return SpectralAutoencoder(**SIZES | changes).eval()


def batch(samples=1000):
    waves = torch.stack([tone(57, 1.0)[:samples], tone(64, 1.0)[:samples]])
    return notes.Batch(waves, torch.tensor([57, 64]), ["a", "b"])


def reconstruction(model, lr=1e-3, **changes):
    options = {"ema_decay": 0.5, "max_grad_norm": 1.0, "autocast": None, "kl_weight": 1e-3, "seed": 0} | changes
    return Reconstruction(model, torch.optim.Adam(model.parameters(), lr=lr), Steps(table={0: lr}, warmup=0), **options)


# --- layers


def test_same_padding_is_tensorflows():
    assert [same_padding(5, 2), same_padding(4, 2), same_padding(4, 1), same_padding(5, 1), same_padding(1, 1)] == [
        (1, 2),
        (1, 1),
        (1, 2),
        (2, 2),
        (0, 0),
    ]


def test_batch_normalisation_by_hand():
    norm = BatchNorm(2, momentum=0.25)
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)) * 5 + 1
    mean, spread = x.mean((0, 2)), x.var((0, 2), unbiased=False)
    expected = (x - mean[:, None]) / (spread[:, None] + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.mean, 0.25 * mean)
    torch.testing.assert_close(norm.eval()(torch.zeros(1, 2))[0], -norm.mean / (norm.variance + 1e-3).sqrt())


# --- embeddings


@pytest.mark.parametrize("samples", [1, 100, HOP - 1, HOP, HOP + 1, 10 * HOP])
def test_any_length_becomes_columns_and_sound_again(samples):
    model = built(pitch_conditioning=False)
    wave = tone(60)[:samples]
    columns = -(-samples // HOP)
    embedding = embeddings.encode(model, wave + 0.1)
    assert embedding.shape == (13, columns)
    sound = synthesis.sound(model, "a", embedding, samples)
    ((_, heard),) = synthesis.render(model.decoder, [sound], Sampling(iterations=2))
    assert heard.shape == (samples,)
    assert bool(heard.isfinite().all())


def test_the_column_count_of_the_published_model_is_one_for_a_note():
    with torch.device("meta"):
        model = SpectralAutoencoder(**SIZES | {"channels": [2] * 10}).eval()
    assert (model.hop, model.decoder.frames, model.decoder.n_fft) == (65_536, 256, 1024)
    assert model.embed(torch.zeros(1, 64_000, device="meta")).shape == (1, 13, 1)


def test_pieces_are_encoded_alike_in_chunks_and_whole():
    model, wave = built(), tone(60)[: 12 * HOP + 17]
    whole = model.embed(wave[None])[0]
    torch.testing.assert_close(embeddings.encode(model, wave, chunk_frames=3), whole, atol=1e-5, rtol=0)


def test_the_level_is_kept_and_the_rest_does_not_depend_on_it():
    model, wave = built(), tone(60)[: 3 * HOP]
    loud, quiet = model.embed(wave[None])[0], model.embed(0.01 * wave[None])[0]
    torch.testing.assert_close(quiet[:-1], loud[:-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(loud[-1] - quiet[-1], torch.full((3,), 40 / 120), atol=1e-5, rtol=0)
    magnitudes = [model.decoder.magnitude(model.condition(each[None], torch.tensor([60]))) for each in (loud, quiet)]
    torch.testing.assert_close(magnitudes[1], 0.01 * magnitudes[0], rtol=1e-3, atol=0)


def test_a_spectrogram_that_came_back_whole_sounds_as_before():
    """The decoder's part replaced by what it should say: the rest of the way loses nothing."""
    model, wave = built(), tone(60)[: 4 * HOP]
    level, peak = model.spectrogram(wave[None])
    model.decoder.forward = lambda read: level
    read = torch.cat([torch.zeros(1, 12, 4), peak[:, None]], dim=1)
    magnitude = spectra.stft(wave, n_fft=64, hop=16).abs()[:, :-1]
    torch.testing.assert_close(model.decoder.magnitude(read)[0, :-1], magnitude[:-1], atol=1e-4, rtol=1e-3)


def test_silence_is_silent():
    model = built()
    embedding = embeddings.encode(model, torch.zeros(3 * HOP))
    assert embedding[-1].tolist() == [0, 0, 0]
    sound = synthesis.sound(model, "a", embedding, 3 * HOP, 60)
    ((_, heard),) = synthesis.render(model.decoder, [sound], Sampling(iterations=2))
    assert not bool(heard.any())


def test_the_pitch_is_told_where_the_model_was_trained_so():
    model, blind, wave = built(), built(pitch_conditioning=False), tone(60)[None, :HOP]
    assert model.condition(model.embed(wave), torch.tensor([60])).shape == (1, 13 + 128, 1)
    assert not torch.equal(model(wave, torch.tensor([60])).again, model(wave, torch.tensor([61])).again)
    assert blind.condition(blind.embed(wave), None).shape == (1, 13, 1)
    for pitch in (None, torch.tensor([128])):
        with pytest.raises(ValueError, match=r"conditioned on pitch and was given .*: expected MIDI pitches 0 to 127"):
            model(wave, pitch)


@pytest.mark.parametrize(
    "changes", [{"channels": [4, 4]}, {"latent": 0}, {"momentum": 0.0}, {"channels": [4, 0, 4, 4]}]
)
def test_sizes_that_make_no_model_are_refused(changes):
    with pytest.raises(ValueError, match="expected at least four layers, each of one channel or more, a latent"):
        built(**changes)


# --- sounds


def test_a_sound_depends_on_its_name_and_seed_and_not_on_its_neighbours():
    model = built()
    values = embeddings.encode(model, tone(60)[: 3 * HOP])
    pair = [synthesis.sound(model, name, values, 3 * HOP, 60) for name in ("a", "b")]

    def heard(sounds, seed=0):
        return {sounds[i].name: wave for i, wave in synthesis.render(model.decoder, sounds, Sampling(seed=seed))}

    both = heard(pair)
    assert torch.equal(heard(pair[1:])["b"], both["b"])
    assert not torch.equal(both["a"], both["b"])
    assert not torch.equal(heard(pair, seed=1)["a"], both["a"])


def test_a_sound_of_another_model_is_refused():
    with pytest.raises(ValueError, match="a holds 16 numbers a frame, the model reads 13"):
        synthesis.sound(built(), "a", torch.zeros(16, 1), HOP, 60)
    with pytest.raises(ValueError, match=r"iterations is -1 and momentum 0\.99"):
        Sampling(iterations=-1)


# --- the Gaussian


def test_divergence_of_known_gaussians():
    assert float(divergence(torch.zeros(2, 3), torch.zeros(2, 3))) == 0
    mean, variance = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    pairs = [torch.distributions.Normal(m, v.sqrt()) for m, v in zip(mean[0], variance[0], strict=True)]
    expected = sum(torch.distributions.kl_divergence(p, torch.distributions.Normal(0.0, 1.0)) for p in pairs)
    torch.testing.assert_close(divergence(mean, variance.log()), expected)


def test_a_variational_model_draws_from_its_gaussian_and_its_prior():
    model, crops = built(variational=True), batch(HOP)
    noise = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    plain, drawn = (model(crops.wave, crops.pitch, each) for each in (None, noise))
    assert torch.equal(plain.mean, drawn.mean)
    assert not torch.equal(plain.again, drawn.again)
    embedding = model.prior(torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(2)))
    assert embedding.shape == (3, 13, 2)
    sine = 0.4 * torch.sin(2 * math.pi / 8 * torch.arange(4 * HOP))  # on a bin of any n_fft
    torch.testing.assert_close(embedding[:, -1], model.embed(sine[None])[:, -1, 1].expand(3, 2), atol=1e-4, rtol=0)
    sound = synthesis.sound(model, "new", embedding[0], 2 * HOP, 60)
    ((_, heard),) = synthesis.render(model.decoder, [sound], Sampling(iterations=2))
    assert bool(heard.any())
    with pytest.raises(ValueError, match="this model has no prior to sample from: train one with model"):
        built().prior(noise[..., None])


def test_a_heavy_prior_pulls_the_latent_towards_it():
    distances = {}
    for weight in (0.0, 1.0):
        objective = reconstruction(built(variational=True), lr=1e-2, kl_weight=weight)
        for step in range(40):
            measured = objective.learn(batch(HOP), step)
        distances[weight] = measured["kl_nats"]
    assert distances[1.0] < 0.2 * distances[0.0]


def test_noise_is_a_matter_of_seed_and_step():
    def first_error(step, seed=0):
        return reconstruction(built(variational=True), seed=seed).learn(batch(HOP), step)["error"]

    assert first_error(3) == first_error(3)
    assert len({first_error(3), first_error(4), first_error(3, seed=1)}) == 3


# --- learning


def test_the_error_weighs_low_frequencies_as_published():
    model, crops = built(channels=[2] * 10), batch(4000)
    reading = model(crops.wave, crops.pitch)
    errors = (reading.level - reading.again).square().mean((0, 1, 3))
    by_hand = sum(
        (10 - 9 * bin / 255 if bin < 256 else 1) * float(error) for bin, error in enumerate(errors.detach())
    ) / len(errors)
    assert float(spectral_error(reading).detach()) == pytest.approx(by_hand, rel=1e-5)


def test_it_learns_a_pair_of_notes_by_heart():
    objective = reconstruction(built(), lr=1e-2)
    first = objective.learn(batch(), 0)["error"]
    for step in range(1, 150):
        last = objective.learn(batch(), step)["error"]
    assert last < 0.1 * first
    assert objective.measure(batch())["error"] < 0.2 * first, "the running statistics have followed"


def test_checking_and_measuring_leave_no_trace():
    objective = reconstruction(built())
    objective.learn(batch(), 0)
    before = {name: value.clone() for name, value in objective.state().items()}
    objective.measure(batch())
    objective.check(batch(), 1)
    assert all(torch.equal(value, before[name]) for name, value in objective.state().items())


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"kl_weight is -1\.0: expected 0 or more"):
        reconstruction(built(), kl_weight=-1.0)


# --- commands


def test_recomputing_what_has_no_blocks_is_refused():
    with pytest.raises(ValueError, match="a SpectralAutoencoder has no blocks to recompute; leave it out"):
        reconstruction(built()).arrange(ALONE, accumulate=1, compiled=False, recompute=True)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["error"] for line in lines if "error" in line}


@pytest.mark.parametrize("variational", ["false", "true"])
def test_it_trains_resumes_bit_for_bit_encodes_and_generates(command, corpus, tmp_path, variational):
    asked = [*TINY, f"notes.root={corpus}", f"model.variational={variational}", "log_every=1", "checkpoint_every=3"]
    assert command("train", *asked).status == 0
    whole, model = losses(tmp_path / "run"), checkpoint.load(tmp_path / "run" / "model.safetensors").state_dict()
    done = command("train", "resume=run", "resume_step=3")
    assert done.status == 0, done.err
    assert "of weighted squared error; held-out notes " in done.out
    assert losses(tmp_path / "run") == whole
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]
    again = checkpoint.load(tmp_path / "run" / "model.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.items())

    note = next((corpus / "test" / "audio").glob("*.wav"))
    done = command("encode", "checkpoint=run/model.safetensors", f"input={note}", "device=cpu")
    assert done.status == 0, done.err
    embedding = embeddings.read(tmp_path / "embeddings" / f"{note.stem}.npz")
    assert embedding.values.shape == (13, math.ceil(embedding.samples / HOP))
    for source in (f"embeddings/{note.stem}.npz", note):
        asked = ["checkpoint=run/model.safetensors", f"input={source}", "iterations=2", "overwrite=true", "device=cpu"]
        done = command("generate", *asked)
        assert done.status == 0, done.err
        assert audio.inspect(tmp_path / "generated" / f"{note.stem}.wav").samples == embedding.samples


def test_a_run_is_listened_to(command, corpus, tmp_path):
    asked = [*TINY, f"notes.root={corpus}", "listen_every=6", "listen=1", "listen_seconds=0.2"]
    assert command("train", *asked).status == 0
    names = sorted(path.name for path in (tmp_path / "run" / "sounds").iterdir())
    assert [name.split(".")[1] for name in names] == ["original", "step-00000006"]
    assert checkpoint.describe(tmp_path / "run" / "model.safetensors").hop == HOP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["batch=1", "crop=100"], "batch is 1 and crop 100: expected two pieces or more of 256 samples a step"),
        (["model.momentum=0.0"], "momentum 0.0: expected at least four layers"),
        (["kl_weight=-1.0"], "kl_weight is -1.0: expected 0 or more"),
    ],
)
def test_settings_that_cannot_train_are_refused_at_once(command, corpus, tmp_path, changes, message):
    done = command("train", *TINY, f"notes.root={corpus}", *changes)
    assert done.status == 1
    assert message in done.err
    assert not (tmp_path / "run").exists()
