"""What importing costs: the packages alone, and the names that load what they need."""

from __future__ import annotations

import statistics
import subprocess
import sys

Row = tuple[str, float, str, str]

REPEATS = 9
_PROGRAM = "import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"


def rows() -> list[Row]:
    """Medians over new processes; files are in the system's cache."""
    return [
        ("import qstream", _ms("import qstream"), "ms", "<= 60"),
        ("import schemas", _ms("import schemas"), "ms", "<= 60"),
        ("  numpy and pydantic, which every frame needs", _ms("import numpy, pydantic; pydantic.BaseModel"), "ms", "-"),
        ("  from qstream import Publisher", _ms("from qstream import Publisher"), "ms", "-"),
        ("  from schemas import TokenBatch", _ms("from schemas import TokenBatch"), "ms", "-"),
        ("  from qstream.routing import place", _ms("from qstream.routing import place"), "ms", "-"),
    ]


def _ms(statement: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(REPEATS)]
    return 1e3 * statistics.median(seconds)
