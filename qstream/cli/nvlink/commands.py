"""`qstream nvlink`: what the nvlink module does without a server."""

from __future__ import annotations

from qstream.cli.nvlink.colour import colour
from qstream.cli.nvlink.convert import convert
from qstream.cli.nvlink.place import place
from qstream.cli.nvlink.rails import rails
from qstream.cli.nvlink.routes import routes
from qstream.cli.nvlink.schedule import schedule
from qstream.cli.nvlink.show import show
from qstream.cli.nvlink.simulate import simulate
from qstream.cli.options import new_app

app = new_app(
    """Look at fabrics of GPUs and plan jobs on them, from files. All times are modelled.

    \b
    Example:
      qstream nvlink show topo.xml
      nvidia-smi topo -m | qstream nvlink show -
      qstream nvlink place --tp 8 --pp 4 --dp 16 --ep 32 --topology gb200-nvl72:8 --html report.html
      qstream nvlink rails traffic.npy --out pieces.csv
      qstream nvlink schedule traffic.npy --startup-us 2 --out transfers.csv
      qstream nvlink simulate --tp 8 --pp 4 --dp 16 --ep 32 --topology gb200-nvl72:8
    """
)
for command in (show, convert, place, simulate, rails, schedule, routes, colour):
    app.command()(command)
