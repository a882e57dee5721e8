"""How fast it is, beside how fast the machine allows: each module is run by `python -m benchmarks.<name>`."""
