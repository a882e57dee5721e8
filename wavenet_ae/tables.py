"""Tables of numbers: cells with their intervals, and rows of them as plain text, csv or JSON."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavenet_ae import files
from wavenet_ae.metrics.bootstrap import Estimate

Grid = Sequence[Sequence[str]]  # rows of cells, the first of them the headings


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


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Plain JSON; what is not a finite number is null."""
    with files.whole(path) as partial:
        partial.write_text(json.dumps(_plain(values), indent=1) + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each row; what was not measured is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with files.whole(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: value for key, value in row.items() if not _is_nan(value)} for row in rows)


def _plain(values: Any) -> Any:
    if isinstance(values, Estimate):
        return _plain(values._asdict())
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
