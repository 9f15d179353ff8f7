"""`qstream learn`: see what a module's learners know, and steer them."""

from __future__ import annotations

from qstream.cli.learn.carry import export, import_
from qstream.cli.learn.show import show
from qstream.cli.learn.steer import freeze, reset, thaw
from qstream.cli.options import new_app

app = new_app(
    """See what a module's learners know, and steer them.

    \b
    Example:
      qstream learn show routing demo-moe
      qstream learn freeze routing demo-moe
    """
)
app.command()(show)
app.command()(reset)
app.command()(freeze)
app.command()(thaw)
app.command()(export)
app.command("import")(import_)
