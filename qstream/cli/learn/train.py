"""`qstream learn train`: a trainer of a module on recorded frames, its model next to its twin, published if it is better."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.registry import Agent, find_agent, load, topics_by_name
from qstream.cli.cluster import reach, require_topics
from qstream.cli.learn.models import require_gain, send
from qstream.cli.options import AgentArgument, AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, print_table
from qstream.cli.sources import BatchHeader, read_items
from qstream.config import Settings
from qstream.errors import ConfigError, LearnError
from qstream.learn.model import Model, to_bytes
from qstream.learn.report import Report
from qstream.stream.read import frame_of, read_all
from schemas.frame import Frame, FrameError
from schemas.wording import must_be

Offsets = Mapping[tuple[str, int], int]


def train(
    module: AgentArgument,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="One of the module's trainers.")],
    sources: Annotated[list[str], typer.Option("--from", metavar="TOPIC|FILE", help="Recorded frames; may be repeated.")],
    until: Annotated[
        list[str] | None,
        typer.Option("--until", metavar="TOPIC:PARTITION:OFFSET", help="Read a partition up to this offset; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the model to a safetensors file.")] = None,
    do_publish: Annotated[bool, typer.Option("--publish", help="Publish it if it beats its twin.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Publish it in any case.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 0,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="Seconds after which training ends with what it has.")] = 60.0,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on recorded frames, and compare it.

    Its twin, which does without it, is compared on the same newest quarter.

    \b
    Example:
      qstream learn train meter lstm --from readings.jsonl --out forecast.safetensors
      qstream learn train meter policy --from qstream.learn.decision.v1 --publish
    """
    agent = find_agent(module)
    if kind not in agent.trainers:
        raise ConfigError(must_be("KIND", f"a trainer of {module} ({', '.join(agent.trainers) or 'it has none'})", kind))
    if out is not None and not out.parent.is_dir():  # said now, not when it is trained
        raise ConfigError(must_be("--out", "a file in a folder that exists", str(out)))
    settings, now_ns = client_settings(bootstrap_servers), time.time_ns()
    frames, trained_on = _read(settings, sources, _offsets(until or ()), agent)
    try:
        made, compared = load(agent.trainers[kind])(frames, seed=seed, deadline_s=deadline_s)
    except LearnError as exc:
        raise ConfigError(f"{module} cannot train {kind} on {counted(len(frames), 'frame')}: {exc}") from exc
    model = replace(made, module=module, version=now_ns // 1_000_000, trained_ns=now_ns, trained_on=trained_on)
    model = replace(model, metrics=compared.metrics)
    if out is not None:
        _write(model, out)
    _show(model, compared, as_json)
    if do_publish:
        require_gain(model, force)
        send(settings, model)


def _read(settings: Settings, sources: Sequence[str], until: Offsets, agent: Agent) -> tuple[list[Frame], tuple[str, ...]]:
    """The frames of all sources, in their order, and what they were: offsets of topics, digests of files."""
    frames: list[Frame] = []
    read: list[str] = []
    topics = topics_by_name() | {topic.name: topic for topic in agent.topics}
    for source in sources:
        if source not in topics:
            path = Path(source)
            if not path.is_file():
                raise ConfigError(must_be("--from", "a topic by its whole name, or a file that exists", source))
            frames += _of_file(path, agent)
            read.append(f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
            continue
        require_topics(reach(settings), [topics[source]])
        last: dict[int, int] = {}
        for message in read_all(settings, source):
            partition, offset = message.partition(), message.offset()
            if message.value() is None or offset >= until.get((source, partition), offset + 1):
                continue
            try:
                frames.append(frame_of(message, topics[source].frame))
            except FrameError:
                continue
            last[partition] = offset
        read += [f"{source}:{partition}:{offset + 1}" for partition, offset in sorted(last.items())]
    return frames, tuple(read)


def _of_file(path: Path, agent: Agent) -> list[Frame]:
    """The frames of a file, of a form that all modules know, or that the agent brings."""
    if path.suffix not in agent.logs:
        return [item.frame for item in read_items(path, None, BatchHeader("default", None, path.stem, 0), agent.topics)]
    try:
        read: list[Frame] = load(agent.logs[path.suffix])(path)
    except LearnError as exc:
        raise ConfigError(f"{agent.name} cannot read {path}: {exc}") from exc
    return read


def _write(model: Model, out: Path) -> None:
    try:
        out.write_bytes(to_bytes(model))
    except OSError as exc:
        raise ConfigError(must_be("--out", f"a file that can be written ({exc.strerror})", str(out))) from exc


def _offsets(texts: Sequence[str]) -> Offsets:
    found = {}
    for text in texts:
        topic, *numbers = text.split(":")
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise ConfigError(must_be("--until", "TOPIC:PARTITION:OFFSET", text))
        found[topic, int(numbers[0])] = int(numbers[1])
    return found


def _show(model: Model, compared: Report, as_json: bool) -> None:
    facts: dict[str, Any] = {"module": model.module, "name": model.name, "version": model.version, "what": compared.what}
    facts |= {"twin": compared.twin, "held_out": compared.held_out, "beats_twin": compared.beats_twin} | compared.metrics
    if as_json:
        print_json(facts)
        return
    rows = [
        (label, f"{at.value:.4g}", f"{at.low:.4g} to {at.high:.4g}")
        for label, at in (("model", compared.loss), (f"twin: {compared.twin}", compared.loss_twin), ("gain", compared.gain))
    ]
    typer.echo(f"{model.module}/{model.name} {model.version}: {compared.what}, on the newest {compared.held_out}")
    print_table(("", "loss", "95 % interval"), rows)
    typer.echo(
        "it beats its twin" if compared.beats_twin else "it does not beat its twin: publish would refuse it without --force"
    )
