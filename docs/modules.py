"""A hook of mkdocs: sections of the navigation that list every page of a folder, so that a new module's pages are in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SECTIONS: Final = {"Modules": "modules", "Runbooks": "runbooks"}


def on_config(config: Any) -> Any:
    """Fill the sections, the overview first."""
    pages = Path(config.docs_dir)
    for entry in config.nav:
        for section in SECTIONS.keys() & entry.keys():
            found = sorted((pages / SECTIONS[section]).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
            entry[section] = [str(page.relative_to(pages)) for page in found]
    return config
