"""Drift: files that follow from the code are written, or compared with what they should be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def read(path: Path) -> bytes | None:
    """What a file holds, None where there is none."""
    return path.read_bytes() if path.exists() else None


def write_changed(home: Path, wanted: Mapping[str, bytes]) -> list[Path]:
    """Write the files that differ, by path below `home`, and return them."""
    changed = [path for path, content in wanted.items() if read(home / path) != content]
    for path in changed:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(wanted[path])
    return [home / path for path in changed]


def differing(home: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """A line for each file below `home` that is not as wanted."""
    return [f"{path}: differs from the code" for path, content in wanted.items() if read(home / path) != content]


def command(
    arguments: Sequence[str],
    *,
    module: str,
    purpose: str | None,
    folder: str,
    write: Callable[[], Iterable[Path]],
    check: Callable[[], Iterable[str]],
) -> int:
    """``python -m <module> [--check]``: the exit status, 1 if `check` names a fault of a file below `folder`."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=purpose)
    parser.add_argument("--check", action="store_true", help="write nothing, name each file that differs, exit 1 if any does")
    if not parser.parse_args(arguments).check:
        sys.stdout.writelines(f"wrote {path}\n" for path in write())
        return 0
    faults = [f"{folder}{fault}\n" for fault in check()]
    sys.stdout.writelines(faults)
    return 1 if faults else 0
