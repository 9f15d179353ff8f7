"""Restore: coded data in, the tensor out, after every size and check that the header declares has been compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.compression import delta, integers, lossy, point, quantise, refine, split
from qstream.compression.basis import MAX_COLUMNS, Basis, cosine_basis
from qstream.compression.codebook import Codebook
from qstream.compression.dtypes import DTYPES, as_floats, canonical, from_floats, given_back, rows_of, size_of
from qstream.compression.header import (
    Classes,
    Correction,
    DeltaExponent,
    Header,
    Int8,
    Promise,
    Prune,
    Quantise,
    QuantisePoint,
    Raw,
    Spectral,
    SplitFloat,
    Table,
    Transform,
    Weights,
    Xor,
    digest,
    read,
)
from qstream.compression.nets import Net
from qstream.compression.options import RestoreOptions
from qstream.compression.parts import Parts, Piece
from qstream.compression.prune import Pruned
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from qstream.compression.checks import Check

Bytes = NDArray[np.uint8]


_DEFAULT: Final = RestoreOptions()


@dataclass(frozen=True, slots=True)
class Refined:
    """A refiner that the encoder approved: its name, and the part of the squared error that it left when that was measured.

    Attributes
    ----------
    execution
        ``classical``; for a check by a circuit (``qsvt``, ``qft``, ``hhl``) how that was simulated.
    reason
        Why it was not applied: ``not_needed``, by an option or because there is nothing to check, or ``library_missing``,
        without its codebook.
    difference, twin_difference
        Of a check: how far the circuit's answer and that of its classical twin are from what was computed, relative.
    detail
        Of a check: its record, such as qubits ``n``, ``depth``, ``success_probability``, ``condition`` and ``seconds``.
    """

    name: str
    left: float | None = None
    execution: str = "classical"
    reason: str | None = None
    difference: float | None = None
    twin_difference: float | None = None
    detail: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A restored tensor.

    Attributes
    ----------
    array
        Of the type and shape that was coded.
    verified
        Its bytes have the digest that the encoder gave; false where it gave none, or was not to be compared.
    refined
        What was put right after dequantising.
    """

    array: NDArray[Any]
    header: Header
    verified: bool
    refined: tuple[Refined, ...] = ()

    @property
    def promise(self) -> Promise:
        """What the encoder promised."""
        return self.header.promise


def restore(
    data: Any,
    options: RestoreOptions | None = None,
    *,
    base: ArrayLike | None = None,
    basis: Basis | None = None,
    codebook: Codebook | None = None,
    out: NDArray[Any] | None = None,
) -> Restored:
    """The tensor of a block.

    Parameters
    ----------
    data
        Bytes, a memoryview, or what `compress` gave.
    base
        The tensor that a delta is a step on.
    basis
        The basis that the data name.
    codebook
        Where that basis is, if it is not given by itself.
    out
        An array of the same type and shape to write into; `Restored.array` is then this one.

    Raises
    ------
    BlockError
        The data are damaged, too large or not a block, or the base or basis is missing or another one.
    """
    chosen = options or _DEFAULT
    contents = read(getattr(data, "data", data), chosen.max_tensor_bytes)
    if len(contents.headers) != 1:
        raise BlockError("bad_frame", must_be("data", "a block of one tensor", Shown(f"{len(contents.headers)} tensors")))
    header = contents.headers[0]
    given = None if base is None else canonical(base, header.dtype if header.as_bits else None)
    held = None if given is None else _base_bytes(header, given.dtype, given.array.shape, given.raw)
    basis = codebook.by_digest(header.basis_digest) if basis is None and codebook is not None else basis
    return restored(header, Parts(header, contents.payload(0)), chosen, base=held, basis=basis, codebook=codebook, out=out)


def restored(
    header: Header,
    parts: Parts,
    options: RestoreOptions,
    *,
    base: Bytes | None = None,
    basis: Basis | None = None,
    codebook: Codebook | None = None,
    out: NDArray[Any] | None = None,
) -> Restored:
    """The tensor of a header and its parts; `base` are the bytes of the base."""
    net = None if codebook is None else _net(header, codebook, options)
    raw = decode(header, parts, base=base, basis=basis, net=net, spectral=options.spectral, verify=options.verify)
    approved = options.spectral or header.op(Spectral) is None
    verified = options.verify and header.digest is not None and approved
    if verified and digest(raw) != header.digest:
        raise BlockError("checksum", must_be(f"restored {header.name!r}", f"bytes of digest {header.digest}", Shown("others")))
    array = given_back(raw, header.dtype, header.shape, as_bits=header.as_bits, big_endian=header.big_endian)
    if out is not None:
        if out.dtype != array.dtype or out.shape != array.shape:
            raise BlockError("shape", must_be("out", f"{array.dtype} {array.shape}", Shown(f"{out.dtype} {out.shape}")))
        out[...] = array
        array = out
    checks = _checked(header, parts, options, basis, raw) if options.qsvt or options.qft or options.hhl else ()
    return Restored(array, header, verified, (*_refined(header, options, net), *checks) if header.gains or checks else ())


def _refined(header: Header, options: RestoreOptions, net: Net | None) -> Iterator[Refined]:
    for name, left in header.gains.items():
        reason = None
        op: Correction | None = header.op(Correction)
        if op is not None and net is None:
            reason = "library_missing" if _asked(op, options) else "not_needed"
        elif name == "spectral" and not options.spectral:
            reason = "not_needed"
        yield Refined(name, left, reason=reason)


def _checked(header: Header, parts: Parts, options: RestoreOptions, basis: Basis | None, raw: Bytes) -> Iterator[Refined]:
    """What circuits make of a sample, as far as the options ask for it and the block has something to check."""
    from qstream.compression.checks import cosines_by_qft, spectral_by_qsvt, weights_by_hhl  # noqa: PLC0415 - circuits, which most never need

    smooth, rotated = header.op(Spectral), header.op(Transform)
    shape, dtype = rows_of(header.shape), DTYPES[header.dtype]
    found: dict[str, Check | str | None] = {}
    if options.hhl:
        held = lossy.pruned_within(parts, header.op(Prune), shape[1])
        systems = [] if held is None else [system for _, system in held.systems()]
        found["hhl"] = weights_by_hhl(systems, options.clock, options.max_condition)
    if options.qsvt:
        before = None
        if smooth is not None:
            before = decode(header, parts, basis=basis, spectral=False).view(dtype)
            before = as_floats(before, header.dtype).reshape(shape)
        found["qsvt"] = None if before is None else spectral_by_qsvt(before, smooth.threshold, options.degree)
    if options.qft:
        cosines = rotated is not None and rotated.kind == "fourier"
        found["qft"] = cosines_by_qft(as_floats(raw.view(dtype)[: shape[1]], header.dtype)) if cosines else None
    for name, check in found.items():
        if check is None or isinstance(check, str):
            yield Refined(name, reason=check or "not_needed")
        else:
            yield Refined(name, None, check.execution, None, check.difference, check.twin_difference, check.detail)


def _net(header: Header, codebook: Codebook, options: RestoreOptions) -> Net | None:
    op: Correction | None = header.op(Correction)
    return None if op is None or not _asked(op, options) else codebook.net_by_digest(op.digest)


def _asked(op: Correction, options: RestoreOptions) -> bool:
    """Whether the options have this net applied."""
    return options.lstm if op.kind == "lstm" else options.denoiser


def _base_bytes(header: Header, dtype: str, shape: tuple[int, ...], raw: Bytes) -> Bytes:
    if (dtype, shape) != (header.dtype, header.shape):
        allowed = f"{header.dtype} {header.shape}"
        raise BlockError("base_mismatch", must_be(f"base of {header.name!r}", allowed, Shown(f"{dtype} {shape}")))
    return raw


def decode(
    header: Header,
    source: Parts | Sequence[Piece],
    *,
    base: Bytes | None = None,
    basis: Basis | None = None,
    net: Net | None = None,
    spectral: bool = True,
    verify: bool = True,
) -> Bytes:
    """The bytes of a tensor, from its parts as they were read or have just been made."""
    parts = source if isinstance(source, Parts) else Parts(header, memoryview(b"".join(piece.data for piece in source)))
    first = header.ops[0] if header.ops else None
    if isinstance(first, (Raw, SplitFloat)):
        nbytes = size_of(header.dtype, header.shape)
        return split.decode(parts, _fitting(first, header, nbytes), nbytes)
    if isinstance(first, (DeltaExponent, Xor)):
        return _stepped(header, parts, first, base, verify)
    if isinstance(first, Int8):
        return _from_int8(header, parts, first, net)
    if isinstance(first, QuantisePoint):
        shape, bound = rows_of(header.shape), header.quality.bound
        if bound is None or not 0 < bound < 1:
            raise BlockError("bad_frame", must_be("bound of a point chain", "above 0 and below 1", bound))
        with np.errstate(over="ignore", invalid="ignore"):
            found = point.decode(parts, first, header.op(Classes), header.dtype, shape, bound)
        return found.reshape(-1).view(np.uint8)
    return _from_multiples(header, parts, basis, net, spectral=spectral)


def _fitting(op: Raw | SplitFloat, header: Header, nbytes: int) -> Raw | SplitFloat:
    if isinstance(op, SplitFloat) and nbytes % op.width:
        raise BlockError("bad_frame", must_be("width of planes", f"a divisor of {nbytes} bytes of {header.dtype}", op.width))
    return op


def _stepped(header: Header, parts: Parts, op: DeltaExponent | Xor, base: Bytes | None, verify: bool) -> Bytes:
    if base is None:
        raise BlockError("base_mismatch", must_be(f"base of {header.name!r}", f"given, of digest {header.base_digest}", None))
    if verify and digest(base) != header.base_digest:
        raise BlockError("base_mismatch", must_be(f"base of {header.name!r}", f"of digest {header.base_digest}", digest(base)))
    if isinstance(op, DeltaExponent) and header.dtype != "bfloat16":
        raise BlockError("bad_frame", must_be("dtype of a delta by exponent", "bfloat16", header.dtype))
    planes = header.op(SplitFloat)
    if planes is not None:
        _fitting(planes, header, len(base))
    return delta.decode(parts, op, planes, base)


def _from_int8(header: Header, parts: Parts, op: Int8, net: Net | None) -> Bytes:
    _require_lossy(header)
    shape = rows_of(header.shape)
    rows, columns = integers.groups_of(shape, op.scale)
    scales = parts.get("scales", 4 * rows * columns).view("<f4").reshape(rows, columns)
    values = parts.get("values", shape[0] * shape[1]).view(np.int8).reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = integers.restored(values, scales)
        if net is not None:
            matrix = net.correct(matrix, integers.spread(scales, shape))
        return np.ascontiguousarray(from_floats(matrix.reshape(-1), header.dtype)).view(np.uint8)


def _from_multiples(header: Header, parts: Parts, basis: Basis | None, net: Net | None, *, spectral: bool) -> Bytes:
    op: Quantise | None = header.op(Quantise)
    if op is None:
        raise BlockError("bad_frame", must_be(f"chain of {header.name!r}", "one that ends in values", [o.op for o in header.ops]))
    _require_lossy(header)
    shape = rows_of(header.shape)
    held, weights = _basis(header, parts, basis, shape[1]), _weights(header, parts, shape[1])
    pruned = lossy.pruned_within(parts, header.op(Prune), shape[1])
    coded = (shape[0], shape[1] if pruned is None else int(pruned.kept.sum()))
    plain = held is None and weights is None and pruned is None
    work = np.dtype(np.float64 if header.dtype == "float64" and held is None else np.float32)
    if not quantise.usable(op.step, header.dtype):
        raise BlockError("bad_frame", must_be("step", "a number that the type of the tensor can hold", op.step))
    high, low = lossy.symbols(parts, op, header.op(Classes), coded)
    y = np.empty(coded[0] * coded[1], work)
    # A promise for each value is kept in the tensor's own type, the others before it is rounded to that.
    own = header.dtype if header.promise == "bound" else work.name
    quantise.restored(high, low, op.step, op.low_bits, own, y)
    if header.op(Table) is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            y += refine.shift(parts.get("table", 256).view(np.int8), op.step, high).astype(work)
    smooth = header.op(Spectral) if spectral else None
    if plain and smooth is None and net is None:
        raw = from_floats(y, header.dtype)
        lossy.put_escapes(parts, raw)
        return raw.view(np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # values may be NaN, infinite, or as large as their type allows
        _put_floats(header, parts, y, plain)
        back = _undone(y.reshape(coded), held, weights, pruned)
        if smooth is not None:
            back = refine.smoothed(back, smooth.threshold)
        if net is not None:
            back = net.correct(back, op.step)
        return np.ascontiguousarray(from_floats(back.reshape(-1), header.dtype)).view(np.uint8)


def _undone(y: NDArray[Any], held: Basis | None, weights: NDArray[np.float32] | None, pruned: Pruned | None) -> NDArray[Any]:
    try:
        return lossy.undo(y, held, weights, pruned)
    except np.linalg.LinAlgError as exc:
        raise BlockError("bad_frame", must_be("correlations of kept columns", "positive definite", Shown("others"))) from exc


def _put_floats(header: Header, parts: Parts, y: NDArray[Any], plain: bool) -> None:
    """Escapes into values that are not yet of the tensor's type: they are coefficients, or the tensor's own values."""
    if not plain or header.dtype in ("float32", "float64"):
        lossy.put_escapes(parts, y)
        return
    raw = from_floats(y, header.dtype)
    lossy.put_escapes(parts, raw)
    own = as_floats(raw, header.dtype)
    at = lossy.escaped(parts, len(y))
    y[at] = own[at]


def _basis(header: Header, parts: Parts, basis: Basis | None, columns: int) -> Basis | None:
    op: Transform | None = header.op(Transform)
    if op is None:
        return None
    if columns % op.width or columns > MAX_COLUMNS or (op.kind == "fourier" and op.width != columns):
        raise BlockError(
            "bad_frame", must_be("width of the transform", f"a divisor of {columns}, at most {MAX_COLUMNS}", op.width)
        )
    if header.basis_digest is None:
        mean = parts.get("mean", 4 * columns).view("<f4")
        if op.kind == "fourier" and np.isfinite(mean).all():
            return cosine_basis(mean)
        values = parts.get("basis", columns * op.width).view(np.int8).reshape(columns, op.width)
        scale = parts.get("scale", 4 * columns).view("<f4")
        if not (np.isfinite(scale).all() and np.isfinite(mean).all()):
            raise BlockError("bad_frame", must_be("basis", "finite", Shown("NaN or infinity")))
        return Basis(op.kind, values, scale, mean)
    if basis is None:
        allowed = f"given by itself or in a codebook, of digest {header.basis_digest}"
        raise BlockError("basis_mismatch", must_be(f"basis of {header.name!r}", allowed, None))
    if basis.digest != header.basis_digest:
        raise BlockError("basis_mismatch", must_be(f"basis of {header.name!r}", f"of digest {header.basis_digest}", basis.digest))
    if (basis.columns, basis.width) != (columns, op.width):
        got = Shown(f"{columns} in groups of {op.width}")
        allowed = f"{basis.columns} in groups of {basis.width}, as its basis"
        raise BlockError("bad_frame", must_be(f"columns of {header.name!r}", allowed, got))
    return basis


def basis_within(header: Header, data: Any) -> Basis | None:
    """The basis that travels in a block that has been restored, for those that name it; None without one."""
    op: Transform | None = header.op(Transform)
    if op is None or op.kind == "fourier" or header.basis_digest is not None:
        return None
    parts = Parts(header, read(data, size_of(header.dtype, header.shape)).payload(0))
    return _basis(header, parts, None, rows_of(header.shape)[1])


def _weights(header: Header, parts: Parts, columns: int) -> NDArray[np.float32] | None:
    return None if header.op(Weights) is None else parts.get("weights", 4 * columns).view("<f4")


def _require_lossy(header: Header) -> None:
    if DTYPES[header.dtype].kind not in "f" and header.dtype != "bfloat16":
        raise BlockError("bad_frame", must_be("dtype of a lossy chain", "a float of 16 bits or more", header.dtype))
    if header.digest is None and header.promise in ("exact", "bound"):
        raise BlockError("bad_frame", must_be("digest", f"given with the promise {header.promise}", None))
