"""Writes what follows from the code: the reference, each module's page, tables of modules, services of agents, dashboards."""

from __future__ import annotations

import sys
from pathlib import Path

from agents.names import files
from agents.registry import find_agent
from docs.blocks import filled, room
from docs.dashboards import DASHBOARDS, dashboards
from docs.reference import pages
from schemas.drift import command, differing, write_changed

ROOT = Path(__file__).parents[1]
REFERENCE = "docs/pages/reference"


def derived(root: Path = ROOT) -> dict[str, bytes]:
    """The text of each file by its path below `root`, where the files with blocks are."""
    written = {f"{REFERENCE}/{name}": text for name, text in pages().items()}
    rooms = {room(find_agent(name)) for name in files()}
    written |= {f"docs/pages/modules/{name}.md": f'--8<-- "qstream/{name}/README.md"\n' for name in rooms}
    return {path: text.encode() for path, text in (written | filled(root) | dashboards(root)).items()}


def write(root: Path = ROOT) -> list[Path]:
    """Write the files that differ and return them."""
    return write_changed(root, derived(root))


def check(root: Path = ROOT) -> list[str]:
    """The files that differ from the code, and those next to them that belong to nothing in it."""
    wanted = derived(root)
    faults = differing(root, wanted)
    for folder, what in ((REFERENCE, "page of the reference"), (DASHBOARDS, "dashboard with panels")):
        present = [f"{folder}/{path.name}" for path in sorted((root / folder).glob("*"))]
        faults += [f"{path}: no {what}" for path in present if path not in wanted]
    return faults


def main(arguments: list[str]) -> int:
    return command(arguments, module="docs.generate", purpose=__doc__, folder="", write=write, check=check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
