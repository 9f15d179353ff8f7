"""`qstream watch`: the records of one topic as they arrive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from confluent_kafka import Message

from qstream.cli.cluster import reach, require_topics
from qstream.cli.lines import as_object, line_of, one_line
from qstream.cli.names import find_topic
from qstream.cli.options import AsJson, BootstrapServers, client_settings, new_app, topic_completion
from qstream.cli.output import print_json, printable
from qstream.stream.read import follow, frame_of
from schemas.frame import Frame, FrameError
from schemas.topics import Topic

app = new_app()


@app.command()
def watch(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC",
            autocompletion=topic_completion,
            help="A name, or a part of it: routing, energy, tasks, experts.load.",
        ),
    ],
    from_start: Annotated[bool, typer.Option("--from-start", help="Start with the oldest record kept.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many records.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="End after this many seconds.")] = None,
    key: Annotated[str | None, typer.Option(help="Only records of this key: a model, a node, a study.")] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
    full: Annotated[bool, typer.Option("--full", help="With the arrays, in JSON.")] = False,
) -> None:
    """Print the records of a topic as they arrive, until Ctrl-C, --count or --timeout.

    One line per record; with --json one object per line. The command reads outside the agents' groups and shows every
    record that the topic holds, repeated and expired plans too. Exit code 1 if --timeout ends before --count is reached.

    \b
    Example:
      qstream watch placement
      qstream watch routing --key demo-moe --json --count 1 --timeout 10
    """
    chosen = find_topic(topic)
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [chosen])
    shown, line = 0, line_of(chosen)
    with contextlib.suppress(KeyboardInterrupt):
        messages = follow(settings, chosen.name, from_start)
        typer.echo(f"watching {chosen.name} at {settings.bootstrap_servers}, Ctrl-C to end", err=True)
        for message, frame in _frames(messages, chosen, timeout, key):
            if key is not None and str(getattr(frame, chosen.key)) != key:
                continue
            if as_json or full:
                print_json(as_object(message, frame, full))
            else:
                typer.echo(one_line(message, frame, chosen, line, time.time_ns()))
            shown += 1
            if shown == count:
                return
        if count is not None:
            typer.echo(f"{shown} of {count} records arrived in {timeout:g} s", err=True)
            raise typer.Exit(1)


def _frames(
    messages: Iterator[Message | None], topic: Topic, timeout: float | None, key: str | None
) -> Iterator[tuple[Message, Frame]]:
    """Readable records until the time is over; unreadable ones, and those that remove a key, are reported on stderr."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for message in messages:
        if message is not None and message.value() is None and topic.compacted:
            removed = (message.key() or b"").decode(errors="backslashreplace")
            if key in (None, removed):
                typer.echo(
                    printable(f"key {removed!r} removed by {topic.name}/{message.partition()}/{message.offset()}"), err=True
                )
        elif message is not None:
            try:
                yield message, frame_of(message, topic.frame)
            except FrameError as exc:
                typer.echo(printable(f"unreadable record {topic.name}/{message.partition()}/{message.offset()}: {exc}"), err=True)
        if deadline is not None and time.monotonic() >= deadline:
            return
