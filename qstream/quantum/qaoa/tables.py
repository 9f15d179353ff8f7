"""Tables of generated angles: write one, or compare it with what is stored."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Table = TypeVar("Table")


def write_or_check(
    program: str, description: str | None, path: Path, generate: Callable[[], Table], differs: Callable[[Table, Table], list[str]]
) -> None:
    """The command of a generator: write its table to `path`, or with ``--check`` exit 1 where the stored one differs."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--check", action="store_true", help="compare with the stored table; exit 1 if they differ")
    check = parser.parse_args().check
    table = generate()
    if check:
        wrong = differs(table, json.loads(path.read_text()))
        sys.stderr.write("".join(f"{line}\n" for line in wrong))
        sys.exit(bool(wrong))
    path.write_text(json.dumps(table, indent=1) + "\n")
