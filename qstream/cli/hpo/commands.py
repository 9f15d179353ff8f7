"""`qstream hpo`: studies, their workers and what became of their trials."""

from __future__ import annotations

from qstream.cli.hpo.change import change
from qstream.cli.hpo.create import create
from qstream.cli.hpo.history import history
from qstream.cli.hpo.mlflow import mlflow
from qstream.cli.hpo.replay import replay
from qstream.cli.hpo.restore import restore
from qstream.cli.hpo.show import show
from qstream.cli.hpo.suggest import suggest
from qstream.cli.hpo.worker import worker
from qstream.cli.options import new_app

app = new_app(
    """Search hyperparameters: by workers of an agent, by workers of this machine alone, or by hand.

    \b
    Example:
      qstream hpo worker space.yaml --local --trials 40 --command 'python train.py --lr {lr}'
      qstream hpo create study.yaml
      qstream hpo worker lm-small --command 'python train.py --lr {lr}'
      qstream hpo show lm-small
    """
)
for command in (create, change, worker, show, history, suggest, replay, restore, mlflow):
    app.command()(command)
