"""Reading bytes that lie: every fault is a short FrameError within memory that the size of the bytes bounds."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas import JSON, SAFETENSORS, TOPICS, Control, ExpertTopology, FrameError, RoutingPlan, TokenBatch

FRAMES = [topic.frame for topic in TOPICS]


HEADER = {"batch_id": "b", "ts_ns": 1, "model": "m"}


def body(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, written by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def batch_body(header: Any = None, **arrays: NDArray[Any]) -> bytes:
    """A TokenBatch written by the safetensors library alone."""
    text = header if isinstance(header, str) else json.dumps(HEADER | (header or {}))
    return safetensors.numpy.save({"token_id": np.arange(3, dtype=np.uint64)} | arrays, metadata={"qstream": text})


def batch_json(**fields: Any) -> bytes:
    return json.dumps(HEADER | {"token_id": [1, 2, 3]} | fields).encode()


def test_bytes_that_the_library_alone_wrote_are_read():
    batch = TokenBatch.decode(batch_body({"layer": 0}, topk_ids=np.array([[1, 2], [0, 3], [5, 4]], np.int32)))
    assert batch.token_id.tolist() == [0, 1, 2]
    assert batch.topk_ids.tolist() == [[1, 2], [0, 3], [5, 4]]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
@pytest.mark.parametrize("content_type", [SAFETENSORS, JSON])
def test_a_frame_cut_off_anywhere_is_refused(frame, content_type):
    data = frame.example().encode(content_type)
    for end in range(len(data)):
        with pytest.raises(FrameError):
            frame.decode(data[:end], content_type)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
@pytest.mark.parametrize("content_type", [SAFETENSORS, JSON])
@given(data=st.data())
def test_flipped_bits_give_a_valid_frame_or_a_frame_error(frame, content_type, data):
    raw = bytearray(frame.example().encode(content_type))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(raw) - 1), min_size=1, max_size=4)):
        raw[bit // 8] ^= 1 << bit % 8
    try:
        read = frame.decode(bytes(raw), content_type)
    except FrameError:
        return
    assert frame.decode(read.encode(content_type), content_type) == read


@given(raw=st.binary(max_size=300), content_type=st.sampled_from([SAFETENSORS, JSON]))
def test_random_bytes_are_refused(raw, content_type):
    with pytest.raises(FrameError):
        TokenBatch.decode(raw, content_type)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
@given(data=st.data())
def test_any_json_value_in_any_field_gives_a_valid_frame_or_a_frame_error(frame, data):
    fields = json.loads(frame.example().encode(JSON))
    fields[data.draw(st.sampled_from(sorted(frame.model_fields)))] = data.draw(JSON_VALUES)
    as_header = body({"__metadata__": {"qstream": json.dumps(fields)}})
    results = []
    for raw, content_type in ((json.dumps(fields).encode(), JSON), (as_header, SAFETENSORS)):
        try:
            results.append(frame.decode(raw, content_type))
        except FrameError:
            results.append(None)
    assert results[0] == results[1]


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(length, refuse):
    data = TokenBatch.example().encode()
    refuse(TokenBatch, struct.pack("<Q", length) + data[8:])


@pytest.mark.parametrize("change", [-1, 1])
def test_a_header_length_that_is_off_by_one_is_refused(change, refuse):
    data = TokenBatch.example().encode()
    refuse(TokenBatch, struct.pack("<Q", struct.unpack("<Q", data[:8])[0] + change) + data[8:])


@pytest.mark.parametrize(
    "entry",
    [
        tensor("U64", [3], 0, 10**9),
        tensor("U64", [3], 0, 16),
        tensor("U64", [3], 16, 40),
        tensor("U64", [3], 24, 0),
        tensor("U64", [3], -1, 23),
        tensor("U64", [2], 0, 24),
        tensor("U64", [10**9], 0, 24),
        tensor("U64", [10**9], 0, 8 * 10**9),
        tensor("U64", [2**62, 2**62], 0, 24),
        tensor("U64", [-3], 0, 24),
        tensor("U64", [3.0], 0, 24),
        tensor("U64", ["3"], 0, 24),
        tensor("U64", [1] * 100 + [3], 0, 24),
        tensor("U64", [1, 3], 0, 24),
        tensor("X99", [3], 0, 24),
        {"dtype": "U64", "shape": [3]},
        {"dtype": "U64", "shape": [3], "data_offsets": [0]},
        [],
        None,
    ],
    ids=str,
)
def test_tensor_entries_that_lie_are_refused(entry, refuse):
    header = {"__metadata__": {"qstream": json.dumps(HEADER)}, "token_id": entry}
    refuse(TokenBatch, body(header, np.arange(3, dtype=np.uint64).tobytes()))


def test_tensors_that_overlap_are_refused(refuse):
    entries = {"token_id": tensor("U64", [3], 0, 24), "request_id": tensor("U64", [3], 0, 24)}
    refuse(TokenBatch, body({"__metadata__": {"qstream": json.dumps(HEADER)}} | entries, bytes(24)))


@pytest.mark.parametrize("shape", [[10**9, 0], [0, 10**9], [0, 2**62, 2**62], [2**63, 0], [0, 2**64 - 1]], ids=str)
def test_an_empty_axis_beside_a_giant_one_is_refused(shape, refuse):
    header = {"__metadata__": {"qstream": json.dumps(HEADER | {"layer": 0})}} | {
        "token_id": tensor("U64", [3], 0, 24),
        "topk_ids": tensor("I32", shape, 24, 24),
    }
    assert "topk_ids" in refuse(TokenBatch, body(header, bytes(24)))


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__":{"qstream":"{}"}}',
        b'{"__metadata__":{"qstream":5}}',
        b'{"__metadata__":{"other":"x"}}',
        b'{"__metadata__":{}}',
        b'{"__metadata__":null}',
        b'{"__metadata__":5}',
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"__metadata__":{"qstream":"{}"},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"y":' + b"1" * 5000 + b"}}",
        b'{"__metadata__":{"qstream":"{}"},"__metadata__":{"qstream":"[]"}}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=lambda text: text[:40].decode(errors="replace"),
)
def test_file_headers_that_are_wrong_are_refused(text, refuse):
    refuse(TokenBatch, body(text))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "null",
        "5",
        "[]",
        '"text"',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"batch_id":NaN}',
        '{"ts_ns":1e999}',
        '{"ts_ns":' + "9" * 5000 + "}",
        '{"batch_id":"\\ud800"}',
        '{"batch_id":"x"',
        "{'batch_id':1}",
    ],
    ids=lambda text: text[:20],
)
def test_json_headers_that_are_wrong_are_refused(header, refuse):
    refuse(TokenBatch, batch_body(header))


@pytest.mark.parametrize("dtype", ["I64", "U32", "F64", "BF16", "BOOL", "U8"])
def test_an_array_of_another_dtype_names_the_field_and_the_rule(dtype, refuse):
    width = {"U32": 4, "BF16": 2, "BOOL": 1, "U8": 1}.get(dtype, 8)
    header = {"__metadata__": {"qstream": json.dumps(HEADER)}, "token_id": tensor(dtype, [3], 0, 3 * width)}
    message = refuse(TokenBatch, body(header, bytes(3 * width)))
    assert message == f"TokenBatch.v1.token_id must be uint64, got dtype {dtype}"


def test_a_dtype_that_numpy_does_not_have_is_no_float64(refuse):
    fields = json.loads(ExpertTopology.example().encode(JSON))
    del fields["node_of_gpu"]
    header = {"__metadata__": {"qstream": json.dumps(fields)}, "rank_cost": tensor("BF16", [4, 4], 0, 32)}
    assert "rank_cost must be float64, got dtype BF16" in refuse(ExpertTopology, body(header, bytes(32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_in_arrays(value, refuse):
    message = refuse(TokenBatch, batch_body(cost=np.array([1, value, 1], np.float32)))
    assert "cost must be finite numbers, got NaN or infinity" in message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1e39"])
def test_numbers_that_are_not_finite_are_refused_in_json(value, refuse):
    text = batch_json(cost=[0, 1, 2]).replace(b"[0, 1, 2]", f"[1, {value}, 1]".encode())
    assert ("cost" if value.startswith("1e") else "not JSON") in refuse(TokenBatch, text, JSON)
    if value != "1e39":
        text = batch_json(deadline_ms=0.0).replace(b"0.0", value.encode())
        assert ("deadline_ms" if value.startswith("1e") else "not JSON") in refuse(TokenBatch, text, JSON)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("ts_ns", True, "valid integer"),
        ("ts_ns", 1.0, "valid integer"),
        ("ts_ns", "1", "valid integer"),
        ("ts_ns", None, "valid integer"),
        ("ts_ns", -1, "greater than or equal to 0"),
        ("ts_ns", 2**63, "less than 9223372036854775808"),
        ("ts_ns", 10**3000, "an integer of 9966 bits"),
        ("deadline_ms", True, "valid number"),
        ("deadline_ms", "1", "valid number"),
        ("deadline_ms", 0, "greater than 0"),
        ("batch_id", 5, "valid string"),
        ("batch_id", "", "at least 1 character"),
        ("batch_id", "x" * 201, "at most 200 characters"),
        ("label_names", "ab", "valid tuple"),
        ("label_names", {"a": 1}, "valid tuple"),
        ("label_names", [1], "valid string"),
        ("frame", "TokenBatch.v2", "must be TokenBatch.v1, got 'TokenBatch.v2'"),
        ("frame", "RoutingPlan.v1", "must be TokenBatch.v1, got 'RoutingPlan.v1'"),
        ("frame", 1, "valid string"),
    ],
    ids=str,
)
def test_header_values_are_not_converted(field, value, said, refuse):
    for raw, content_type in ((batch_json(**{field: value}), JSON), (batch_body({field: value}), SAFETENSORS)):
        message = refuse(TokenBatch, raw, content_type)
        assert f"TokenBatch.v1.{field}" in message
        assert said in message


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, True],
        [True, True, True],
        [1, 2, 3.0],
        [1, 2, "3"],
        ["1", "2", "3"],
        [1, 2, None],
        [1, 2, [3]],
        [1, 2, {}],
        [[1], [2], [3]],
        [1, 2, -1],
        [1, 2, 2**64],
        [1, 2, 10**3000],
        [2**63, 1, -1],
        "123",
        123,
        {"0": 1},
        None,
    ],
    ids=lambda value: str(value)[:40],
)
def test_array_items_are_not_converted(value, refuse):
    message = refuse(TokenBatch, batch_json(token_id=value), JSON)
    assert "TokenBatch.v1.token_id must be " in message


@pytest.mark.parametrize(
    "value",
    [
        [[1], [2, 3], [4]],
        [[1], [2], 3],
        [[], [], []],
        [],
        [[[1]], [[2]], [[3]]],
        [1, 2, 3],
        [[1], [2], [2**31]],
        [[1], [2], [-(2**31) - 1]],
        [["x" * 100_000]] + [["y"]] * 5000,
    ],
    ids=lambda value: str(value)[:40],
)
def test_nested_lists_that_are_no_table_are_refused(value, refuse):
    message = refuse(TokenBatch, batch_json(layer=0, topk_ids=value), JSON, factor=40)
    assert "TokenBatch.v1.topk_ids must be " in message


def test_the_bounds_of_every_integer_dtype_survive(round_trip):
    round_trip(TokenBatch(**HEADER, token_id=np.array([0, 2**63, 2**64 - 1], np.uint64)))
    assert TokenBatch.decode(batch_json(token_id=[0, 2**64 - 1, 2**63]), JSON).token_id.tolist() == [0, 2**64 - 1, 2**63]


@pytest.mark.parametrize("field", ["token_id", "topk_ids", "cost", "label_names", "token_names", "frame", "unknown"])
@pytest.mark.parametrize("piece", ["[]", "{}", "null", "1e9", "1.5", "[[[]]]", '""', "true"])
def test_long_lists_of_nothing_cost_a_bounded_multiple_of_their_size(field, piece, refuse):
    data = f'{{"ts_ns":1,"{field}":[{",".join([piece] * (250_000 // (len(piece) + 1)))}]}}'.encode()
    refuse(TokenBatch, data, JSON, factor=40)


def test_many_wrong_entries_are_one_error(refuse):
    entries = ",".join(f'"k{index}":null' for index in range(60_000))
    message = refuse(Control, f'{{"agent":"a","ts_ns":1,"options":{{{entries}}}}}'.encode(), JSON, factor=32)
    assert message == "Control.v1.options must be at most 100 entries, got 60000"


@pytest.mark.parametrize("start", ["[", '{"token_id":[', '{"a":'])
def test_deep_nesting_is_refused(start, refuse):
    text = start + start[-1] * 500_000 if start.endswith("[") else start * 150_000
    assert "recursion limit" in refuse(TokenBatch, text.encode(), JSON)


@pytest.mark.parametrize(
    "text", [b'{"batch_id":"\xff"}', b'{"batch_id":"\\ud800"}', b"\xff\xfe{\x00}\x00", b"\x00", b"\xef\xbb\xbf{}"]
)
def test_text_that_is_not_utf8_is_refused(text, refuse):
    refuse(TokenBatch, text, JSON)


def test_of_a_repeated_name_the_last_holds_in_both_forms():
    text = json.dumps(HEADER)[:-1] + ', "model": "last"'
    assert TokenBatch.decode((text + ', "token_id": [1], "token_id": [2]}').encode(), JSON).model == "last"
    assert TokenBatch.decode((text + ', "token_id": [1], "token_id": [2]}').encode(), JSON).token_id.tolist() == [2]
    assert TokenBatch.decode(batch_body(text + "}")).model == "last"


def test_unknown_fields_and_arrays_of_a_newer_producer_are_ignored():
    extra = {"frame": "TokenBatch.v1", "new_field": {"a": [1]}}
    read = TokenBatch.decode(batch_body(extra, new_column=np.zeros((2, 5), np.float16)))
    assert read == TokenBatch.decode(batch_json(token_id=[0, 1, 2], new_column=[[0.5]], **extra), JSON)
    assert read == TokenBatch(**HEADER, token_id=np.arange(3, dtype=np.uint64))


@pytest.mark.parametrize("content_type", [SAFETENSORS, JSON])
def test_another_frames_bytes_are_refused_by_name(content_type, refuse):
    message = refuse(TokenBatch, RoutingPlan.example().encode(content_type), content_type)
    assert message.startswith("TokenBatch.v1.frame must be TokenBatch.v1, got 'RoutingPlan.v1'")


@pytest.mark.parametrize("content_type", [SAFETENSORS, JSON])
def test_more_bytes_than_allowed_are_refused_before_they_are_read(content_type, refuse):
    message = refuse(TokenBatch, bytes(TokenBatch.MAX_BYTES + 1), content_type, factor=0)
    assert message == "TokenBatch.v1 must be at most 1000000 bytes, got 1000001"
