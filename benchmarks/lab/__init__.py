"""The kernel ladder: one op alone, from its NumPy definition to the best kernel here. See ``python -m benchmarks.lab``."""
