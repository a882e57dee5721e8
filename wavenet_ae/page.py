"""A page to listen and look: sounds beside their pictures, a pad to play between four, in one index.html."""

import html
import json
import os
from collections.abc import Mapping, Sequence
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
    """A heading, a sentence, sounds in a row (or in rows of `columns`), and a picture beneath."""

    title: str
    text: str
    cells: Sequence[Cell] = ()
    picture: Path | None = None
    columns: int = 0


class Pad(NamedTuple):
    """A square that plays the sound nearest to where it is touched.

    `corners` are named NW NE SW SE; `squares` hold rows of sounds, north first, for each key of a keyboard, or for ""
    where there is none.
    """

    title: str
    corners: tuple[str, str, str, str]
    squares: Mapping[str, Sequence[Sequence[Path]]]


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1rem 0; }
figure { margin: 0; } figcaption { font-weight: 600; } small { color: #666; font-weight: 400; }
.grid { display: grid; gap: 0.75rem; overflow-x: auto; } .grid audio { width: 100%; min-width: 8rem; }
.pad { position: relative; width: min(28rem, 90vw); aspect-ratio: 1; margin: 2rem 0; border: 2px solid #888;
  touch-action: none; cursor: crosshair; display: grid; gap: 1px; background: #888; }
.pad i { background: #fff; } .pad i.on { background: #f80; } .pad b { position: absolute; font-size: 0.8rem;
  pointer-events: none; max-width: 48%; padding: 0.3rem; overflow-wrap: anywhere; color: #222; }
audio { width: 18rem; display: block; } img { max-width: 100%; } h2 { margin-top: 2.5rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } small { color: #999; } }
"""


# The cell under the pointer, or the one the arrow keys lead to, is played; those already loaded start at once.
_SCRIPT = """
for (const pad of document.querySelectorAll('.pad')) {
  const squares = JSON.parse(pad.dataset.squares), keys = document.getElementById(pad.id + '-key');
  const rows = () => squares[keys ? keys.value : Object.keys(squares)[0]];
  const player = new Audio(), cells = pad.querySelectorAll('i');
  let row = -1, column = -1;
  player.addEventListener('playing', () => { pad.dataset.playing = player.getAttribute('src'); });
  const play = (r, c, again) => {
    const all = rows();
    r = Math.max(0, Math.min(all.length - 1, r)); c = Math.max(0, Math.min(all[0].length - 1, c));
    if (r === row && c === column && !again) return;
    row = r; column = c;
    cells.forEach((cell, n) => cell.classList.toggle('on', n === r * all[0].length + c));
    player.src = all[r][c]; player.play().catch(() => {});
  };
  const at = (event, again) => {
    const box = pad.getBoundingClientRect(), all = rows();
    play(Math.floor((event.clientY - box.top) / box.height * all.length),
         Math.floor((event.clientX - box.left) / box.width * all[0].length), again);
  };
  pad.addEventListener('pointerdown', event => { pad.setPointerCapture(event.pointerId); at(event, true); });
  pad.addEventListener('pointermove', event => { if (event.buttons) at(event, false); });
  pad.addEventListener('keydown', event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], ' ': [0, 0]}[event.key];
    if (step) { event.preventDefault(); play(row + step[0], column + step[1], true); }
  });
  if (keys) keys.addEventListener('change', () => { if (row >= 0) play(row, column, true); });
}
"""


def write(path: str | Path, title: str, sections: Sequence[Section | Pad]) -> None:
    """Write the page; files are linked relative to it, so the folder can be moved or served as it is."""
    path = Path(path)
    body = "\n".join(
        _pad(part, path.parent, number) if isinstance(part, Pad) else _section(part, path.parent)
        for number, part in enumerate(sections)
    )
    script = f"<script>{_SCRIPT}</script>\n" if any(isinstance(part, Pad) for part in sections) else ""
    with files.whole(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
            f"<h1>{html.escape(title)}</h1>\n{body}\n{script}</html>\n",
            encoding="utf-8",
        )


def _section(section: Section, folder: Path) -> str:
    cells = "\n".join(
        f"<figure><figcaption>{html.escape(cell.name)} <small>{html.escape(cell.remark)}</small></figcaption>"
        f'<audio controls preload="metadata" src="{_link(cell.sound, folder)}"></audio></figure>'
        for cell in section.cells
    )
    laid = (
        f'class="grid" style="grid-template-columns: repeat({section.columns}, 1fr)"'
        if section.columns
        else 'class="row"'
    )
    row = f"<div {laid}>\n{cells}\n</div>\n" if cells else ""
    alt = html.escape(section.title)
    picture = f'<img src="{_link(section.picture, folder)}" alt="{alt}">\n' if section.picture else ""
    return f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>\n{row}{picture}"


def _pad(pad: Pad, folder: Path, number: int) -> str:
    squares = {
        key: [[_link(sound, folder) for sound in row] for row in square] for key, square in sorted(pad.squares.items())
    }
    first = next(iter(squares.values()))
    keys = "".join(f"<option>{html.escape(key)}</option>" for key in squares)
    choice = f'<label>key <select id="pad{number}-key">{keys}</select></label>\n' if len(squares) > 1 else ""
    places = ("top: 0; left: 0", "top: 0; right: 0", "bottom: 0; left: 0", "bottom: 0; right: 0")
    corners = "".join(
        f'<b style="{place}">{html.escape(corner)}</b>' for place, corner in zip(places, pad.corners, strict=True)
    )
    return (
        f"<h2>{html.escape(pad.title)}</h2>\n"
        "<p>Touch or drag; or focus it and use the arrow keys. The nearest mix is played.</p>\n"
        f'{choice}<div class="pad" id="pad{number}" tabindex="0" role="application" '
        f'aria-label="{html.escape(pad.title)}" style="grid-template-columns: repeat({len(first[0])}, 1fr)" '
        f'data-squares="{html.escape(json.dumps(squares))}">'
        f"{'<i></i>' * (len(first) * len(first[0]))}{corners}</div>\n<noscript>The pad needs JavaScript.</noscript>"
    )


def _link(target: Path, folder: Path) -> str:
    return quote(os.path.relpath(target, folder).replace(os.sep, "/"))
