"""A stand-in for CUDA graphs: every operation is written down with the tensors it touches, and can be done again.

As with a graph, Python is not asked again, tensors are known by their place, and asking for a number is an error.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class _Writing(TorchDispatchMode):
    """Every operation passes through here, those of the way back too."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = operation(*args, **(kwargs or {}))
        places = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, made))
        self.done.append((operation, *places))
        return made


class Tape:
    """Computes as it comes, and writes down."""

    def __init__(self):
        self.warmed, self.recorded, self.replayed, self.operations = 0, 0, 0, []

    def warm(self, compute):
        self.warmed += 1
        return compute()

    def record(self, compute):
        self.recorded += 1
        assert not torch.is_inference_mode_enabled(), "operations would come whole, and a copy look like a view"
        with _Writing() as writing:
            measured = compute()
        self.operations = writing.done
        return self._replay, measured

    def _replay(self):
        self.replayed += 1
        with torch.no_grad():
            for operation, args, kwargs, made in self.operations:
                arguments, results = operation._schema.arguments, operation._schema.returns
                if any(each.is_write for each in arguments):
                    operation(*args, **kwargs)
                elif not any(each.alias_info for each in results):  # else a view: it sees what its base holds
                    again = operation(*args, **kwargs)
                    for place, value in zip(tree_leaves(made), tree_leaves(again), strict=True):
                        if isinstance(place, torch.Tensor):
                            place.copy_(value)
