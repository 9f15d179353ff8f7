"""Steps: whole tensors in any order, and manifests that say which of them belong together, become steps of a series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from qstream.compression.assembler import Incomplete, Whole
from qstream.errors import ProblemError
from schemas.tensors import TensorManifest
from schemas.wording import must_be

Ended = Whole | Incomplete
FILE: Final = "qstream.file"  # name of the tensor that says how a file is made of the others


@dataclass(frozen=True, slots=True, eq=False)
class TensorStep:
    """The tensors of one step of a series, by their names in it, in the order in which they were published.

    `missing` are the blocks that did not come, by tensor: none named where nothing of the tensor came. `file` is what
    `files.file_of` makes the same file of, where the step was published from one.
    """

    manifest: TensorManifest
    tensors: Mapping[str, NDArray[Any]]
    missing: Mapping[str, tuple[int, ...]]
    file: NDArray[Any] | None = None

    @property
    def step(self) -> int:
        """Of the training or series."""
        return self.manifest.step

    @property
    def complete(self) -> bool:
        """Whether every tensor has come whole."""
        return not self.missing


class _Open:
    """A step that was announced, and what has come of it."""

    def __init__(self, manifest: TensorManifest, now_s: float) -> None:
        self.manifest, self.touched_s = manifest, now_s
        self.key = manifest.series, manifest.step
        self.left = set(manifest.tensors)
        self.found: dict[str, Ended] = {}
        self.nbytes = 0

    def take(self, part: Ended) -> None:
        self.found[part.tensor_id] = part
        self.left.discard(part.tensor_id)
        self.nbytes += _nbytes(part)


class StepCollector:
    """Joins tensors to steps. It has state but does no I/O: times come in as arguments.

    Tensors of one id come in the order of their steps, those of different ids in any order, and manifests before or after their
    tensors. A step is given up when a tensor that it lacks comes of a newer step, when nothing of it has come for `timeout_s`, or
    when more than `max_bytes` of tensors would be held and it is the oldest.
    """

    def __init__(self, *, max_bytes: int = 1 << 30, timeout_s: float = 60.0) -> None:
        if max_bytes < 1 or not timeout_s > 0:
            raise ProblemError(must_be("max_bytes and timeout_s", "above 0", (max_bytes, timeout_s)))
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._open: dict[tuple[str, int], _Open] = {}
        self._early: dict[tuple[str, int], Ended] = {}  # by id and step: their manifest has not come
        self._early_bytes = 0
        self._newest: dict[str, int] = {}  # step of each series of which the manifest came last

    @property
    def held_bytes(self) -> int:
        """Bytes of all tensors that wait for others."""
        return self._early_bytes + sum(held.nbytes for held in self._open.values())

    def announce(self, manifest: TensorManifest, now_s: float) -> Sequence[TensorStep]:
        """Take a manifest; one that came before, or of an older step, changes nothing."""
        if manifest.step <= self._newest.get(manifest.series, -1):
            return []
        self._newest[manifest.series] = manifest.step
        held = _Open(manifest, now_s)
        # Manifests of a series come in the order of their steps: there is none for what came before an older one.
        for key in [key for key in self._early if key[0] in held.left and key[1] <= manifest.step]:
            part = self._forget(key)
            if key[1] == manifest.step:
                held.take(part)
        self._open[held.key] = held
        return self._finished([held])

    def add(self, part: Ended, now_s: float) -> Sequence[TensorStep]:
        """Take what was joined, or given up, of one tensor."""
        touched = []
        for held in self._open.values():
            if part.tensor_id in held.left and held.manifest.step <= part.step:
                mine = held.manifest.step == part.step
                held.take(part if mine else Incomplete(part.tensor_id, held.manifest.step, ()))
                held.touched_s = now_s
                touched.append(held)
        if not any(held.manifest.step == part.step for held in touched):
            self._early[part.tensor_id, part.step] = part
            self._early_bytes += _nbytes(part)
        return [*self._finished(touched), *self._room()]

    def expire(self, now_s: float) -> Sequence[TensorStep]:
        """Give up the steps of which nothing has come for `timeout_s`."""
        return [self._close(held) for held in list(self._open.values()) if now_s - held.touched_s >= self.timeout_s]

    def _finished(self, held: Iterable[_Open]) -> list[TensorStep]:
        return [self._close(one) for one in held if not one.left]

    def _room(self) -> list[TensorStep]:
        ended = []
        while self.held_bytes > self.max_bytes:
            if self._early:
                self._forget(next(iter(self._early)))
            else:
                ended.append(self._close(next(iter(self._open.values()))))
        return ended

    def _forget(self, key: tuple[str, int]) -> Ended:
        part = self._early.pop(key)
        self._early_bytes -= _nbytes(part)
        return part

    def _close(self, held: _Open) -> TensorStep:
        del self._open[held.key]
        return step_of(held.manifest, held.found)


def step_of(manifest: TensorManifest, found: Mapping[str, Ended]) -> TensorStep:
    """The step of a manifest, of the tensors that have come by their ids."""
    tensors, missing = {}, {}
    for tensor_id in manifest.tensors:
        part, name = found.get(tensor_id), tensor_id.removeprefix(f"{manifest.series}/")
        if isinstance(part, Whole):
            tensors[name] = part.array
        else:
            missing[name] = () if part is None else part.missing
    return TensorStep(manifest, tensors, missing, tensors.pop(FILE, None))


def _nbytes(part: Ended) -> int:
    return part.array.nbytes if isinstance(part, Whole) else 0
