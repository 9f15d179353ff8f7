"""Files as frames: every format, every fault with its place."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from qstream.cli.sources import STDIN, TOKENS_A_BATCH, BatchHeader, publishable, read_items
from qstream.errors import ConfigError
from qstream.install import install_hint
from schemas.frame import JSON, FrameError
from schemas.tokens import hash_ids
from schemas.topics import BY_NAME, EXPERTS_LOAD, FABRIC_TOPOLOGY, TOKENS_BATCH

HEADER = BatchHeader(model="m", layer=None, batch_id="b", ts_ns=7)
FRAMES = [(topic, topic.frame.example()) for topic in publishable()]


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(("topic", "frame"), FRAMES, ids=lambda value: getattr(value, "name", ""))
def test_a_frame_is_known_by_its_field_frame_in_both_wire_forms(topic, frame, tmp_path):
    for path in (write(tmp_path, "a.json", frame.encode(JSON)), write(tmp_path, "a.safetensors", frame.encode())):
        (item,) = read_items(path, None, HEADER)
        assert item.topic is topic
        assert item.frame == frame


@pytest.mark.parametrize(("topic", "frame"), FRAMES, ids=lambda value: getattr(value, "name", ""))
def test_a_frame_without_that_field_is_known_by_its_required_fields_or_by_the_topic(topic, frame, tmp_path):
    fields = json.loads(frame.encode(JSON))
    del fields["frame"]
    path = write(tmp_path, "a.json", fields)
    assert read_items(path, topic, HEADER)[0].frame == frame
    assert read_items(path, None, HEADER)[0].topic is topic


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark_are_read_as_those_without(tmp_path, encoding):
    texts = [frame.encode(JSON).decode() for _, frame in FRAMES]
    for name, text in (("a.json", "\r\n" + texts[0]), ("a.jsonl", "\n".join(texts))):
        items = read_items(write(tmp_path, name, text.encode(encoding)), None, HEADER)
        assert [item.frame for item in items] == [frame for _, frame in FRAMES[: len(items)]]
    with pytest.raises(FrameError, match=r"b\.jsonl: not JSON lines: .*utf-16"):
        read_items(write(tmp_path, "b.jsonl", b"\xff\xfe{"), None, HEADER)


def test_lines_and_lists_hold_many_frames_and_empty_lines_are_none(tmp_path, monkeypatch):
    bodies = [frame.encode(JSON) for _, frame in FRAMES]
    lines = b"\n\n".join(bodies) + b"\r\n"
    expected = [topic for topic, _ in FRAMES]
    a_list = b"[" + b",".join(bodies) + b"]"
    for path in (write(tmp_path, "a.jsonl", lines), write(tmp_path, "a.json", a_list)):
        assert [item.topic for item in read_items(path, None, HEADER)] == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert [item.topic for item in read_items(STDIN, None, HEADER)] == expected


def test_token_objects_become_one_batch_under_the_header(tmp_path):
    tokens = [{"id": "a", "metadata": {"label": "chat"}}, {"id": "b", "complexity": 2.5}]
    (item,) = read_items(write(tmp_path, "a.json", tokens), None, BatchHeader("m", 3, "b", 7))
    batch = item.frame
    assert item.topic is TOKENS_BATCH
    assert (batch.model, batch.layer, batch.batch_id, batch.ts_ns) == ("m", 3, "b", 7)
    assert batch.token_id.tolist() == hash_ids(["a", "b"]).tolist()
    assert batch.cost.tolist() == [1.0, 2.5]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_more_tokens_than_a_batch_holds_are_split_in_order(name, tmp_path):
    count = 2 * TOKENS_A_BATCH + 1
    text = {
        "a.json": json.dumps([{"id": n} for n in range(count)]),
        "a.jsonl": "\n".join(f'{{"id": {n}}}' for n in range(count)),
        "a.csv": "id\n" + "\n".join(map(str, range(count))),
    }[name]
    items = read_items(write(tmp_path, name, text), None, HEADER)
    assert [len(item.frame.token_id) for item in items] == [TOKENS_A_BATCH, TOKENS_A_BATCH, 1]
    assert [item.frame.batch_id for item in items] == ["b/0", "b/1", "b/2"]
    assert np.concatenate([item.frame.token_id for item in items]).tolist() == list(range(count))


def test_one_textual_id_makes_text_of_all_ids_of_a_long_table(tmp_path):
    rows = 300_000  # pandas would read them in two pieces
    ids = [*(str(n % 1000) for n in range(rows)), "tok-x"]
    table = "id,request_id\n" + "\n".join(f"{name},{name}" for name in ids)
    items = read_items(write(tmp_path, "a.csv", table), None, HEADER)
    assert [name for item in items for name in item.frame.token_names] == ids
    assert items[0].frame.token_id[7] == items[0].frame.request_id[7] == hash_ids(["7"])[0]


@pytest.mark.parametrize(("name", "other"), [("id", {"id": "7"}), ("request_id", {"id": 8, "metadata": {"request_id": "7"}})])
def test_numbers_and_text_as_ids_of_one_file_are_refused_though_in_two_batches(tmp_path, name, other):
    tokens = [*({"id": n, "metadata": {"request_id": n}} for n in range(TOKENS_A_BATCH)), other]
    with pytest.raises(FrameError, match=f"{name} must be strings or integers in all tokens, got both kinds"):
        read_items(write(tmp_path, "a.json", tokens), None, HEADER)


def test_a_table_carries_the_gates_choices_of_one_layer(tmp_path):
    table = "id,label,topk_id_0,topk_id_1,topk_weight_0,topk_weight_1\nx,NA,0,3,0.75,0.25\ny,code,1,2,0.5,0.5\n"
    (item,) = read_items(write(tmp_path, "a.csv", table), None, BatchHeader("m", 0, "b", 7))
    assert item.frame.topk_ids.tolist() == [[0, 3], [1, 2]]
    assert item.frame.topk_weights.tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert item.frame.label_names == ("NA", "code")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", '{"id": 1}\n{"id": ', "a.jsonl:2"),
        ("a.json", "{", "a.json"),
        ("a.json", '{"id": NaN}', "a.json"),
        ("a.json", "[1]", r"a.json\[0\]"),
        ("a.json", "[]", "at least one"),
        ("a.jsonl", "\n", "at least one"),
        ("a.json", [{"frame": "TokenBatch.v2"}], r"a.json\[0\].*TokenBatch.v1"),
        ("a.json", [{"frame": "DeadLetter.v1"}], "frame must be one of"),
        ("a.json", [{"frame": 3}], "frame must be one of"),
        ("a.json", {"colour": "red"}, "--topic"),
        ("a.json", {"frame": "ExpertLoad.v1", "model": "m"}, "window_id"),
        ("a.json", [{"id": 1}, {"name": 2}], "token 1"),
        ("a.safetensors", b"no", "not a safetensors file"),
        ("a.csv", "", "not a table"),
        ("a.csv", "id\n", "at least one"),
        ("a.csv", "name\nx\n", "columns of the table must be 'id'"),
        ("a.csv", "id,cost\nx,\n", "empty cells"),
        ("a.csv", "id,topk_id_0\nx,1\n", "layer must be given with topk_ids"),
    ],
)
def test_a_fault_is_reported_with_its_place(name, content, place, tmp_path):
    with pytest.raises(FrameError, match=place):
        read_items(write(tmp_path, name, content), None, HEADER)


def test_one_bad_frame_in_a_file_refuses_the_file(tmp_path):
    good = json.loads(EXPERTS_LOAD.frame.example().encode(JSON))
    with pytest.raises(FrameError, match=r"a.json\[1\]"):
        read_items(write(tmp_path, "a.json", [good, good | {"num_tokens": -1}]), None, HEADER)


def test_a_batch_too_large_for_the_wire_is_refused_before_anything_is_sent(tmp_path):
    tokens = [{"id": f"{n:0>190}"} for n in range(TOKENS_A_BATCH)]
    with pytest.raises(FrameError, match="must be at most 1000000 bytes"):
        read_items(write(tmp_path, "a.json", tokens), None, HEADER)


def test_a_frame_on_the_topic_of_another_is_refused(tmp_path):
    path = write(tmp_path, "a.json", EXPERTS_LOAD.frame.example().encode(JSON))
    with pytest.raises(FrameError, match="TokenBatch"):
        read_items(path, TOKENS_BATCH, HEADER)


def test_a_table_is_refused_on_another_topic_and_unknown_endings_altogether(tmp_path):
    with pytest.raises(ConfigError, match=TOKENS_BATCH.name):
        read_items(write(tmp_path, "a.csv", "id\n1\n"), EXPERTS_LOAD, HEADER)
    with pytest.raises(ConfigError, match="jsonl"):
        read_items(write(tmp_path, "a.parquet", ""), None, HEADER)
    with pytest.raises(ConfigError, match="a file that exists"):
        read_items(tmp_path / "absent.json", None, HEADER)


def test_dead_letters_cannot_be_published():
    assert {topic.name for topic in publishable()} == {name for name in BY_NAME if ".dlq." not in name}


def test_a_table_without_pandas_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=re.escape(install_hint("pandas"))):
        read_items(write(tmp_path, "a.csv", "id\n1\n"), None, HEADER)


def test_fields_that_a_frame_does_not_have_are_said_once_and_what_watch_adds_is_not(tmp_path, capsys):
    fields = json.loads(EXPERTS_LOAD.frame.example().encode(JSON)) | {"record": {"offset": 1}}
    lines = "\n".join(json.dumps(fields | extra) for extra in ({}, {"modle": "m"}, {"modle": "n"}))
    assert len(read_items(write(tmp_path, "a.jsonl", lines), None, HEADER)) == 3
    assert capsys.readouterr().err == f"a.jsonl:2: {EXPERTS_LOAD.frame.tag()} has no modle: ignored\n"


GRAPH = {
    "nodes": [{"id": "a", "type": "gpu"}, {"id": "b", "type": "gpu"}],
    "edges": [{"source": "a", "target": "b", "kind": "nvlink", "bw_gb_s": 25.0}],
}


@pytest.mark.parametrize("key", ["edges", "links"])
def test_a_graph_of_networkx_is_the_topology_of_a_fabric_called_as_the_graph_or_the_file(tmp_path, key):
    graph = {"nodes": GRAPH["nodes"], key: GRAPH["edges"]}
    for topic in (None, FABRIC_TOPOLOGY):
        (item,) = read_items(write(tmp_path, "pod-7.json", graph), topic, HEADER)
        assert item.topic is FABRIC_TOPOLOGY
        assert (item.frame.fabric, item.frame.ts_ns, len(item.frame.link_src)) == ("pod-7", HEADER.ts_ns, 2)
    (named,) = read_items(write(tmp_path, "pod-7.json", graph | {"graph": {"fabric": "east"}}), None, HEADER)
    assert named.frame.fabric == "east"


def test_a_strange_graph_is_warned_of_and_a_wrong_one_is_named_with_its_place(tmp_path, capsys):
    strange = GRAPH | {"edges": [*GRAPH["edges"], {"source": "a", "target": "a", "bw_gb_s": 1.0}]}
    read_items(write(tmp_path, "pod.json", strange), None, HEADER)
    assert "pod.json[0]: warning: " in capsys.readouterr().err
    for wrong, wanted in (
        ({"nodes": [], "edges": []}, "GPU"),
        (GRAPH | {"edges": [{"source": "a", "target": "z", "bw_gb_s": 25.0}]}, "z"),
        (GRAPH | {"edges": [{"source": "a", "target": "b", "bw_gb_s": 200_000.0}]}, "at most 10000 GB/s a link"),
        (GRAPH | {"graph": [7]}, "graph"),
    ):
        with pytest.raises(FrameError, match=rf"pod.json\[0\]: .*{wanted}"):
            read_items(write(tmp_path, "pod.json", wrong), None, HEADER)
