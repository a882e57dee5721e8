"""How fast it is, beside how fast the machine allows: each module is run by `python -m benchmarks.<name>`."""

import wavenet_ae  # noqa: F401 -- before torch, as its commands do: it says how long torch's threads wait
