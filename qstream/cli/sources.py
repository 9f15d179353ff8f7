"""Sources: files and lines that people have, as validated frames with their topics."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import typer

from agents.registry import all_topics
from qstream.cli.output import printable, say_unknown
from qstream.errors import ConfigError, ProblemError
from qstream.install import install_hint
from schemas.frame import HEADER_KEY, JSON, SAFETENSORS, Frame, FrameError
from schemas.parse import as_utf8, read_json
from schemas.tokens import from_dataframe, from_objects
from schemas.topics import FABRIC_TOPOLOGY, TOKENS_BATCH, Topic
from schemas.wording import Shown, must_be

TOKENS_A_BATCH: Final = 8192
STDIN: Final = Path("-")
Topics = Sequence[Topic]
FORMATS: Final = ".json, .jsonl, .csv, .safetensors, or - for JSON lines on stdin"


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What a table or list of tokens does not say itself."""

    model: str
    layer: int | None
    batch_id: str
    ts_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One frame to publish; `headed` if it was made of tokens, under the header."""

    topic: Topic
    frame: Frame
    headed: bool = False


def publishable() -> tuple[Topic, ...]:
    """The topics to which people publish."""
    return tuple(topic for topic in all_topics() if topic.role != "dead-letter")


def read_items(path: Path, topic: Topic | None, header: BatchHeader, more: Sequence[Topic] = ()) -> list[Item]:
    """All frames of a file, every one validated; `topic` None lets each frame say where it belongs: one of `publishable`
    or of `more`.

    A frame is known by its field ``frame``, else by the fields that it has. A graph as networkx writes it, with ``nodes`` and
    ``edges`` or ``links``, becomes a topology of the time of `header`. Tokens (objects with ``id``, or a table) become
    batches of at most 8,192 under `header`. `FrameError` names the place of the first fault, `ConfigError` a wrong format.
    """
    items = _read(path, topic, header, tuple({each.name: each for each in (*publishable(), *more)}.values()))
    for item in items:
        item.frame.encode()  # too large a frame is refused before any other is sent
    return items


def _read(path: Path, topic: Topic | None, header: BatchHeader, known: Topics) -> list[Item]:
    if path == STDIN:
        return _from_objects(_lines("stdin", sys.stdin.buffer.read()), topic, header, known)
    if not path.is_file():
        raise ConfigError(must_be("FILE", f"a file that exists ({FORMATS})", str(path)))
    if path.suffix == ".safetensors":
        return [_from_safetensors(path, topic, known)]
    if path.suffix == ".csv":
        return _from_csv(path, topic, header)
    if path.suffix == ".jsonl":
        return _from_objects(_lines(path.name, path.read_bytes()), topic, header, known)
    if path.suffix == ".json":
        value = _parse(path.name, path.read_bytes())
        values = value if isinstance(value, list) else [value]
        return _from_objects([(f"{path.name}[{n}]", one) for n, one in enumerate(values)], topic, header, known)
    raise ConfigError(must_be("FILE", FORMATS, path.name))


def _lines(name: str, body: bytes) -> list[tuple[str, Any]]:
    try:
        lines = enumerate(as_utf8(body).splitlines(), start=1)
    except UnicodeDecodeError as exc:
        raise FrameError(f"{name}: not JSON lines: {exc}") from exc
    return [(f"{name}:{n}", _parse(f"{name}:{n}", line)) for n, line in lines if line.strip()]


def _parse(where: str, text: bytes) -> Any:
    try:
        return read_json(text)
    except ValueError as exc:
        raise FrameError(f"{where}: not JSON: {exc}") from exc


def _from_objects(values: Sequence[tuple[str, Any]], topic: Topic | None, header: BatchHeader, known: Topics) -> list[Item]:
    if not values:
        raise FrameError(must_be("input", "at least one frame or token", Shown("none")))
    for where, value in values:
        if not isinstance(value, dict):
            raise FrameError(must_be(where, "an object, a frame or a token", Shown(type(value).__name__)))
    if _is_token(values[0][1], topic):
        return _from_tokens([value for _, value in values], header)
    graphs = [_is_graph(value, topic) for _, value in values]
    items = [
        _from_graph(where, value, header) if graph else _from_object(where, value, topic, known)
        for (where, value), graph in zip(values, graphs, strict=True)
    ]
    plain = [number for number, graph in enumerate(graphs) if not graph]
    _say_unknown([values[number] for number in plain], [items[number] for number in plain])
    return items


def _is_graph(value: dict[str, Any], topic: Topic | None) -> bool:
    """Whether an object is node-link data of networkx, which no frame looks like."""
    if "frame" in value or topic not in (None, FABRIC_TOPOLOGY) or not {"edges", "links"} & value.keys():
        return False
    nodes = value.get("nodes")
    return isinstance(nodes, list) and all(isinstance(node, dict) for node in nodes)


def _from_graph(where: str, value: dict[str, Any], header: BatchHeader) -> Item:
    """The fabric of node-link data, called as the graph says, else as the file; what is strange in it is said on stderr."""
    from qstream.nvlink.formats.read import read_topology  # noqa: PLC0415 - numpy and formats, which few files need

    graph = value.get("graph")
    known = graph.get("fabric") if isinstance(graph, dict) else None
    try:
        found = read_topology(value, fabric=known if isinstance(known, str) and known else re.split(r"[.\[:]", where)[0][:200])
    except ProblemError as exc:
        raise FrameError(f"{where}: {exc}") from exc
    for text in found.warnings:
        typer.echo(printable(f"{where}: warning: {text}"), err=True)
    return Item(FABRIC_TOPOLOGY, found if found.ts_ns else found.model_copy(update={"ts_ns": header.ts_ns}))


def _say_unknown(values: Sequence[tuple[str, Any]], items: Sequence[Item]) -> None:
    """Say which fields no frame of its kind has, where they come first."""
    seen: set[tuple[type[Frame], str]] = set()
    for (where, value), item in zip(values, items, strict=True):
        kind = type(item.frame)
        say_unknown(where, kind, [name for name in value if (kind, name) not in seen])
        seen.update((kind, name) for name in value)


def _from_tokens(tokens: Sequence[dict[str, Any]], header: BatchHeader) -> list[Item]:
    items = []
    starts = range(0, len(tokens), TOKENS_A_BATCH)
    for start in starts:
        some, batch_id = tokens[start : start + TOKENS_A_BATCH], _batch_id(header, start, starts)
        batch = from_objects(some, batch_id=batch_id, model=header.model, ts_ns=header.ts_ns)
        items.append(Item(TOKENS_BATCH, batch.model_copy(update={"layer": header.layer}), headed=True))
    _require_one_kind("id", [token["id"] for token in tokens])
    _require_one_kind("request_id", [token.get("metadata", {}).get("request_id") for token in tokens])
    return items


def _require_one_kind(name: str, ids: Sequence[Any]) -> None:
    """Ids 7 and "7", which one batch may not hold, are not one id in two batches of a file either."""
    if len({isinstance(value, str) for value in ids if value is not None}) > 1:
        raise FrameError(must_be(name, "strings or integers in all tokens", Shown("both kinds")))


def _is_token(value: dict[str, Any], topic: Topic | None) -> bool:
    return "id" in value and "frame" not in value and topic in (None, TOKENS_BATCH)


def _from_object(where: str, value: dict[str, Any], topic: Topic | None, known: Topics) -> Item:
    try:
        chosen = topic or _topic_of(value, known)
        return Item(chosen, chosen.frame.decode(json.dumps(value).encode(), JSON))
    except FrameError as exc:
        raise FrameError(f"{where}: {exc}") from exc


def _topic_of(value: dict[str, Any], known: Topics) -> Topic:
    """The topic whose frame the object says to be, or whose required fields it has: of several, that which requires the most, and
    of those the one that has most of the object's fields."""
    tag = value.get("frame")
    if tag:
        found = [topic for topic in known if topic.frame.tag() == tag]
    else:
        fitting = [topic for topic in known if _required(topic.frame) <= value.keys()]
        fits = [(len(_required(topic.frame)), len(value.keys() & topic.frame.model_fields.keys())) for topic in fitting]
        found = [topic for topic, fit in zip(fitting, fits, strict=True) if fit == max(fits)]
    if len(found) == 1:
        return found[0]
    if tag:
        raise FrameError(must_be("frame", f"one of {', '.join(topic.frame.tag() for topic in known)}", str(tag)))
    raise FrameError(f"no field 'frame', and the fields {sorted(value)[:20]} fit {len(found)} topics: name one by --topic")


def _required(frame: type[Frame]) -> set[str]:
    return {name for name, field in frame.model_fields.items() if field.is_required()}


def _from_csv(path: Path, topic: Topic | None, header: BatchHeader) -> list[Item]:
    if topic not in (None, TOKENS_BATCH):
        raise ConfigError(
            must_be("--topic", f"{TOKENS_BATCH.name} for a table, which holds tokens", topic.name if topic else None)
        )
    try:
        import pandas as pd  # noqa: PLC0415 - an extra that only tables need
    except ModuleNotFoundError as exc:
        raise ConfigError(f"reading a table needs pandas: {install_hint('pandas')}") from exc
    try:
        # Not piece by piece, in which one text would make names of the numbers of its piece alone.
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
    except ValueError as exc:  # pandas' own parser errors are such
        raise FrameError(f"{path.name}: not a table: {exc}") from exc
    starts = range(0, len(table), TOKENS_A_BATCH)
    if not starts:
        raise FrameError(must_be(path.name, "a table of at least one token", Shown("none")))
    items = []
    for start in starts:
        some, batch_id = table.iloc[start : start + TOKENS_A_BATCH], _batch_id(header, start, starts)
        batch = from_dataframe(some, batch_id=batch_id, model=header.model, ts_ns=header.ts_ns, layer=header.layer)
        items.append(Item(TOKENS_BATCH, batch, headed=True))
    return items


def _batch_id(header: BatchHeader, start: int, starts: range) -> str:
    return header.batch_id if len(starts) == 1 else f"{header.batch_id}/{start // TOKENS_A_BATCH}"


def _from_safetensors(path: Path, topic: Topic | None, known: Topics) -> Item:
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            header = (opened.metadata() or {}).get(HEADER_KEY, "{}")
    except safetensors.SafetensorError as exc:
        raise FrameError(f"{path.name}: not a safetensors file: {exc}") from exc
    fields = _parse(f"{path.name}, metadata {HEADER_KEY!r}", header.encode())
    if topic is None and not (isinstance(fields, dict) and fields.get("frame")):
        raise FrameError(f"{path.name}: no field 'frame' in the metadata {HEADER_KEY!r}: name the topic by --topic")
    chosen = topic or _topic_of(fields, known)
    return Item(chosen, chosen.frame.decode(path.read_bytes(), SAFETENSORS))
