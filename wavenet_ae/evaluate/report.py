"""What an evaluation says: the table of measures, how its notes are balanced, and report.html."""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wavenet_ae import files
from wavenet_ae.evaluate.scores import MEASURES
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.notes import Note
from wavenet_ae.tables import Grid, cell

Table = Mapping[str, Mapping[str, Estimate]]  # model, measure
_KINDS = {".png": "image/png", ".wav": "audio/wav"}


class Show(NamedTuple):
    """A part of the report: a heading, sentences, a table, pictures, and sounds by name."""

    title: str
    text: str = ""
    grid: Grid = ()
    pictures: Sequence[Path] = ()
    sounds: Mapping[str, Path] = {}


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } h2 { margin-top: 2.5rem; }
th, td { padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } .scroll { overflow-x: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; } figcaption { font-weight: 600; }
audio { width: 18rem; display: block; } img { max-width: 100%; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } th, td { border-color: #444; } }
"""


def results(table: Table) -> Grid:
    """The table of measures: a row each, a column for each model, with 95% intervals."""
    heading = ["measure", "unit", "better", *table]
    rows = [
        [measure.title, measure.unit, measure.better, *(cell(column.get(key)) for column in table.values())]
        for key, measure in MEASURES.items()
        if any(key in column for column in table.values())
    ]
    return [heading, *rows]


def balance(notes: Sequence[Note]) -> dict[str, dict[str, int]]:
    """How many notes there are of each family, source, pitch and velocity, and of how many instruments."""
    counts: dict[str, Counter] = {
        what: Counter(getattr(note, what) for note in notes) for what in ("family", "source", "pitch", "velocity")
    }
    found = {what: {str(each): count[each] for each in sorted(count)} for what, count in counts.items()}
    return {"instruments": {"all": len({note.instrument for note in notes})}} | found


def write_html(path: Path, title: str, shows: Sequence[Show]) -> None:
    """One file with all its sounds and pictures inside: it can be sent and opened anywhere."""
    body = "\n".join(_show(show) for show in shows)
    with files.whole(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
            f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n",
            encoding="utf-8",
        )


def _show(show: Show) -> str:
    parts = [f"<h2>{html.escape(show.title)}</h2>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in show.text.splitlines()]
    if show.grid:
        head, *rows = (["".join(f"<td>{html.escape(c)}</td>" for c in row)] for row in show.grid)
        heading = head[0].replace("td>", "th>")
        lines = "\n".join(f"<tr>{row[0]}</tr>" for row in rows)
        parts.append(f'<div class="scroll"><table>\n<tr>{heading}</tr>\n{lines}\n</table></div>')
    if show.sounds:
        cells = "\n".join(
            f"<figure><figcaption>{html.escape(name)}</figcaption>"
            f'<audio controls src="{_inside(sound)}"></audio></figure>'
            for name, sound in show.sounds.items()
        )
        parts.append(f'<div class="row">\n{cells}\n</div>')
    parts += [f'<p><img src="{_inside(picture)}" alt="{html.escape(show.title)}"></p>' for picture in show.pictures]
    return "\n".join(parts)


def _inside(path: Path) -> str:
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
