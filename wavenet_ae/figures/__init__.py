"""Pictures of sounds, of their embeddings and of a training's course."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import librosa
import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from wavenet_ae import files, spectra
from wavenet_ae.audio import SAMPLE_RATE

HOP = 256
BINS_PER_OCTAVE = 40
OCTAVES = 6
LOWEST = "C2"
PEAK_DB = 70.0  # what lies so far below the loudest point is black
_SHORTEST = 16_384  # samples the lowest filter needs
_SHOWN_DB = 80.0  # of spectrograms and harmonics, below the loudest point
# Okabe and Ito's colours, told apart by most eyes; markers tell apart what shares one
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*<>p"


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
    figure = _figure(3.4 * columns + 0.8, 2.5 * len(rows) + 0.9)
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


def curve(
    path: str | Path, metrics: Sequence[Mapping[str, float | int]], *, unit: str = "nats", per: str = "a sample"
) -> None:
    """Save the course of a training: its cost over steps, of crops learnt and of held-out notes.

    `unit` is the cost's name in `metrics`; `per` says of what it is.
    """
    figure = _figure(7.0, 3.6)
    axis = figure.subplots()
    for key, label, style in ((unit, "training crops", "-"), (f"valid_{unit}", "held-out notes", "o-")):
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.2)
    if (unit, per) == ("nats", "a sample"):
        axis.axhline(np.log(256), color="gray", linestyle=":", label="knowing nothing (ln 256)")
    axis.set_xlabel("step")
    axis.set_ylabel(f"{unit} {per}")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    with files.whole(path) as partial:
        figure.savefig(partial, dpi=110)


def spectrogram(path: str | Path, sounds: Sequence[tuple[str, Float[Tensor, " _"]]]) -> None:
    """Save the spectrograms of named sounds side by side: level in dB below the loudest point of all, linear in Hz.

    Raises:
        ValueError: there is no sound.
    """
    figure, axes = _row(path, len(sounds), 3.6, 3.2)
    levels = [spectra.decibels(spectra.stft(wave).abs(), least=1e-6).cpu().numpy() for _, wave in sounds]
    loudest = max(float(level.max()) for level in levels)
    for axis, (name, wave), level in zip(axes, sounds, levels, strict=True):
        extent = (0, wave.numel() / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
        options = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": -_SHOWN_DB, "vmax": 0}
        drawn = axis.imshow(level - loudest, extent=extent, **options)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("time (s)")
        axis.label_outer()
    axes[0].set_ylabel("frequency (kHz)")
    figure.colorbar(drawn, ax=axes, label="level (dB, loudest is 0)")
    _save(figure, path)


def embedding(path: str | Path, values: Float[np.ndarray, "dims frames"], *, hop: int, title: str = "") -> None:
    """Save an embedding over time: a row for each number, purple below zero, orange above."""
    figure, [axis] = _row(path, 1, 7.0, 3.2)
    most = float(np.abs(values).max()) or 1.0
    extent = (0, values.shape[1] * hop / SAMPLE_RATE, values.shape[0] - 0.5, -0.5)
    drawn = axis.imshow(
        values, extent=extent, aspect="auto", cmap="PuOr_r", vmin=-most, vmax=most, interpolation="nearest"
    )
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("time (s)")
    axis.set_ylabel("number of the embedding")
    figure.colorbar(drawn, ax=axis, label="value")
    _save(figure, path)


def scatter(
    path: str | Path,
    points: Float[np.ndarray, "notes dims"],
    pitches: Sequence[int],
    families: Sequence[str],
    *,
    title: str = "",
) -> None:
    """Save embeddings, one a note, on their two principal axes: coloured by pitch, and by family.

    Raises:
        ValueError: there are fewer than two notes.
    """
    if len(points) < 2:
        raise ValueError(f"{path} was not written: {len(points)} points have no principal axes, expected at least two")
    places, shares = _principal(points)
    figure, (left, right) = _row(path, 2, 4.6, 4.2)
    drawn = left.scatter(*places.T, c=pitches, cmap="cividis", s=30, edgecolors="black", linewidths=0.4)
    figure.colorbar(drawn, ax=left, label="pitch (MIDI)", location="top", ticks=MaxNLocator(integer=True))
    for number, family in enumerate(sorted(set(families))):
        chosen = [i for i, each in enumerate(families) if each == family]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        right.scatter(*places[chosen].T, color=colour, marker=marker, s=30, label=family)
    right.legend(title="family", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in (left, right):
        axis.set_xlabel(f"first principal axis ({shares[0]:.0%} of the variance)")
    left.set_ylabel(f"second ({shares[1]:.0%})")
    right.set_yticklabels([])
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


class Point(NamedTuple):
    """A value at a place, and the interval around it (NaN where there is none)."""

    place: float
    value: float
    low: float
    high: float


def sizes(
    path: str | Path, panels: Mapping[str, tuple[Mapping[str, Sequence[Point]], float]], *, across: str, up: str
) -> None:
    """Save shares over sizes on a logarithmic axis, panels side by side: named lines of points, and chance dotted.

    Raises:
        ValueError: there is no panel.
    """
    figure, axes = _row(path, len(panels), 4.6, 4.0)
    names = list(dict.fromkeys(name for lines, _ in panels.values() for name in lines))
    for axis, (title, (lines, chance)) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            number = names.index(name)
            place, value, low, high = np.array(points, dtype=np.float64).T
            reach = np.nan_to_num(np.clip([value - low, high - value], 0, None))
            place = place * 1.04 ** (number - (len(names) - 1) / 2)  # so that no interval hides another
            style = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
            axis.errorbar(place, value, reach, label=name, capsize=3, linewidth=1.2, markersize=5, **style)
        axis.axhline(chance, color="gray", linestyle=":", label="by chance")
        axis.set_title(title, fontsize=9)
        axis.set_xscale("log", base=2)
        places = sorted({point.place for points in lines.values() for point in points})
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
        axis.set_xlabel(across)
        axis.set_ylim(-0.02, 1.02)
        axis.grid(axis="y", linewidth=0.4)
    axes[0].set_ylabel(up)
    handles = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def bars(path: str | Path, panels: Mapping[str, Mapping[str, int]], *, up: str) -> None:
    """Save how many there are of each, panels side by side: names in their order, numbers where they lie.

    Raises:
        ValueError: there is no panel.
    """
    figure, axes = _row(path, len(panels), 3.4, 3.0)
    for axis, (title, counts) in zip(axes, panels.items(), strict=True):
        are_numbers = all(name.isdecimal() for name in counts)
        axis.bar(
            [int(name) for name in counts] if are_numbers else list(counts), list(counts.values()), color=_COLOURS[0]
        )
        axis.set_title(title, fontsize=9)
        if are_numbers:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            axis.tick_params("x", rotation=90)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(up)
    _save(figure, path)


def harmonics(
    path: str | Path, sounds: Sequence[tuple[str, Float[Tensor, " _"]]], *, hz: float, count: int = 6
) -> None:
    """Save how the first harmonics of a note of `hz` Hz rise and fade, of named sounds side by side.

    Raises:
        ValueError: there is no sound, or no harmonic below half the sample rate.
    """
    multiples = [n for n in range(1, count + 1) if n * hz < SAMPLE_RATE / 2]
    figure, axes = _row(path, len(sounds) if multiples else 0, 3.6, 3.4)
    tracks = [_harmonic_levels(wave, [n * hz for n in multiples]) for _, wave in sounds]
    loudest = max(float(levels.max()) for levels in tracks)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(multiples)))
    for axis, (name, _), levels in zip(axes, sounds, tracks, strict=True):
        for n, colour, level in zip(multiples, colours, levels, strict=True):
            time = np.arange(len(level)) * HOP / SAMPLE_RATE
            axis.plot(time, level - loudest, color=colour, linewidth=1.2, label=f"{n} ({n * hz:.0f} Hz)")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("time (s)")
        axis.set_ylim(-_SHOWN_DB, 3)
        axis.label_outer()
    axes[0].set_ylabel("level (dB, loudest is 0)")
    axes[-1].legend(title="harmonic", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _harmonic_levels(wave: Float[Tensor, " samples"], hz: Sequence[float]) -> Float[np.ndarray, "harmonics frames"]:
    """In dB, the loudest of the bins within a quarter tone of each frequency, or of the bin nearest to it."""
    level = spectra.decibels(spectra.stft(wave, n_fft=4 * HOP).abs(), least=1e-6).cpu().numpy()
    width, found = SAMPLE_RATE / (4 * HOP), []
    for each in hz:
        low, high = round(each * 2 ** (-1 / 24) / width), round(each * 2 ** (1 / 24) / width)
        found.append(level[low : high + 1].max(axis=0))
    return np.stack(found)


def _principal(points: Float[np.ndarray, "notes dims"]) -> tuple[Float[np.ndarray, "notes 2"], Float[np.ndarray, " 2"]]:
    """Coordinates on the two axes of greatest variance, and the share of it on each."""
    centred = points.astype(np.float64) - points.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    whole = float(np.square(strengths).sum()) or 1.0
    places = np.zeros((len(points), 2))
    places[:, : min(2, len(strengths))] = (left * strengths)[:, :2]
    shares = np.zeros(2)
    shares[: min(2, len(strengths))] = np.square(strengths)[:2] / whole
    return places, shares


def _figure(width: float, height: float) -> Figure:
    """Empty, in inches; wide enough between panels that the ends of two axes of time do not run into each other."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12))


def _row(path: str | Path, panels: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    if not panels:
        raise ValueError(f"{path} was not written: there is nothing to draw")
    figure = _figure(width * panels + 1.0, height)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _save(figure: Figure, path: str | Path) -> None:
    with files.whole(path) as partial:
        figure.savefig(partial, dpi=110)
