"""SoundFonts as a source of notes: chosen programs, pitches and velocities through FluidSynth, gated."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, files
from wavenet_ae.prepare import fluidsynth, gm
from wavenet_ae.prepare.fluidsynth import RATE, Preset, Synth
from wavenet_ae.prepare.pitch import HIGHEST, measure
from wavenet_ae.prepare.sources import OCTAVES, Instrument, Item, LeftOut, Plan, Sound, numbers, paths, quantity

_FADE = 160  # samples, 10 ms: a note cut while it sounds ends without a click


@dataclass
class SoundFonts:
    """Melodic programs of .sf2 and .sf3 files.

    One synthesizer per program plays its keys in one fixed order, so a program comes out the same bit for bit
    however often and beside whatever others it is rendered. All its notes are scaled by one number that brings
    the loudest to `peak_db`: soft keys stay softer. A note is left out when its measured pitch is more than
    `pitch_tolerance` cents from its key, when it is silent (below `silence_db`), or when it clips.
    An organ may sound whole octaves from its key, as a 16' or 4' stop does; its label is the key, as in NSynth.
    """

    unit: ClassVar[str] = "note"
    input: str | int | list[str | int] | None
    programs: str | int | list[int]
    pitches: str | int | list[int]
    velocities: str | int | list[int]
    keys: str
    hold_s: float | str
    release_s: float | str
    peak_db: float | str | None
    pitch_tolerance: float | str | None
    silence_db: float | str

    def __post_init__(self) -> None:
        if self.keys not in ("natural", "all"):
            raise ValueError(f"unknown keys {self.keys!r}: choose natural (those the instrument has) or all")
        self._hold_s = quantity(self.hold_s, "source.hold_s")
        self._release_s = quantity(self.release_s, "source.release_s")
        self._peak_db = None if self.peak_db is None else quantity(self.peak_db, "source.peak_db")
        cents = self.pitch_tolerance
        self._tolerance = None if cents is None else quantity(cents, "source.pitch_tolerance")
        self._silence_db = quantity(self.silence_db, "source.silence_db")
        if not (self._hold_s > 0 and self._release_s >= 0):
            raise ValueError(
                f"a key held for {self.hold_s} s and released for {self.release_s} s: expected hold_s above 0 and "
                "release_s not below"
            )
        self._fonts, _ = files.gather(paths(self.input, "FONT.sf2"), (".sf2", ".sf3"))
        self._chosen = None if self.programs == "all" else numbers(self.programs, "programs")
        self._pitches, self._velocities = numbers(self.pitches, "pitches"), numbers(self.velocities, "velocities")
        self._presets: dict[str, tuple[Path, Preset]] = {}
        self._digests: dict[str, str] = {}

    def plan(self) -> Plan:
        """One item for each chosen program of each SoundFont."""
        items: list[Item] = []
        failed: dict[str, str] = {}
        fluidsynth.library()
        for font in self._fonts:
            try:
                items += self._items(font, failed)
            except (ValueError, OSError) as error:
                failed[str(font)] = str(error)
        return Plan(items, failed)

    def make(self, item: Item) -> Iterator[Sound | LeftOut]:
        """Play every key of a program, then scale them all and let those pass that are as they should be."""
        font, preset = self._presets[item.name]
        played: list[tuple[int, int, Tensor]] = []
        with Synth(font) as synth:
            synth.choose(preset)
            for pitch, velocity in self._grid(preset.program):
                wave = synth.play(pitch, velocity, hold_s=self._hold_s, release_s=self._release_s)
                played.append((pitch, velocity, _ended(audio.resample(wave, RATE))))
        gain = self._gain([wave for _, _, wave in played])
        for pitch, velocity, wave in played:
            why = self._fault(wave * gain, pitch, gm.PROGRAMS[preset.program].family)
            yield LeftOut(f"{item.name} {pitch}-{velocity}", why) if why else Sound(wave * gain, pitch, velocity)

    def made_by(self) -> dict[str, Any]:
        """FluidSynth's version and each SoundFont's checksum."""
        return {
            "fluidsynth": fluidsynth.library().fluid_version_str().decode(),
            "soundfonts": {Path(font).name: digest for font, digest in self._digests.items()},
        }

    def _items(self, font: Path, failed: dict[str, str]) -> list[Item]:
        with Synth(font) as synth:
            presets = {preset.program: preset for preset in synth.presets() if preset.bank == 0}
        self._digests[str(font)] = digest = _digest(font)
        items: list[Item] = []
        for program in sorted(presets) if self._chosen is None else self._chosen:
            why = self._unusable(program, presets)
            if why and self._chosen is not None:
                failed[f"{font} program {program}"] = why
            if why:
                continue
            preset = presets[program]
            name = f"{font.stem} {program} {preset.name}"
            if name in self._presets:
                raise ValueError(
                    f"{name!r} is also in {self._presets[name][0]}: two SoundFonts of one name; rename a file"
                )
            self._presets[name] = (font, preset)
            family, source, _, _ = gm.PROGRAMS[program]
            items.append(Item(name, len(self._grid(program)), [digest, program], Instrument(name, family, source)))
        if not items and self._chosen is None:
            failed[str(font)] = (
                f"none of its {len(presets)} programs in bank 0 ({_few(sorted(presets)) or 'empty'}) has a pitch and a "
                "key of source.pitches: expected instruments, no drums or effects; choose another font"
            )
        return items

    def _unusable(self, program: int, presets: dict[int, Preset]) -> str | None:
        if program not in presets:
            return f"it is not in the SoundFont: expected one of {_few(sorted(presets))} in bank 0"
        if program not in gm.PROGRAMS:
            return "it is an effect or a drum without pitch: leave it out of source.programs"
        if not self._grid(program):
            low, high = gm.PROGRAMS[program][2:]
            return (
                f"it plays keys {low} to {high} by nature, none of source.pitches: widen those, or say source.keys=all"
            )
        return None

    def _grid(self, program: int) -> list[tuple[int, int]]:
        _, _, low, high = gm.PROGRAMS[program]
        pitches = [pitch for pitch in self._pitches if self.keys == "all" or low <= pitch <= high]
        return [(pitch, velocity) for pitch in pitches for velocity in self._velocities]

    def _gain(self, waves: list[Tensor]) -> float:
        peak = max(float(wave.abs().max()) for wave in waves)
        if self._peak_db is None or peak <= 10 ** (self._silence_db / 20):
            return 1.0  # what nobody hears is not made loud
        return 10 ** (self._peak_db / 20) / peak

    def _fault(self, wave: Float[Tensor, " samples"], pitch: int, family: str) -> str | None:
        peak = float(wave.abs().max())
        level_db = 20 * float(torch.log10(wave.square().mean().sqrt() + 1e-12))
        if peak > 1:
            return f"clipped: its peak is {peak:.2f}, expected at most 1"
        if level_db < self._silence_db:
            return f"silent: its level is {level_db:.0f} dB, expected at least {self._silence_db:.0f}"
        if self._tolerance is None or pitch > HIGHEST:
            return None
        heard = measure(wave)
        if heard is None:
            return f"no pitch was heard, expected {pitch}"
        allowed = OCTAVES if family == "organ" else (0,)
        if min(abs(heard - pitch - octave) for octave in allowed) * 100 > self._tolerance:
            return f"it sounds at pitch {heard:.2f}, expected {pitch} within {self._tolerance:.0f} cents"
        return None


def _ended(wave: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    fade = min(_FADE, len(wave))
    wave[len(wave) - fade :] *= torch.linspace(1, 0, fade)
    return wave


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
