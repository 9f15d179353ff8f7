"""`qstream learn evaluate|log`: what another policy would have earned, and logged decisions for other tools."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from qstream.cli.learn.logs import Learner, Source, read_log, write_log
from qstream.cli.learn.models import read_model
from qstream.cli.options import AsJson, BootstrapServers
from qstream.cli.output import counted, print_json, print_table
from qstream.errors import ConfigError, LearnError
from qstream.learn.evaluate import Estimate, evaluate
from qstream.learn.logged import SECOND_NS, Logged, policy_of, policy_of_model, since, warnings
from schemas.topics import LEARN_DECISION

ESTIMATES = ("ips", "snips", "direct", "doubly_robust")


def judge(
    source: Source,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="arm:NAME, uniform, logged, or model:NAME@VERSION.")],
    begin: Annotated[datetime | None, typer.Option("--since", help="Only decisions made then (UTC) or later.")] = None,
    learner: Learner = "",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what another policy would have earned.

    From logged decisions, by IPS, SNIPS, the direct and the doubly robust method, with 95 % intervals. Damaged rows and decisions
    without a reward are left out and counted. Warnings say where the log cannot answer: DSJSON, for one, has no expected rewards.
    A model is one of the model topic, or a file: model:policy.safetensors.

    \b
    Example:
      qstream learn evaluate decision --policy arm:rises --learner meter
      qstream learn evaluate log.csv --policy model:meter/guess@1700000000000 --json
    """
    log = read_log(source, learner, bootstrap_servers)
    if begin is not None:
        log = since(log, int(begin.replace(tzinfo=UTC).timestamp()) * SECOND_NS)
    chances, seen = _chances(log, policy, bootstrap_servers)
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, chances)
    doubts = (*warnings(log), *seen, *found.warnings)
    if as_json:
        values = {name: _finite(getattr(found, name)) for name in ESTIMATES}
        rest = {"logged": found.logged, "decisions": found.decisions, "effective": found.effective, "warnings": doubts}
        rest |= {"damaged": log.damaged, "unrewarded": log.unrewarded}
        print_json({"policy": policy, **values, **rest})
        return
    rows = [(name, *(f"{number:.4g}" for number in getattr(found, name))) for name in ESTIMATES]
    print_table(("estimate", "value", "low", "high"), rows)
    typer.echo(f"logged {found.logged:.4g} a decision, {found.decisions} decisions, worth {found.effective:.4g} for {policy}")
    for warning in doubts:
        typer.echo(f"warning: {warning}", err=True)


def log(
    to: Annotated[Literal["dsjson", "csv", "parquet"], typer.Option("--to", help="The format.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    learner: Learner = "",
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Write logged decisions for other tools.

    Decisions of one learner with their rewards: for dsjson one JSON object a line, as Vowpal Wabbit reads them with --dsjson; for
    csv and parquet (which needs pyarrow) one row a decision, with columns arm, reward, propensity_<arm>, expected_<arm>,
    context_<feature>, decision_id and ts_ns.

    \b
    Example:
      qstream learn log --to dsjson --out log.dsjson --learner meter
    """
    found = read_log(LEARN_DECISION.name, learner, bootstrap_servers)
    write_log(found, to, out)
    typer.echo(f"wrote {counted(len(found.id), 'decision')} to {out} as {to}")
    for warning in warnings(found):
        typer.echo(f"warning: {warning}", err=True)


def _chances(log: Logged, policy: str, bootstrap_servers: str | None) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """What the policy would do [n, arms], and why that may be too good to be true."""
    kind, _, name = policy.partition(":")
    model = read_model(name, bootstrap_servers) if kind == "model" else None
    try:
        chances = policy_of(log, policy) if model is None else policy_of_model(log, model)
    except LearnError as exc:
        raise ConfigError(f"--policy {policy}: {exc}") from exc
    if model is None:
        return chances, ()
    seen = int((log.ts_ns <= model.trained_ns).sum())
    warning = f"{seen} of {len(log.id)} decisions were made before the model was trained, which may have learnt from them"
    return chances, (warning,) if seen else ()


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: number if abs(number) < float("inf") else None for name, number in estimate._asdict().items()}
