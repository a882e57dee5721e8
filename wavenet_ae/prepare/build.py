"""Writing a corpus: an interrupted run goes on where it stopped, and a finished corpus is never damaged."""

import contextlib
import hashlib
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wavenet_ae import __version__, notes
from wavenet_ae.prepare import making, store
from wavenet_ae.prepare.making import Place
from wavenet_ae.prepare.sources import Item, Plan, Source
from wavenet_ae.prepare.splits import assign
from wavenet_ae.prepare.store import Done
from wavenet_ae.workers import Lost, shared

log = logging.getLogger("wavenet_ae")


def build(
    source: Source, out: str | Path, *, settings: dict[str, Any], overwrite: bool, workers: int | str = 0
) -> dict[str, str]:
    """Make the corpus; returns the inputs that failed, each with its reason.

    `settings` is everything that decides what it holds: source, splits, seed, format, licence. Items already made
    with these settings from these inputs are kept, and so are splits that the source brings nothing for. `workers`
    make the items, in whatever order; the corpus is the same.

    Raises:
        ValueError: no input can be used, or `out` holds another corpus, or more than the new one would, and
            `overwrite` is false.
        OSError: the folder cannot be written; what was finished is kept.
    """
    out, kind = Path(out), settings["format"]
    growing = out / store.GROWING
    store.settle(out)
    _check_apart(settings["source"].get("input"), out, settings)
    _check_place(out, settings, overwrite)
    plan = source.plan()
    if not plan.items:
        raise ValueError(listed("nothing can be made:", plan.failed))
    names = [item.name for item in plan.items]
    assert len(set(names)) == len(names), "a source gives every item a name of its own"
    places = _places(plan, settings)
    _check_free(out, {place.split for place in places.values()})
    digests = {item.name: _digest(item, places[item.name], settings) for item in plan.items}
    before = {} if overwrite else store.finished(out)
    others = _of_other_splits(before, plan)
    old = others | _usable(before, digests, out, kind)
    if before and not overwrite:
        _check_kept(out, before, {**digests, **others}, old, settings)
        if old.keys() == digests.keys() | others.keys() == before.keys():
            log.info("%s is complete: nothing is left to make (overwrite=true makes it again)", out)
            _note_words(out, settings, plan.failed)
            return dict(plan.failed)
    if growing.exists() and store.record_of(growing).get("settings") != settings:
        shutil.rmtree(growing)
    kept = _usable(store.begun(growing), digests, growing, kind)
    store.start(growing, settings, kept)
    for name in old.keys() - kept.keys():
        store.link(out, growing, old[name], kind)
    results = old | kept
    _make_all(source, plan, places, digests, results, growing, kind, workers)
    failed = dict(plan.failed)
    for result in results.values():
        failed |= result.failed
    order = [*others, *digests]
    _publish(growing, {name: results[name] for name in order}, places, settings, source, failed)
    store.settle(out)
    return failed


def listed(title: str, reasons: Mapping[str, str]) -> str:
    """A title and each input with its reason, a line each."""
    return title + "".join(f"\n  {why if why.startswith(what) else f'{what}: {why}'}" for what, why in reasons.items())


def _check_apart(given: Any, out: Path, settings: Mapping[str, Any]) -> None:
    """Input and results must not be one folder: a rerun would take its own results for input."""
    whole = out.resolve()
    for path in map(Path, map(str, given if isinstance(given, list) else [given])):
        inside = path.resolve().relative_to(whole).parts if path.resolve().is_relative_to(whole) else None
        if inside is None or not (path.is_dir() or path.is_file()):
            continue
        splits = {"train", "valid", "test", *settings["splits"], *notes.splits(out)}
        if not inside or inside[0].removeprefix("nsynth-") in splits:
            where = "is out itself" if not inside else f"lies in {out}, among the notes of a split"
            raise ValueError(f"source.input={path} {where}: expected results apart from inputs; choose another out")


def _check_place(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Whether `out` may become this corpus."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: expected a folder for the corpus, there or not; choose another out")
    record = store.record_of(out)
    if not record and (there := notes.splits(out)):
        raise ValueError(
            f"{out} holds a corpus that prepare did not make ({', '.join(there)}): it is left as "
            "it is; choose another out"
        )
    state = "a corpus" if record else "an unfinished corpus"
    before = record or store.record_of(out / store.GROWING)
    different = sorted(_different(before.get("settings", {}), settings)) if before else []
    if different and not overwrite:
        raise ValueError(
            f"{out} holds {state} made with other settings ({', '.join(different)}): it is left as it is; "
            "choose another out, or replace it with overwrite=true"
        )


def _different(before: Any, now: Any, at: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _different(before.get(key), now.get(key), f"{at}.{key}" if at else str(key))
    elif before != now and at not in ("source.input", "source.split", "licence"):
        yield at


def _check_free(out: Path, splits: set[str]) -> None:
    """A split that prepare did not make is nothing to replace."""
    for split in sorted(splits - store.record_of(out).get("notes", {}).keys()):
        if (out / split / "examples.json").exists():
            raise ValueError(
                f"{out / split} holds notes that prepare did not make: expected no split of that name, or its own; "
                "it is left as it is; choose another out"
            )


def _of_other_splits(before: Mapping[str, Done], plan: Plan) -> dict[str, Done]:
    """Items of splits that this source, which knows its splits, brings nothing for: they stay as they are."""
    now = {item.split for item in plan.items}
    if None in now:
        return {}
    names = {item.name for item in plan.items}
    return {name: done for name, done in before.items() if done.split not in now and name not in names}


def _usable(done: Mapping[str, Done], digests: Mapping[str, str], folder: Path, kind: str) -> dict[str, Done]:
    """What need not be made again: of the same input and settings, without faults, all its audio there."""
    return {
        name: done[name]
        for name, digest in digests.items()
        if name in done
        and done[name].digest == digest
        and not done[name].failed
        and all(path.exists() for path in done[name].audio(folder, kind))
    }


def _check_kept(
    out: Path, before: Mapping[str, Done], now: Mapping[str, Any], kept: Mapping[str, Done], settings: Mapping[str, Any]
) -> None:
    """A finished corpus grows, but loses notes only when that is asked for."""
    gone = {name: done for name, done in before.items() if name not in now and done.entries}
    other_input = store.record_of(out)["settings"]["source"].get("input") != settings["source"].get("input")
    if other_input and not kept.keys() & before.keys() and any(done.entries for done in before.values()):
        gone = dict(before)
    if gone:
        few = ", ".join([*gone][:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        raise ValueError(
            f"this would remove {sum(len(done.entries) for done in gone.values())} notes of {out}, made of {few}: "
            "expected them in source.input too; it is left as it is; choose another out, or say overwrite=true"
        )


def _places(plan: Plan, settings: Mapping[str, Any]) -> dict[str, Place]:
    """Instruments are numbered in the order of the plan, each family and source from 0, as in NSynth."""
    named = {item.name: item.instrument for item in plan.items if item.instrument}
    instruments = list(dict.fromkeys(named.values()))
    splits = assign([instrument.name for instrument in instruments], settings["splits"], settings["seed"])
    counts: Counter[tuple[str, str]] = Counter()
    strs: dict[Any, tuple[str, int]] = {}
    for number, instrument in enumerate(instruments):
        kind = (instrument.family, instrument.source)
        strs[instrument] = (f"{kind[0]}_{kind[1]}_{counts[kind]:03d}", number)
        counts[kind] += 1
    known = {name: Place(splits[instrument.name], *strs[instrument]) for name, instrument in named.items()}
    return known | {item.name: Place(item.split, "", -1) for item in plan.items if item.split}


def _digest(item: Item, place: Place, settings: Mapping[str, Any]) -> str:
    source = {key: value for key, value in settings["source"].items() if key != "input"}
    what = json.dumps([item.inputs, place, source, settings["format"]], sort_keys=True, default=str)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _note_words(out: Path, settings: Mapping[str, Any], failed: Mapping[str, str]) -> None:
    """Bring the record of a complete corpus up to date: a licence was given, an input moved."""
    record = store.record_of(out)
    now = record | {"licence": settings.get("licence"), "settings": settings, "failed": failed}
    if now != record:
        store.write_record(out, now)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Speed: a note is little work, and threads that wait for each other took ten times as long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_all(
    source: Source,
    plan: Plan,
    places: Mapping[str, Place],
    digests: Mapping[str, str],
    results: dict[str, Done],
    growing: Path,
    kind: str,
    workers: int | str,
) -> None:
    """Make the items that `results` lacks, and put them there."""
    taken = {path for done in results.values() for path in done.audio(growing, kind)}
    items = [item for item in plan.items if item.name not in results]
    orders = [making.order(i, places[i.name], digests[i.name], growing / store.MADE) for i in items]
    total, left = sum(item.size for item in plan.items), sum(item.size for item in items)
    showing = {"unit": source.unit, "desc": "prepare", "smoothing": 0.1}
    with _one_thread(), tqdm(total=total, initial=total - left, **showing) as bar:
        each = shared(
            partial(making.maker, source, kind), orders, workers, done=lambda index: bar.update(items[index].size)
        )
        with contextlib.closing(each) as made:
            for order, done in zip(orders, made, strict=True):
                name = order.item.name
                if isinstance(done, Lost):
                    results[name] = Done(order.digest, order.place.split, [], {}, {name: str(done)})
                elif isinstance(done, Exception):
                    raise done
                else:
                    results[name] = making.deliver(order, done, growing, kind, taken)
                store.note_down(growing, name, results[name])


def _publish(
    growing: Path,
    results: Mapping[str, Done],
    places: Mapping[str, Place],
    settings: Mapping[str, Any],
    source: Source,
    failed: dict[str, str],
) -> None:
    ids = itertools.count()
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, done in results.items():
        numbered = name in places and places[name].instrument
        entries = [{**entry, "note": next(ids)} for entry in done.entries] if numbered else done.entries
        if entries:
            tables.setdefault(done.split, []).extend(entries)
    record = {
        "made_by": {"wavenet_ae": __version__, **source.made_by()},
        "licence": settings.get("licence"),
        "settings": settings,
        "notes": {split: len(table) for split, table in tables.items()},
        "instruments": {places[n].instrument: n for n in results if n in places and places[n].instrument},
        "failed": failed,
        "items": {
            name: {
                "digest": done.digest,
                "split": done.split,
                "notes": [entry["note_str"] for entry in done.entries],
                "left_out": done.left_out,
                "failed": done.failed,
            }
            for name, done in results.items()
        },
    }
    store.publish(growing, tables, record, settings["format"])
