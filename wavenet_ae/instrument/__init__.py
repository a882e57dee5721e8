"""Instruments for samplers: notes with loops, on every key, as SFZ or DecentSampler in one zip."""

from wavenet_ae.instrument.build import FORMATS, Settings, archive, build, check
from wavenet_ae.instrument.loops import Loop, find, smooth
from wavenet_ae.instrument.zones import Place, Zone, arrange, cover

__all__ = [
    "FORMATS",
    "Loop",
    "Place",
    "Settings",
    "Zone",
    "archive",
    "arrange",
    "build",
    "check",
    "cover",
    "find",
    "smooth",
]
