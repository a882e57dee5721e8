"""Music to be played: a MIDI file as notes that begin and end at exact samples, and sounds mixed at them."""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import mido
import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio

SUFFIXES = (".mid", ".midi")
DRUMS = 9  # General MIDI's channel 10, whose keys are drums, not pitches
_PEDAL, _ALL_OFF = 64, (120, 123)  # controllers: the sustain pedal; all sound off, all notes off
_LONGEST_H = 12  # hours: a file that lasts longer is damaged
_TEMPO = 500_000  # microseconds a beat until a file says otherwise


class Played(NamedTuple):
    """A key that is heard from sample `start` on, for `samples`, at a velocity from 1 to 127."""

    start: int
    samples: int
    pitch: int
    velocity: int


def read(path: str | Path) -> list[Played]:
    """The notes of a MIDI file in the order they begin, all its tracks and channels but General MIDI's drums.

    Tempo changes and the sustain pedal are obeyed: a key let go sounds on until the pedal is. A key struck again
    ends its own note. What is never let go ends with the file. Times are exact until they are rounded to a sample.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no MIDI file, is damaged, or holds no note; the message says what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: expected a MIDI file")
    try:
        file = mido.MidiFile(path, clip=True)
    except (OSError, EOFError, ValueError, LookupError, struct.error, mido.KeySignatureError) as error:
        reason = str(error) or "it ends too early"
        raise ValueError(f"{path} cannot be read as MIDI ({reason}): expected a Standard MIDI File (.mid)") from error
    if file.ticks_per_beat == 0:
        raise ValueError(f"{path} is damaged: its header gives 0 ticks a beat; export it again")
    notes = sorted(_notes(file))
    if not notes:
        messages = [message.type for track in file.tracks for message in track if not message.is_meta]
        drums = " but for drums" if "note_on" in messages else ""
        found = f"{len(file.tracks)} tracks, {len(messages)} messages"
        raise ValueError(f"{path} holds no notes{drums} ({found}): expected something to play")
    hours = max(note.start + note.samples for note in notes) / audio.SAMPLE_RATE / 3600
    if hours > _LONGEST_H:
        raise ValueError(f"{path} lasts {hours:,.0f} hours: expected {_LONGEST_H} at most; it may be damaged")
    return notes


def mix(parts: Iterable[tuple[int, float, Float[Tensor, " _"]]], samples: int) -> Float[Tensor, " samples"]:
    """Sounds added up, each from its sample on and at its gain; what reaches beyond the end is cut.

    Args:
        parts: (start, gain, wave) of each.
        samples: how long the whole is.
    """
    whole = torch.zeros(samples)
    for start, gain, wave in parts:
        part = whole[start : start + len(wave)]
        part += gain * wave[: len(part)]
    return whole


def _notes(file: mido.MidiFile) -> Iterator[Played]:
    keyboards: dict[int, _Keyboard] = defaultdict(_Keyboard)  # by channel
    now = Fraction(0)
    for now, message in _timed(file):
        channel = None if message.is_meta else getattr(message, "channel", None)
        if channel not in (None, DRUMS):
            yield from keyboards[channel].hear(now, message)
    for keyboard in keyboards.values():
        yield from keyboard.end(now)


class _Key(NamedTuple):
    """A key that sounds: since when in samples, how hard struck, and how often it is down."""

    start: Fraction
    velocity: int
    down: int


class _Keyboard:
    """The keys and the pedal of one channel."""

    def __init__(self) -> None:
        self.keys: dict[int, _Key] = {}
        self.has_pedal_down = False

    def hear(self, now: Fraction, message: mido.Message) -> Iterator[Played]:
        """The notes that a message ends."""
        if message.type == "note_on" and message.velocity:
            known = self.keys.get(message.note)
            yield from self.end(now, [message.note])
            self.keys[message.note] = _Key(now, message.velocity, 1 + (known.down if known else 0))
        elif message.type in ("note_on", "note_off") and message.note in self.keys:
            key = self.keys[message.note]
            self.keys[message.note] = key._replace(down=max(0, key.down - 1))
        elif message.type == "control_change" and message.control == _PEDAL:
            self.has_pedal_down = message.value >= 64
        elif message.type == "control_change" and message.control in _ALL_OFF:
            yield from self.end(now)
        if not self.has_pedal_down:
            yield from self.end(now, [pitch for pitch, key in self.keys.items() if not key.down])

    def end(self, now: Fraction, pitches: Iterable[int] | None = None) -> Iterator[Played]:
        """These keys, or all, are heard no more."""
        for pitch in list(self.keys if pitches is None else pitches):
            key = self.keys.pop(pitch, None)
            if key is not None:
                start = round(key.start)
                yield Played(start, max(1, round(now) - start), pitch, key.velocity)


def _timed(file: mido.MidiFile) -> Iterator[tuple[Fraction, mido.Message]]:
    """Every message and its time in samples, exactly; the tracks of a file of type 2 follow one another."""
    if file.ticks_per_beat < 0:  # SMPTE: frames a second (29 means 29.97) and ticks a frame
        frames, ticks = -(file.ticks_per_beat >> 8), file.ticks_per_beat & 0xFF
        second = Fraction(30_000, 1001) if frames == 29 else Fraction(frames)
        per_tick, per_beat = Fraction(audio.SAMPLE_RATE) / (second * max(ticks, 1)), None
    else:
        per_beat = Fraction(audio.SAMPLE_RATE, 1_000_000 * file.ticks_per_beat)
        per_tick = _TEMPO * per_beat
    now = Fraction(0)
    for message in mido.merge_tracks(file.tracks) if file.type < 2 else (m for track in file.tracks for m in track):
        now += message.time * per_tick
        if message.type == "set_tempo" and per_beat is not None:
            per_tick = message.tempo * per_beat
        yield now, message
