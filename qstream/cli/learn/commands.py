"""`qstream learn`: see what a module's learners know, steer them, and train models."""

from __future__ import annotations

from qstream.cli.learn.carry import export, import_
from qstream.cli.learn.judge import judge, log
from qstream.cli.learn.models import models, publish, retire
from qstream.cli.learn.show import show
from qstream.cli.learn.steer import freeze, reset, thaw
from qstream.cli.learn.train import train
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
for command in (train, models, publish, retire):
    app.command()(command)
app.command("evaluate")(judge)
app.command()(log)
