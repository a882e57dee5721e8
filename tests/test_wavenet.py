"""What the networks may know, and when."""

import math

import pytest
import torch
import torch.nn.functional as F

from wavenet_ae.models.wavenet import CausalConv1d, Conv1d, Decoder, Encoder, WaveNetAutoencoder


def paper():
    sizes = {"layers": 30, "stages": 10, "kernel_size": 3, "embedding_dims": 16, "hop": 512}
    with torch.device("meta"):
        encoder, decoder = Encoder(width=128, **sizes), Decoder(width=512, skip_width=256, **sizes)
        return WaveNetAutoencoder(encoder=encoder, decoder=decoder, pitch_conditioning=False)


def test_the_paper_s_sizes():
    model = paper()
    assert sum(p.numel() for p in model.decoder.parameters()) == 59_827_712  # Magenta's own graph reports the same
    assert sum(p.numel() for p in model.parameters()) == 61_804_048
    assert model.decoder.receptive_field == 6141  # and the training crop is the next multiple of the hop: 6144
    assert 2 * model.encoder.context + 1 == 6141


@pytest.mark.parametrize("t", [0, 1, 17, 31])
def test_prediction_reads_exactly_its_receptive_field(tiny, t):
    decoder, samples = tiny(), 32
    embedding = torch.randn(1, 4, 4, dtype=torch.float64)
    code = torch.randint(256, (1, samples))
    before = decoder(code, embedding)[0, :, t]
    for s in range(samples):
        nudged = code.clone()
        nudged[0, s] = (code[0, s] + 97) % 256
        read = not torch.equal(decoder(nudged, embedding)[0, :, t], before)
        assert read == (t - decoder.receptive_field <= s < t), f"prediction {t} {'reads' if read else 'misses'} {s}"


def test_each_frame_conditions_its_own_samples_and_later_only(tiny):
    decoder = tiny()
    code = torch.randint(256, (1, 32))
    embedding = torch.randn(1, 4, 4, dtype=torch.float64)
    moved = embedding.clone()
    moved[:, :, 2] += 1.0
    changed = (decoder(code, embedding) != decoder(code, moved)).any(dim=1)[0]
    assert changed.tolist() == [t >= 16 for t in range(32)]


def test_a_decoder_that_begins_anew_hears_nothing_from_before(tiny_autoencoder):
    model = tiny_autoencoder()
    code, piece = torch.randint(256, (4, 6 * model.hop)), 2 * model.hop
    embedding, found = model.encoder(code), model(code, restart=piece)
    assert torch.equal(found[1::2], model.decoder(code[1::2], embedding[1::2])), "the others hear all"
    for start in range(0, 6 * model.hop, piece):
        here, frames = slice(start, start + piece), slice(start // model.hop, (start + piece) // model.hop)
        expected = model.decoder(code[::2, here], embedding[::2, :, frames])
        assert torch.allclose(found[::2, :, here], expected, atol=1e-12)
    assert (found - model(code))[::2, :, piece:].abs().max() > 1e-3, "which they miss"


def test_a_model_that_reads_the_pitch_says_so_when_asked(tiny_autoencoder):
    model = tiny_autoencoder(pitch_reading=True)
    code = torch.randint(256, (2, 3 * model.hop))
    logits, read = model(code, read=True)
    assert torch.equal(logits, model(code))
    assert torch.equal(read, model.reader(model.encoder(code)))
    assert read.shape == (2, 128, 3)
    assert tiny_autoencoder()(code, read=True).shape == logits.shape, "this one reads none"


@pytest.mark.parametrize("s", [0, 17, 31, 32, 63])
def test_encoder_reads_exactly_its_context(tiny_autoencoder, s):
    encoder = tiny_autoencoder().encoder
    assert encoder.context == 15
    code = torch.randint(256, (1, 64))
    nudged = code.clone()
    nudged[0, s] = (code[0, s] + 97) % 256
    changed = (encoder(code) != encoder(nudged)).any(dim=1)[0]
    reach = [any(abs(t - s) <= 15 for t in range(8 * k, 8 * k + 8)) for k in range(8)]
    assert changed.tolist() == reach


def test_embedding_does_not_depend_on_batch_neighbours(tiny_autoencoder):
    model = tiny_autoencoder()
    wave = torch.rand(3, 61, dtype=torch.float64) * 2 - 1
    together = model.embed(wave)
    assert together.shape == (3, 4, 8), "61 samples are padded to eight frames"
    torch.testing.assert_close(model.embed(wave[1:2]), together[1:2], rtol=0, atol=1e-12)


def test_pitch_conditioning_moves_predictions_and_is_asked_for(tiny_autoencoder):
    model = tiny_autoencoder(pitch_conditioning=True)
    code = torch.randint(256, (2, 16))
    low, high = (model(code, torch.tensor([p, p])) for p in (40, 90))
    assert not torch.equal(low, high)
    with pytest.raises(ValueError, match="conditioned on pitch and was given None: expected MIDI pitches 0 to 127"):
        model(code)
    with pytest.raises(ValueError, match="expected MIDI pitches 0 to 127"):
        model(code, torch.tensor([128, 0]))
    plain = tiny_autoencoder()
    assert torch.equal(plain(code), plain(code, torch.tensor([40, 40]))), "a model without it ignores pitch"


def test_an_untrained_model_knows_nothing():
    torch.manual_seed(0)
    sizes = {"layers": 30, "stages": 10, "kernel_size": 3, "embedding_dims": 16, "hop": 512}
    model = WaveNetAutoencoder(
        encoder=Encoder(width=64, **sizes), decoder=Decoder(width=64, skip_width=128, **sizes), pitch_conditioning=False
    )
    code = torch.randint(256, (1, 2048))
    with torch.no_grad():
        assert abs(F.cross_entropy(model(code), code) - math.log(256)) < 0.1


def test_lengths_that_do_not_fit_say_what_to_do(tiny_autoencoder):
    model = tiny_autoencoder()
    with pytest.raises(ValueError, match=r"30 samples do not match 4 embedding frames of hop 8: expected 32"):
        model.decoder(torch.zeros(1, 30, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="30 samples are not whole frames of 8: pad to a multiple of the hop"):
        model.encoder(torch.zeros(1, 30, dtype=torch.long))


@pytest.mark.parametrize("size", ["layers", "stages", "width", "kernel_size", "embedding_dims", "hop"])
def test_sizes_that_make_no_network_are_refused(size):
    sizes = dict.fromkeys(["layers", "stages", "width", "kernel_size", "embedding_dims", "hop"], 1) | {size: 0}
    for build in (Encoder, lambda **sizes: Decoder(skip_width=1, **sizes)):
        with pytest.raises(ValueError, match=f"^{size} is 0: expected at least 1"):
            build(**sizes)


def test_halves_that_do_not_fit_are_refused(tiny):
    encoder = Encoder(layers=2, stages=2, width=4, kernel_size=3, embedding_dims=4, hop=16)
    with pytest.raises(ValueError, match="disagree on hop: 16 and 8"):
        WaveNetAutoencoder(encoder=encoder, decoder=tiny(), pitch_conditioning=False)


@pytest.mark.parametrize("time", [1, 5, 16, 40])
def test_a_convolution_is_torch_s_on_padded_sounds_shorter_than_its_dilation_too(time):
    x = torch.randn(2, 3, time, dtype=torch.float64)
    for conv, zeros in ((Conv1d(3, 4, 3, dilation=16), (16, 16)), (CausalConv1d(3, 4, 3, dilation=16), (32, 0))):
        conv.double()
        expected = F.conv1d(F.pad(x, zeros), conv.weight, conv.bias, dilation=16)
        torch.testing.assert_close(conv(x), expected)
