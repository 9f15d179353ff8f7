"""Make the bundled arrivals: ``python -m qstream.demo.energy.arrivals.make azure_llm_2023_conv.csv.gz``."""

from __future__ import annotations

import csv
import gzip
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstream.demo.energy.arrivals import FILE


def by_second(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Requests, and the tokens generated for them, that came in each second from the first request on."""
    with gzip.open(file, "rt") as lines:
        rows = [(_seconds(row["TIMESTAMP"]), float(row["GeneratedTokens"])) for row in csv.DictReader(lines)]
    times, tokens = np.array(rows).T
    second = (times - times.min()).astype(int)
    return np.bincount(second).astype(np.uint8), np.bincount(second, tokens).astype(np.uint16)


def _seconds(timestamp: str) -> float:
    """UTC with seven digits after the point; Python reads six."""
    return datetime.fromisoformat(timestamp[:26]).replace(tzinfo=UTC).timestamp()


if __name__ == "__main__":
    requests, generated_tokens = by_second(Path(sys.argv[1]))
    np.savez_compressed(FILE, requests=requests, generated_tokens=generated_tokens)
