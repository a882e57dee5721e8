"""DecentSampler: an instrument as a .dspreset, its own XML."""

from collections.abc import Iterable
from xml.etree import ElementTree

from wavenet_ae.instrument.zones import Zone


def text(zones: Iterable[Zone], *, attack_s: float, release_s: float) -> str:
    """The preset of an instrument of one cell: DecentSampler has no crossfade between cells.

    Args:
        zones: as `arrange` makes them, with their loops; paths are relative to the preset.
        attack_s: seconds a note takes to begin.
        release_s: seconds it takes to end when its key is let go.

    Source: the DecentSampler developers' guide, "The <groups> element"; the loop's end is its last sample.
    """
    root = ElementTree.Element("DecentSampler", minVersion="1.0.0")
    groups = ElementTree.SubElement(root, "groups", attack=f"{attack_s:g}", release=f"{release_s:g}")
    group = ElementTree.SubElement(groups, "group")
    for zone in zones:
        settings: dict[str, object] = {"path": zone.sample, "rootNote": zone.place.pitch}
        settings |= {"loNote": zone.keys[0], "hiNote": zone.keys[1]}
        settings |= {"loVel": zone.velocities[0], "hiVel": zone.velocities[1]}
        settings |= {"ampVelTrack": 0 if zone.is_layered else 1, "loopEnabled": str(zone.loop is not None).lower()}
        if zone.loop is not None:
            settings |= {"loopStart": zone.loop.start, "loopEnd": zone.loop.stop - 1}
        ElementTree.SubElement(group, "sample", {key: str(value) for key, value in settings.items()})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"
