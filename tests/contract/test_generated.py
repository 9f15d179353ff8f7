"""The promises to other programs: derived documents match the code, and old samples stay readable."""

import json
import re
import shutil
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas import JSON, SAFETENSORS, TOPICS, DeadLetter, FrameError, TokenBatch
from schemas.frame import Frame
from schemas.generate import FRAMES, HOME, asyncapi, check, derived, golden, json_schema, main, write

EACH = pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
SAMPLES = pytest.mark.parametrize("path", sorted(golden()))


@pytest.fixture
def copy(tmp_path):
    """The derived files and samples as they are in the repository, free to be spoilt."""
    for folder in ("generated", "golden"):
        shutil.copytree(HOME / folder, tmp_path / folder)
    return tmp_path


def test_every_kind_of_drift_is_named(copy):
    (copy / "generated/asyncapi.json").write_text("{}")
    (copy / "generated/jsonschema/Control.v1.json").unlink()
    (copy / "generated/jsonschema/Old.v1.json").write_text("{}")
    (copy / "golden/v1/RoutingPlan.json").unlink()
    (copy / "golden/v1/TokenBatch.safetensors").write_bytes(b"spoilt")
    faults = {line.split(": ")[0]: line for line in check(copy)}
    assert set(faults) == {
        "generated/asyncapi.json",
        "generated/jsonschema/Control.v1.json",
        "generated/jsonschema/Old.v1.json",
        "golden/v1/RoutingPlan.json",
        "golden/v1/TokenBatch.safetensors",
    }
    assert "not a safetensors file" in faults["golden/v1/TokenBatch.safetensors"]


def test_drift_is_printed_and_gives_exit_code_one(monkeypatch, capsys, copy):
    (copy / "generated/asyncapi.json").write_text("{}")
    monkeypatch.setattr("schemas.generate.check", lambda: check(copy))
    assert main(["--check"]) == 1
    assert capsys.readouterr().out == "schemas/generated/asyncapi.json: differs from the code\n"


def test_writing_renews_what_is_derived_and_never_touches_a_sample(copy):
    (copy / "generated/asyncapi.json").write_text("{}")
    older = TokenBatch.example().model_copy(update={"model": "an older writer"}).encode()
    (copy / "golden/v1/TokenBatch.safetensors").write_bytes(older)
    (copy / "golden/v1/Control.json").unlink()
    assert [str(path.relative_to(copy)) for path in write(copy)] == ["generated/asyncapi.json", "golden/v1/Control.json"]
    assert (copy / "golden/v1/TokenBatch.safetensors").read_bytes() == older
    assert check(copy) == []
    assert write(copy) == []


@SAMPLES
def test_a_golden_sample_is_read_with_every_field_that_it_holds(path):
    frame, content_type = golden()[path]
    data = (HOME / path).read_bytes()
    read = frame.decode(data, content_type)
    if content_type == JSON:
        written = json.loads(data)
    else:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        written = json.loads(header.pop("__metadata__")["qstream"])
        written |= {name: getattr(read, name).tolist() for name in header}
    assert json.loads(read.encode(JSON)).items() >= written.items()
    assert read.frame == frame.tag()


@EACH
def test_both_golden_samples_of_a_frame_are_equal(frame):
    samples = [kind.decode((HOME / path).read_bytes(), form) for path, (kind, form) in golden().items() if kind is frame]
    assert len(samples) == 2
    assert samples[0] == samples[1]


@SAMPLES
def test_a_golden_sample_is_the_example_as_long_as_no_field_is_added(path):
    frame, content_type = golden()[path]
    read = frame.decode((HOME / path).read_bytes(), content_type)
    same = {name for name in frame.model_fields if getattr(read, name) is not None}
    assert json.loads(read.encode(JSON)) == {k: v for k, v in json.loads(frame.example().encode(JSON)).items() if k in same}


@EACH
def test_a_json_schema_is_valid_and_takes_the_example(frame):
    schema = json_schema(frame)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(json.loads(frame.example().encode(JSON)))
    assert schema["title"] == frame.tag()
    assert schema["$id"] == f"qstream:{frame.tag()}"
    assert schema["description"].startswith((frame.__doc__ or "").split("\n")[0])


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


@EACH
def test_schema_and_class_refuse_the_same_missing_and_wrong_fields(frame):
    validator = Draft202012Validator(json_schema(frame))
    example = json.loads(frame.example().encode(JSON))
    changed = [without(example, name) for name in frame.model_fields if frame.model_fields[name].is_required()]
    changed += [example | {name: wrong} for name in example for wrong in ([{}], {"": []}, -1.5, True)]
    for fields in changed:
        assert validator.is_valid(fields) == readable(frame, fields), fields


def readable(frame: type[Frame], fields: dict[str, Any]) -> bool:
    try:
        frame.decode(json.dumps(fields).encode(), JSON)
    except FrameError:
        return False
    return True


def test_a_schema_says_dtype_axes_and_range_of_an_array():
    items = json_schema(TokenBatch)["properties"]["token_id"]
    assert items.pop("description")
    assert items == {
        "type": "array",
        "x-dtype": "uint64",
        "x-axes": ["tokens"],
        "items": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    }


def test_derived_files_are_deterministic_sorted_and_name_no_host():
    assert derived() == derived()
    for path, content in derived().items():
        if path.endswith(".json"):
            assert content == (json.dumps(json.loads(content), indent=2, sort_keys=True) + "\n").encode()
        hosts = set(re.findall(r"https?://[^\"/]+", content.decode()))
        assert hosts <= {"https://json-schema.org"}


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [ref for value in part.values() for ref in references(value)]
    return [ref for value in part for ref in references(value)] if isinstance(part, list) else []


def resolve(document: Any, ref: str) -> Any:
    assert ref.startswith("#/")
    for step in ref[2:].split("/"):
        document = document[step.replace("~1", "/").replace("~0", "~")]
    return document


def test_every_reference_of_the_asyncapi_document_resolves():
    document = asyncapi()
    found = references(document)
    assert len(found) > 2 * len(TOPICS)
    for ref in found:
        assert isinstance(resolve(document, ref), dict)


def test_the_asyncapi_document_names_every_topic_with_its_kafka_settings():
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert set(document["info"]) >= {"title", "version"}
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        channel = document["channels"][topic.name]
        kafka = channel["bindings"]["kafka"]
        assert channel["address"] == kafka["topic"] == topic.name
        assert kafka["partitions"] == topic.partitions
        assert kafka["bindingVersion"] == "0.5.0"
        settings = {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in kafka["topicConfiguration"].items()}
        known = topic.config().keys() - {"compression.type", "message.timestamp.type"}  # the binding has no place for these
        assert settings == {name: topic.config()[name] for name in known}


def test_agents_receive_inputs_and_control_and_send_plans_and_dead_letters():
    document = asyncapi()
    actions = {resolve(document, op["channel"]["$ref"])["address"]: op["action"] for op in document["operations"].values()}
    assert actions == {topic.name: "receive" if topic.role in ("input", "control") else "send" for topic in TOPICS}
    for operation in document["operations"].values():
        assert all(message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/") for message in operation["messages"])


def test_every_topic_has_a_message_of_each_content_type_with_event_headers_and_key():
    document = asyncapi()
    for topic in TOPICS:
        messages = [resolve(document, ref) for ref in references(document["channels"][topic.name]["messages"])]
        assert all("key" in message["bindings"]["kafka"] for message in messages)
        if topic.frame is DeadLetter:
            letter = DeadLetter.example().model_copy(update={"stack_trace": "Traceback", "omitted_bytes": 7})
            assert [name for name, _ in letter.headers()] == list(messages[0]["headers"]["properties"])
            continue
        assert {message["contentType"] for message in messages} == {SAFETENSORS, JSON}
        for message in messages:
            headers = message["headers"]["properties"]
            assert headers["ce_type"]["const"] == topic.name
            assert headers["content-type"]["const"] == message["contentType"]
            assert set(headers) == {
                "ce_specversion",
                "ce_id",
                "ce_source",
                "ce_type",
                "ce_time",
                "ce_subject",
                "content-type",
                "traceparent",
            }


@EACH
def test_the_schemas_of_the_asyncapi_document_take_the_examples(frame):
    document = asyncapi()
    whole = {"$ref": f"#/components/schemas/{frame.__name__}", "components": document["components"]}
    assert Draft202012Validator(whole).is_valid(json.loads(frame.example().encode(JSON)))
