"""How much memory a training needs, in MB, by a name that says which."""

import os
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")  # Linux: pages in all, pages in memory


def used(device: torch.device) -> dict[str, float]:
    """The most that tensors on a GPU took since this was asked last; else what the process has in memory now.

    Nothing where the system does not tell.
    """
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {"gpu_peak_mb": most / 1e6}
    if not _STATM.exists():
        return {}
    return {"resident_mb": int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6}
