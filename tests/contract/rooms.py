"""Import contracts that know every module by its folder: a package of qstream with a processor.py. Read by lint-imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

MODULES = "<modules>"  # stands in pyproject.toml for all of them
ROOT = Path(__file__).parents[2]


def modules(root: Path = ROOT) -> list[str]:
    """Names of the modules."""
    return sorted(path.parent.name for path in (root / "qstream").glob("*/processor.py"))


class Layers(LayersContract):
    """`LayersContract` whose layer `<modules>` is all modules, none of which may import another."""

    type_name = "rooms"

    def __init__(self, name: str, session_options: dict[str, Any], contract_options: dict[str, Any]) -> None:
        layers = [layer.replace(MODULES, " | ".join(modules())) for layer in contract_options["layers"]]
        super().__init__(name, session_options, contract_options | {"layers": layers})


class Forbidden(ForbiddenContract):
    """`ForbiddenContract` in which a source ``qstream.<modules>`` is every module."""

    type_name = "rooms-forbidden"

    def __init__(self, name: str, session_options: dict[str, Any], contract_options: dict[str, Any]) -> None:
        given = contract_options["source_modules"]
        sources = [source.replace(MODULES, module) for source in given for module in (modules() if MODULES in source else [""])]
        super().__init__(name, session_options, contract_options | {"source_modules": sources})
