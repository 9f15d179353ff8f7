"""Layout: where the tensors of a file are among its bytes, so that all others can be kept as they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import DTYPES
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

Format = Literal["safetensors", "npy", "npz"]


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor: its bytes are `nbytes` from `start`, C-ordered, of a type of numpy's or of `DTYPES`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A file's bytes and its tensors, in the order of their bytes; `members` are the files of an npz: name, start, size.

    Where members are `deflated` (start, size, level) in the file, `source` are its bytes and `data` those without deflate.
    """

    format: Format
    data: NDArray[np.uint8]
    spans: tuple[Span, ...]
    members: tuple[tuple[str, int, int], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    deflated: tuple[tuple[int, int, int], ...] = ()
    source: NDArray[np.uint8] | None = None

    def array(self, span: Span) -> NDArray[Any]:
        """The tensor of a span."""
        return self.data[span.start : span.start + span.nbytes].view(span.dtype).reshape(span.shape)

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256((self.data if self.source is None else self.source).data).hexdigest()

    def rest(self) -> NDArray[np.uint8]:
        """All bytes that are of no tensor, one after the other."""
        ends = [0, *(span.start + span.nbytes for span in self.spans)]
        starts = [*(span.start for span in self.spans), len(self.data)]
        return np.concatenate([self.data[end:start] for end, start in zip(ends, starts, strict=True)])


def ordered(format_: Format, data: NDArray[np.uint8], spans: list[Span], **more: Any) -> Layout:
    """A layout whose spans lie one behind the other and within the file; `BlockError` if they do not."""
    spans = sorted(spans, key=lambda span: (span.start, span.nbytes))
    end = 0
    for span in spans:
        if span.start < end or span.start + span.nbytes > len(data):
            allowed = f"from {end} to {len(data)}, behind the one before"
            raise BlockError("bad_frame", must_be(f"bytes of tensor {span.name!r}", allowed, Shown(f"{span.start}")))
        end = span.start + span.nbytes
    return Layout(format_, data, tuple(spans), **more)


def known(dtype: np.dtype[Any]) -> bool:
    """Whether values of this type can be coded as values; others are coded as bytes."""
    return dtype.newbyteorder("<") in DTYPES.values()
