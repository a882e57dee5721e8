"""Notes: NSynth's corpus layout, its splits and filters, and an order of crops that can be resumed at any step.

A corpus is a folder of splits (`train` or `nsynth-train`, ...). A split is `examples.json`, which describes
every note by NSynth's own keys, and `audio/<note_str>.wav` or `.flac`, 16 kHz mono.
"""

from wavenet_ae.notes.corpus import (
    Note,
    audio_files,
    check_disjoint,
    chosen,
    evenly,
    find_split,
    licence,
    load,
    parted,
    splits,
)
from wavenet_ae.notes.layout import (
    FAMILIES,
    QUALITIES,
    SOURCES,
    Key,
    describe,
    name,
    parse,
    read_examples,
    write_examples,
)
from wavenet_ae.notes.order import Batch, batches

__all__ = [
    "FAMILIES",
    "QUALITIES",
    "SOURCES",
    "Batch",
    "Key",
    "Note",
    "audio_files",
    "batches",
    "check_disjoint",
    "chosen",
    "describe",
    "evenly",
    "find_split",
    "licence",
    "load",
    "name",
    "parse",
    "parted",
    "read_examples",
    "splits",
    "write_examples",
]
