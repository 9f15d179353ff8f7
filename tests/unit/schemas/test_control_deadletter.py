"""Control and dead letters: what an operator wants, and why a record failed, survive their wire forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Control, DeadLetter, FrameError
from schemas.deadletter import MAX_MESSAGE, PREFIX

NAMES = st.text(min_size=1, max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
SCALARS = st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
CONTROLS = st.builds(
    Control, agent=NAMES, ts_ns=COUNT, paused=st.booleans(), options=st.dictionaries(NAMES, SCALARS, max_size=4), reason=st.text()
)
LETTERS = st.builds(
    DeadLetter,
    topic=NAMES,
    partition=COUNT,
    offset=COUNT,
    stage=st.sampled_from(["decode", "process", "produce"]),
    error_class=NAMES,
    error_message=st.text(),
    stack_trace=st.text(),
    attempts=st.integers(1, 2**31),
    timestamp_ms=COUNT,
)


@given(control=CONTROLS)
def test_any_control_survives_both_forms_and_keeps_the_type_of_each_option(control, round_trip):
    round_trip(control)
    read = Control.decode(control.encode())
    assert {name: type(value) for name, value in read.options.items()} == {
        name: type(value) for name, value in control.options.items()
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"paused": 1}, "paused must be a valid boolean"),
        ({"paused": "yes"}, "paused must be a valid boolean"),
        ({"options": {"a": None}}, "options.a"),
        ({"options": {"a": [1]}}, "options.a"),
        ({"options": {"a": float("inf")}}, "options.a"),
        ({"options": {"a": 2**63}}, "options.a"),
        ({"options": {"": 1}}, "options"),
        ({"options": {5: 1}}, "options"),
        ({"options": [1]}, "options must be a valid dictionary"),
        ({"options": {str(i): i for i in range(101)}}, "must be at most 100 entries, got 101"),
        ({"reason": "x" * 501}, "reason must have at most 500 characters, got 'xxx"),
        ({"agent": "\ud800"}, "agent must be a valid string"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_controls_that_are_wrong_are_refused(fields, said):
    with pytest.raises(FrameError) as caught:
        Control.build(**{"agent": "routing", "ts_ns": 1} | fields)
    assert said in str(caught.value)


@given(letter=LETTERS)
def test_any_dead_letter_survives_both_forms(letter, round_trip):
    round_trip(letter)


@given(letter=LETTERS, own=st.lists(st.tuples(st.sampled_from(["ce_id", "content-type"]), st.none() | st.binary())))
def test_any_dead_letter_survives_its_headers_beside_the_records_own(letter, own):
    headers = [*own, *letter.headers()]
    assert DeadLetter.from_headers(headers) == letter
    assert DeadLetter.original(headers) == own


def test_the_headers_are_those_of_kafka_connect():
    assert DeadLetter.example().headers() == [
        ("__connect.errors.topic", b"qstream.tokens.batch.v1"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.exception.class.name", b"FrameError"),
        ("__connect.errors.exception.message", b"TokenBatch.v1.token_id must be uint64, got dtype F32"),
        ("__connect.errors.attempts", b"1"),
        ("__connect.errors.timestamp", b"1700000000000"),
    ]
    assert DeadLetter.example().id == "qstream.tokens.batch.v1/3/17"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", b"x"),
        ("partition", b"-1"),
        ("offset", b"1.5"),
        ("offset", b"9" * 5000),
        ("offset", b""),
        ("stage", b"elsewhere"),
        ("topic", b""),
        ("attempts", b"0"),
        ("timestamp", b"\xff"),
        ("exception.message", b"x" * (MAX_MESSAGE + 1)),
        ("exception.class.name", None),
    ],
    ids=str,
)
def test_error_headers_that_are_wrong_are_refused(name, value):
    headers = dict(DeadLetter.example().headers()) | {PREFIX + name: value}
    with pytest.raises(FrameError, match=r"DeadLetter\.v1\."):
        DeadLetter.from_headers(list(headers.items()))


@pytest.mark.parametrize("headers", [[], [("ce_id", b"1")], [(PREFIX + "topic", None)], [(PREFIX + "other", b"1")]], ids=str)
def test_a_record_without_error_headers_is_no_dead_letter(headers):
    with pytest.raises(FrameError, match="has no __connect"):
        DeadLetter.from_headers(headers)


def test_an_error_that_quotes_no_text_can_still_be_written():
    fields = DeadLetter.example().model_dump(exclude={"frame"}) | {"error_message": "got '\ud800'", "stack_trace": "\udfff"}
    letter = DeadLetter.build(**fields)
    assert DeadLetter.from_headers(letter.headers()) == letter
    assert letter.error_message == "got '?'"


def test_header_bytes_that_are_no_text_are_kept_as_far_as_they_are():
    headers = dict(DeadLetter.example().headers()) | {PREFIX + "exception.message": b"bad \xff byte"}
    assert DeadLetter.from_headers(list(headers.items())).error_message == "bad \ufffd byte"
