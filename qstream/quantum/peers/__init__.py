"""Solvers of other packages, found by entry points and asked only where they are installed."""
