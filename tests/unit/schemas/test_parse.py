"""JSON from any program: white space, byte order marks and UTF-16 change nothing; a safetensors body is not taken for it."""

from __future__ import annotations

import codecs

import pytest

from schemas import TokenBatch
from schemas.frame import JSON, SAFETENSORS, FrameError, body_type
from schemas.parse import as_utf8, read_json

BATCH = TokenBatch.example()
TEXT = BATCH.encode(JSON)
MARK = codecs.BOM_UTF8
WIRE = {"plain": b"", "line break": b"\r\n", "space": b" \t ", "mark": MARK, "mark and space": MARK + b"\n "}


@pytest.mark.parametrize("before", WIRE.values(), ids=WIRE)
def test_a_json_body_is_known_and_read_whatever_stands_before_its_brace(before):
    body = before + TEXT
    assert body_type(body) == JSON
    assert TokenBatch.decode(body, JSON) == BATCH


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_in_any_of_these_encodings_has_the_same_value(encoding):
    text = '{"name": "Größe", "n": 1}'
    assert read_json(text.encode(encoding)) == {"name": "Größe", "n": 1}
    assert as_utf8(text.encode(encoding)).decode() == text
    assert read_json("\ufeff" + text) == {"name": "Größe", "n": 1}
    assert read_json(codecs.BOM_UTF16_BE + text.encode("utf-16-be")) == {"name": "Größe", "n": 1}


@pytest.mark.parametrize("length", [0x0A20, 0x2020, 0x5B20, 0x7B20, 0x7B0A20])
def test_the_length_of_a_safetensors_header_is_not_taken_for_white_space_and_a_brace(length):
    body = length.to_bytes(8, "little") + b"{" + b" " * 9
    assert body_type(body) == SAFETENSORS


@pytest.mark.parametrize("text", [b"", b"\xff\xfe{", b"\xef\xbb\xbf", b"NaN", b"\xff\xfe", "\ufeff\ufeff1", b"\xfe\xff\xd8\x00"])
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"column|codec"):
        read_json(text)


def test_a_frame_in_an_encoding_that_its_mark_belies_is_refused_by_name():
    with pytest.raises(FrameError, match=r"TokenBatch\.v1: not JSON"):
        TokenBatch.decode(codecs.BOM_UTF16_LE + b"x", JSON)
