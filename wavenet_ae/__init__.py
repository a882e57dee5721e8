"""NSynth's WaveNet autoencoder: notes to 16 numbers every 32 ms, and back to sound."""

import os

__version__ = "0.1.0"

# A thread of torch's that has nothing to do holds its core for 3 ms, unless GNU's OpenMP is told otherwise before torch
# is imported. Training on a CPU has threads beside it (training/stretches) that wait for that core: 145 ms a step, not
# 115. Where torch is there already, as in a notebook, this comes too late and costs that time, nothing else.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
