"""A hook of mkdocs: the section "Modules" lists every page of `pages/modules`, so that a new module's page is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTION = "Modules"


def on_config(config: Any) -> Any:
    """Fill the section, the overview first."""
    pages = Path(config.docs_dir)
    found = sorted((pages / "modules").glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
    for entry in config.nav:
        if SECTION in entry:
            entry[SECTION] = [str(page.relative_to(pages)) for page in found]
    return config
