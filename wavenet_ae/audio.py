"""Audio files to waves and back: 16 kHz mono float in [-1, 1], checked at the door."""

import functools
import io
import logging
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import files

SAMPLE_RATE = 16_000  # NSynth's
_TABLE = 1000  # phases
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".w64", ".caf", ".au")

_UNKNOWN_LENGTH = 0x7FFFF000  # bytes: from here on a header says "as long as it lasts", as one made by a pipe does

_said: set[tuple[int, int]] = set()  # (rate, channels) that a notice was given of
log = logging.getLogger(__name__)


class Info(NamedTuple):
    """What a file's header says: `samples` per channel at the file's own `rate` in Hz."""

    rate: int
    channels: int
    samples: int


def inspect(path: str | Path) -> Info:
    """Read a file's header only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as audio, is truncated or holds no samples; the message says what was found.
    """
    path = _existing(path)
    try:
        with soundfile.SoundFile(path) as file:
            info, details = Info(file.samplerate, file.channels, file.frames), file.extra_info
    except (soundfile.SoundFileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {_reason(path, error)}") from error
    if info.samples == 0:
        raise ValueError(f"{path} holds no samples: expected a sound of at least one sample")
    promised, found = _bytes_of_sound(details)
    if found < promised < _UNKNOWN_LENGTH or info.samples >= _UNKNOWN_LENGTH:
        raise ValueError(f"{path} is truncated: its header promises more than is there; copy it again")
    return info


def read(path: str | Path, start: int = 0, stop: int | None = None) -> Float[Tensor, " samples"]:
    """A file as a 16 kHz mono wave; other rates are resampled and channels averaged, with a notice.

    `start` and `stop`, in samples of the file's own rate, read a part of it by seeking.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is truncated, is empty, or holds NaN or infinity.
    """
    info = inspect(path)
    stop = info.samples if stop is None else min(stop, info.samples)
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path} cannot be read as audio: {_reason(Path(path), error)}") from error
    if len(samples) != stop - start:
        raise ValueError(f"{path} is truncated: its header promises {stop - start} samples, {len(samples)} were read")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise ValueError(f"{path} holds {bad} values that are NaN or infinite: expected numbers in [-1, 1]")
    if info.channels > 1 or info.rate != SAMPLE_RATE:
        _say_once(info.rate, info.channels, path)
    return resample(torch.from_numpy(samples.mean(axis=1, dtype=np.float32)), info.rate)


def write(path: str | Path, wave: Float[Tensor, " samples"], *, comment: str = "", subtype: str = "PCM_16") -> None:
    """Write a 16 kHz mono wave, whole or not at all; the suffix names the format (wav, flac, ogg).

    16-bit output is round(32768 x), clipped: what `read` returns is written back bit for bit.
    `comment` goes into the file (RIFF INFO ICMT in a wav). `subtype="FLOAT"` keeps float32 in a wav.

    Raises:
        ValueError: the wave is empty or not finite, or the format does not hold the subtype.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if wave.numel() == 0 or not bool(torch.isfinite(wave).all()):
        raise ValueError(f"{path} was not written: its {wave.numel()} samples are empty, NaN or infinite")
    data = wave.detach().cpu().numpy()
    if subtype == "PCM_16":
        data = np.clip(np.rint(data.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    kind = path.suffix.lower().lstrip(".").upper()
    subtype = "VORBIS" if kind == "OGG" else subtype
    check_subtype(kind, subtype)
    encoded = _encoded(data, kind, subtype, comment)
    with files.whole(path) as partial:
        partial.write_bytes(encoded)


def check_subtype(kind: str, subtype: str) -> None:
    """Refuse a subtype that a format, named by its suffix, does not hold: check it before long work.

    Raises:
        ValueError: it does not.
    """
    if not soundfile.check_format(kind.upper(), subtype):
        raise ValueError(
            f"a {kind.lower() or 'nameless'} file does not hold {subtype}: expected PCM_16, PCM_24 or FLOAT in a .wav, "
            "PCM_16 or PCM_24 in a .flac"
        )


def resample(wave: Float[Tensor, "*batch samples"], rate: int) -> Float[Tensor, "*batch resampled"]:
    """A wave at `rate` Hz as one at 16 kHz: windowed sinc, 64 zero crossings, pass band to 95% of Nyquist."""
    if rate == SAMPLE_RATE:
        return wave
    if (
        rate // math.gcd(rate, SAMPLE_RATE) > _TABLE
    ):  # 44,101 Hz, say: torchaudio's table of phases would take gigabytes
        resampled = soxr.resample(wave.numpy().T, rate, SAMPLE_RATE, quality="VHQ").T
        return torch.from_numpy(np.ascontiguousarray(resampled))
    return _resampler(rate)(wave)


@functools.lru_cache(maxsize=8)
def _resampler(rate: int) -> torch.nn.Module:
    try:
        from torchaudio.transforms import Resample
    except (ImportError, OSError, RuntimeError) as error:  # a torchaudio built for another torch raises any of these
        raise RuntimeError(
            f"resampling needs torchaudio, which does not load beside torch {torch.__version__}: {error}; "
            "install the pair pinned in requirements.lock"
        ) from error
    return Resample(
        rate,
        SAMPLE_RATE,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


def _bytes_of_sound(details: str) -> tuple[int, int]:
    """What a header promises and what the file holds, where libsndfile notes that they differ; else zeros.

    It reads a truncated wav, aiff, w64 or au to its end as if that were all.
    """
    differ = re.search(r"(?:data|riff|SSND|Data Size) *: (\d+) \(should be (\d+)\)", details)
    return (int(differ[1]), int(differ[2])) if differ else (0, 0)


def _encoded(data: np.ndarray, kind: str, subtype: str, comment: str) -> bytes:
    """A file's bytes. In memory: on a full disk libsndfile may report success for half a flac, Python does not."""
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", samplerate=SAMPLE_RATE, channels=1, subtype=subtype, format=kind) as file:
        if comment:
            file.comment = comment
        file.write(data)
    return memory.getvalue()


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: expected an audio file")
    return path


def _reason(path: Path, error: Exception) -> str:
    """Why, in words: libsndfile says 'System error' where a permission is missing."""
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as denied:
        return f"{denied.strerror} (check its permissions)"
    return "the file is empty (0 bytes)" if empty else str(error).split(": ")[-1].rstrip(".")


def _say_once(rate: int, channels: int, example: str | Path) -> None:
    if (rate, channels) in _said:
        return
    _said.add((rate, channels))
    changes = [f"{channels} channels averaged to one"] * (channels > 1)
    changes += [f"{rate} Hz resampled to {SAMPLE_RATE} Hz"] * (rate != SAMPLE_RATE)
    log.warning("%s (said once; first in %s)", " and ".join(changes), example)
