"""Writes what is derived from the frames and topics: JSON Schemas, the AsyncAPI document, the table of topics, golden samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from schemas.deadletter import HEADER_NAMES, PREFIX, DeadLetter
from schemas.drift import command, differing, read, write_changed
from schemas.frame import JSON, SAFETENSORS, ContentType, Frame, FrameError
from schemas.topics import HOUR_MS, TOPICS, Topic

HOME = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"
FORMS: dict[str, ContentType] = {"safetensors": SAFETENSORS, "json": JSON}
FRAMES: tuple[type[Frame], ...] = tuple(dict.fromkeys(topic.frame for topic in TOPICS))

CLOUD_EVENT = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "minLength": 1, "description": "the same on every repetition of the event"},
    "ce_source": {"type": "string", "minLength": 1, "description": "who wrote the event, a URI reference"},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_subject": {"type": "string", "minLength": 1},
    "traceparent": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
}
CLOUD_EVENT_REQUIRED = ["ce_id", "ce_source", "ce_specversion", "ce_type"]
Object = dict[str, Any]


class _Plain(GenerateJsonSchema):
    """Without a title for every field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(frame: type[Frame]) -> Object:
    """JSON Schema (2020-12) of the JSON form of `frame`."""
    schema = frame.model_json_schema(schema_generator=_Plain)
    schema["properties"]["frame"] = _tag(frame)
    return {"$schema": DIALECT, "$id": f"qstream:{frame.tag()}", **schema, "title": frame.tag()}


def asyncapi() -> Object:
    """AsyncAPI 3.0.0 document of all topics, seen from the agents: they receive inputs and send plans."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "qstream",
            "version": str(max(frame.VERSION for frame in FRAMES)),
            "description": "The topics of qstream: inputs that its agents receive and plans that they send.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": SAFETENSORS,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {_operation_name(topic): _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {name: message for topic in TOPICS for name, message in _messages(topic).items()},
            "schemas": _component_schemas(),
        },
    }


def _tag(frame: type[Frame]) -> Object:
    return {"const": frame.tag(), "description": frame.model_fields["frame"].description}


def _component_schemas() -> Object:
    modes: list[tuple[type[Frame], JsonSchemaMode]] = [(frame, "validation") for frame in FRAMES]
    _, schema = models_json_schema(modes, schema_generator=_Plain, ref_template="#/components/schemas/{model}")
    found: Object = schema["$defs"]
    for frame in FRAMES:
        found[frame.__name__]["properties"]["frame"] = _tag(frame)
    return found


def _channel(topic: Topic) -> Object:
    config = topic.config()
    return {
        "address": topic.name,
        "description": topic.purpose,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _messages(topic)},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": config["cleanup.policy"].split(","),
                    "retention.ms": int(config["retention.ms"]),
                    "max.message.bytes": int(config["max.message.bytes"]),
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _messages(topic: Topic) -> Object:
    """The messages of a topic by name: one a form of its frame, or the record that failed."""
    bindings = {"kafka": {"key": _key(topic), "bindingVersion": KAFKA_BINDING}}
    name = topic.frame.__name__
    if topic.frame is DeadLetter:
        return {
            name: {
                "name": name,
                "summary": "A record as it was, with the reason of its failure in the headers",
                "headers": _dead_letter_headers(),
                "payload": {"description": "the record's own bytes, of any content type"},
                "bindings": bindings,
            }
        }
    payloads: dict[str, Object] = {
        "json": {"$ref": f"#/components/schemas/{name}"},
        "safetensors": {
            "type": "string",
            "format": "binary",
            "description": f"a safetensors file: the arrays of {topic.frame.tag()} by name, and in its metadata under the "
            "key qstream the other fields as a JSON object",
            "x-arrays": {
                field: {"dtype": _dtype_name(topic.frame, field), "axes": list(axes)}
                for field, axes in topic.frame.arrays.items()
            },
            "x-header": {"$ref": f"#/components/schemas/{name}"},
        },
    }
    return {
        f"{name}.{form}": {
            "name": f"{name}.{form}",
            "title": topic.frame.tag(),
            "summary": topic.purpose,
            "contentType": content_type,
            "headers": _headers(topic, content_type),
            "payload": payloads[form],
            "bindings": bindings,
        }
        for form, content_type in FORMS.items()
    }


def _dtype_name(frame: type[Frame], field: str) -> str:
    return "bfloat16" if "BF16" in frame.codes[field] else str(frame.dtypes[field])


def _headers(topic: Topic, content_type: ContentType) -> Object:
    own = {"ce_type": {"type": "string", "const": topic.name}, "content-type": {"type": "string", "const": content_type}}
    return {"type": "object", "properties": CLOUD_EVENT | own, "required": CLOUD_EVENT_REQUIRED}


def _dead_letter_headers() -> Object:
    """The error headers, as text; the record's own headers stay next to them."""
    names = {PREFIX + header: {"type": "string"} for header in HEADER_NAMES.values()}
    needed = [PREFIX + HEADER_NAMES[name] for name, field in DeadLetter.model_fields.items() if field.is_required()]
    return {"type": "object", "properties": names, "required": sorted(needed)}


def _key(topic: Topic) -> Object:
    if topic.frame is DeadLetter:
        return {"description": "the record's own key"}
    return {"type": "string", "minLength": 1, "maxLength": 200, "description": f"the field {topic.key!r}, the unit of order"}


def _operation_name(topic: Topic) -> str:
    return f"{_action(topic)}.{topic.name}"


def _action(topic: Topic) -> str:
    return "receive" if topic.role in ("input", "control") else "send"


def _operation(topic: Topic) -> Object:
    channel = "#/channels/" + topic.name.replace("~", "~0").replace("/", "~1")
    return {
        "action": _action(topic),
        "channel": {"$ref": channel},
        "summary": topic.purpose,
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in _messages(topic)],
    }


def derived() -> dict[str, bytes]:
    """The derived files by path below ``schemas``: those that follow the code."""
    documents = {f"generated/jsonschema/{frame.tag()}.json": json_schema(frame) for frame in FRAMES}
    documents["generated/asyncapi.json"] = asyncapi()
    files = {path: (json.dumps(found, indent=2, sort_keys=True) + "\n").encode() for path, found in documents.items()}
    return files | {"generated/topics.md": topics_table().encode()}


def topics_table() -> str:
    """The registry as a Markdown table, for the README."""
    rows = ["| topic | carries | key | role | partitions | kept |", "|---|---|---|---|---|---|"]
    for topic in TOPICS:
        kept = "newest by key" if topic.compacted else f"{topic.retention_ms // HOUR_MS} h"
        kept += ", in the broker's time" if topic.broker_time else ""
        carries = f"`{topic.frame.__name__}`: {topic.purpose}"
        rows.append(f"| `{topic.name}` | {carries} | `{topic.key}` | {topic.role} | {topic.partitions} | {kept} |")
    return "\n".join(rows) + "\n"


def golden() -> dict[str, tuple[type[Frame], ContentType]]:
    """Frame and form of the golden samples by path below ``schemas``: written once, then read for ever."""
    return {
        f"golden/v{frame.VERSION}/{frame.__name__}.{form}": (frame, content_type)
        for frame in FRAMES
        for form, content_type in FORMS.items()
    }


def write(home: Path = HOME) -> list[Path]:
    """Bring `home` up to date and return the files that changed; golden samples are only ever added."""
    samples = {path: pair for path, pair in golden().items() if not (home / path).exists()}
    return write_changed(home, derived() | {path: frame.example().encode(form) for path, (frame, form) in samples.items()})


def check(home: Path = HOME) -> list[str]:
    """What is wrong in `home`, a line a file: derived files that drift or are left over, golden samples that are unreadable."""
    wanted = derived()
    faults = differing(home, wanted)
    present = {str(path.relative_to(home)) for path in (home / "generated").rglob("*.*")}
    faults += [f"{path}: belongs to no frame" for path in sorted(present - set(wanted))]
    for path, (frame, content_type) in golden().items():
        data = read(home / path)
        if data is None:
            faults.append(f"{path}: missing")
            continue
        try:
            frame.decode(data, content_type)
        except FrameError as exc:
            faults.append(f"{path}: no longer readable: {exc}")
    return faults


def main(arguments: list[str]) -> int:
    return command(arguments, module="schemas.generate", purpose=__doc__, folder="schemas/", write=write, check=lambda: check())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
