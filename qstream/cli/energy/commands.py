"""`qstream energy`: plans from files, and what runs on GPU nodes."""

from __future__ import annotations

from qstream.cli.energy.cap import cap
from qstream.cli.energy.node import actuate, telemetry
from qstream.cli.options import new_app

app = new_app(
    """Plan power limits and clock caps from files, and run what belongs on a GPU node.

    \b
    Example:
      qstream energy cap gpus.csv --topology rack.json --budget 40kW --zone UTC
      qstream energy telemetry --domain row-1 --source fake
    """
)
for command in (cap, telemetry, actuate):
    app.command()(command)
