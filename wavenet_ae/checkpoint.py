"""Native checkpoints: a model's weights, what it is and where it comes from, in one .safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wavenet_ae import files, models

_KEY = "wavenet_ae"  # our JSON in the file's metadata
_HASH = "fingerprint"
_REMEDY = "copy or download it again"


class Meta(NamedTuple):
    """What a checkpoint says about itself.

    `model` is the resolved `model` node of conf/, plain data that `models.build` turns into the network.
    `weights` is "raw" or "ema" (the moving average of the weights during training).
    """

    model: dict[str, Any]
    sample_rate: int
    hop: int
    step: int
    weights: str
    corpus: str
    licence: str


def save(path: str | Path, model: nn.Module, meta: Meta) -> None:
    """Write the model's weights, in its own precision, and `meta`: the whole file or nothing.

    Raises:
        ValueError: `meta.model` is not plain data or describes another model, so `load` would fail.
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        text = json.dumps(meta._asdict())
    except TypeError as error:
        raise ValueError(f"the description of the model for {path} is not plain data: {error}") from None
    _meta(Path(path), text)
    check_fit(f"the model for {path} does not fit its description", _build(meta.model), tensors)
    with files.whole(path) as partial:
        save_file(tensors, partial, metadata={_KEY: text, _HASH: fingerprint(model)})


def load(path: str | Path) -> nn.Module:
    """The model in float32, in evaluation mode, its weights mapped from the file rather than read into memory.

    Neither conf/ nor pickle is involved, and only this package's networks can be made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of ours, is damaged, or its weights do not fit its description.
    """
    meta = describe(path)
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            expected = (file.metadata() or {}).get(_HASH)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): {_REMEDY}") from None
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    try:
        model = _build(meta.model)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:  # arguments of any kind
        raise ValueError(f"{path} describes a model that cannot be built: {error}") from None
    check_fit(f"{path} does not fit its description", model, tensors)
    model.load_state_dict(tensors, assign=True)
    if any(tensor.is_meta for tensor in model.buffers()):  # one that is computed, not stored: build it for real
        model = models.build(meta.model)
        model.load_state_dict(tensors)
    # A file that another tool made smaller keeps our metadata but cannot keep the hash of its weights.
    is_as_saved = all(tensor is stored[name] for name, tensor in tensors.items())
    if is_as_saved and expected not in (None, fingerprint(model)):
        raise ValueError(f"{path} is damaged (its weights are not those that were saved): {_REMEDY}")
    return model.eval()


def describe(path: str | Path) -> Meta:
    """What the checkpoint says about itself; reads the head of the file only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {kind}: expected a checkpoint (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        with open(path, "rb") as head:
            looks_right = head.read(9)[8:] == b"{"
        if looks_right:
            raise ValueError(f"{path} is damaged or cut short ({error}): {_REMEDY}") from None
        raise ValueError(
            f"{path} is not a safetensors file: expected a checkpoint of wavenet_ae "
            "(Magenta's become one by: python -m wavenet_ae.convert)"
        ) from None
    if _KEY not in metadata:
        raise ValueError(f"{path} does not say which model it holds: expected a checkpoint written by wavenet_ae")
    return _meta(path, metadata[_KEY])


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight's name, shape or float32 value, and with nothing else."""
    state = model.state_dict()
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(state):
        tensor = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).numpy().data)
    return digest.hexdigest()


def check_fit(fault: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not the model's, by name and shape.

    Raises:
        ValueError: they are not; `fault` is how its message begins.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is unknown" for name in given if name not in wanted]
    faults += [
        f"{name} is {list(given[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if given.get(name, shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"{fault}: {'; '.join(faults[:8])}{more}")


def _meta(path: Path, text: str) -> Meta:
    try:
        found = json.loads(text)
        values = {name: found[name] for name in Meta._fields}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} describes itself in a way this version cannot read: {error!r}") from None
    for name, value in values.items():
        expected = {"model": dict, "weights": str, "corpus": str, "licence": str}.get(name, int)
        if not isinstance(value, expected):
            raise ValueError(f"{path} gives {name} as {value!r}: expected {expected.__name__}")
    return Meta(**values)


def _build(description: Mapping[str, Any]) -> nn.Module:
    """The model without memory for its weights: shapes to compare with, and a place to put tensors."""
    with torch.device("meta"):
        return models.build(description)
