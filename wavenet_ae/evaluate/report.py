"""What an evaluation leaves: a table for the terminal, evaluation.json, notes.csv and report.html."""

import base64
import csv
import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wavenet_ae import files
from wavenet_ae.evaluate.scores import MEASURES, Row
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.notes import Note

Table = Mapping[str, Mapping[str, Estimate]]  # model, measure
Grid = Sequence[Sequence[str]]  # rows of cells, the first of them the headings
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


def cell(found: Estimate | None) -> str:
    """A value and its interval, three digits each."""
    if found is None:
        return "-"
    interval = "" if math.isnan(found.low) else f" [{number(found.low)}, {number(found.high)}]"
    return f"{number(found.value)}{interval}"


def number(value: int | float) -> str:
    """Three digits, or as many as a whole number has; what is not a number is a dash."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def text(grid: Grid) -> str:
    """A table in plain text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def balance(notes: Sequence[Note]) -> dict[str, dict[str, int]]:
    """How many notes there are of each family, source, pitch and velocity, and of how many instruments."""
    counts: dict[str, Counter] = {
        what: Counter(getattr(note, what) for note in notes) for what in ("family", "source", "pitch", "velocity")
    }
    found = {what: {str(each): count[each] for each in sorted(count)} for what, count in counts.items()}
    return {"instruments": {"all": len({note.instrument for note in notes})}} | found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Plain JSON; what is not a number is null."""
    with files.whole(path) as partial:
        partial.write_text(json.dumps(_plain(values), indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A line for each note and model; what was not measured is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with files.whole(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: value for key, value in row.items() if not _is_nan(value)} for row in rows)


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


def _plain(values: Any) -> Any:
    if isinstance(values, Estimate):
        return _plain(values._asdict())
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if _is_nan(values) else values


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
