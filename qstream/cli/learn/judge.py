"""`qstream learn evaluate|log`: what another policy would have earned, and logged decisions for other tools."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.names import find_topic
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import print_json, print_table
from qstream.errors import ConfigError
from qstream.learn.evaluate import Estimate, evaluate
from qstream.learn.logged import Logged, from_dsjson, join, policy_of, since, to_dsjson
from qstream.stream.read import frame_of, read_all
from schemas.frame import JSON, SAFETENSORS, FrameError
from schemas.learning import Decisions
from schemas.topics import LEARN_DECISION
from schemas.wording import must_be

ESTIMATES = ("ips", "snips", "direct", "doubly_robust")
Source = Annotated[
    str, typer.Argument(metavar="TOPIC|FILE", help="The decision topic, or a .dsjson, .jsonl or .safetensors file.")
]
Learner = Annotated[str, typer.Option(metavar="NAME", help="Only decisions of this learner, as MODULE or MODULE/LEARNER.")]


def judge(
    source: Source,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="arm:NAME, uniform, or logged.")],
    begin: Annotated[datetime | None, typer.Option("--since", help="Only decisions made then (UTC) or later.")] = None,
    learner: Learner = "",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what another policy would have earned.

    From logged decisions, by IPS, SNIPS, the direct and the doubly robust method, with 95 % intervals. DSJSON has no expected
    rewards: there the direct estimate is 0 and the doubly robust one is IPS.

    \b
    Example:
      qstream learn evaluate decision --policy arm:anneal
      qstream learn evaluate log.dsjson --policy uniform --json
    """
    log = _log(source, learner, bootstrap_servers)
    if begin is not None:
        log = since(log, int(begin.replace(tzinfo=UTC).timestamp()) * 1_000_000_000)
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, policy_of(log, policy))
    if as_json:
        values = {name: _finite(getattr(found, name)) for name in ESTIMATES}
        rest = {"logged": found.logged, "decisions": found.decisions, "effective": found.effective, "warnings": found.warnings}
        print_json({"policy": policy, **values, **rest})
        return
    rows = [(name, *(f"{number:.4g}" for number in getattr(found, name))) for name in ESTIMATES]
    print_table(("estimate", "value", "low", "high"), rows)
    typer.echo(f"logged {found.logged:.4g} a decision, {found.decisions} decisions, worth {found.effective:.4g} for {policy}")
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def log(
    to: Annotated[Literal["dsjson"], typer.Option("--to", help="The format.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    learner: Learner = "",
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Write logged decisions for other tools.

    Decisions of one learner with their rewards, one JSON object a line, as Vowpal Wabbit reads them with --dsjson.

    \b
    Example:
      qstream learn log --to dsjson --out log.dsjson --learner routing
    """
    found = _log(LEARN_DECISION.name, learner, bootstrap_servers)
    lines = list(to_dsjson(found))
    try:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(must_be("--out", f"a file that can be written ({exc.strerror})", str(out))) from exc
    typer.echo(f"wrote {len(lines)} decisions to {out} as {to}")


def _log(source: str, learner: str, bootstrap_servers: str | None) -> Logged:
    path = Path(source)
    if path.suffix == ".dsjson":
        return from_dsjson(_bytes(path).decode(errors="replace").splitlines())
    if path.suffix == ".jsonl":
        return join(_of_one([Decisions.decode(line, JSON) for line in _bytes(path).splitlines() if line.strip()], learner))
    if path.suffix == ".safetensors":
        return join([Decisions.decode(_bytes(path), SAFETENSORS)])
    topic = find_topic(source)
    if topic != LEARN_DECISION:
        raise ConfigError(must_be("TOPIC", LEARN_DECISION.name, topic.name))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [LEARN_DECISION])
    frames = []
    for message in read_all(settings, LEARN_DECISION.name):
        try:
            frames.append(frame_of(message, Decisions))
        except FrameError as exc:
            typer.echo(f"unreadable record passed over: {exc}", err=True)
    return join(_of_one(frames, learner))


def _of_one(frames: list[Decisions], learner: str) -> list[Decisions]:
    """Those of the learner that is meant; `ConfigError` if there are several."""
    module, _, name = learner.partition("/")
    kept = [one for one in frames if module in ("", one.module) and name in ("", one.learner)]
    if len(found := sorted({f"{one.module}/{one.learner}" for one in kept})) > 1:
        raise ConfigError(must_be("--learner", f"one of {', '.join(found)}", learner))
    return kept


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(must_be("FILE", f"a file that can be read ({exc.strerror})", str(path))) from exc


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: number if abs(number) < float("inf") else None for name, number in estimate._asdict().items()}
