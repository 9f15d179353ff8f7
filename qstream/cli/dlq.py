"""`qstream dlq`: records that agents could not process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from agents.registry import Agent, all_agents, find_agent, start_processor, topics_by_name
from qstream.cli.cluster import reach, require_topics
from qstream.cli.options import AsJson, BootstrapServers, agent_completion, client_settings, new_app
from qstream.cli.output import counted, print_json, print_table, printable, utc
from qstream.config import Settings
from qstream.errors import ConfigError
from qstream.stream.headers import headers_of
from qstream.stream.read import frame_of
from qstream.stream.redrive import MAX_ATTEMPTS, DeadRecord, choose_letters, dead_records, exhausted, named_letters, redrive
from schemas.deadletter import DeadLetter
from schemas.frame import FrameError

app = new_app(
    """Show records that failed, and send them back.

    \b
    Example:
      qstream dlq list
      qstream dlq redrive --all
    """
)
AgentName = Annotated[
    str | None,
    typer.Option("--agent", metavar="AGENT", autocompletion=agent_completion, help="Only dead letters of this agent."),
]
SHOWN_BYTES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Letters:
    """The dead letters of an agent; `foreign` counts records of its topic that are not dead letters."""

    agent: str
    records: list[DeadRecord]
    foreign: int

    def has(self, letter_id: str) -> bool:
        return any(record.letter.id == letter_id for record in self.records)


@app.command("list")
def list_letters(agent: AgentName = None, bootstrap_servers: BootstrapServers = None, as_json: AsJson = False) -> None:
    """List the dead letters of all agents.

    Their topics keep them for 14 days by default. The id names the record that failed: topic/partition/offset.

    \b
    Example:
      qstream dlq list --agent routing --json
    """
    found = _read(client_settings(bootstrap_servers), agent)
    if as_json:
        print_json([{"agent": letters.agent} | _object(record) for letters in found for record in letters.records])
        return
    columns = ("agent", "id", "stage", "error", "message", "attempts", "time", "redriven")
    rows = [[letters.agent, *_row(record)] for letters in found for record in letters.records]
    print_table(columns, rows)
    foreign = sum(letters.foreign for letters in found)
    typer.echo(
        counted(len(rows), "dead letter") + (f"; {foreign} records are not dead letters and were skipped" if foreign else "")
    )


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `qstream dlq list` names it.")],
    agent: AgentName = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter and the record that failed.

    Its reason, stack trace and headers, and the record, decoded if possible.

    \b
    Example:
      qstream dlq show qstream.tokens.batch.v1/3/17
    """
    letters = _owner(_read(client_settings(bootstrap_servers), agent), letter_id)
    record = named_letters(letters.agent, letters.records, [letter_id])[-1]
    value = _value(record)
    headers = {name: _text(text) for name, text in DeadLetter.original(headers_of(record.message))}
    key = _text(record.message.key())
    fields = {"agent": letters.agent} | _object(record)
    if as_json:
        print_json(fields | {"stack_trace": record.letter.stack_trace, "key": key, "headers": headers} | value)
        return
    print_table(("field", "value"), [*fields.items(), ("key", key), *((f"header {n}", t) for n, t in headers.items())])
    for title, text in (("stack trace", record.letter.stack_trace), *value.items()):
        if text:
            typer.echo(printable(f"{title}: {text}" if "\n" not in text else f"{title}:\n{text}"))


@app.command("redrive")
def redrive_letters(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `qstream dlq list` names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters that were not redriven yet.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be sent.")] = False,
    max_attempts: Annotated[
        int, typer.Option("--max-attempts", min=1, max=100_000, help="Leave a record that has failed so often.")
    ] = MAX_ATTEMPTS,
    agent: AgentName = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the topic they came from.

    The records are unchanged, except for the header qstream_attempts. The agent follows from the ids; --all asks for it
    where several agents have dead letters. A letter goes back only to a topic that the agent reads: anyone who may write to
    the dead-letter topic can forge one that names another. A record that has failed --max-attempts times stays where it is.
    Each letter goes once: what was redriven is remembered, as soon as the broker has confirmed it, in the committed offset
    of the group <prefix>.<agent>.redrive (which brokers forget 7 days after the last redrive, unless
    offsets.retention.minutes says otherwise). A record that fails again becomes a new letter under a new id, with one more
    attempt. Run one redrive of an agent at a time.

    \b
    Example:
      qstream dlq redrive --all --dry-run
      qstream dlq redrive qstream.tokens.batch.v1/3/17
    """
    if bool(ids) == everything:
        raise ConfigError("either ids of dead letters or --all must be given, not both")
    settings = client_settings(bootstrap_servers)
    found = _read(settings, agent)
    kept = {} if ids else _kept(_only(found).records, max_attempts)
    plans = _by_agent(found, ids) if ids else [(_only(found), _ids(_only(found).records) - kept.keys())]
    chosen = [(letters, choose_letters(letters.agent, letters.records, wanted, max_attempts)) for letters, wanted in plans]
    missing = _missing(settings, [record for _, records in chosen for record in records])
    open_ids = {record.letter.id for _, records in chosen for record in records if record.letter.topic not in missing}
    if not dry_run:
        for letters, records in chosen:
            redrive(settings, letters.agent, letters.records, _ids(records) & open_ids, max_attempts)
    passed_over = sorted({letter_id for _, wanted in plans for letter_id in wanted} - {i for _, r in chosen for i in _ids(r)})
    _print_redriven(sorted(open_ids), passed_over, kept, dry_run=dry_run, as_json=as_json)
    require_topics(reach(settings), [topics_by_name()[name] for name in sorted(missing)])


def _print_redriven(open_ids: list[str], passed_over: list[str], kept: dict[str, str], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "redriven": open_ids, "passed_over": passed_over, "kept": kept})
        return
    for letter_id in open_ids:
        typer.echo(printable(letter_id))
    done = "would be redriven" if dry_run else "redriven"
    typer.echo(f"{len(open_ids)} {done}" + (f", {len(passed_over)} were redriven before" if passed_over else ""))
    for letter_id, reason in kept.items():
        typer.echo(printable(f"{letter_id} stays: {reason}"))


def _ids(records: Iterable[DeadRecord]) -> set[str]:
    return {record.letter.id for record in records}


def _kept(records: Iterable[DeadRecord], max_attempts: int) -> dict[str, str]:
    """The letters that --all leaves where they are, by id, and why."""
    reasons = {
        record.letter.id: record.refusal or exhausted(record.letter, max_attempts) for record in records if not record.redriven
    }
    return {letter_id: reason for letter_id, reason in sorted(reasons.items()) if reason}


def _read(settings: Settings, agent: str | None) -> list[Letters]:
    """The dead letters of the agent, or of every agent whose topic is on the cluster."""
    agents = all_agents() if agent is None else (find_agent(agent),)
    cluster = reach(settings)
    present = [known for known in agents if known.dead_letters.name in cluster.topics]
    if agent is not None or not present:
        require_topics(cluster, [known.dead_letters for known in agents])
    return [Letters(known.name, *dead_records(settings, known.name, _inputs(settings, known))) for known in present]


def _inputs(settings: Settings, agent: Agent) -> set[str]:
    """The names of the topics that the agent reads, whatever options its module may have in the settings."""
    return {topic.name for topic in start_processor(agent, settings.model_copy(update={"options": {}})).inputs}


def _owner(found: list[Letters], letter_id: str) -> Letters:
    """The agent that has the letter; `ConfigError` if none has it, or several, which read the same topic."""
    owners = [letters for letters in found if letters.has(letter_id)]
    agents = ", ".join(letters.agent for letters in owners or found)
    if not owners:
        raise ConfigError(f"no dead letter of agent {agents} has the id {letter_id!r}; list them with: qstream dlq list")
    if len(owners) > 1:
        raise ConfigError(f"--agent must be given: {agents} all have a dead letter {letter_id!r}")
    return owners[0]


def _by_agent(found: list[Letters], ids: Iterable[str]) -> list[tuple[Letters, set[str]]]:
    """The named letters by the agent that has them."""
    wanted: dict[str, tuple[Letters, set[str]]] = {}
    for letter_id in ids:
        letters = _owner(found, letter_id)
        wanted.setdefault(letters.agent, (letters, set()))[1].add(letter_id)
    return list(wanted.values())


def _only(found: list[Letters]) -> Letters:
    """The one agent with dead letters; where several have some, `ConfigError` asks for one."""
    owners = [letters for letters in found if letters.records]
    if len(owners) > 1:
        raise ConfigError(f"--agent must be given with --all: {', '.join(letters.agent for letters in owners)} have dead letters")
    return (owners or found)[0]


def _missing(settings: Settings, records: Iterable[DeadRecord]) -> set[str]:
    """The topics of these letters that the cluster does not have: it might create one by itself."""
    return {record.letter.topic for record in records} - reach(settings).topics


def _object(record: DeadRecord) -> dict[str, Any]:
    letter = record.letter
    return {
        "id": letter.id,
        "stage": letter.stage,
        "error": letter.error_class,
        "message": letter.error_message,
        "attempts": letter.attempts,
        "time": utc(letter.timestamp_ms),
        "redriven": record.redriven,
        "refusal": record.refusal,
    }


def _row(record: DeadRecord) -> list[object]:
    fields = _object(record)
    fields["redriven"] = "never" if fields.pop("refusal") else "yes" if record.redriven else ""
    return list(fields.values())


def _value(record: DeadRecord) -> dict[str, str]:
    """The record's body: the frame's JSON if it is one, else its first bytes as `xxd` shows them."""
    body = record.message.value()
    topic = topics_by_name().get(record.letter.topic)
    if body is None:
        omitted = record.letter.omitted_bytes
        return {"value": f"{omitted} bytes, too large to travel with the letter" if omitted else "null"}
    try:
        if topic is None:
            raise FrameError("no such topic in the registry")
        return {"frame": frame_of(record.message, topic.frame).model_dump_json(exclude_none=True)}
    except FrameError as exc:
        return {"fault": str(exc), "size": str(len(body)), "hex": _hex(body)}


def _hex(body: bytes) -> str:
    rows = []
    for start in range(0, min(len(body), SHOWN_BYTES), 16):
        chunk = body[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in chunk)
        rows.append(f"{start:08x}  {chunk.hex(' '):<47}  {text}")
    return "\n".join(rows)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")
