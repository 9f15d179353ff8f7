"""`qstream dlq`: records that an agent could not process."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agents.registry import require_agent, topics_by_name
from qstream.cli.cluster import reach, require_topics
from qstream.cli.options import AsJson, BootstrapServers, client_settings, new_app
from qstream.cli.output import print_json, print_table, printable, utc
from qstream.config import Settings
from qstream.errors import ConfigError
from qstream.stream.read import frame_of
from qstream.stream.redrive import DeadRecord, choose_letters, dead_records, named_letters, redrive
from schemas.deadletter import DeadLetter
from schemas.frame import FrameError
from schemas.topics import dead_letter_topic

app = new_app(
    """See records that failed, and send them back.

    \b
    Example:
      qstream dlq list
      qstream dlq redrive --all
    """
)
AgentName = Annotated[str, typer.Option("--agent", help="Whose dead letters.")]
SHOWN_BYTES = 512


@app.command("list")
def list_letters(agent: AgentName = "routing", bootstrap_servers: BootstrapServers = None, as_json: AsJson = False) -> None:
    """List all dead letters that the agent's topic keeps (14 days by default).

    The id names the record that failed: topic/partition/offset.

    \b
    Example:
      qstream dlq list --agent routing --json
    """
    records, foreign = dead_records(_settings(agent, bootstrap_servers), agent)
    if as_json:
        print_json([_object(record) for record in records])
        return
    columns = ("id", "stage", "error", "message", "attempts", "time", "redriven")
    print_table(columns, [_row(record) for record in records])
    typer.echo(f"{len(records)} dead letters" + (f"; {foreign} records are none and were passed over" if foreign else ""))


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `qstream dlq list` names it.")],
    agent: AgentName = "routing",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: reason, stack trace, headers, and the record, decoded if it can be.

    \b
    Example:
      qstream dlq show qstream.tokens.batch.v1/3/17
    """
    records, _ = dead_records(_settings(agent, bootstrap_servers), agent)
    record = named_letters(agent, records, [letter_id])[-1]
    value = _value(record)
    headers = {name: _text(text) for name, text in DeadLetter.original(record.message.headers() or ())}
    key = _text(record.message.key())
    if as_json:
        print_json(_object(record) | {"stack_trace": record.letter.stack_trace, "key": key, "headers": headers} | value)
        return
    print_table(("field", "value"), [*_object(record).items(), ("key", key), *((f"header {n}", t) for n, t in headers.items())])
    for title, text in (("stack trace", record.letter.stack_trace), *value.items()):
        if text:
            typer.echo(printable(f"{title}: {text}" if "\n" not in text else f"{title}:\n{text}"))


@app.command("redrive")
def redrive_letters(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `qstream dlq list` names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not redriven yet.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    agent: AgentName = "routing",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the topic they came from, unchanged but for the header qstream_attempts.

    Each letter goes once: what was redriven is remembered in the committed offset of the group <prefix>.<agent>.redrive
    (which brokers forget 7 days after the last redrive, unless offsets.retention.minutes says otherwise). A record that
    fails again becomes a new letter under a new id, its attempts counted on. If the broker does not confirm everything,
    nothing is remembered and the next redrive sends it all again. Run one redrive of an agent at a time.

    \b
    Example:
      qstream dlq redrive --all --dry-run
      qstream dlq redrive qstream.tokens.batch.v1/3/17
    """
    if bool(ids) == everything:
        raise ConfigError("allowed are either ids of dead letters or --all")
    settings = _settings(agent, bootstrap_servers)
    records, _ = dead_records(settings, agent)
    without_bytes = {record.letter.id for record in records if record.letter.omitted_bytes}
    wanted = set(ids) if ids else {record.letter.id for record in records} - without_bytes
    open_ids = {record.letter.id for record in choose_letters(agent, records, wanted)}
    known = topics_by_name()
    require_topics(reach(settings), [known[name] for name in {i.rsplit("/", 2)[0] for i in open_ids} if name in known])
    sent = sorted(open_ids) if dry_run else [record.letter.id for record in redrive(settings, agent, records, wanted)]
    passed_over = sorted(wanted - open_ids)
    if as_json:
        print_json({"dry_run": dry_run, "redriven": sent, "passed_over": passed_over, "without_bytes": sorted(without_bytes)})
        return
    for letter_id in sent:
        typer.echo(printable(letter_id))
    done = "would be redriven" if dry_run else "redriven"
    typer.echo(f"{len(sent)} {done}" + (f", {len(passed_over)} were redriven before" if passed_over else ""))
    for letter_id in sorted(without_bytes):
        typer.echo(printable(f"{letter_id} cannot be: its bytes were too large to travel with the letter"))


def _settings(agent: str, bootstrap_servers: str | None) -> Settings:
    require_agent(agent)
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [dead_letter_topic(agent)])
    return settings


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
    }


def _row(record: DeadRecord) -> list[object]:
    fields = _object(record) | {"redriven": "yes" if record.redriven else ""}
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
