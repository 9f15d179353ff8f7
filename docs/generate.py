"""Writes what follows from the code: the reference pages, each module's page, tables of modules, services of agents."""

from __future__ import annotations

import sys
from pathlib import Path

from agents.names import files
from agents.registry import find_agent
from docs.blocks import filled, room
from docs.reference import pages
from schemas.drift import command, differing, write_changed

ROOT = Path(__file__).parents[1]
REFERENCE = "docs/pages/reference"


def derived(root: Path = ROOT) -> dict[str, bytes]:
    """The text of each file by its path below `root`, where the files with blocks are."""
    written = {f"{REFERENCE}/{name}": text for name, text in pages().items()}
    rooms = {room(find_agent(name)) for name in files()}
    written |= {f"docs/pages/modules/{name}.md": f'--8<-- "qstream/{name}/README.md"\n' for name in rooms}
    return {path: text.encode() for path, text in (written | filled(root)).items()}


def write(root: Path = ROOT) -> list[Path]:
    """Write the files that differ and return them."""
    return write_changed(root, derived(root))


def check(root: Path = ROOT) -> list[str]:
    """The files that differ from the code, and the pages of the reference that belong to nothing in it."""
    wanted = derived(root)
    present = [f"{REFERENCE}/{path.name}" for path in sorted((root / REFERENCE).glob("*"))]
    return differing(root, wanted) + [f"{path}: no page of the reference" for path in present if path not in wanted]


def main(arguments: list[str]) -> int:
    return command(arguments, module="docs.generate", purpose=__doc__, folder="", write=write, check=check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
