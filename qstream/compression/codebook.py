"""Codebooks: what was trained for tensors of some names, such as a basis for each key cache, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.basis import KINDS, MAX_COLUMNS, Basis, Kind, learn_basis
from qstream.compression.dtypes import LOSSY, as_floats, canonical, rows_of
from qstream.compression.formats import safetensors
from qstream.errors import BlockError, ProblemError
from schemas.wording import Shown, must_be

VERSION: Final = 1
_LEAST_ROWS: Final = 4  # a column


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Bases by the name of the tensor that they are for."""

    bases: Mapping[str, Basis]
    role: str = "other"

    def for_tensor(self, name: str, columns: int) -> Basis | None:
        """The basis for a tensor, or None where it has none or has another width."""
        found = self.bases.get(name)
        return found if found is not None and found.columns == columns else None

    def by_digest(self, digest: str | None) -> Basis | None:
        """The basis of this digest, or None."""
        return next((basis for basis in self.bases.values() if basis.digest == digest), None)


def train_codebook(
    tensors: Iterable[tuple[str, NDArray[Any]]], *, kind: Kind = "klt", role: str = "other", seed: int = 0
) -> Codebook:
    """Learn a basis for each name from the rows of all tensors of that name.

    Tensors of other types than floats, with values that are not finite, and names with fewer than 4 rows a column are left out.

    Raises
    ------
    ProblemError
        No tensor is left to learn from.
    """
    rows: dict[tuple[str, int], list[NDArray[Any]]] = {}
    for name, tensor in tensors:
        form = canonical(tensor)
        count, columns = rows_of(form.array.shape)
        if form.dtype not in LOSSY or form.array.ndim < 2 or not 1 < columns <= MAX_COLUMNS or not count:
            continue
        values = as_floats(form.array, form.dtype).reshape(count, columns)
        if np.isfinite(values).all():
            rows.setdefault((name, columns), []).append(values)
    bases = {
        name: learn_basis(np.concatenate(found), kind=kind, seed=seed)
        for (name, columns), found in rows.items()
        if sum(map(len, found)) >= _LEAST_ROWS * columns
    }
    if not bases:
        allowed = f"some with {_LEAST_ROWS} rows or more a column, of at most {MAX_COLUMNS} columns, finite"
        raise ProblemError(must_be("tensors", allowed, Shown("none")))
    return Codebook(bases, role)


def codebook_bytes(codebook: Codebook) -> bytes:
    """A codebook as a safetensors file."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, basis in codebook.bases.items():
        arrays |= {f"{name}.values": basis.values, f"{name}.scale": basis.scale, f"{name}.mean": basis.mean}
    entries = {name: {"kind": basis.kind, "record": basis.record} for name, basis in codebook.bases.items()}
    text = json.dumps({"v": VERSION, "role": codebook.role, "bases": entries}, separators=(",", ":"))
    return safetensors.written(arrays, {"qstream-codebook": text})


def read_codebook(data: Any) -> Codebook:
    """The codebook of a file's bytes; `BlockError` if they are none."""
    layout = safetensors.layout(np.frombuffer(data, np.uint8))
    arrays = {span.name: layout.array(span) for span in layout.spans}
    try:
        found = json.loads(layout.metadata["qstream-codebook"])
        if found["v"] != VERSION:
            raise BlockError("bad_frame", must_be("version of the codebook", str(VERSION), found["v"]))
        bases = {name: _basis(name, entry["kind"], arrays, entry.get("record")) for name, entry in found["bases"].items()}
        return Codebook(bases, str(found["role"]))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        if isinstance(exc, BlockError):
            raise
        raise BlockError("bad_frame", must_be("file", "a codebook", Shown(f"{type(exc).__name__}"))) from exc


def _basis(name: str, kind: Kind, arrays: Mapping[str, NDArray[Any]], record: Any) -> Basis:
    values, scale, mean = (arrays[f"{name}.{part}"] for part in ("values", "scale", "mean"))
    columns = mean.size
    fits = values.shape == (columns, columns) and scale.shape == mean.shape == (columns,) and 1 <= columns <= MAX_COLUMNS
    types = values.dtype == np.int8 and scale.dtype == mean.dtype == np.float32
    if not fits or not types or kind not in KINDS or not (np.isfinite(scale).all() and np.isfinite(mean).all()):
        raise BlockError(
            "bad_frame", must_be(f"basis of {name!r}", "int8 [n, n] with finite scale and mean [n]", Shown("others"))
        )
    return Basis(kind, values, scale, mean, record if isinstance(record, dict) else {})
