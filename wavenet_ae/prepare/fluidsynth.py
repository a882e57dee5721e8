"""FluidSynth through ctypes: presets of a SoundFont, and keys pressed and released as float waves."""

import ctypes
import ctypes.util
import functools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RATE = 48_000  # Hz rendered at; three times NSynth's
_GAIN = 0.2  # FluidSynth's own default, stated so that it cannot change
_SINC = 7  # its best interpolation of samples
_LIBRARIES = ("libfluidsynth.so.3", "libfluidsynth.so.2", "libfluidsynth.3.dylib", "libfluidsynth-3.dll")
_HINT = "install it (Debian: apt install fluidsynth fluid-soundfont-gm; macOS: brew install fluid-synth)"


class Preset(NamedTuple):
    """One sound of a SoundFont: melodic ones are in bank 0, drum kits in bank 128."""

    bank: int
    program: int
    name: str


class Synth:
    """A synthesizer with one SoundFont, without reverb or chorus; close it, or use it in a `with`.

    The same keys pressed in the same order in a new Synth give the same waves bit for bit. A key pressed
    again does not: slow oscillators of a voice go on between notes.

    Raises:
        RuntimeError: there is no FluidSynth on this machine.
        ValueError: the file is not a SoundFont that FluidSynth can load.
    """

    def __init__(self, soundfont: str | Path):
        self.soundfont = Path(soundfont)
        self._library = library()
        with open(self.soundfont, "rb") as file:
            head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"sfbk":
            raise ValueError(f"{soundfont} is not a SoundFont: it begins with {head[:4]!r}, expected RIFF and sfbk")
        self._settings = self._library.new_fluid_settings()
        for key, value in ((b"synth.sample-rate", float(RATE)), (b"synth.gain", _GAIN)):
            self._library.fluid_settings_setnum(self._settings, key, value)
        for key in (b"synth.reverb.active", b"synth.chorus.active"):
            self._library.fluid_settings_setint(self._settings, key, 0)
        self._synth = self._library.new_fluid_synth(self._settings)
        self._library.fluid_synth_set_interp_method(self._synth, -1, _SINC)
        self._font = self._library.fluid_synth_sfload(self._synth, str(self.soundfont).encode(), 1)
        if self._font < 0:
            self.close()
            raise ValueError(
                f"{soundfont} cannot be loaded: expected a SoundFont, .sf2 or .sf3; check or replace the file"
            )

    def __enter__(self) -> "Synth":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of the SoundFont back."""
        if self._synth:
            self._library.delete_fluid_synth(self._synth)
            self._library.delete_fluid_settings(self._settings)
            self._synth = self._settings = None

    def presets(self) -> list[Preset]:
        """Every preset of the SoundFont, by bank and program."""
        return sorted(self._presets())

    def choose(self, preset: Preset) -> None:
        """Let `play` sound as a preset."""
        chosen = self._library.fluid_synth_program_select(self._synth, 0, self._font, preset.bank, preset.program)
        assert chosen == 0, f"{preset} is not in {self.soundfont}"

    def play(self, pitch: int, velocity: int, *, hold_s: float, release_s: float) -> Float[Tensor, " samples"]:
        """A key pressed for `hold_s` and released for `release_s`: mono, at `RATE`, left and right averaged."""
        self._library.fluid_synth_noteon(self._synth, 0, pitch, velocity)
        held = self._write(round(hold_s * RATE))
        self._library.fluid_synth_noteoff(self._synth, 0, pitch)
        released = self._write(round(release_s * RATE))
        self._library.fluid_synth_all_sounds_off(self._synth, 0)
        self._write(RATE // 10)  # whatever was left of it
        return torch.from_numpy(np.concatenate([held, released]).mean(axis=1, dtype=np.float32))

    def _write(self, samples: int) -> np.ndarray:
        stereo = np.zeros((samples, 2), dtype=np.float32)
        out = stereo.ctypes.data_as(ctypes.c_void_p)
        self._library.fluid_synth_write_float(self._synth, samples, out, 0, 2, out, 1, 2)
        return stereo

    def _presets(self) -> Iterator[Preset]:
        font = self._library.fluid_synth_get_sfont_by_id(self._synth, self._font)
        self._library.fluid_sfont_iteration_start(font)
        while preset := self._library.fluid_sfont_iteration_next(font):
            name = self._library.fluid_preset_get_name(preset).decode("utf-8", "replace").strip()
            yield Preset(
                self._library.fluid_preset_get_banknum(preset), self._library.fluid_preset_get_num(preset), name
            )


@functools.cache
def library() -> Any:
    """The shared library, told its signatures and told to be quiet.

    Raises:
        RuntimeError: it is not installed.
    """
    for name in (ctypes.util.find_library("fluidsynth"), *_LIBRARIES):
        try:
            found = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if found is not None:
            break
    else:
        raise RuntimeError(f"FluidSynth is not on this machine: rendering SoundFonts needs it; {_HINT}")
    pointer, integer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_double, ctypes.c_char_p
    for name, result, *arguments in (
        ("fluid_version_str", text),
        ("fluid_set_log_function", pointer, integer, pointer, pointer),
        ("new_fluid_settings", pointer),
        ("fluid_settings_setnum", integer, pointer, text, number),
        ("fluid_settings_setint", integer, pointer, text, integer),
        ("delete_fluid_settings", None, pointer),
        ("new_fluid_synth", pointer, pointer),
        ("delete_fluid_synth", None, pointer),
        ("fluid_synth_set_interp_method", integer, pointer, integer, integer),
        ("fluid_synth_sfload", integer, pointer, text, integer),
        ("fluid_synth_get_sfont_by_id", pointer, pointer, integer),
        ("fluid_sfont_iteration_start", None, pointer),
        ("fluid_sfont_iteration_next", pointer, pointer),
        ("fluid_preset_get_banknum", integer, pointer),
        ("fluid_preset_get_num", integer, pointer),
        ("fluid_preset_get_name", text, pointer),
        ("fluid_synth_program_select", integer, pointer, integer, integer, integer, integer),
        ("fluid_synth_noteon", integer, pointer, integer, integer, integer),
        ("fluid_synth_noteoff", integer, pointer, integer, integer),
        ("fluid_synth_all_sounds_off", integer, pointer, integer),
        ("fluid_synth_write_float", integer, pointer, integer, pointer, integer, integer, pointer, integer, integer),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    for level in range(5):
        found.fluid_set_log_function(level, None, None)
    return found
