"""Published networks as ears: their files as they are, what they hear beside librosa, wrong files refused."""

import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tone
from test_evaluate import WAVENET, save

from wavenet_ae.evaluate import ears
from wavenet_ae.models.cnn14 import Cnn14
from wavenet_ae.models.vggish import VGGish, examples

VGGISH, CNN14 = "vggish-10086976.pth", "Cnn14_16k_mAP=0.438.pth"
# Every tensor of the published files, by hand: what users have must be what is read.
DENSE = {"embeddings.0": (4096, 12_288), "embeddings.2": (4096, 4096), "embeddings.4": (128, 4096)}
CONVS = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
WIDTHS = [1, 64, 128, 256, 512, 1024, 2048]


def vggish_shapes():
    shapes = {
        f"features.{n}.{part}": (*size, 3, 3)[: 4 if part == "weight" else 1]
        for n, size in CONVS.items()
        for part in ("weight", "bias")
    }
    return shapes | {
        f"{name}.{part}": size[: 2 if part == "weight" else 1]
        for name, size in DENSE.items()
        for part in ("weight", "bias")
    }


def cnn14_shapes():
    shapes = {f"spectrogram_extractor.stft.conv_{part}.weight": (257, 1, 512) for part in ("real", "imag")}
    shapes |= {"logmel_extractor.melW": (257, 64)} | _norm("bn0", 64)
    for block in range(1, 7):
        width, wider = WIDTHS[block - 1 : block + 1]
        shapes |= {f"conv_block{block}.conv1.weight": (wider, width, 3, 3)}
        shapes |= {f"conv_block{block}.conv2.weight": (wider, wider, 3, 3)}
        shapes |= _norm(f"conv_block{block}.bn1", wider) | _norm(f"conv_block{block}.bn2", wider)
    return shapes | {
        "fc1.weight": (2048, 2048),
        "fc1.bias": (2048,),
        "fc_audioset.weight": (527, 2048),
        "fc_audioset.bias": (527,),
    }


def _norm(name, width):
    parts = {part: (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{part}": size for part, size in (parts | {"num_batches_tracked": ()}).items()}


def weights(shapes, seed=0):
    """Random weights that need little room in a file: the numbers of a short row, seen in ever new orders."""
    torch.manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape) + 0.5
        else:
            fan = max(1, int(np.prod(shape[1:])))
            strides = (29, 9, 3, 1)[-len(shape) :] if len(shape) != 2 else (7, 1)
            numbers = torch.randn(1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
            state[name] = (numbers * (2 / fan) ** 0.5).as_strided(shape, strides)
    return state


def with_front_end(state):
    """PANN's spectrogram: windowed cosines and sines, and librosa's mel filters."""
    n = np.arange(512)
    window = librosa.filters.get_window("hann", 512)
    turns = 2 * np.pi * np.outer(np.arange(257), n) / 512
    for part, wave in (("real", np.cos(turns)), ("imag", -np.sin(turns))):
        state[f"spectrogram_extractor.stft.conv_{part}.weight"] = torch.from_numpy(wave * window).float()[:, None]
    mel = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=64, fmin=50, fmax=8000).T
    return state | {"logmel_extractor.melW": torch.from_numpy(mel.copy())}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The two files as they are published: VGGish's bare, PANN's beside what its training kept."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(weights(vggish_shapes()), folder / VGGISH)
    sampler = {"indexes": np.arange(5), "pointer": np.float64(3), "queue": [1, 2]}
    torch.save({"iteration": 1, "model": with_front_end(weights(cnn14_shapes())), "sampler": sampler}, folder / CNN14)
    return folder


def vggish_by_hand(state, level):
    """The published network's equations, TensorFlow's way: channels last when pixels become a row."""
    x = level[:, None]
    for n in CONVS:
        x = F.conv2d(x, state[f"features.{n}.weight"], state[f"features.{n}.bias"], padding=1).relu()
        x = x if n in (6, 11) else F.max_pool2d(x, 2)
    x = np.moveaxis(x.numpy(), 1, -1).reshape(len(x), -1)
    for name in DENSE:
        x = x @ state[f"{name}.weight"].numpy().T + state[f"{name}.bias"].numpy()
        x = x if name == "embeddings.4" else np.maximum(x, 0)
    return x


def cnn14_by_hand(state, level):
    """The published network's equations: mel bands are normalised one by one, channels after each convolution."""

    def norm(x, name):
        weight, bias, mean, variance = (
            state[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    x = norm(level.T[None, :, :, None], "bn0")[..., 0].mT[:, None]
    for block in range(1, 7):
        for n in (1, 2):
            x = F.conv2d(x, state[f"conv_block{block}.conv{n}.weight"], padding=1)
            x = norm(x, f"conv_block{block}.bn{n}").relu()
        x = F.avg_pool2d(x, 2) if block < 6 else x
    x = x.mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    return F.linear(x, state["fc1.weight"], state["fc1.bias"]).relu()[0].numpy()


def noise(samples, seed=0):
    torch.manual_seed(seed)
    return 0.3 * torch.randn(samples)


def test_the_files_shapes_are_the_networks():
    for network, shapes in ((VGGish, vggish_shapes()), (Cnn14, cnn14_shapes())):
        with torch.device("meta"):
            state = network().state_dict()
        assert {name: tuple(each.shape) for name, each in state.items()} == shapes
    with torch.device("meta"):
        assert sum(p.numel() for p in VGGish().parameters()) == 72_141_184, "as published"


def test_what_vggish_reads_is_the_logarithm_of_librosa_s_spectrum_in_its_own_bands():
    wave = noise(3 * 15_360 + 240 + 100)
    found = examples(wave).flatten(0, 1).numpy()
    assert found.shape == (3 * 96, 64), "a last piece of less than 0.96 s is left out"
    window = librosa.filters.get_window("hann", 400)
    frames = np.lib.stride_tricks.sliding_window_view(wave.double().numpy(), 400)[::160][: 3 * 96]
    magnitude = np.abs(np.fft.rfft(frames * window, 512))
    hz = librosa.fft_frequencies(sr=16_000, n_fft=512)
    edges = librosa.mel_frequencies(66, fmin=125, fmax=7500, htk=True)
    mels, corners = librosa.hz_to_mel(hz, htk=True), librosa.hz_to_mel(edges, htk=True)
    bands = np.stack([np.interp(mels, corners[k : k + 3], [0, 1, 0], left=0, right=0) for k in range(64)], axis=1)
    np.testing.assert_allclose(found, np.log(magnitude @ bands + 0.01), atol=1e-4)


def test_what_cnn14_reads_is_librosa_s_mel_spectrogram_in_decibels(files):
    _, network = ears.read(files / CNN14)
    wave = noise(16_384)
    power = librosa.feature.melspectrogram(
        y=wave.numpy(), sr=16_000, n_fft=512, hop_length=160, n_mels=64, fmin=50, fmax=8000, pad_mode="reflect"
    )
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).T
    with torch.inference_mode():
        np.testing.assert_allclose(network.level(wave).numpy(), expected, atol=2e-3)
        assert (network.level(torch.zeros(16_384)) == -100).all(), "silence"


def test_files_are_read_as_published_and_their_features_are_the_networks_own(files):
    both = ears.Ears(None, [str(files / CNN14), str(files / VGGISH)])
    assert {key: each["network"] for key, each in both.about.items()} == {
        "frechet_cnn14": "Cnn14",
        "frechet_vggish": "VGGish",
    }
    assert both.answers(tone(57)) == {}
    for samples, windows in ((100, (1, 1)), (16_000, (1, 1)), (32_000, (2, 2)), (50_000, (3, 3))):
        found = both.features(noise(samples))
        assert [each.shape for each in found.values()] == [(windows[0], 2048), (windows[1], 128)]
        assert all(np.isfinite(each).all() for each in found.values())
    expected = vggish_by_hand(weights(vggish_shapes()), examples(noise(32_000)))
    found = both.features(noise(32_000))["frechet_vggish"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert (found < 0).any(), "before the last activation"
    features = both.features(torch.cat([noise(16_384), torch.zeros(16_384)]))["frechet_cnn14"]
    alone = both.features(noise(16_384))["frechet_cnn14"][0]
    level = ears.read(files / CNN14)[1].level(noise(16_384)).detach()
    by_hand = cnn14_by_hand(weights(cnn14_shapes()), level)
    np.testing.assert_allclose(alone, by_hand, rtol=0, atol=1e-4 * alone.max())
    np.testing.assert_allclose(features[0], alone, rtol=0, atol=1e-4 * alone.max())
    assert np.abs(features[0] - features[1]).max() > 0.01 * alone.max(), "a sound is not silence"


def test_cnn14_normalises_by_what_is_stored_and_pools_as_published(files):
    _, network = ears.read(files / CNN14)
    shapes = []
    hooks = [
        network.get_submodule(f"conv_block{n}").register_forward_hook(lambda *a: shapes.append(a[2].shape))
        for n in range(1, 7)
    ]
    with torch.inference_mode():
        first = network(noise(16_000))
        assert torch.equal(network(noise(16_000)), first), "batch normalisation does not learn here"
    for hook in hooks:
        hook.remove()
    assert [tuple(shape[1:]) for shape in shapes[:6]] == [
        *((64, 50, 32), (128, 25, 16), (256, 12, 8), (512, 6, 4), (1024, 3, 2), (2048, 3, 2))
    ]


# --- wrong files


class Harm:
    """What a pickle can do: run something when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_a_wrong_file_is_refused_with_what_was_found_and_expected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("native.safetensors", WAVENET)
    Path("empty.pth").touch()
    torch.save({"layer.weight": torch.zeros(3)}, "other.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"model": Harm()}, "harm.pth")
    torch.save(weights(vggish_shapes()), "cut.pth")
    Path("cut.pth").write_bytes(Path("cut.pth").read_bytes()[:-500])
    expected = r"expected vggish-10086976\.pth or Cnn14_16k_mAP=0\.438\.pth as published"
    for name, found in {
        "nowhere.pth": r"nowhere\.pth does not exist",
        "empty.pth": r"empty\.pth cannot be read as weights",
        "native.safetensors": r"native\.safetensors cannot be read as weights",
        "other.pth": r"holds 1 tensors \(layer\.weight \.\.\.\)",
        "list.pth": r"list\.pth holds a list",
        "harm.pth": r"harm\.pth cannot be read as weights",
        "cut.pth": r"cut\.pth cannot be read as weights",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=f"{found}.*: {expected}"):
            ears.read(name)
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings.4.weight": (527, 4096)}, r"embeddings\.4\.weight is \[527, 4096\], expected \[128, 4096\]"),
        ({"features.0.bias": None}, r"features\.0\.bias is missing"),
        ({"pproc.pca_means": (128, 1)}, r"pproc\.pca_means is unknown"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, change, message):
    shapes = {name: size for name, size in (vggish_shapes() | change).items() if size is not None}
    torch.save(weights(shapes), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth is not the VGGish of vggish-10086976\.pth: {message}"):
        ears.read(tmp_path / "a.pth")


def test_pann_s_file_for_32_kHz_is_not_that_for_16(tmp_path):
    other = {"spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024), "logmel_extractor.melW": (513, 64)}
    torch.save({"model": weights(cnn14_shapes() | other)}, tmp_path / "Cnn14_mAP=0.431.pth")
    with pytest.raises(
        ValueError, match=r"is not the Cnn14 of .*conv_real.weight is \[513, 1, 1024\], expected \[257, 1, 512\]"
    ):
        ears.read(tmp_path / "Cnn14_mAP=0.431.pth")


def test_two_files_of_one_kind_are_one_too_many(files):
    with pytest.raises(ValueError, match="is a second VGGish: expected one of each kind"):
        ears.Ears(None, [str(files / VGGISH)] * 2)


# --- by the command


def test_the_report_names_the_embedding_its_sample_size_and_its_shrinkage(command, tmp_path, corpus, files):
    save("a.safetensors", WAVENET)
    done = command(
        "evaluate.__main__",
        *("checkpoint=a.safetensors", f"notes.root={corpus}", "seconds=1", "classifier=null", "show=0", "engine=cpu"),
        *("probe_split=null", f"features=[{files / CNN14},{files / VGGISH}]"),
    )
    assert done.status == 0, done.err
    assert "Frechet distance, VGGish" in done.out
    assert "Left out: no classifier was given" in done.out
    found = json.loads(Path("evaluation/evaluation.json").read_text())
    assert {key: each["network"] for key, each in found["listeners"].items()} == {
        "frechet_cnn14": "Cnn14",
        "frechet_vggish": "VGGish",
    }
    for key, dims in (("frechet_cnn14", 2048), ("frechet_vggish", 128)):
        estimate, cloud = found["results"]["a"][key], found["models"]["a"]["frechet"][key]
        assert estimate["notes"] == 3
        assert estimate["low"] < estimate["high"]
        assert (cloud["windows"], cloud["dims"]) == (3, dims)
        assert 0 < cloud["shrinkage_originals"] <= 1
    page = Path("evaluation/report.html").read_text()
    row = page[page.index("Frechet distances</h2>") :].split("<tr>")
    assert [f"<td>{each}</td>" in row[2] for each in ("Cnn14", "a", "3", "2048")] == [True] * 4
    refused = command(
        "evaluate.__main__",
        "checkpoint=a.safetensors",
        "classifier=null",
        "features=a.safetensors",
        f"notes.root={corpus}",
    )
    assert refused.status == 1
    assert "a.safetensors cannot be read as weights" in refused.err
