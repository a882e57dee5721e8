"""Which split an instrument goes to: all of its notes to one, the same ones every time."""

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any


def assign(instruments: Sequence[str], splits: Mapping[str, Any], seed: int) -> dict[str, str]:
    """The split of each instrument.

    A split is given as the names of its instruments (`*` allowed) or as its share of those that no other split
    names. Shares go by a hash of seed and name, rounded to whole instruments; where there are enough,
    no split is left without one.

    Raises:
        ValueError: a name fits no instrument, or an instrument has no split to go to.
    """
    chosen: dict[str, str] = {}
    for split, names in splits.items():
        for pattern in _patterns(split, names):
            fitting = fnmatch.filter(instruments, pattern)
            if not fitting:
                raise ValueError(f"splits.{split} names {pattern!r}, which fits none of {_few(instruments)}")
            chosen.update(dict.fromkeys(fitting, split))
    rest = sorted(set(instruments) - chosen.keys(), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    shares = {split: float(share) for split, share in splits.items() if isinstance(share, int | float) and share > 0}
    if rest and not shares:
        raise ValueError(f"no split for {_few(rest)}: expected a share, as splits.train=1, or the names in some split")
    start = 0
    for split, count in _counts(len(rest), shares).items():
        chosen.update(dict.fromkeys(rest[start : start + count], split))
        start += count
    return chosen


def _patterns(split: str, names: Any) -> list[str]:
    if isinstance(names, int | float):
        return []
    if not isinstance(names, list):
        raise ValueError(
            f"splits.{split} is {names!r}: expected a share or a list of names; say splits.{split}=[{names}] or "
            f"splits.{split}=0.1"
        )
    return [str(name) for name in names]


def _counts(instruments: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers near the shares: one each while there are enough, the rest to whoever is furthest below."""
    counts = dict.fromkeys(shares, 0)
    total = sum(shares.values())
    for given in range(instruments):
        empty = [split for split, count in counts.items() if not count]
        below = {split: share * (given + 1) / total - counts[split] for split, share in shares.items()}
        left = instruments - given
        neediest = max(empty if empty and left <= len(empty) else shares, key=below.__getitem__)
        counts[neediest] += 1
    return counts


def _few(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
