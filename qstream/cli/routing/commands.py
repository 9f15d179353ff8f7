"""`qstream routing`: what the routing module does without a server."""

from __future__ import annotations

from qstream.cli.options import new_app
from qstream.cli.routing.place import place
from qstream.cli.routing.route import route

app = new_app(
    """Plan placements and route tokens offline, from files.

    \b
    Example:
      qstream routing place recorder.pt --gpus 32 --slots 288 --nodes 4 --export sglang
      qstream routing route tokens.json --model-graph topology.json
    """
)
app.command()(place)
app.command()(route)
