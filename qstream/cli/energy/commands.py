"""`qstream energy`: what the energy module does without a server."""

from __future__ import annotations

from qstream.cli.energy.cap import cap
from qstream.cli.options import new_app

app = new_app(
    """Plan power limits and clock caps offline, from files.

    \b
    Example:
      qstream energy cap gpus.csv --topology rack.json --budget 40kW --zone UTC
    """
)


@app.callback()
def energy() -> None:
    """Keep `cap` a command by its name, although it is the only one."""


app.command()(cap)
