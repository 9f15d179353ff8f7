"""Token batches: any valid one survives, columns agree, and ids, objects and tables become columns once."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from schemas import FrameError, TokenBatch
from schemas.tokens import MAX_ID_BYTES, from_dataframe, from_objects, hash_ids

HEADER = {"batch_id": "b", "ts_ns": 1, "model": "m"}
NAMES = st.text(min_size=1, max_size=20)
INT32 = st.integers(0, 2**31 - 1)
WEIGHTS = st.floats(0, float(np.finfo(np.float32).max), width=32)


@st.composite
def batches(draw):
    tokens, k = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    labels = draw(st.lists(NAMES, max_size=3))

    def column(dtype, items, *shape):
        return draw(st.none() | npst.arrays(dtype, (tokens, *shape), elements=items))

    gate = draw(st.booleans())
    return TokenBatch(
        batch_id=draw(NAMES),
        ts_ns=draw(st.integers(0, 2**63 - 1)),
        model=draw(NAMES),
        layer=draw(st.integers(0, 4095)) if gate else draw(st.none() | st.integers(0, 4095)),
        deadline_ms=draw(st.none() | st.floats(1e-300, 1e300)),
        label_names=tuple(labels),
        token_names=draw(st.none() | st.tuples(*[NAMES] * tokens)),
        token_id=draw(npst.arrays(np.uint64, tokens)),
        request_id=column(np.uint64, None),
        position=column(np.int32, INT32),
        cost=column(np.float32, WEIGHTS),
        src_rank=column(np.int32, st.integers(-1, 2**31 - 1)),
        label=column(np.int32, st.integers(-1, len(labels) - 1)),
        topk_ids=draw(npst.arrays(np.int32, (tokens, k), elements=INT32)) if gate else None,
        topk_weights=column(np.float32, WEIGHTS, k) if gate else None,
    )


@given(batch=batches())
def test_any_valid_batch_survives_both_forms(batch, round_trip):
    round_trip(batch)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"token_id": []}, "len(token_id) must be at least 1, got 0"),
        ({"topk_ids": [[0], [1]]}, "layer must be given with topk_ids, which are those of one layer, got None"),
        ({"topk_weights": [[0.5], [1.0]], "layer": 0}, "topk_ids must be given with topk_weights, got None"),
        (
            {"topk_ids": [[0], [1]], "topk_weights": [[0.5, 0.5], [1, 0]], "layer": 0},
            "axis 'k' of topk_weights must be as long as in topk_ids, 1, got 2",
        ),
        ({"topk_ids": [[0], [-2]], "layer": 0}, "topk_ids must be >= -1, got values from -2 to 0"),
        ({"topk_ids": [[0], [1]], "topk_weights": [[0.5], [-1]], "layer": 0}, "topk_weights must be >= 0, got values from -1"),
        ({"token_names": ("a",)}, "len(token_names) must be 2, one a token, got 1"),
        ({"cost": [1.0, -0.5]}, "cost must be >= 0, got values from -0.5 to 1.0"),
        ({"cost": [1.0]}, "axis 'tokens' of cost must be as long as in token_id, 2, got 1"),
        ({"position": [0, -1]}, "position must be >= 0, got values from"),
        ({"src_rank": [0, -2]}, "src_rank must be >= -1, got values from -2 to 0"),
        ({"label": [0, 1], "label_names": ("a",)}, "label must be -1 to 0, an index of label_names, got values from 0 to 1"),
        ({"label": [-1, 0]}, "label must be -1 to -1, an index of label_names, got values from -1 to 0"),
        ({"label": [-2, 0], "label_names": ("a",)}, "label must be -1 to 0, an index of label_names, got values from"),
        ({"layer": 4096}, "less than 4096"),
        ({"label_names": ("x",) * 4097}, "at most 4096"),
    ],
    ids=str,
)
def test_columns_that_do_not_agree_are_refused(fields, said):
    with pytest.raises(FrameError) as caught:
        TokenBatch.build(**HEADER | {"token_id": [1, 2]} | fields)
    assert said in str(caught.value)


def fnv1a(text: str) -> int:
    """FNV-1a as its authors give it, a byte at a time."""
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    return state


def test_the_hash_gives_the_published_test_vectors():
    assert hash_ids(["", "a", "foobar"]).tolist() == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8]


@given(ids=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60), max_size=8))
def test_the_hash_equals_the_reference_for_any_text(ids):
    hashes = hash_ids(ids)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [fnv1a(text) for text in ids]


@given(ids=st.lists(st.text("ab\u00e9", max_size=9), min_size=1, max_size=5), longest=st.integers(1, MAX_ID_BYTES))
def test_the_hash_of_an_id_does_not_depend_on_its_neighbours(ids, longest):
    assert hash_ids([*ids, "x" * longest])[:-1].tolist() == [hash_ids([text])[0] for text in ids]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a\0"], "NUL"),
        (["\0"], "NUL"),
        (["a", "b\0c"], "NUL"),
        (["x" * (MAX_ID_BYTES + 1)], "token id must be at most 256 bytes long, got 257"),
        (["\u00e9" * 129], "at most 256 bytes long, got 258"),
        (["a", "\ud800"], "UTF-8"),
    ],
    ids=ascii,
)
def test_ids_that_cannot_be_hashed_are_refused(ids, said):
    with pytest.raises(FrameError, match=said):
        hash_ids(ids)


def test_one_long_id_among_many_is_refused_before_room_is_made_for_it():
    with pytest.raises(FrameError, match="at most 256 bytes long, got 10000000"):
        hash_ids(["a"] * 100_000 + ["x" * 10_000_000])


def objects(tokens):
    return from_objects(tokens, **HEADER)


def test_token_objects_become_columns():
    batch = objects(
        [
            {"id": "a", "metadata": {"request_id": "r1", "src_rank": 3, "position": 5, "label": "chat"}, "complexity": 2.5},
            {"id": "b", "metadata": {"label": "code"}, "complexity": {"cost": 4}},
            {"id": "c", "complexity": {"other": 1}, "unknown": [1]},
        ]
    )
    assert batch.token_names == ("a", "b", "c")
    assert batch.token_id.tolist() == [fnv1a("a"), fnv1a("b"), fnv1a("c")]
    assert batch.request_id.tolist() == [fnv1a("r1"), 0, 0]
    assert batch.src_rank.tolist() == [3, -1, -1]
    assert batch.position.tolist() == [5, 0, 0]
    assert [batch.label_names[index] if index >= 0 else None for index in batch.label] == ["chat", "code", None]
    assert batch.cost.tolist() == [2.5, 4.0, 1.0]


def test_integer_ids_stay_as_they_are_and_absent_columns_absent():
    batch = objects([{"id": 2**64 - 1}, {"id": 0}])
    assert batch.token_id.tolist() == [2**64 - 1, 0]
    assert batch.token_names is None
    assert [batch.request_id, batch.src_rank, batch.position, batch.label, batch.topk_ids] == [None] * 5
    assert batch.cost.tolist() == [1.0, 1.0]


def test_a_null_in_metadata_is_an_absent_value():
    batch = objects([{"id": 1, "metadata": {"request_id": None, "label": None}, "complexity": None}, {"id": 2}])
    assert (batch.request_id.tolist(), batch.label.tolist(), batch.cost.tolist()) == ([0, 0], [-1, -1], [1.0, 1.0])


def test_integer_labels_are_names_like_strings():
    batch = objects([{"id": 1, "metadata": {"label": 7}}, {"id": 2, "metadata": {"label": "7"}}])
    assert (batch.label_names, batch.label.tolist()) == (("7",), [0, 0])


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], "len(tokens) must be at least 1, got 0"),
        (None, "len(tokens) must be at least 1, got 0"),
        ([5], "token 0 must be an object with 'id', got 5"),
        ([{"id": 1}, {"Id": 2}], "token 1 must be an object with 'id', got {'Id': 2}"),
        ({"id": 1}, "token 0 must be an object with 'id', got 'id'"),
        ("abc", "token 0 must be an object with 'id', got 'a'"),
        ([{"id": -1}], "token_id must be uint64 [tokens], got values beyond its range"),
        ([{"id": 2**64}], "token_id must be uint64 [tokens], got values beyond"),
        ([{"id": 1.0}], "token_id must be uint64 [tokens], got a float"),
        ([{"id": None}], "token_id must be uint64 [tokens], got a NoneType"),
        ([{"id": True}], "token_id must be uint64 [tokens], got a bool"),
        ([{"id": [1]}], "token_id must be uint64 [tokens], got a list"),
        ([{"id": {}}], "token_id must be uint64 [tokens], got a dict"),
        ([{"id": "a"}, {"id": 1}], "id must be strings or integers, got both kinds"),
        ([{"id": 1}, {"id": "a"}], "id must be strings or integers, got both kinds"),
        ([{"id": "a"}, {"id": None}], "id must be strings or integers, got both kinds"),
        ([{"id": ""}], "token_names.0 must have at least 1 character, got ''"),
        ([{"id": "a\0"}], "NUL"),
        ([{"id": "\ud800"}], "UTF-8"),
        ([{"id": "x" * 300}], "at most 256 bytes long, got 300"),
        ([{"id": 1, "metadata": None}], "metadata of token 0 must be an object, got None"),
        ([{"id": 1, "metadata": [1]}], "metadata of token 0 must be an object, got [1]"),
        ([{"id": 1, "metadata": "\ud800"}], "metadata of token 0 must be an object, got"),
        ([{"id": 1, "metadata": {"request_id": -1}}], "request_id must be uint64 [tokens], got values beyond"),
        (
            [{"id": 1, "metadata": {"request_id": "a"}}, {"id": 2, "metadata": {"request_id": 3}}],
            "request_id must be strings or integers, got both kinds",
        ),
        ([{"id": 1, "metadata": {"request_id": 1.5}}], "request_id must be uint64 [tokens], got a float"),
        ([{"id": 1, "metadata": {"src_rank": "0"}}], "src_rank must be int32 [tokens], got a str"),
        ([{"id": 1, "metadata": {"src_rank": 2**31}}], "src_rank must be int32 [tokens], got values beyond"),
        ([{"id": 1, "metadata": {"position": -1}}], "position must be >= 0, got values from -1"),
        ([{"id": 1, "metadata": {"label": 1.5}}], "label must be a string or an integer, got a float"),
        ([{"id": 1, "metadata": {"label": ["a"]}}], "label must be a string or an integer, got a list"),
        ([{"id": 1, "metadata": {"label": ""}}], "label_names.0 must have at least 1 character, got ''"),
        ([{"id": 1, "complexity": "high"}], "cost must be float32 [tokens], got a str"),
        ([{"id": 1, "complexity": True}], "cost must be float32 [tokens], got a bool"),
        ([{"id": 1, "complexity": -1}], "cost must be >= 0, got values from -1"),
        ([{"id": 1, "complexity": float("nan")}], "cost must be finite numbers, got NaN or infinity"),
        ([{"id": 1, "complexity": {"cost": {"cost": 1}}}], "cost must be float32 [tokens], got a dict"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_token_objects_that_are_wrong_are_refused(tokens, said):
    with pytest.raises(FrameError) as caught:
        objects(tokens)
    assert said in str(caught.value)
    str(caught.value).encode()


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)
METADATA = st.dictionaries(st.sampled_from(["request_id", "src_rank", "position", "label", "x"]), ANYTHING)
TOKEN = st.fixed_dictionaries(
    {"id": ANYTHING},
    optional={"metadata": METADATA | ANYTHING, "complexity": ANYTHING | st.dictionaries(st.just("cost"), ANYTHING)},
)


@given(tokens=st.lists(TOKEN | ANYTHING, max_size=4))
def test_any_objects_give_a_batch_or_a_frame_error(tokens, round_trip):
    try:
        batch = objects(tokens)
    except FrameError:
        return
    assert len(batch.token_id) == len(tokens)
    round_trip(batch)


def table(**columns):
    return pd.DataFrame({"id": [10, 11, 12]} | columns)


def test_a_table_becomes_columns():
    batch = from_dataframe(
        table(
            request_id=["r", "s", "r"],
            position=[0, 1, 2],
            cost=[1, 2, 3],
            src_rank=[0, -1, 1],
            label=["b", "a", "b"],
            topk_id_0=[5, 6, 7],
            topk_id_1=[1, 2, 3],
            topk_weight_1=[0.25, 0.5, 0.125],
            topk_weight_0=[0.75, 0.5, 0.875],
        ),
        **HEADER,
        layer=3,
    )
    assert batch == TokenBatch(
        **HEADER,
        layer=3,
        label_names=("a", "b"),
        token_id=[10, 11, 12],
        request_id=[fnv1a("r"), fnv1a("s"), fnv1a("r")],
        position=[0, 1, 2],
        cost=[1.0, 2.0, 3.0],
        src_rank=[0, -1, 1],
        label=[1, 0, 1],
        topk_ids=[[5, 1], [6, 2], [7, 3]],
        topk_weights=[[0.75, 0.25], [0.5, 0.5], [0.875, 0.125]],
    )


def test_gate_columns_are_ordered_by_number_not_by_name():
    gate = {f"topk_id_{choice}": [choice] * 3 for choice in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert from_dataframe(table(**gate), **HEADER, layer=0).topk_ids[0].tolist() == list(range(11))


@pytest.mark.parametrize("dtype", ["Int64", "int8", "uint64", "int64"])
def test_integers_of_any_width_are_taken(dtype):
    batch = from_dataframe(table(topk_id_0=pd.Series([1, 2, 3], dtype=dtype)), **HEADER, layer=0)
    assert batch.topk_ids.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize("labels", [pd.Series(["b", "a", "b"], dtype="category"), pd.Series(["b", "a", "b"], dtype="string")])
def test_text_of_any_kind_is_taken(labels):
    batch = from_dataframe(table(label=labels), **HEADER)
    assert (batch.label_names, batch.label.tolist()) == (("a", "b"), [1, 0, 1])


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pd.DataFrame(), "columns of the table must be 'id' and others"),
        (pd.DataFrame({"ID": [1], 5: [1]}), "columns of the table must be 'id' and others, got ['ID', '5']"),
        (pd.DataFrame({"id": []}), "token_id"),
        (pd.DataFrame({"id": [1.0]}), "token_id must be uint64 [tokens], got a float"),
        (pd.DataFrame({"id": [-1]}), "token_id must be uint64 [tokens], got values beyond"),
        (pd.DataFrame({"id": [True]}), "token_id must be uint64 [tokens], got a bool"),
        (pd.DataFrame({"id": ["a", 1]}), "id must be strings or integers, got both kinds"),
        (pd.DataFrame({"id": [1, None]}), "column 'id' must be filled in every row, got empty cells"),
        (pd.DataFrame([[1, 2]], columns=["id", "id"]), "two columns of one name"),
        (table(cost=[1.0, np.nan, 2.0]), "column 'cost' must be filled in every row, got empty cells"),
        (table(label=["a", None, "b"]), "column 'label' must be filled in every row, got empty cells"),
        (table(label=[0.5, 1.0, 2.0]), "label must be a string or an integer, got a float"),
        (table(cost=["1", "2", "3"]), "cost must be float32 [tokens], got a str"),
        (table(position=[0.5, 1.0, 2.0]), "position must be int32 [tokens], got a float"),
        (table(topk_id_x=[1, 2, 3]), "columns of the gate must be topk_id_0, topk_id_1 and so on, got ['topk_id_x']"),
        (table(topk_id_=[1, 2, 3]), "columns of the gate must be topk_id_0"),
        (table(topk_id_1=[1, 2, 3]), "columns of the gate must be topk_id_0"),
        (table(topk_id_0=[1, 2, 3], topk_id_2=[1, 2, 3]), "columns of the gate must be topk_id_0"),
        (table(topk_id_00=[1, 2, 3]), "columns of the gate must be topk_id_0"),
        (table(topk_id_١=[1, 2, 3]), "columns of the gate must be topk_id_0"),
        (table(topk_id_0=[1.5, 2, 3]), "topk_ids must be int32 [tokens, k] without an empty axis, got a float"),
        (table(topk_id_0=[1, None, 3]), "column 'topk_id_0' must be filled in every row, got empty cells"),
        (table(topk_id_0=["1", "2", "3"]), "topk_ids must be int32 [tokens, k] without an empty axis, got a str"),
        (table(topk_id_0=[1, 2, 2**31]), "topk_ids must be int32 [tokens, k] without an empty axis, got values beyond"),
        (table(topk_id_0=[1, 2, -2]), "topk_ids must be >= -1, got values from -2"),
        (table(topk_weight_0=[1.0, 1.0, 1.0]), "topk_ids must be given with topk_weights, got None"),
        (
            table(topk_id_0=[1, 2, 3], topk_weight_0=["a", "b", "c"]),
            "topk_weights must be float32 [tokens, k] without an empty axis, got a str",
        ),
        (
            table(topk_id_0=[1, 2, 3], topk_weight_0=[0.5, np.inf, 1.0]),
            "topk_weights must be finite numbers, got NaN or infinity",
        ),
        (table(topk_id_0=[1, 2, 3], topk_weight_0=[0.5] * 3, topk_weight_1=[0.5] * 3), "axis 'k'"),
    ],
    ids=lambda value: "" if isinstance(value, pd.DataFrame) else value[:50],
)
def test_tables_that_are_wrong_are_refused(frame, said):
    with pytest.raises(FrameError) as caught:
        from_dataframe(frame, **HEADER, layer=0)
    assert said in str(caught.value)


def test_gate_columns_need_a_layer():
    with pytest.raises(FrameError, match="layer must be given with topk_ids, which are those of one layer, got None"):
        from_dataframe(table(topk_id_0=[1, 2, 3]), **HEADER)
