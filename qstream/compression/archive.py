"""Archives: many tensors in one container, with one header for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike, NDArray

from qstream.compression.codebook import Codebook
from qstream.compression.decode import Restored, restored
from qstream.compression.dtypes import Form, canonical, rows_of
from qstream.compression.encode import coded
from qstream.compression.header import Contents, Header, read, write
from qstream.compression.options import CompressionOptions, RestoreOptions
from qstream.compression.parts import Parts, Piece
from qstream.errors import BlockError, ProblemError
from schemas.wording import must_be


def compress_tensors(
    tensors: Mapping[str, ArrayLike],
    options: CompressionOptions | None = None,
    *,
    base: Mapping[str, ArrayLike] | None = None,
    dtypes: Mapping[str, str] | None = None,
    codebook: Codebook | None = None,
    step: int = 0,
) -> bytes:
    """One archive of many tensors.

    Parameters
    ----------
    tensors
        By name.
    base
        For mode delta: the tensors that the reader holds, by the same names. A tensor that is not among them, or was of another
        type or shape, is coded whole.
    dtypes
        For tensors that are given as their bits: the type, such as bfloat16, by name.
    codebook
        Where bases for tensors of these names are.
    step
        For the headers.

    Raises
    ------
    BlockError, ProblemError
        As `compress` does.
    """
    chosen, types = options or CompressionOptions(), dtypes or {}
    require_arguments(chosen, base, codebook)
    headers, pieces = [], []
    for name, tensor in tensors.items():
        form = canonical(tensor, types.get(name))
        held = None if base is None or name not in base else canonical(base[name], types.get(name))
        header, found = coded_one(name, form, held, chosen, step, codebook)
        headers.append(header)
        pieces += [piece.data for piece in found]
    return write(headers, pieces)


def require_arguments(options: CompressionOptions, base: object, codebook: Codebook | None) -> None:
    """`ProblemError` for a base that is missing in mode delta, and for what the mode does not use."""
    if options.mode == "delta" and base is None:
        raise ProblemError(must_be("base", "given in mode delta", None))
    options.require_used(base=base, codebook=codebook)


def coded_one(
    name: str, form: Form, base: Form | None, options: CompressionOptions, step: int, codebook: Codebook | None = None
) -> tuple[Header, list[Piece]]:
    """One tensor of an archive: whole where delta is wanted and the base does not fit."""
    if options.mode == "delta" and (base is None or (base.dtype, base.array.shape) != (form.dtype, form.array.shape)):
        header, pieces = coded(form, options.changed({"mode": "lossless"}), name=name, step=step)
        return header.model_copy(update={"fallback_reason": "shape_changed"}), pieces
    basis = None if codebook is None else codebook.for_tensor(name, rows_of(form.array.shape)[1])
    net = None if codebook is None else codebook.nets.get(name)
    return coded(form, options, base=base, basis=basis, net=net, name=name, step=step)


def restore_tensors(
    data: Any,
    options: RestoreOptions | None = None,
    *,
    base: Mapping[str, ArrayLike] | None = None,
    codebook: Codebook | None = None,
) -> dict[str, NDArray[Any]]:
    """The tensors of an archive by name, in its order.

    Raises
    ------
    BlockError
        The archive is damaged, a tensor is too large, or the base of one is missing or another one.
    """
    chosen = options or RestoreOptions()
    contents = read(data, chosen.max_tensor_bytes)
    return {
        header.name: one_of(contents, n, chosen, None if base is None else base.get(header.name), codebook).array
        for n, header in enumerate(contents.headers)
    }


def one_of(
    contents: Contents, index: int, options: RestoreOptions, base: ArrayLike | None, codebook: Codebook | None = None
) -> Restored:
    """One tensor of an archive that has been read."""
    header = contents.headers[index]
    held = None
    if base is not None and header.base_digest is not None:
        given = canonical(base, header.dtype if header.as_bits else None)
        if (given.dtype, given.array.shape) != (header.dtype, header.shape):
            raise BlockError("base_mismatch", must_be(f"base of {header.name!r}", f"{header.dtype} {header.shape}", given.dtype))
        held = given.raw
    basis = None if codebook is None else codebook.by_digest(header.basis_digest)
    return restored(header, Parts(header, contents.payload(index)), options, base=held, basis=basis, codebook=codebook)
