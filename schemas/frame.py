"""Frame: a validated header and named arrays of declared dtype and axes, in two equal wire forms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import safetensors
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema, to_json

from schemas.arrays import array_schema, extremes
from schemas.layout import METADATA, Read, usual_layout
from schemas.parse import looks_like_json, read_json
from schemas.repeated import read_repeated
from schemas.wording import Shown, must, must_be

ContentType = Literal["application/vnd.safetensors", "application/json"]
SAFETENSORS: ContentType = "application/vnd.safetensors"
JSON: ContentType = "application/json"

HEADER_KEY = "qstream"
MAX_MESSAGE_BYTES = 1_000_000
SMALL_JSON_BYTES = 16_384
MAX_ERRORS_SHOWN = 4
_SHOULD = re.compile(r"^\w+ should ")  # as pydantic says "must"
MAX_SHOWN = 80
# In the order in which the safetensors library writes arrays: wide before narrow keeps every array aligned.
WIRE_DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("uint64"),
    "I64": np.dtype("int64"),
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "U32": np.dtype("uint32"),
    "I32": np.dtype("int32"),
    "BF16": np.dtype("uint16"),
    "F16": np.dtype("float16"),
    "U16": np.dtype("uint16"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Names = Annotated[tuple[Name, ...], Field(strict=False, fail_fast=True)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
TimeNs = Count


class FrameError(ValueError):
    """Bytes or values that are not a valid frame; the message names the field, what it must be and the value."""


def body_type(body: bytes) -> ContentType:
    """The content type of a body that came without the header: JSON begins with a brace, safetensors with a length."""
    return JSON if looks_like_json(body) else SAFETENSORS


class Axes:
    """Declares a Frame field as an array: ``Annotated[NDArray[np.int32], Axes("tokens", "k")]``.

    The dtype is the annotation's. Axes of one name have one length within a frame. Arrays of two and more axes have no
    empty axis, since a JSON list could not say it.

    ``wire="BF16"`` is for bfloat16 numbers, which NumPy does not have: the array holds their bits as uint16, and travels
    under safetensors' own code, so that PyTorch and JAX read it as what it is. Bits that come as U16, or as integers in
    JSON, are taken as well; NaN and infinity are bits like others. `schemas.bfloat16` converts. The dtype of `ml_dtypes`
    is not used: it is one more dependency of every producer, and NumPy neither checks nor prints it.
    """

    def __init__(self, *names: str, wire: Literal["BF16"] | None = None) -> None:
        self.names = names
        self.wire = wire

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return array_schema(_dtype(source), self.names)


class Inner:
    """Declares a field that holds a frame: ``Annotated[PowerTopology, Inner()]``. One that is a frame already was checked when
    it was made, and is not checked again with each new state around it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        def read(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return value if type(value) is source else check(value)

        return core_schema.no_info_wrap_validator_function(read, handler(source))


class Frame(BaseModel):
    """One entity that travels on a topic.

    Subclasses declare header fields and arrays (see `Axes`) and give an ``example()``. Frames are immutable, their arrays
    read-only: a writable array is copied, a read-only one shared. No value is converted on the way in but an int to a
    float. Reading ignores unknown header fields and arrays (a newer minor producer), takes the last of repeated names,
    refuses another frame or major version, and allocates nothing before the size is checked.

    `CHANGING` names the fields, in their order, in which the headers of one sender differ from record to record: the rest is then
    read once (`schemas.repeated`). They must be of type `Count`, and no rule may join them, or numbers of arrays, to others.

    `CHUNK_BYTES` is how many bytes of an array a store writes as one: fewer for a state of which a record changes few rows.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True)
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_MESSAGE_BYTES
    CHANGING: ClassVar[tuple[str, ...]] = ()
    CHUNK_BYTES: ClassVar[int] = 60 << 10
    arrays: ClassVar[dict[str, tuple[str, ...]]] = {}
    dtypes: ClassVar[dict[str, np.dtype[Any]]] = {}
    codes: ClassVar[dict[str, frozenset[str]]] = {}
    layout: ClassVar[tuple[tuple[str, str], ...]] = ()
    array_names: ClassVar[set[str]] = set()
    tied: ClassVar[dict[str, tuple[str, ...]]] = {}
    name_and_version: ClassVar[str] = "Frame.v1"

    frame: str = Field(default="", max_length=100, description="name and major version of the frame, such as TokenBatch.v1")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        declared = {name: _declaration(field.annotation, field.metadata) for name, field in cls.model_fields.items()}
        cls.arrays = {name: found[0].names for name, found in declared.items() if found}
        cls.dtypes = {name: found[1] for name, found in declared.items() if found}
        own = {dtype: code for code, dtype in WIRE_DTYPES.items()}  # of several codes the last one, which is not BF16
        written = {name: found[0].wire or own[found[1]] for name, found in declared.items() if found}
        for name, code in written.items():
            if WIRE_DTYPES[code] != cls.dtypes[name]:
                raise TypeError(
                    must_be(f"{cls.__name__}.{name}", f"an array of {WIRE_DTYPES[code]}", Shown(str(cls.dtypes[name])))
                )
        cls.codes = {name: frozenset((code, own[cls.dtypes[name]])) for name, code in written.items()}
        cls.layout = tuple((name, code) for code in WIRE_DTYPES for name in sorted(written) if written[name] == code)
        cls.array_names = set(cls.arrays)
        cls.name_and_version = f"{cls.__name__}.v{cls.VERSION}"
        uses = Counter(axis for axes in cls.arrays.values() for axis in axes)
        cls.tied = {name: axes for name, axes in cls.arrays.items() if any(uses[axis] > 1 for axis in axes)}

    @classmethod
    def tag(cls) -> str:
        """Name and major version, the value of the field ``frame``."""
        return cls.name_and_version

    @field_validator("frame", mode="after")
    @classmethod
    def _same_frame(cls, value: str) -> str:
        if value not in ("", cls.tag()):
            raise ValueError(f"must be {cls.tag()}")
        return value

    @model_validator(mode="after")
    def _equal_axes(self) -> Self:
        values = self.__dict__
        if not values["frame"]:
            values["frame"] = self.name_and_version
        lengths: dict[str, int] = {}
        for field, axes in self.tied.items():
            array = values[field]
            if array is not None:
                for axis, length in zip(axes, array.shape):  # noqa: B905 `as_array` has counted them; strict costs a third
                    if lengths.setdefault(axis, length) != length:
                        raise ValueError(self._unequal(field, axis, length))
        return self

    def _unequal(self, field: str, axis: str, length: int) -> str:
        """The message for an axis that is longer or shorter than in an earlier field."""
        first = next(name for name in self.tied if axis in self.tied[name] and self.__dict__[name] is not None)
        known = self.__dict__[first].shape[self.tied[first].index(axis)]
        return must_be(f"axis {axis!r} of {field}", f"as long as in {first}, {known}", length)

    @classmethod
    def example(cls) -> Self:
        """A small valid frame, for documentation, golden samples and conformance tests."""
        raise NotImplementedError(f"{cls.__name__} gives no example")

    def encode(self, content_type: ContentType = SAFETENSORS) -> bytes:
        """Write the frame; `FrameError` if it is larger than ``MAX_BYTES``."""
        if content_type == JSON:
            data = self.__pydantic_serializer__.to_json(self, exclude_none=True)
        elif content_type != SAFETENSORS:
            raise _unknown_content_type(type(self), content_type)
        else:
            data = _write_safetensors(self)
        _check_size(type(self), data)
        return data

    @classmethod
    def decode(cls, data: bytes, content_type: str = SAFETENSORS) -> Self:
        """Read and validate a frame; every fault of the bytes is a `FrameError`, whatever they hold."""
        _check_size(cls, data)
        if content_type not in (SAFETENSORS, JSON):
            raise _unknown_content_type(cls, content_type)
        try:
            frame: Self = _from_json(cls, data) if content_type == JSON else _from_safetensors(cls, data)
        except ValidationError as exc:
            raise FrameError(explain(cls, exc)) from exc
        return frame

    @classmethod
    def build(cls, **fields: Any) -> Self:
        """Construct from Python values; as ``cls(...)``, but with `FrameError` instead of pydantic's error."""
        try:
            return cls(**fields)
        except ValidationError as exc:
            raise FrameError(explain(cls, exc)) from exc

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in type(self).model_fields)

    __hash__ = None  # type: ignore[assignment]


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and bool(left == right)


def _dtype(array_type: Any) -> np.dtype[Any]:
    """The dtype that ``NDArray[...]`` names."""
    dtype: np.dtype[Any] = np.dtype(get_args(get_args(array_type)[1])[0])
    return dtype


def _declaration(annotation: Any, metadata: Sequence[Any]) -> tuple[Axes, np.dtype[Any]] | None:
    """Axes and dtype of an array field, None for a header field; an optional one keeps its Axes inside the union."""
    for item in metadata:
        if isinstance(item, Axes):
            return item, _dtype(annotation)
    for part in get_args(annotation):
        if hasattr(part, "__metadata__"):
            return _declaration(get_args(part)[0], part.__metadata__)
    return None


def _unknown_content_type(cls: type[Frame], content_type: str) -> FrameError:
    return FrameError(f"{cls.tag()}: " + must_be("content type", f"{SAFETENSORS} or {JSON}", content_type))


def _check_size(cls: type[Frame], data: bytes) -> None:
    if len(data) > cls.MAX_BYTES:
        raise FrameError(must_be(cls.tag(), f"at most {cls.MAX_BYTES} bytes", len(data)))


def _write_safetensors(frame: Frame) -> bytes:
    """The bytes that the safetensors library would write, with one copy of the arrays in place of three."""
    # What `model_dump_json` does at twice the time.
    fields = frame.__pydantic_serializer__.to_json(frame, exclude=frame.array_names or None, exclude_none=True)
    header: dict[str, Any] = {METADATA: {HEADER_KEY: fields.decode()}}
    bodies = []
    end = 0
    for name, code in frame.layout:
        array = getattr(frame, name)
        if array is not None:
            begin, end = end, end + array.nbytes
            header[name] = {"dtype": code, "shape": array.shape, "data_offsets": (begin, end)}
            bodies.append(array)
    text = to_json(header)
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *bodies))


def _from_json(cls: type[Frame], data: bytes) -> Any:
    """A small body in one pass, whose tree of values is larger than Python's. What that refuses goes the long way, which
    tells a fault of the JSON from one of the frame."""
    if len(data) <= SMALL_JSON_BYTES and not _may_hold_nan(data):
        try:  # `suppress` takes longer than many a frame
            return cls.__pydantic_validator__.validate_json(data)
        except ValidationError:
            pass
    return cls.model_validate(_read_json(cls, data))


def _may_hold_nan(data: bytes) -> bool:
    """Whether NaN or Infinity stands anywhere in it. A search for one letter takes a fifth of the time of one for a word."""
    return (b"N" in data and b"NaN" in data) or (b"I" in data and b"Infinity" in data)


def _read_json(cls: type[Frame], text: bytes | str) -> dict[str, Any]:
    try:
        fields = read_json(text)
    except ValueError as exc:
        raise FrameError(f"{cls.tag()}: not JSON: {str(exc)[:200]}") from exc
    if not isinstance(fields, dict):
        raise FrameError(must_be(cls.tag(), "a JSON object", Shown(f"a JSON {type(fields).__name__}")))
    return fields


def _from_safetensors(cls: type[Frame], data: bytes) -> Any:
    """A frame of the header fields and the declared arrays of a safetensors body."""
    frame = read_repeated(cls, data, _read_safetensors) if cls.CHANGING else None
    return _read_safetensors(cls, data) if frame is None else frame


def _read_safetensors(cls: type[Frame], data: bytes) -> Any:
    header, arrays = usual_layout(data, cls.dtypes, cls.codes) or _any_layout(cls, data)
    metadata = header.get(METADATA) or {}
    if HEADER_KEY not in metadata:
        raise FrameError(f"{cls.tag()}: the safetensors metadata has no key {HEADER_KEY!r}, the JSON header")
    return cls.__pydantic_validator__.validate_python(_read_json(cls, metadata[HEADER_KEY]) | arrays)


def _any_layout(cls: type[Frame], data: bytes) -> Read:
    """What the safetensors library reads, which checks every offset against the length and copies the arrays."""
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as exc:
        raise FrameError(f"{cls.tag()}: not a safetensors file: {str(exc)[:200]}") from exc
    header = _read_json(cls, data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header, {name: _tensor(cls, name, tensor) for name, tensor in tensors if name in cls.arrays}


def _tensor(cls: type[Frame], name: str, tensor: dict[str, Any]) -> NDArray[Any]:
    declared = cls.dtypes[name]
    if tensor["dtype"] not in cls.codes[name]:
        allowed = f"{declared} (BF16)" if "BF16" in cls.codes[name] else str(declared)
        raise FrameError(must_be(f"{cls.tag()}.{name}", allowed, Shown(f"dtype {tensor['dtype']}")))
    try:
        array = np.frombuffer(tensor["data"], dtype=declared).reshape(tensor["shape"])
    except (ValueError, OverflowError) as exc:
        raise FrameError(must_be(f"{cls.tag()}.{name}", "an array", Shown(f"shape {tensor['shape'][:8]}"))) from exc
    array.flags.writeable = False
    return array


def explain(cls: type[Frame], exc: ValidationError) -> str:
    """One line a fault: the field, the rule, the value."""
    faults = []
    for error in exc.errors(include_url=False, include_context=False)[:MAX_ERRORS_SHOWN]:
        where = ".".join(_shown(part) for part in error["loc"] if not str(part).startswith("function-"))
        value, rule = error["input"], error["msg"].removeprefix("Value error, ")
        rule = must("given", Shown("nothing")) if error["type"] == "missing" else _SHOULD.sub("must ", rule)
        if isinstance(value, str | int | float | None) and ", got " not in rule:
            rule += f", got {repr(_shown(value)) if isinstance(value, str) else _shown(value)}"
        faults.append(f"{cls.tag()}{'.' + where if where else ''}{' ' if rule.startswith('must ') else ': '}{rule}")
    more = exc.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")


def _shown(value: str | int | float | None) -> str:
    """A value for an error message: short, printable in any encoding."""
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    return str(value)[:MAX_SHOWN].encode(errors="backslashreplace").decode()


def at_most(limit: int) -> BeforeValidator:
    """For dict fields: refuse more than `limit` entries before they are read, each of which could be an error to report."""
    return BeforeValidator(partial(_at_most, limit=limit))


def _at_most(value: Any, limit: int) -> Any:
    if isinstance(value, dict) and len(value) > limit:
        raise ValueError(must(f"at most {limit} entries", len(value)))
    return value


def require(frame: Frame, field: str, low: float, high: float | None = None, rule: str = "") -> None:
    """Raise ValueError if the array `field` is present and has a value below `low` or above `high`; `rule` says it in words."""
    array = getattr(frame, field)
    if array is None or not array.size:
        return
    least, greatest = extremes(array)
    if least < low or (high is not None and greatest > high):
        rule = rule or (f">= {low}" if high is None else f"{low} to {high}")
        raise ValueError(must_be(field, rule, Shown(f"values from {array.min()} to {array.max()}")))
