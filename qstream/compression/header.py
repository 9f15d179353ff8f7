"""Header: what a coded tensor says about itself, and the one container of headers and payload, a safetensors file."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qstream.compression.dtypes import DTYPES, size_of
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

Promise = Literal["exact", "bound", "l2", "none"]
Mode = Literal["lossless", "delta", "bounded", "rate", "gradient", "int8"]
Reason = Literal[
    "library_missing",
    "clock_too_small",
    "ill_conditioned",
    "twin_smaller",
    "gain_below_gate",
    "deadline",
    "too_few_rows",
    "not_needed",
    "shape_changed",
    "not_trained",
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
VERSION: Final = 1
_BEGIN: Final = f'{{"v":{VERSION},"check":"'  # xxh3-64 of the text behind it follows
_METADATA: Final = '{"__metadata__":{"qstream":'
_JSON: Final = json.JSONDecoder()
MAX_HEADER_BYTES: Final = 64 << 20
MAX_OPS: Final = 16
MAX_PARTS: Final = 64
MAX_NAME: Final = 512
# Raw bytes of all parts of a tensor: symbols, indices and values that escaped, and tables, scales and bases besides.
PARTS_PER_BYTE: Final = 4
PARTS_FREE: Final = 8 << 20


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Raw(_Model):
    """Bytes as they are, in C order."""

    op: Literal["raw"]


class SplitFloat(_Model):
    """Byte planes of values, those of floats with the sign rotated to the lowest bit so that the first plane is the exponent."""

    op: Literal["split_float"]
    width: Literal[2, 4, 8]
    rotate: bool


class DeltaExponent(_Model):
    """Steps of a bfloat16 tensor on its base, as gaps within each exponent of the base."""

    op: Literal["delta_exponent"]


class Xor(_Model):
    """Bits that differ from the base's; planes follow."""

    op: Literal["xor"]


class Quantise(_Model):
    """Multiples of a step; the lowest bits of those apart."""

    op: Literal["quantise"]
    step: float = Field(gt=0)
    low_bits: int = Field(default=0, ge=0, le=8)


class QuantisePoint(_Model):
    """Multiples of a step in the logarithm of the absolute value, from the value `reference`."""

    op: Literal["quantise_point"]
    step: float = Field(gt=0)
    reference: float
    low_bits: int = Field(default=0, ge=0, le=8)


class Int8(_Model):
    """Whole numbers from -127 to 127 with scales."""

    op: Literal["int8"]
    scale: Literal["tensor", "row", "group"]


class Transform(_Model):
    """Rows without their mean, times an orthogonal basis of each group of `width` columns."""

    op: Literal["transform"]
    kind: Literal["klt", "qae", "fourier"]
    width: int = Field(ge=1, le=4096)


class Prune(_Model):
    """Columns that are left out; the reader predicts them from the others."""

    op: Literal["prune"]
    kept: int = Field(ge=1, le=4096)


class Weights(_Model):
    """Each column's step is the common one times its weight."""

    op: Literal["weights"]


class Classes(_Model):
    """Entropy tables by the scale of a value's row and column."""

    op: Literal["classes"]
    count: int = Field(ge=1, le=64)


class Table(_Model):
    """The centre of the values of each multiple, in steps."""

    op: Literal["table"]


class Correction(_Model):
    """A trained net or table corrects the values; a reader without it leaves them as they are."""

    op: Literal["net"]
    kind: Literal["denoiser", "lstm", "table"]
    digest: Digest


class Spectral(_Model):
    """Singular values times a smooth step at `threshold`."""

    op: Literal["spectral"]
    threshold: float = Field(gt=0)


Op = Annotated[
    Raw
    | SplitFloat
    | DeltaExponent
    | Xor
    | Quantise
    | QuantisePoint
    | Int8
    | Transform
    | Prune
    | Weights
    | Classes
    | Table
    | Spectral
    | Correction,
    Field(discriminator="op"),
]


class Part(NamedTuple):
    """One coded piece of the payload; `check` is xxh3-64 of its bytes."""

    name: Annotated[str, Field(max_length=32)]
    nbytes: Annotated[int, Field(ge=0)]
    raw_nbytes: Annotated[int, Field(ge=0)]
    codec: Literal["store", "zstd", "rans"]
    check: Digest


def shortened(value: float) -> float:
    """Six digits, rounded up: enough to read, and no more than a header should hold."""
    found = float(f"{value:.6g}")
    return found if found >= value else float(f"{value * (1 + 1e-5):.6g}")


class Quality(_Model):
    """What the encoder measured: the largest error, the relative L2 error, values kept apart, and the bound in absolute terms.

    `max_abs_error` and `rel_l2` are over finite values; `bound` is None where none was promised. Where it is a part of each value
    `max_relative_error` is, too.
    """

    max_abs_error: float = 0.0
    rel_l2: float = 0.0
    escapes: int = Field(default=0, ge=0)
    bound: float | None = None
    max_relative_error: float | None = None


class Header(_Model):
    """All that a reader needs beside the payload, the base of a delta and a named basis."""

    name: str = Field(max_length=MAX_NAME)
    step: int = Field(default=0, ge=0)
    dtype: str
    shape: tuple[int, ...]
    as_bits: bool = False
    big_endian: bool = False
    mode: Mode = "lossless"
    promise: Promise = "exact"
    digest: Digest | None = None
    base_digest: Digest | None = None
    basis_digest: Digest | None = None
    ops: tuple[Op, ...] = Field(max_length=MAX_OPS)
    parts: tuple[Part, ...] = Field(max_length=MAX_PARTS)
    quality: Quality = Quality()
    gains: dict[str, float] = Field(default_factory=dict)
    fallback_reason: Reason | None = None

    def op(self, kind: type[_Model]) -> Any:
        """The operation of this kind, or None."""
        for op in self.ops:
            if isinstance(op, kind):
                return op
        return None

    @classmethod
    def trusted(cls, given: dict[str, Any]) -> Header:
        """A header of fields that are our own, without the checks that every reader makes: those take half as long as a small
        tensor."""
        header = cls.__new__(cls)
        object.__setattr__(header, "__dict__", SUPPOSED | given)
        object.__setattr__(header, "__pydantic_fields_set__", set(given))
        object.__setattr__(header, "__pydantic_extra__", None)
        object.__setattr__(header, "__pydantic_private__", None)
        return header


# What every reader supposes, and is not written.
SUPPOSED: Final = {name: field.get_default(call_default_factory=True) for name, field in Header.model_fields.items()}


def digest(data: Any) -> str:
    """xxh3-64 of bytes, as 16 hexadecimal digits."""
    found: str = xxhash.xxh3_64_hexdigest(data)
    return found


def write(headers: Sequence[Header], pieces: Sequence[Any], more: dict[str, Any] | None = None) -> bytes:
    """A safetensors file: headers in its metadata, all pieces one after the other as the uint8 tensor ``payload``."""
    tensors = ",".join(header.model_dump_json(exclude_unset=True) for header in headers)
    rest = "".join(f",{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in (more or {}).items())
    body = f'"tensors":[{tensors}]{rest}}}'
    inner = f'{_BEGIN}{digest(body.encode())}",{body}'
    size = sum(len(piece) for piece in pieces)
    text = f"{_METADATA}{json.dumps(inner)}{_payload(size)}".encode("ascii")
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _payload(size: int) -> str:
    """The end of a container's text."""
    return f'}},"payload":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'


class Contents(NamedTuple):
    """What `read` found: headers, where each one's payload begins, the bytes, and further entries."""

    headers: tuple[Header, ...]
    starts: tuple[int, ...]
    data: memoryview
    more: dict[str, Any]

    def payload(self, index: int) -> memoryview:
        """The bytes of a tensor's parts."""
        start = self.starts[index]
        return self.data[start : start + sum(part.nbytes for part in self.headers[index].parts)]


class _Outer(BaseModel):
    v: Literal[1]
    check: Digest
    tensors: tuple[Header, ...]
    model_config = ConfigDict(extra="allow")


def read(data: Any, max_bytes: int) -> Contents:
    """The headers of a container, each checked, and nothing decoded.

    Raises
    ------
    BlockError
        The bytes are no container, or a header breaks a rule; `limit` where a tensor would be larger than `max_bytes`.
    """
    try:
        view = memoryview(data).cast("B")
    except TypeError as exc:
        raise BlockError("bad_frame", must_be("data", "contiguous bytes", Shown(type(data).__name__))) from exc
    outer, start = _json(view)
    try:
        found = _Outer.model_validate_json(outer)
    except ValidationError as exc:
        raise _fault(exc) from exc
    names = {header.name for header in found.tensors}
    if len(names) != len(found.tensors):
        raise BlockError("bad_frame", must_be("names of tensors", "different", Shown("a name twice")))
    starts, at = [], start
    for header in found.tensors:
        _check(header, max_bytes)
        starts.append(at)
        at += sum(part.nbytes for part in header.parts)
    if at != len(view):
        raise BlockError("bad_frame", must_be("payload", f"{at - start} bytes", len(view) - start))
    return Contents(found.tensors, tuple(starts), view, found.model_extra or {})


def _json(view: memoryview) -> tuple[str, int]:
    """The text of our metadata and where the payload begins."""
    if len(view) < 8:
        raise BlockError("bad_frame", must_be("data", "a container of at least 8 bytes", Shown(f"{len(view)} bytes")))
    (length,) = struct.unpack("<Q", view[:8])
    if length > min(MAX_HEADER_BYTES, len(view) - 8):
        allowed = f"a safetensors file, whose header is at most {len(view) - 8} bytes"
        raise BlockError("bad_frame", must_be("data", allowed, Shown(f"a header of {length} bytes")))
    try:
        text = _entry(str(view[8 : 8 + length], "utf-8"), len(view) - 8 - length)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        allowed = "a safetensors file with the entry qstream in its metadata"
        raise BlockError("bad_frame", must_be("data", allowed, Shown(f"{type(exc).__name__}"))) from exc
    if not isinstance(text, str):
        raise BlockError("bad_frame", must_be("entry qstream", "text", Shown(type(text).__name__)))
    if not text.startswith(_BEGIN):
        raise BlockError("bad_frame", must_be("entry qstream", f"of version {VERSION}", text[: len(_BEGIN)]))
    body = text[len(_BEGIN) + 18 :]
    if digest(body.encode(errors="replace")) != text[len(_BEGIN) : len(_BEGIN) + 16]:
        raise BlockError("checksum", must_be("header", "as it was written", Shown("other text")))
    return text, 8 + length


def _entry(text: str, size: int) -> Any:
    """Our entry of a safetensors header: at its place in what `write` has written, which is read faster, or anywhere."""
    if text.startswith(_METADATA):
        found, end = _JSON.raw_decode(text, len(_METADATA))
        if text[end:].rstrip(" ") == _payload(size):
            return found
    return json.loads(text)["__metadata__"]["qstream"]


def _check(header: Header, max_bytes: int) -> None:
    size = size_of(header.dtype, header.shape)
    if size > max_bytes:
        raise BlockError("limit", must_be(f"tensor {header.name!r}", f"at most {max_bytes} bytes", size))
    raw = sum([part.raw_nbytes for part in header.parts])
    if raw > PARTS_PER_BYTE * size + PARTS_FREE:
        raise BlockError(
            "limit", must_be(f"parts of {header.name!r}", f"at most {PARTS_PER_BYTE * size + PARTS_FREE} bytes", raw)
        )
    _require_different("operations", header, [op.op for op in header.ops])
    _require_different("parts", header, [part.name for part in header.parts])
    if header.as_bits and DTYPES[header.dtype].kind in "biufc":
        raise BlockError("dtype", must_be("as_bits", "false for a type that numpy knows", header.dtype))


def _require_different(what: str, header: Header, found: list[str]) -> None:
    if len(found) > 1 and len(set(found)) != len(found):
        raise BlockError("bad_frame", must_be(f"{what} of {header.name!r}", "different", found))


def _fault(exc: ValidationError) -> BlockError:
    fault = exc.errors(include_url=False, include_input=False)[0]
    unknown = fault["type"] == "union_tag_invalid"
    place = ".".join(str(part) for part in fault["loc"]) or "header"
    return BlockError("unknown_op" if unknown else "bad_frame", f"{place}: {fault['msg']}")
