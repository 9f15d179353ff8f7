"""Measure everything and print one table with the machine: ``python -m tests.benchmarks [--only NAME] [--json FILE]``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

import tests.benchmarks

LIBRARIES = (
    "numpy",
    "scipy",
    "numba",
    "torch",
    "pennylane",
    "pydantic",
    "safetensors",
    "confluent-kafka",
    "faust-streaming",
    "redis",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TIMEOUT_S = 3600
_ROOT = Path(__file__).parents[2]
_ROWS = """
import importlib, json, sys
rows = importlib.import_module(sys.argv[1]).rows()
with open(sys.argv[2], "w") as file:
    json.dump([[what, float(value), unit, target] for what, value, unit, target in rows], file)
"""


def main() -> None:
    """Run each ``bench_NAME.py`` in a process of its own with one BLAS thread, so that none warms or breaks another."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measured figures next to their targets.")
    found = (name for _, name, _ in pkgutil.iter_modules(tests.benchmarks.__path__))
    names = [name.removeprefix("bench_") for name in found if name.startswith("bench_")]
    parser.add_argument("--only", choices=names, action="append", help="run only this one; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE as well")
    given = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(describe(machine()), soft_wrap=True)
    results = []
    for name in given.only or names:
        results.append(result := run(name))
        console.print(table(result))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


def run(name: str) -> dict[str, Any]:
    """The rows of one module, or why there are none."""
    start = time.monotonic()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="qstream-bench-") as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-c", _ROWS, f"tests.benchmarks.bench_{name}", str(path)]
        try:
            done = subprocess.run(
                command, stderr=subprocess.PIPE, text=True, cwd=_ROOT, timeout=TIMEOUT_S, env=os.environ | ONE_THREAD
            )
            failed = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        except subprocess.TimeoutExpired:
            failed = [f"no answer in {TIMEOUT_S} s"]
        found = [] if failed else json.loads(path.read_text())
    rows = [
        {"what": what, "value": value, "unit": unit, "target": target, "met": is_met(value, target)}
        for what, value, unit, target in found
    ]
    return {
        "name": name,
        "seconds": time.monotonic() - start,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "failed": "".join(failed),
        "rows": rows,
    }


def is_met(value: float, target: str) -> bool | None:
    """Whether a value keeps a target such as ``<= 5``; None if it promises nothing that a number alone can keep."""
    rule = re.fullmatch(r"(<=|>=|<|>|)\s*(-?[0-9.,]+)", target)
    if rule is None:
        return None
    limit = float(rule[2].replace(",", ""))
    return {"<=": value <= limit, ">=": value >= limit, "<": value < limit, ">": value > limit, "": value == limit}[rule[1]]


def table(result: dict[str, Any]) -> Table:
    """One module's figures."""
    title = f"{result['name']}: {result['seconds']:.0f} s, load {result['load_before']:.1f} to {result['load_after']:.1f}"
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading, justify in (("what", "left"), ("value", "right"), ("unit", "left"), ("target", "left"), ("met", "left")):
        grid.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in result["rows"]:
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        target = "" if row["target"] == "-" else row["target"]
        grid.add_row(row["what"], f"{row['value']:,.3f}", row["unit"], target, met)
    if result["failed"]:
        grid.add_row(f"FAILED: {result['failed']}")
    return grid


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions | {"librdkafka": confluent_kafka.libversion()[0]},
        "load": os.getloadavg(),
    }


def describe(found: dict[str, Any]) -> str:
    """The machine in two lines."""
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    load = " ".join(f"{value:.2f}" for value in found["load"])
    return f"{found['cpu']}, {found['cores']} cores, {found['system']}, load {load}\nPython {found['python']}, {libraries}\n"


if __name__ == "__main__":
    main()
