"""A page to listen and look: sounds beside their pictures, in one index.html."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from wavenet_ae import files


class Cell(NamedTuple):
    """One sound: its name, its file, and a remark."""

    name: str
    sound: Path
    remark: str = ""


class Section(NamedTuple):
    """A heading, a sentence, sounds in a row, and a picture beneath."""

    title: str
    text: str
    cells: Sequence[Cell] = ()
    picture: Path | None = None


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1rem 0; }
figure { margin: 0; } figcaption { font-weight: 600; } small { color: #666; font-weight: 400; }
audio { width: 18rem; display: block; } img { max-width: 100%; } h2 { margin-top: 2.5rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } small { color: #999; } }
"""


def write(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; files are linked relative to it, so the folder can be moved or served as it is."""
    path = Path(path)
    body = "\n".join(_section(section, path.parent) for section in sections)
    with files.whole(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
            f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n",
            encoding="utf-8",
        )


def _section(section: Section, folder: Path) -> str:
    cells = "\n".join(
        f"<figure><figcaption>{html.escape(cell.name)} <small>{html.escape(cell.remark)}</small></figcaption>"
        f'<audio controls preload="metadata" src="{_link(cell.sound, folder)}"></audio></figure>'
        for cell in section.cells
    )
    row = f'<div class="row">\n{cells}\n</div>\n' if cells else ""
    alt = html.escape(section.title)
    picture = f'<img src="{_link(section.picture, folder)}" alt="{alt}">\n' if section.picture else ""
    return f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>\n{row}{picture}"


def _link(target: Path, folder: Path) -> str:
    return quote(os.path.relpath(target, folder).replace(os.sep, "/"))
