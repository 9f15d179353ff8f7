"""JSON as programs of any language write it: with white space or a byte order mark before it, files also in UTF-16."""

from __future__ import annotations

import codecs
from typing import Any, Final

from pydantic_core import from_json

WHITE_SPACE: Final = b" \t\r\n"  # of JSON
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_json(text: bytes | str, *, allow_inf_nan: bool = False) -> Any:
    """The value of a JSON text; of a name that an object repeats, the last value.

    Raises
    ------
    ValueError
        It is not JSON, not in the encoding that its byte order mark says, or has NaN or Infinity where they are not allowed.
    """
    return from_json(as_utf8(text.encode() if isinstance(text, str) else text), allow_inf_nan=allow_inf_nan)


def as_utf8(text: bytes) -> bytes:
    """The text in UTF-8 and without a byte order mark, which says that it is UTF-8 or UTF-16; `ValueError` if it is not."""
    if text.startswith(UTF_16):
        return text.decode("utf-16").encode()
    return text.removeprefix(codecs.BOM_UTF8)


def looks_like_json(body: bytes) -> bool:
    """Whether a body of unknown kind begins as a JSON object or list does, rather than with the length of a safetensors file.

    That length, 8 bytes little-endian, may begin like white space and a brace, but has zeros, which JSON never has.
    """
    if body[:1] in (b"{", b"["):
        return True
    return b"\0" not in body[:8] and body.removeprefix(codecs.BOM_UTF8).lstrip(WHITE_SPACE)[:1] in (b"{", b"[")
