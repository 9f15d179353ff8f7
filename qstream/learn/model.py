"""Model: trained arrays with their description, as one safetensors file, and in parts small enough for a message."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from qstream.errors import LearnError
from qstream.learn import given
from qstream.learn.evolve import all_finite
from schemas.model import MAX_MODEL_BYTES, MAX_PART_BYTES, Kind, ModelPart, Setting
from schemas.wording import Shown, must_be

MAX_FEATURES: Final = 10_000
_HEADER: Final = "qstream"  # the key of the description in the file's metadata
_DESCRIBED: Final = ("module", "name", "version", "kind", "feature_names", "config", "metrics", "trained_on", "trained_ns")


@dataclass(frozen=True, eq=False)
class Model:
    """A version of a trained model; it never changes, and its arrays cannot be written to.

    Attributes
    ----------
    module, name, version
        Who uses it, what for, and when it was trained, in milliseconds.
    kind
        mlp, lstm, gru, sage, ridge or svm: which function of `policy` answers with it.
    arrays
        Float arrays by name, finite; `policy` says which ones a kind has.
    feature_names
        Of the columns of an input.
    config, metrics
        What the answer needs besides the arrays, and errors on held-out data, each next to its twin's as ``<metric>_twin``.
    trained_on, trained_ns
        Topics and offsets or digests of files, and the time.
    """

    module: str
    name: str
    version: int
    kind: Kind
    arrays: Mapping[str, NDArray[np.floating[Any]]]
    feature_names: tuple[str, ...]
    config: Mapping[str, Setting] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()
    trained_ns: int = 0

    def __post_init__(self) -> None:
        for name in ("module", "name"):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value) <= 100 or "/" in value:
                raise LearnError(must_be(name, "1 to 100 characters without a slash", value))
        given.whole("version", self.version, 0, 2**63 - 1)
        given.whole("trained_ns", self.trained_ns, 0, 2**63 - 1)
        if not isinstance(self.kind, str) or self.kind not in get_args(Kind):
            raise LearnError(must_be("kind", " or ".join(get_args(Kind)), self.kind))
        object.__setattr__(self, "feature_names", given.labels("feature_names", self.feature_names, MAX_FEATURES))
        if not isinstance(self.arrays, Mapping) or not self.arrays:
            raise LearnError(must_be("arrays", "one or more by name", Shown(type(self.arrays).__name__)))
        object.__setattr__(
            self, "arrays", MappingProxyType({name: _weights(name, self.arrays[name]) for name in sorted(self.arrays)})
        )


def _weights(name: str, value: object) -> NDArray[np.floating[Any]]:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        raise LearnError(must_be(f"arrays[{name!r}]", "an array of float32 or float64", Shown(type(value).__name__)))
    if not all_finite(value):
        raise LearnError(must_be(f"arrays[{name!r}]", "finite numbers", Shown("NaN or infinity")))
    kept = np.array(value, order="C")
    kept.setflags(write=False)
    return kept


def to_bytes(model: Model) -> bytes:
    """The model as a safetensors file, its description under the metadata's key ``qstream``; equal models give equal bytes."""
    described = {name: getattr(model, name) for name in _DESCRIBED}
    described |= {"config": dict(model.config), "metrics": dict(model.metrics)}
    header = json.dumps(described, sort_keys=True, allow_nan=False)
    data: bytes = save(dict(model.arrays), metadata={_HEADER: header})
    if len(data) > MAX_MODEL_BYTES:
        raise LearnError(must_be("model", f"at most {MAX_MODEL_BYTES} bytes", len(data)))
    return data


def from_bytes(data: bytes) -> Model:
    """Read what `to_bytes` wrote; `LearnError` for any other file."""
    if len(data) > MAX_MODEL_BYTES:
        raise LearnError(must_be("model", f"at most {MAX_MODEL_BYTES} bytes", len(data)))
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        described = json.loads(header["__metadata__"][_HEADER])
        fields = {name: described[name] for name in _DESCRIBED}
        fields |= {name: tuple(fields[name]) for name in ("feature_names", "trained_on")}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise LearnError(
            must_be("model", "a safetensors file with a description", Shown(f"{type(exc).__name__}: {exc}"))
        ) from exc
    return Model(arrays=arrays, **fields)


def parts(model: Model) -> list[ModelPart]:
    """The file of a model in messages of at most 900,000 bytes, first to last."""
    data = to_bytes(model)
    chunks = [data[at : at + MAX_PART_BYTES] for at in range(0, len(data), MAX_PART_BYTES)]
    digest = hashlib.sha256(data).hexdigest()
    described = {name: getattr(model, name) for name in _DESCRIBED} | {
        "config": dict(model.config),
        "metrics": dict(model.metrics),
    }
    return [
        ModelPart.build(
            part_key=f"{model.module}/{model.name}/{model.version}/{part}",
            part=part,
            parts=len(chunks),
            nbytes=len(data),
            sha256=digest,
            data=np.frombuffer(chunk, np.uint8),
            **described,
        )
        for part, chunk in enumerate(chunks)
    ]


def assemble(parts: Iterable[ModelPart]) -> Model:
    """The model of its parts, which may come in any order and more than once.

    Raises
    ------
    LearnError
        Parts are missing, are of several models or versions, or are retired; or hash, length or description are wrong.
    """
    found = {part.part: part for part in parts}
    if not found:
        raise LearnError(must_be("parts", "those of a model", Shown("none")))
    first = next(iter(found.values()))
    name = f"{first.module}/{first.name}/{first.version}"
    for part in found.values():
        if (part.module, part.name, part.version, part.parts, part.sha256) != (
            first.module,
            first.name,
            first.version,
            first.parts,
            first.sha256,
        ):
            raise LearnError(must_be("parts", f"all of {name} and of one file", part.part_key))
        if part.retired:
            raise LearnError(must_be("parts", "of a model in use", Shown(f"{name}, which is retired")))
    if missing := [number for number in range(first.parts) if number not in found]:
        raise LearnError(must_be("parts", f"all {first.parts} of {name}", Shown(f"none with number {missing[0]}")))
    data = b"".join(found[number].data.tobytes() for number in range(first.parts))
    if len(data) != first.nbytes or hashlib.sha256(data).hexdigest() != first.sha256:
        raise LearnError(must_be("parts", f"the {first.nbytes} bytes of {name} with its hash", Shown(f"{len(data)} other bytes")))
    model = from_bytes(data)
    if (model.module, model.name, model.version, model.kind) != (first.module, first.name, first.version, first.kind):
        raise LearnError(must_be("parts", "described as their file is", Shown(f"{name}, {first.kind}")))
    return model


def setting(model: Model, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """A word of the model's config; `LearnError` unless it is one of those allowed."""
    value = model.config.get(name, default)
    if value not in allowed:
        raise LearnError(must_be(f"config[{name!r}]", " or ".join(allowed), value))
    return str(value)
