"""VGGish: 128 numbers for each 0.96 s of sound, the features that Frechet audio distances were first measured in.

Hershey et al. 2017; names and shapes are those of the published `vggish-10086976.pth` (torchvggish), which holds the
weights of TensorFlow's release. Its last activation is left out, as Frechet distances take it (Kilgour et al. 2019),
and so are the whitening and the eight-bit steps of AudioSet's released features.
"""

import functools
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavenet_ae.audio import SAMPLE_RATE

BANDS, WINDOW, HOP, N_FFT = 64, 400, 160, 512  # a frame of 25 ms each 10 ms
FRAMES = 96  # of one example
_LOW, _HIGH = 125.0, 7500.0  # Hz
_OFFSET = 0.01  # so that the logarithm of silence is finite
_PLAN = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")


class VGGish(nn.Module):
    """A VGG network that reads log-mel spectrograms of 96 frames by 64 bands."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for each in _PLAN:
            if isinstance(each, int):
                layers += [nn.Conv2d(width, each, 3, padding=1), nn.ReLU()]
                width = each
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        sizes = (width * (FRAMES // 16) * (BANDS // 16), 4096, 4096, 128)
        dense = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.embeddings = nn.Sequential(*dense[:-1])

    def forward(self, wave: Float[Tensor, " samples"]) -> Float[Tensor, "windows 128"]:
        """The features of each whole 0.96 s of a sound at 16 kHz; of a shorter one followed by silence."""
        return self.embeddings(self.features(examples(wave).unsqueeze(1)).permute(0, 2, 3, 1).flatten(1))


def examples(wave: Float[Tensor, " samples"]) -> Float[Tensor, "windows 96 64"]:
    """What the network reads: the logarithms of the magnitudes in mel bands, of frames that lie in the sound."""
    least = WINDOW + (FRAMES - 1) * HOP
    frames = F.pad(wave.double(), (0, max(0, least - wave.shape[-1]))).unfold(-1, WINDOW, HOP)
    whole = len(frames) // FRAMES
    window = torch.hann_window(WINDOW, dtype=torch.float64, device=wave.device)
    magnitude = torch.fft.rfft(frames[: whole * FRAMES] * window, N_FFT).abs()
    level = (magnitude @ torch.from_numpy(_filters()).to(magnitude) + _OFFSET).log()
    return level.reshape(whole, FRAMES, BANDS).to(wave)


@functools.lru_cache(maxsize=1)
def _filters() -> Float[np.ndarray, "bins bands"]:
    """Triangles whose sides are straight on the mel scale (librosa's are in Hz); none hears 0 Hz."""
    bins = _mel(np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT)[:, None]
    low, high = _mel(np.array([_LOW, _HIGH]))
    edges = np.linspace(low, high, BANDS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    filters = np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0, None)
    filters[0] = 0
    return filters


def _mel(hz: np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(hz / 700)
