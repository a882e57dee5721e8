"""The networks, one file per published architecture, and how to build one from its description."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def build(description: Mapping[str, Any]) -> nn.Module:
    """A model from plain data: `_target_` names a class in this package, the other keys are its arguments.

    It is the `model` node of conf/ and what a checkpoint stores, so loading one needs neither conf/ nor
    pickle, and can make nothing but our own networks.

    Raises:
        ValueError: the class is not one of this package's, or an argument is missing or unknown.
    """
    cls = named(description)
    target = description["_target_"]
    arguments = {
        key: build(value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in description.items()
        if key != "_target_"
    }
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{target} cannot be built from {sorted(arguments)}: {error}") from None
    return cls(**arguments)


def named(description: Mapping[str, Any]) -> type[nn.Module]:
    """The class that a description names.

    Raises:
        ValueError: it is not one of this package's.
    """
    target = str(description.get("_target_", "nothing"))
    room, _, name = target.rpartition(".")
    if not room.startswith(f"{__name__}."):
        raise ValueError(f"{target} is not a model: expected a class inside {__name__}")
    try:
        cls = getattr(importlib.import_module(room), name)
    except (ModuleNotFoundError, AttributeError):
        raise ValueError(f"{target} does not exist: was the model made by a newer version?") from None
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise ValueError(f"{target} is not a network: expected a subclass of torch.nn.Module")
    return cls
