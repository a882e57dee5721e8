"""CNN14 of PANNs: 2,048 numbers for a sound of any length, learnt by tagging AudioSet; features of Frechet distances.

Kong et al. 2020; names and shapes are those of the published `Cnn14_16k_mAP=0.438.pth`, which holds the spectrogram's
windowed sines and its mel filters beside the weights.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

N_FFT, HOP = 512, 160  # 32 and 10 ms
_BANDS = 64
_WIDTHS = (64, 128, 256, 512, 1024, 2048)
_CLASSES = 527  # AudioSet's
_LEAST = 1e-10  # power
_SHORTEST = HOP * 2 ** (len(_WIDTHS) - 1)  # samples: each block but the last halves the frames


class Cnn14(nn.Module):
    """Six blocks of two convolutions on a log-mel spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram_extractor = nn.ModuleDict({"stft": _Sines()})
        self.logmel_extractor = _Mel()
        self.bn0 = nn.BatchNorm2d(_BANDS)
        for number, (width, wider) in enumerate(zip((1, *_WIDTHS[:-1]), _WIDTHS, strict=True), start=1):
            self.add_module(f"conv_block{number}", _Block(width, wider, pool=2 if wider != _WIDTHS[-1] else 1))
        self.fc1 = nn.Linear(_WIDTHS[-1], _WIDTHS[-1])
        self.fc_audioset = nn.Linear(_WIDTHS[-1], _CLASSES)

    def forward(self, wave: Float[Tensor, " samples"]) -> Float[Tensor, "1 2048"]:
        """The features of a sound at 16 kHz; a very short one is followed by silence."""
        x = self.bn0(self.level(wave)[None, None].transpose(1, 3)).transpose(1, 3)
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
        x = x.mean(dim=3)
        return self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()

    def level(self, wave: Float[Tensor, " samples"]) -> Float[Tensor, "frames bands"]:
        """What the network reads: the power in mel bands, in dB."""
        padded = F.pad(wave, (0, max(0, _SHORTEST - wave.shape[-1])))
        return self.logmel_extractor(self.spectrogram_extractor["stft"](padded[None]))


class _Sines(nn.Module):
    """The power spectrum by convolution with windowed cosines and sines, the sound mirrored at its ends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_real = nn.Conv1d(1, N_FFT // 2 + 1, N_FFT, HOP, bias=False)
        self.conv_imag = nn.Conv1d(1, N_FFT // 2 + 1, N_FFT, HOP, bias=False)

    def forward(self, wave: Float[Tensor, "1 samples"]) -> Float[Tensor, "frames bins"]:
        mirrored = F.pad(wave, (N_FFT // 2, N_FFT // 2), mode="reflect")
        return (self.conv_real(mirrored).square() + self.conv_imag(mirrored).square()).mT


class _Mel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.melW = nn.Parameter(torch.zeros(N_FFT // 2 + 1, _BANDS))

    def forward(self, power: Float[Tensor, "frames bins"]) -> Float[Tensor, "frames bands"]:
        return 10 * (power @ self.melW).clamp(min=_LEAST).log10()


class _Block(nn.Module):
    def __init__(self, width: int, wider: int, *, pool: int):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(width, wider, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)

    def forward(self, x: Float[Tensor, "batch width frames bands"]) -> Float[Tensor, "batch wider fewer narrower"]:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return F.avg_pool2d(x, self.pool)
