"""The reference pages, from the code: commands, settings, options, topics and frames, metrics, errors."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.testing import CliRunner

from agents.registry import all_agents, load
from qstream import errors
from qstream.cli.main import app
from qstream.config import PREFIX, Settings
from schemas.generate import FRAMES, topics_table
from schemas.topics import TOPICS

NOTE = "<!-- Written by python -m docs.generate; change the code, not this page. -->\n"
HELP = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
SOURCES = (
    "They come from, lowest first: these defaults, the TOML file named in `QSTREAM_CONFIG`, the environment, the command line."
    """ Nested values in the environment are JSON: `QSTREAM_KAFKA='{"security.protocol": "SASL_SSL"}'`."""
)
OPTIONS: Mapping[str, type[BaseModel]] = {agent.name: load(agent.options) for agent in all_agents() if agent.options}


def pages() -> dict[str, str]:
    """The text of each reference page by its file name."""
    found = {
        "commands.md": commands(),
        "settings.md": settings(),
        "options.md": options(),
        "topics.md": topics(),
        "frames.md": frames(),
        "metrics.md": metrics(),
        "errors.md": error_tree(),
    }
    return {name: NOTE + text.rstrip() + "\n" for name, text in found.items()}


def commands() -> str:
    """Every command with its own help."""
    parts = ["# Commands\n\nEach is shown with the text that `--help` prints.\n"]
    for words, text in _helps(()):
        depth = "#" * min(4, len(words) + 2)
        parts.append(f"{depth} {' '.join(('qstream', *words))}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _helps(words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    shown = CliRunner().invoke(app, [*words, "--help"], env=HELP, prog_name="qstream")
    if shown.exit_code:
        raise RuntimeError(f"qstream {' '.join(words)} --help failed: {shown.output}")
    text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
    yield words, text
    _, _, listed = text.partition("\nCommands:\n")
    for name in re.findall(r"^  ([a-z][\w-]*)", listed, re.MULTILINE):
        yield from _helps((*words, name))


def settings() -> str:
    """The fields of `Settings` with their environment variables."""
    rows = [(f"`{PREFIX}{name.upper()}`", *cells) for name, cells in _fields(Settings)]
    return f"# Settings\n\n{_paragraphs(Settings)}\n\n{SOURCES}\n\n{_table(('variable', 'value', 'default', 'meaning'), rows)}"


def options() -> str:
    """The toggles of each module."""
    parts = ["# Options of the modules\n\nChange one while the agent runs: `qstream control MODULE --set name=value`.\n"]
    for module, model in OPTIONS.items():
        rows = [(f"`{name}`", *cells) for name, cells in _fields(model)]
        table = _table(("option", "value", "default", "meaning"), rows)
        parts.append(f"## {module}\n\n{_paragraphs(model)}\n\n{table}\n")
    return "\n".join(parts)


def topics() -> str:
    """The table of topics."""
    head = (
        "# Topics\n\nFrom `schemas/topics.py`. The record key is the unit of order. The same as an AsyncAPI 3 document:"
        " `schemas/generated/asyncapi.json`.\n"
    )
    return f"{head}\n{topics_table()}"


def frames() -> str:
    """Every frame that travels, with its header fields and arrays."""
    parts = ["# Frames\n\nArrays of one frame that name the same axis have the same length there.\n"]
    for frame in FRAMES:
        rows = [(f"`{name}`", *cells) for name, cells in _fields(frame) if name != "frame" and name not in frame.arrays]
        parts.append(f"## {frame.tag()}\n\n{_paragraphs(frame)}\n")
        used = [f"`{topic.name}`" for topic in TOPICS if topic.frame is frame]
        parts.append(f"On {', '.join(used)}. At most {frame.MAX_BYTES:,} bytes.\n")
        parts.append(_table(("field", "value", "default", "meaning"), rows) + "\n")
        if frame.arrays:
            arrays = []
            for name, axes in frame.arrays.items():
                field = frame.model_fields[name]
                arrays.append(
                    (f"`{name}`", f"{frame.dtypes[name]} [{', '.join(axes)}]", _default(field), field.description or "")
                )
            parts.append(_table(("array", "dtype and axes", "default", "meaning"), arrays) + "\n")
    parts.append("# Records inside frames\n")
    for record in _records():
        rows = [(f"`{name}`", *cells) for name, cells in _fields(record)]
        parts.append(
            f"## {record.__name__}\n\n{_paragraphs(record)}\n\n{_table(('field', 'value', 'default', 'meaning'), rows)}\n"
        )
    return "\n".join(parts)


def _records() -> list[type[BaseModel]]:
    """The models that header fields of frames hold, by name."""
    fields = [field for frame in FRAMES for field in frame.model_fields.values()]
    kinds = {kind for field in fields for kind in (field.annotation, *get_args(field.annotation)) if inspect.isclass(kind)}
    return sorted((kind for kind in kinds if issubclass(kind, BaseModel)), key=lambda kind: kind.__name__)


def metrics() -> str:
    """Every metric with its labels."""
    for name in (
        "qstream",
        "qstream.learn",
        *sorted({agent.package for agent in all_agents()}),
    ):  # importing them registers their metrics
        if importlib.util.find_spec(f"{name}.metrics") is not None:
            importlib.import_module(f"{name}.metrics")
    rows = []
    for metric in {id(found): found for found in REGISTRY._collector_to_names if isinstance(found, MetricWrapperBase)}.values():
        (family,) = metric.describe()
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append((f"`{family.name}{ending}`", family.type, labels, family.documentation))
    table = _table(("metric", "type", "labels", "meaning"), sorted(rows))
    head = "On `/metrics` of each worker. Labels have few values: never an offset, and of record keys only the names of models."
    return f"# Metrics\n\n{head}\n\n{table}"


def error_tree() -> str:
    """The errors that qstream raises on purpose."""
    tree = inspect.getdoc(errors) or ""
    rows = [
        (f"`{name}`", f"`{kind.__mro__[1].__name__}`", _summary(kind))
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__
    ]
    table = _table(("error", "is a", "meaning"), rows)
    return f"# Errors\n\nClasses of `qstream.errors`.\n\n```text\n{tree}\n```\n\n{table}"


def _fields(model: type[BaseModel]) -> list[tuple[str, tuple[str, str, str]]]:
    """Value, default and meaning of each field by name."""
    schema = model.model_json_schema()
    shared = schema.get("$defs", {})
    found = []
    for name, field in model.model_fields.items():
        value = _value(schema["properties"].get(name, {}), shared)
        found.append((name, (value, _default(field), field.description or "")))
    return found


def _value(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    """What a field takes, in a few words, from its JSON Schema."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _value(shared[name], shared) if "enum" in shared[name] else f"`{name}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_value(part, shared) for part in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"null": "none", "string": "text"}.get(schema.get("type", "any"), schema.get("type", "any"))
    if kind == "array" and "items" in schema:
        return f"list of {_value(schema['items'], shared)}"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    limits = []
    if low is not None:
        limits.append(f"{'>=' if 'minimum' in schema else '>'} {low:,}")
    if high is not None and high < 1 << 60:
        limits.append(f"{'<=' if 'maximum' in schema else '<'} {high:,}")
    return f"{kind} {', '.join(limits)}".strip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "`{}`" if field.default_factory is dict else "computed"
    if field.default is None:
        return "none"
    text = str(field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default)
    return f"`{text.lower() if isinstance(field.default, bool) else text or '(empty)'}`"


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")


def _paragraphs(kind: type) -> str:
    """A class's docstring as Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", inspect.getdoc(kind) or "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
