"""Measured figures, each next to its target; run with ``python -m tests.benchmarks`` from the root of the repository."""
