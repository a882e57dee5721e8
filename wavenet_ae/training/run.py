"""A run's folder: its settings, its measurements, its states to resume from, its model.

config.yaml             the settings, resolved
metrics.jsonl           one line a measurement: step, seconds, values
events.out.tfevents.*   the same for TensorBoard, with sounds and pictures
states/                 all that resuming needs, the last two
model.safetensors       the averaged weights, a native checkpoint
sounds/                 validation notes, original and reconstructed
projector/              where validation notes lie among each other, with projector_config.pbtxt for TensorBoard

A state is one file, whatever the number of processes, rather than a folder of each one's shares (as
torch.distributed.checkpoint writes): it is there whole or not at all, one digest proves it, and any number of
processes goes on from it. The first process needs memory for all of it, 1 GB for the published model.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavenet_ae import files

KEPT = 2
_RNG = "rng.torch"


class Run:
    """The folder of one training run, made new or opened again."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.started = time.monotonic()

    def create(self, config: str, *, again: bool = False) -> None:
        """Make the folder and write the settings into it; `again` if it was begun before and nothing came of it.

        Raises:
            ValueError: there is something in it already.
            RuntimeError: another process is training there.
        """
        if again:
            with self.locked():  # who trains there keeps what is measured
                pass
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        else:
            self._occupy()
        with files.whole(self.folder / "config.yaml") as partial:
            partial.write_text(config)

    def _occupy(self) -> None:
        """Be the only one who begins a run here, of all who try at the same moment."""
        is_new = not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir()))
        if is_new:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (self.folder / "config.yaml").touch(exist_ok=False)
                return
        raise ValueError(
            f"{self.folder} exists already: a new run needs a new folder (run=...); "
            f"to go on with the old one say resume={self.folder}"
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from training in this folder meanwhile.

        Raises:
            RuntimeError: one is doing so now.
        """
        with open(self.folder / "config.yaml", "r+") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RuntimeError(
                    f"another process is training in {self.folder}: wait for it or stop it, or begin a run elsewhere"
                ) from None
            yield

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one line of measurements to metrics.jsonl.

        Raises:
            OSError: it cannot be written.
        """
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 3), **values}
        path = self.folder / "metrics.jsonl"
        try:
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}; free space and resume") from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a crash may have left a piece of a last one."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def seconds(self) -> float:
        """How long it had been trained when something was last measured."""
        return max((line["seconds"] for line in self.metrics()), default=0.0)

    def best(self, unit: str) -> tuple[int, float] | None:
        """After which step held-out notes cost least, the first of several, and how much; None if never measured."""
        found = ((line["step"], line[f"valid_{unit}"]) for line in self.metrics() if f"valid_{unit}" in line)
        return min(found, key=lambda measured: measured[1], default=None)

    def summary(self, unit: str, per: str, digits: str, *, best: bool = False) -> str:
        """What was measured, in words that follow a sentence; empty if nothing was. `best` is what is kept."""
        metrics, text = self.metrics(), ""
        learnt = [line[unit] for line in metrics if unit in line][-50:]
        if learnt:
            text += f"; the last {len(learnt)} measured cost {sum(learnt) / len(learnt):{digits}} {per}"
        held_out = [line for line in metrics if f"valid_{unit}" in line]
        if held_out:
            before, now = (f"{line[f'valid_{unit}']:{digits}}" for line in (held_out[0], held_out[-1]))
            bits = f" ({held_out[-1]['valid_bits']:.3f} bits)" if unit == "nats" else ""
            text += f"; held-out notes {now} {unit}{bits}, {before} at first"
            if best and (least := self.best(unit)):
                text += f"; kept is the model of step {least[0]:,}, {least[1]:{digits}}"
        return text

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Write the state after `step` steps, then delete all but the last two."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        tensors[_RNG] = torch.get_rng_state()
        with files.whole(self._state_path(step)) as partial:
            save_file(tensors, partial, metadata={"digest": _digest(tensors)})
        for old in self.states()[:-KEPT]:
            self._state_path(old).unlink()

    def states(self) -> list[int]:
        """The steps there are states of, in order."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("states/state-*.safetensors"))

    def restore(self, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
        """The state after `step` steps, the last by default, once read whole and found undamaged.

        What was measured after it is dropped from metrics.jsonl, and newer states are set aside.

        Raises:
            ValueError: there is none, or it is damaged; the message offers the one before.
        """
        states = self.states()
        if not states or (step is not None and step not in states):
            raise ValueError(
                f"{self.folder} has no state to resume from{'' if step is None else f' of step {step}'}: found "
                f"{', '.join(map(str, states)) or 'none'}; {'choose one of these' if states else 'start a new run'}"
            )
        step = states[-1] if step is None else step
        state = self.read(step)
        for leftover in self.folder.rglob(".*.partial.*"):  # of a run that was killed while it wrote
            leftover.unlink()
        for newer in states[states.index(step) + 1 :]:
            self._state_path(newer).rename(self._state_path(newer).with_suffix(".set-aside"))
        kept = [line for line in self.metrics() if line["step"] <= step]
        with files.whole(self.folder / "metrics.jsonl") as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.started -= kept[-1]["seconds"] if kept else 0.0
        return step, state

    def read(self, step: int) -> dict[str, Tensor]:
        """What `restore` gives, of a folder that another process has brought in order.

        Raises:
            ValueError: it is damaged.
        """
        state = self._read_state(step)
        torch.set_rng_state(state.pop(_RNG))
        return state

    def _read_state(self, step: int) -> dict[str, Tensor]:
        path = self._state_path(step)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                whole = (file.metadata() or {}).get("digest") == _digest(tensors)
        except SafetensorError:
            whole = False
        if not whole:
            before = [other for other in self.states() if other < step]
            offer = f"the one before is of step {before[-1]}: add resume_step={before[-1]}" if before else "start anew"
            raise ValueError(f"{path} is damaged: its contents are not what was written; {offer}")
        return tensors

    def _state_path(self, step: int) -> Path:
        return self.folder / "states" / f"state-{step:08d}.safetensors"


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
