"""Registry: the models of one module that the rows of the model topic give, each assembled and checked once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import Final

from qstream.errors import LearnError
from qstream.learn import policy
from qstream.learn.model import Model, assemble
from schemas.frame import Frame
from schemas.model import Kind, ModelPart
from schemas.wording import Shown, must_be

log = logging.getLogger(__name__)
MAX_VERSIONS: Final = 16  # of a model that are kept, the newest
MAX_BYTES: Final = 64 << 20  # of all models of a module, the newest versions first


@dataclass(frozen=True, slots=True)
class Want:
    """What a module can use under a name: models of these kinds with these features, in this order, and so many outputs."""

    kinds: tuple[Kind, ...]
    feature_names: tuple[str, ...]
    outputs: int


@dataclass(frozen=True, eq=False)
class Models:
    """The models in use at one moment, by name and version; it never changes.

    `refused` says of ``<name>/<version>`` why it is none of them: parts that have not come yet, another hash, features that the
    module does not know, or too many newer ones. `retired` are name and version of those that were retired, which are in neither.
    """

    by_name: Mapping[str, Mapping[int, Model]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    retired: Collection[tuple[str, int]] = frozenset()

    def get(self, name: str, version: int) -> Model | None:
        """That version, None if it is missing or retired."""
        return self.by_name.get(name, {}).get(version)

    def newest(self, name: str, but: Container[int] = ()) -> int | None:
        """The newest version of a name, those in `but` left out; None without any."""
        return max((version for version in self.by_name.get(name, {}) if version not in but), default=None)


_Parts = tuple[ModelPart, ...]


class Registry:
    """Turns rows of the model topic into `Models`. A version is assembled and tried once, however often rows are taken.

    Parameters
    ----------
    module
        Whose models these are; parts of others are passed over.
    wants
        What the module can use, by the models' names; other names are passed over.
    """

    def __init__(self, module: str, wants: Mapping[str, Want]) -> None:
        self.module = module
        self.wants = dict(wants)
        self._known: dict[tuple[str, int], tuple[_Parts, Model | str]] = {}

    def taken(self, rows: Mapping[str, Frame]) -> Models:
        """The models of these rows: frames `ModelPart` by their key, in any order."""
        parts = defaultdict(list)
        for row in rows.values():
            if isinstance(row, ModelPart) and row.module == self.module and row.name in self.wants:
                parts[row.name, row.version].append(row)
        in_use = {key: tuple(found) for key, found in parts.items() if not any(part.retired for part in found)}
        kept, refused = _newest(in_use)
        self._known = {key: self._once(key, found) for key, found in kept.items()}
        by_name: dict[str, dict[int, Model]] = {name: {} for name in self.wants}
        for (name, version), (_, made) in self._known.items():
            if isinstance(made, Model):
                by_name[name][version] = made
            else:
                refused[f"{name}/{version}"] = made
        return Models(by_name, refused, frozenset(parts.keys() - in_use.keys()))

    def _once(self, key: tuple[str, int], parts: _Parts) -> tuple[_Parts, Model | str]:
        known = self._known.get(key)
        if known is not None and len(known[0]) == len(parts) and all(a is b for a, b in zip(known[0], parts, strict=True)):
            return known
        if len(parts) < parts[0].parts:
            return parts, f"{len(parts)} of its {parts[0].parts} parts have come"
        try:
            return parts, fitting(assemble(parts), self.wants[key[0]])
        except LearnError as exc:
            log.error("%s: model %s/%s is not used: %s", self.module, *key, exc)
            return parts, str(exc)


def _newest(found: Mapping[tuple[str, int], _Parts]) -> tuple[dict[tuple[str, int], _Parts], dict[str, str]]:
    """The versions that fit into the limits, newest first, and why the others do not."""
    kept: dict[tuple[str, int], _Parts] = {}
    refused: dict[str, str] = {}
    count: dict[str, int] = defaultdict(int)
    nbytes = 0
    for name, version in sorted(found, key=lambda key: (-key[1], key[0])):
        size = found[name, version][0].nbytes
        if count[name] >= MAX_VERSIONS or nbytes + size > MAX_BYTES:
            limit = f"at most {MAX_VERSIONS} versions and {MAX_BYTES >> 20} MiB of all models are used: retire old ones"
            refused[f"{name}/{version}"] = limit
            continue
        count[name] += 1
        nbytes += size
        kept[name, version] = found[name, version]
    return kept, refused


def fitting(model: Model, want: Want) -> Model:
    """The model; `LearnError` unless it is what a module wants and its arrays give an answer."""
    if model.kind not in want.kinds:
        raise LearnError(must_be("kind", " or ".join(want.kinds), model.kind))
    if model.feature_names != want.feature_names:
        raise LearnError(must_be("feature_names", ", ".join(want.feature_names), Shown(", ".join(model.feature_names))))
    if (count := policy.outputs(model)) != want.outputs:
        raise LearnError(must_be("outputs of the model", str(want.outputs), count))
    return model
