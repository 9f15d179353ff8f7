"""Compress: a tensor and options in, a block out that says what it promises, and that has been decoded and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import ArrayLike

from qstream.compression import lossy
from qstream.compression.basis import Basis
from qstream.compression.chains import UNMEASURED, Draft, draft
from qstream.compression.codebook import Codebook
from qstream.compression.decode import decode
from qstream.compression.dtypes import Form, as_floats, canonical, rows_of
from qstream.compression.guide import NO_GUIDE, Guide, Measured
from qstream.compression.header import MAX_NAME, SUPPOSED, Header, Promise, Quality, Raw, Reason, SplitFloat, digest, write
from qstream.compression.nets import Net
from qstream.compression.options import CompressionOptions
from qstream.compression.parts import Piece
from qstream.errors import BlockError, ProblemError
from schemas.wording import Shown, must_be

_DEFAULT: Final = CompressionOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A coded tensor.

    Attributes
    ----------
    data
        The container: a safetensors file with the header in its metadata.
    header
        What the container says about the tensor.
    measured
        What was tried; for who codes a series.
    """

    data: bytes
    header: Header
    nbytes: int
    size: int
    measured: Measured = field(default_factory=Measured)

    @property
    def bits_per_value(self) -> float:
        """Bits of the whole container a value; 0 for a tensor without values."""
        return 8 * len(self.data) / self.size if self.size else 0.0

    @property
    def ratio(self) -> float:
        """Bytes of the tensor to bytes of the container."""
        return self.nbytes / len(self.data)

    @property
    def payload_bytes(self) -> int:
        """Bytes without the header."""
        return sum(part.nbytes for part in self.header.parts)

    @property
    def promise(self) -> Promise:
        """exact; bound: each value; l2: the relative L2 error; none."""
        return self.header.promise

    @property
    def quality(self) -> Quality:
        """What the encoder measured."""
        return self.header.quality

    @property
    def ops(self) -> tuple[dict[str, Any], ...]:
        """The chain, in the order of coding."""
        return tuple(op.model_dump() for op in self.header.ops)

    @property
    def fallback_reason(self) -> Reason | None:
        """Why the tensor was not coded as asked for."""
        return self.header.fallback_reason

    def side_file(self) -> str:
        """The chain as JSON."""
        return json.dumps({"name": self.header.name, "ops": self.ops})


def compress(
    array: ArrayLike,
    options: CompressionOptions | None = None,
    *,
    dtype: str | None = None,
    base: ArrayLike | None = None,
    basis: Basis | None = None,
    moment: ArrayLike | None = None,
    influence: ArrayLike | None = None,
    codebook: Codebook | None = None,
    name: str = "tensor",
    step: int = 0,
    guide: Guide = NO_GUIDE,
) -> Compressed:
    """Code a tensor of any shape and strides.

    An argument that the mode does not use is refused. A tensor that stays exact in every mode, such as a short vector, needs
    none of them.

    Parameters
    ----------
    array
        Of a type of `DTYPES`; bfloat16 and float8 as arrays of ml_dtypes, or as their bits with `dtype`.
    base
        For mode delta: the tensor that the reader holds, of the same type and shape.
    basis
        For modes rate, gradient, and bounded with l2: of rows like these; the data name it by its digest and do not hold it.
    moment : float [columns, columns]
        For mode rate: mean of x x' over the inputs x of the layer whose weight this is; rounding errors go where they do not
        matter to its output.
    influence : float [columns]
        For modes rate, gradient, and bounded with l2: how much each column matters, such as from `influence_by_dropout`; what
        matters more is coded finer. Not with `basis` or `moment`.
    codebook
        For the same modes and int8: where the basis for a tensor of this name is, if none is given by itself, and its net. It
        may have nothing for this name.
    name, step
        Of the tensor, for the header.
    guide
        What earlier blocks of a series have taught.

    Raises
    ------
    BlockError
        The type is unknown, there are more than 8 axes, or the base is another type or shape.
    ProblemError
        An argument is missing, breaks a rule, or is not used by the mode.
    """
    chosen = options or _DEFAULT
    chosen.require_used(base=base, basis=basis, moment=moment, influence=influence, codebook=codebook)
    form = canonical(array, dtype)
    given = None if base is None else canonical(base, dtype)
    net = None if codebook is None else codebook.nets.get(name)
    if basis is None and codebook is not None:
        basis = codebook.for_tensor(name, rows_of(form.array.shape)[1])
    made = draft(form, chosen, given, basis, moment, influence, net, guide)
    header = _header(form, chosen, made, given, name, step)
    data = write([header], [piece.data for piece in made.pieces])
    return Compressed(data, header, form.array.nbytes, form.array.size, made.measured)


def coded(
    form: Form,
    options: CompressionOptions,
    *,
    base: Form | None = None,
    basis: Basis | None = None,
    net: Net | None = None,
    name: str = "tensor",
    step: int = 0,
) -> tuple[Header, list[Piece]]:
    """The header and parts of a tensor; see `compress`."""
    made = draft(form, options, base, basis, None, None, net)
    return _header(form, options, made, base, name, step), made.pieces


def _header(form: Form, options: CompressionOptions, made: Draft, base: Form | None, name: str, step: int) -> Header:
    """The header, after what was made has been decoded and compared."""
    if len(name) > MAX_NAME or step < 0:
        raise ProblemError(must_be("name and step", f"at most {MAX_NAME} characters, and 0 or more", (name, step)))
    fields: dict[str, Any] = {
        "step": step,
        "as_bits": form.as_bits,
        "big_endian": form.big_endian,
        "mode": options.mode,
        "promise": made.promise,
        "digest": made.digest,
        "base_digest": made.base_digest,
        "basis_digest": None if made.basis is None else made.basis.digest,
        "gains": made.gains or {},
        "fallback_reason": made.reason,
    }
    given = {key: value for key, value in fields.items() if value != SUPPOSED[key]}
    if made.quality is not UNMEASURED:
        given["quality"] = made.quality
    ops, parts = tuple(made.ops), tuple(piece.part for piece in made.pieces)
    given |= {"name": name, "dtype": form.dtype, "shape": form.array.shape, "ops": ops, "parts": parts}
    header = Header.trusted(given)
    if options.verify:
        _verify(header, made.pieces, form, base, made.basis)
    return header


def _verify(header: Header, pieces: list[Piece], form: Form, base: Form | None, basis: Basis | None) -> None:
    """Decode as a reader does and compare; a difference would be a fault of this package."""
    if isinstance(header.ops[0], (Raw, SplitFloat)):  # a rearrangement of bytes, so that the coded planes are all there is to see
        if not all(piece.is_kept() for piece in pieces):
            raise BlockError("checksum", must_be(f"restored {header.name!r}", "what was given", Shown("something else")))
        return
    raw = decode(header, pieces, base=None if base is None else base.raw, basis=basis)
    kept = digest(raw) == header.digest if header.digest is not None else True
    if kept and header.promise == "l2":
        x = as_floats(form.array.reshape(-1), form.dtype)
        quality = lossy.measured(x, raw.view(form.array.dtype), form.dtype, 0)
        kept = quality.rel_l2 <= (header.quality.bound or 0.0)
    if not kept:
        raise BlockError("checksum", must_be(f"restored {header.name!r}", "what was promised", Shown("something else")))
