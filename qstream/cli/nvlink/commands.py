"""`qstream nvlink`: what the nvlink module does without a server."""

from __future__ import annotations

from qstream.cli.nvlink.show import show
from qstream.cli.options import new_app

app = new_app(
    """Look at fabrics of GPUs and plan jobs on them, from files. All times are modelled.

    \b
    Example:
      qstream nvlink show topo.xml
      nvidia-smi topo -m | qstream nvlink show -
    """
)
app.callback()(lambda: None)  # a group even while it has one command
for command in (show,):
    app.command()(command)
