"""Codebooks: what was trained for tensors of some names, such as a basis for each key cache, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.basis import MAX_COLUMNS, Basis, Kind
from qstream.compression.formats import safetensors
from qstream.compression.nets import SHAPES, Net
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

VERSION: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Bases and nets by the name of the tensor that they are for."""

    bases: Mapping[str, Basis]
    role: str = "other"
    nets: Mapping[str, Net] = field(default_factory=dict)

    def for_tensor(self, name: str, columns: int) -> Basis | None:
        """The basis for a tensor, or None where it has none or has another width."""
        found = self.bases.get(name)
        return found if found is not None and found.columns == columns else None

    def net_by_digest(self, digest: str) -> Net | None:
        """The net of this digest, or None."""
        return next((net for net in self.nets.values() if net.digest == digest), None)

    def by_digest(self, digest: str | None) -> Basis | None:
        """The basis of this digest, or None."""
        return next((basis for basis in self.bases.values() if basis.digest == digest), None)


def codebook_bytes(codebook: Codebook) -> bytes:
    """A codebook as a safetensors file."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, basis in codebook.bases.items():
        arrays |= {f"{name}.values": basis.values, f"{name}.scale": basis.scale, f"{name}.mean": basis.mean}
    for name, net in codebook.nets.items():
        arrays |= {f"{name}.{part}": values for part, values in net.parameters.items()}
    nets = {name: {"kind": net.kind, "record": net.record} for name, net in codebook.nets.items()}
    entries = {name: {"kind": basis.kind, "record": basis.record} for name, basis in codebook.bases.items()}
    text = json.dumps({"v": VERSION, "role": codebook.role, "bases": entries, "nets": nets}, separators=(",", ":"))
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
        nets = {name: _net(name, entry["kind"], arrays, entry.get("record")) for name, entry in found["nets"].items()}
        return Codebook(bases, str(found["role"]), nets)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        if isinstance(exc, BlockError):
            raise
        raise BlockError("bad_frame", must_be("file", "a codebook", Shown(f"{type(exc).__name__}"))) from exc


def _basis(name: str, kind: Kind, arrays: Mapping[str, NDArray[Any]], record: Any) -> Basis:
    values, scale, mean = (arrays[f"{name}.{part}"] for part in ("values", "scale", "mean"))
    columns = mean.size
    groups = values.ndim == 2 and len(values) == columns and values.shape[1] > 0 and columns % values.shape[1] == 0
    fits = groups and scale.shape == mean.shape == (columns,) and 1 <= columns <= MAX_COLUMNS
    types = values.dtype == np.int8 and scale.dtype == mean.dtype == np.float32
    if not fits or not types or kind not in ("klt", "qae") or not (np.isfinite(scale).all() and np.isfinite(mean).all()):
        raise BlockError(
            "bad_frame", must_be(f"basis of {name!r}", "int8 [n, width] with finite scale and mean [n]", Shown("others"))
        )
    return Basis(kind, values, scale, mean, record if isinstance(record, dict) else {})


def _net(name: str, kind: Any, arrays: Mapping[str, NDArray[Any]], record: Any) -> Net:
    found = {part: arrays[f"{name}.{part}"] for part in SHAPES[kind]}
    for part, shape in SHAPES[kind].items():
        values = found[part]
        if values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            raise BlockError("bad_frame", must_be(f"parameter {part} of {name!r}", f"finite float32 {shape}", Shown("others")))
    return Net(kind, found, record if isinstance(record, dict) else {})
