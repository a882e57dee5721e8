"""What every command shares: its configuration, its help, and errors as one message."""

import functools
import inspect
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wavenet_ae import checkpoint, files, provenance
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note, evenly
from wavenet_ae.workers import RAY, check

_INSIDE = Path(__file__).parent / "conf"  # in an installed wheel
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[1] / "conf"  # in a checkout

log = logging.getLogger("wavenet_ae")


class Failed(Exception):
    """Some of what was asked could not be done; the message lists each input and its reason."""


def command(main: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Make `main` a command configured by conf/<its file's name>.yaml, a package's `__main__.py` by the package's.

    `--help` prints the module's docstring and the commented defaults. A ValueError, OSError, RuntimeError
    or Failed ends the command with its message and exit status 1 (a traceback with
    WAVENET_AE_TRACEBACK=1); the rest are our own mistakes and keep their traceback. Of several runs (-m) each
    that fails says so, the others follow, and the exit status is 1 at the end.
    """
    file = Path(inspect.getfile(inspect.unwrap(main)))
    name = file.parent.name if file.stem == "__main__" else file.stem
    failed: list[str] = []
    guarded = _guarded(main, name, failed)
    configured = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(guarded)

    @functools.wraps(main)
    def run() -> None:
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(_help(sys.modules[main.__module__].__doc__ or "", CONF / f"{name}.yaml"))
            return
        sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
        failed.clear()
        configured()
        if failed:
            print(f"{name}: {len(failed)} of the runs failed: {'; '.join(failed)}", file=sys.stderr)
            sys.exit(1)

    return run


def made(node: DictConfig, *args: object, **kwargs: object) -> Any:
    """What a node of conf/ describes: Hydra's `instantiate`, with the errors of what is made in its own words."""
    try:
        return instantiate(node, *args, _convert_="all", **kwargs)
    except InstantiationException as error:
        raise error.__cause__ or error from None


def required(cfg: DictConfig, *keys: str) -> None:
    """Check that keys without a default were given.

    Raises:
        ValueError: one was not.
    """
    missing = [key for key in keys if OmegaConf.is_missing(cfg, key) or cfg[key] is None]
    if missing:
        raise ValueError(f"nothing given for {', '.join(missing)}: add {' '.join(f'{key}=...' for key in missing)}")


def pending(
    inputs: object, suffixes: Iterable[str], out: object, suffix: str, *, made: str, overwrite: bool
) -> dict[Path, Path]:
    """Each input that is still to be done and where its result goes; says what was taken, left and done before.

    `inputs` (one or several) and `out` are as Hydra read them: a name made of digits comes as a number. `made` is
    what results are made with, in the words of `provenance`.

    Raises:
        ValueError: a result is there that was made with something else; or as `files.gather` and `files.outputs`.
    """
    out = str(out)
    is_list = isinstance(inputs, Sequence) and not isinstance(inputs, str)
    paths = [str(path) for path in inputs] if is_list else [str(inputs)]  # type: ignore[attr-defined]
    taken, left = files.gather(paths, suffixes, out=out)
    if left:
        print(f"{len(taken)} files taken, {len(left)} left out: {', '.join(p.name for p in left[:5])}", end="")
        print(" ..." if len(left) > 5 else "")
    roots = [Path(path) for path in paths if Path(path).is_dir()]
    places = files.outputs(taken, out, suffix, roots=roots)
    done = set() if overwrite else {path for path, place in places.items() if place.exists()}
    provenance.refuse_others((places[path] for path in places if path in done), made)
    if done:
        print(f"{len(done)} of {len(places)} are in {out} already: skipped (overwrite=true makes them again)")
    return {path: place for path, place in places.items() if path not in done}


def audio_model(path: str) -> Autoencoder:
    """The autoencoder of sounds in a checkpoint, of whichever kind.

    Raises:
        ValueError: it holds another kind of model.
    """
    model = checkpoint.load(path)
    if not isinstance(model, Autoencoder):
        raise ValueError(f"{path} holds a {type(model).__name__}: expected an autoencoder of sounds")
    return model


def several(values: object) -> list[str]:
    """What was given as nothing, one value or a list."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return [str(value) for value in (values if is_list else [values]) if value is not None]  # type: ignore[attr-defined]


def model_names(paths: Sequence[str], given: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """What models are called: as given, else a run's model as the run, another as its file.

    Raises:
        ValueError: names are too few or too many, not different, or taken.
    """
    places = [Path(path).absolute() for path in paths]
    names = list(given) or [place.parent.name if place.stem == "model" else place.stem for place in places]
    if len(names) != len(paths) or len(set(names)) < len(names) or set(taken) & set(names):
        others = f", none of them {' or '.join(map(repr, taken))}" if taken else ""
        raise ValueError(
            f"{len(paths)} checkpoints would be called {', '.join(names)}: expected as many different names{others}; "
            "give them by names=[...]"
        )
    return names


def spread(found: Sequence[Note], count: int | None) -> list[Note]:
    """So many notes, evenly spread, or all.

    Raises:
        ValueError: none was asked for.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} notes were asked for: expected at least one, or null for all")
    count = len(found) if count is None else min(count, len(found))
    return [found[i] for i in evenly(len(found), count)]


def length_of(seconds: int | float | None) -> int | None:
    """How many samples of each note, None for all.

    Raises:
        ValueError: none.
    """
    if seconds is not None and seconds <= 0:
        raise ValueError(f"seconds is {seconds}: expected more than 0, or null for whole notes")
    return None if seconds is None else max(1, round(seconds * SAMPLE_RATE))


def same_model(path: str, fingerprint: str, device: str) -> Autoencoder:
    """The same model again, in a process or on a machine that shares the work.

    Raises:
        ValueError: there is another one at `path`, or as `audio_model` and `device_named`.
    """
    model = audio_model(path).to(device_named(device))
    if (found := checkpoint.fingerprint(model)) != fingerprint:
        raise ValueError(
            f"{path} on {platform.node()} is model {found}, the work is for {fingerprint}: expected the same file on "
            "every machine"
        )
    return model


def sift(paths: Iterable[Path], check: Callable[[Path], object]) -> tuple[list[Path], dict[Path, str]]:
    """Those that pass `check`, and the reasons of those that do not, before any long work starts."""
    good, faults = [], {}
    for path in paths:
        try:
            check(path)
        except (ValueError, OSError) as error:
            faults[path] = str(error)
        else:
            good.append(path)
    return good, faults


def finish(done: int, what: str, faults: Mapping[Path, str]) -> None:
    """Say how much was done, and fail if anything asked for was not.

    Raises:
        Failed: listing each input that failed with its reason.
    """
    print(f"{done} {what}")
    if faults:
        named = [reason if str(path) in reason else f"{path}: {reason}" for path, reason in faults.items()]
        reasons = "\n".join(f"  {reason}" for reason in named)
        raise Failed(f"{len(faults)} of {done + len(faults)} inputs failed:\n{reasons}")


def device_named(name: str) -> torch.device:
    """The device asked for; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ValueError: it is not there, or not known.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there)
    kind = name.split(":")[0]
    if not there.get(kind):
        raise ValueError(f"device {name!r} is not here: expected auto, {', '.join(k for k in there if there[k])}")
    return torch.device(name)


def device_of_workers(name: str, workers: int | str) -> str:
    """The device that each process of the work will use: on a cluster they see for themselves, `auto` is the CPU.

    Raises:
        ValueError: as `workers.check` and, where the processes are here, `device_named`.
    """
    check(workers)
    if workers == RAY:
        return "cpu" if name == "auto" else name
    return str(device_named(name))


def devices_named(names: object) -> tuple[str, ...]:
    """The devices that share work: `all` is every GPU, None is none named.

    Raises:
        ValueError: one is not there, or is named twice.
    """
    if names is None:
        return ()
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    several = isinstance(names, Sequence) and not isinstance(names, str)
    devices = [str(name) for name in names] if several else gpus if names == "all" else [str(names)]  # type: ignore[attr-defined]
    wrong = [name for name in devices if name not in ("cpu", *gpus)]
    if wrong or not devices or len(set(devices)) < len(devices):
        raise ValueError(f"devices is {names}: expected all, or different ones of {', '.join(gpus) or 'cpu (no GPU)'}")
    return tuple(devices)


def _guarded(main: Callable[[DictConfig], None], name: str, failed: list[str]) -> Callable[[DictConfig], None]:
    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> None:
        try:
            main(cfg)
        except (ValueError, OSError, RuntimeError, Failed) as error:
            if os.environ.get("WAVENET_AE_TRACEBACK"):
                raise
            print(f"{name}: {error}", file=sys.stderr)
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                sys.exit(1)
            failed.append(" ".join(HydraConfig.get().overrides.task))
        except KeyboardInterrupt:
            print(f"{name}: interrupted; what was finished is kept", file=sys.stderr)
            sys.exit(130)

    return guarded


def _quoted(argument: str) -> str:
    """The argument, in Hydra's quotes where it names files by signs that mean something to Hydra: my (1).wav."""
    key, _, value = argument.partition("=")
    listed = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else []
    if value and os.path.exists(value):
        return f"{key}={_quotes(value)}"
    if listed and all(os.path.exists(name) for name in listed):
        return f"{key}=[{','.join(_quotes(name) for name in listed)}]"
    return argument


def _quotes(name: str) -> str:
    escaped = name.replace("'", "\\'")
    return name if re.fullmatch(r"[\w/.+%@? -]*", name, re.ASCII) else f"'{escaped}'"


def _help(docstring: str, root: Path) -> str:
    settings = root.read_text().split("\nhydra:")[0].strip()
    groups = [f"{folder.name}: {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}" for folder in _groups(root)]
    choices = "\nChoices of each group:\n  " + "\n  ".join(groups) + "\n" if groups else ""
    return f"{docstring.strip()}\n\nSettings ({root.name}), each changed by key=value:\n\n{settings}\n{choices}"


def _groups(root: Path) -> list[Path]:
    defaults = OmegaConf.select(OmegaConf.load(root), "defaults", default=[])
    chosen = [key for entry in defaults if not isinstance(entry, str) for key in entry]
    return [root.parent / key for key in chosen if (root.parent / key).is_dir()]
