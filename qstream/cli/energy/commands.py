"""`qstream energy`: plans from files, and what runs on GPU nodes."""

from __future__ import annotations

from qstream.cli.energy.cap import cap
from qstream.cli.energy.node import actuate, telemetry
from qstream.cli.energy.schedule import schedule
from qstream.cli.energy.topology import topology
from qstream.cli.options import new_app

app = new_app(
    """Plan power limits, clock caps and schedules of tasks from files, and run what belongs on a GPU node.

    \b
    Example:
      qstream energy cap gpus.csv --topology rack.json --budget 40kW --zone UTC
      qstream energy schedule tasks.json --topology rack.json
      qstream energy telemetry --domain row-1 --source fake
    """
)
for command in (cap, topology, schedule, telemetry, actuate):
    app.command()(command)
