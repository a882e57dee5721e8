"""Pictures of sounds: rainbowgrams, alone or as a sheet."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import librosa
import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from wavenet_ae import files
from wavenet_ae.audio import SAMPLE_RATE

HOP = 256
BINS_PER_OCTAVE = 40
OCTAVES = 6
LOWEST = "C2"
PEAK_DB = 70.0  # what lies so far below the loudest point is black
_SHORTEST = 16_384  # samples the lowest filter needs


def rainbowgram(wave: Float[Tensor, " samples"]) -> Float[np.ndarray, "bins frames 3"]:
    """A constant-Q spectrogram in colour, lowest bin first, values in [0, 1].

    Brightness is the level in dB below the loudest point, hue the phase's change from frame to frame:
    an even colour is a steady partial (Engel et al. 2017, figure 3; constants of its authors' plot).
    Silence is black.
    """
    samples = wave.detach().cpu().float().numpy()
    frames = max(1, -(-len(samples) // HOP))
    padded = np.pad(samples, (0, max(0, _SHORTEST - len(samples))))
    spectrum = librosa.cqt(
        padded,
        sr=SAMPLE_RATE,
        hop_length=HOP,
        fmin=librosa.note_to_hz(LOWEST),
        n_bins=OCTAVES * BINS_PER_OCTAVE,
        bins_per_octave=BINS_PER_OCTAVE,
        filter_scale=0.8,
    )[:, :frames]
    power = np.abs(spectrum) ** 2
    if power.max() < 1e-10:
        return np.zeros((*power.shape, 3))
    level = librosa.power_to_db(power, amin=1e-13, top_db=PEAK_DB, ref=np.max) / PEAK_DB + 1
    phase = np.unwrap(np.angle(spectrum))
    turn = np.diff(phase, axis=1, prepend=0) / np.pi  # -1 to 1, and both ends are the same colour
    return mpl.colormaps["hsv"](turn / 2 % 1)[..., :3] * level[..., None]


def sheet(
    path: str | Path,
    rows: Sequence[Sequence[tuple[str, Float[Tensor, " _"]]]],
    *,
    title: str = "",
    seconds: float | None = None,
) -> None:
    """Save rainbowgrams as a picture, a row of named sounds beneath a row; all share one time axis.

    Raises:
        ValueError: there is no sound.
    """
    if not any(rows):
        raise ValueError(f"{path} was not written: there is nothing to draw")
    longest = max(wave.numel() for row in rows for _, wave in row) / SAMPLE_RATE
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.4 * columns + 0.8, 2.5 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    for across, row in zip(axes, rows, strict=True):
        for axis in across[len(row) :]:
            axis.set_visible(False)
        for axis, (name, wave) in zip(across, row, strict=False):
            picture = rainbowgram(wave)
            axis.imshow(picture, origin="lower", aspect="auto", extent=(0, wave.numel() / SAMPLE_RATE, 0, 12 * OCTAVES))
            axis.set_facecolor("black")
            axis.set_title(name, fontsize=9)
            axis.set_yticks(range(0, 12 * OCTAVES + 1, 12), [f"C{2 + octave}" for octave in range(OCTAVES + 1)])
            axis.set_xlim(0, seconds or longest)
            axis.label_outer()
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("pitch", fontsize=9)
    figure.suptitle(title, fontsize=10)
    with files.whole(path) as partial:
        figure.savefig(partial, dpi=110)


def curve(path: str | Path, metrics: Sequence[Mapping[str, float | int]]) -> None:
    """Save the course of a training: nats a sample over steps, of crops learnt and of held-out notes."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for key, label, style in (("nats", "training crops", "-"), ("valid_nats", "held-out notes", "o-")):
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.2)
    axis.axhline(np.log(256), color="gray", linestyle=":", label="knowing nothing (ln 256)")
    axis.set_xlabel("step")
    axis.set_ylabel("nats a sample")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    with files.whole(path) as partial:
        figure.savefig(partial, dpi=110)
