"""Benchmarks: limits, ours and peers in one run. ``python -m benchmarks`` from the root of the repository; see ``make bench``."""
