"""TensorSubscriber: what an engine embeds to get whole tensors, and steps of them, as they come back."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, TypeVar

from numpy.typing import ArrayLike

from qstream.compression.assembler import Incomplete, TensorAssembler, Whole
from qstream.compression.steps import StepCollector, TensorStep, step_of
from qstream.config import Settings, load_settings
from qstream.errors import ConfigError
from qstream.state.blobs import BlobStore
from qstream.stream.client import PlanSubscriber
from qstream.stream.read import frame_of, read_all
from schemas.frame import Frame, FrameError
from schemas.tensors import CompressedBlock, RestoredBlock, TensorManifest, TensorPart, TensorSkip
from schemas.topics import TENSOR_COMPRESSED, TENSOR_MANIFEST, TENSOR_RESTORED, Topic
from schemas.wording import must_be

if TYPE_CHECKING:  # the codec and its kernels are loaded where tensors are restored here
    from qstream.compression.local import LocalDecoder

_POLL_S: Final = 0.1
_ORDER_S: Final = 10.0  # between a manifest and the blocks that were sent after it
F = TypeVar("F", bound=Frame)
Item = TensorManifest | TensorStep | Whole | Incomplete
Wanted = Callable[[TensorManifest | TensorPart], bool]


class TensorSubscriber:
    """Whole tensors, and steps of them, as they come back.

    It reads from now on or, with `from_start`, all that the topics keep. A tensor of which a block is missing is given out as
    `Incomplete`, never filled up. Use it from one thread, in a ``with`` block.

    Parameters
    ----------
    bases
        None: what the agent `decompression` restores is read. Else coded blocks are read and restored here, deltas on these
        tensors, by id, or with `model` by the name of a weight; ``{}`` where the first step will be whole.
    blobs
        The store of steps that are too large for blocks.
    max_bytes, max_open
        Bytes of the tensors of which blocks are missing, and again of the whole ones that wait for others of their step; and
        how many tensors may lack blocks. The oldest are given up first.
    timeout_s
        Time after which a tensor that lacks blocks is given up, or a step of which nothing has come.
    model
        Only tensors of this model; None: of all.
    wanted
        Which restored blocks and manifests count, such as ``lambda part: part.role == "weight"``; None: all.
    from_start
        Also what was published before, of steps in blobs the newest of each series.

    Attributes
    ----------
    skipped
        How many blocks could not be restored, by reason: they wait for a step that is whole, or a codebook.

    Raises
    ------
    Transient
        A topic is absent, or no broker answers.

    >>> with TensorSubscriber("localhost:9092", model="my-moe") as subscriber:                          # doctest: +SKIP
    ...     for step in subscriber.steps():
    ...         load(step.tensors) if step.complete else report(step.missing)
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        bases: Mapping[str, ArrayLike] | None = None,
        blobs: BlobStore | None = None,
        max_bytes: int = 1 << 30,
        max_open: int = 64,
        timeout_s: float = 60.0,
        model: str | None = None,
        wanted: Wanted | None = None,
        from_start: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self.blobs, self.max_bytes, self.model = blobs, max_bytes, model
        self._wanted = wanted or (lambda _: True)
        self._assembler = TensorAssembler(max_bytes=max_bytes, max_open=max_open, timeout_s=timeout_s)
        self._steps = StepCollector(max_bytes=max_bytes, timeout_s=timeout_s)
        self._ready: deque[TensorStep] = deque()
        self.skipped: Counter[str] = Counter()
        self._newest: dict[tuple[str, str], int] = {}  # step that was announced last, by model and role
        self._decoder: LocalDecoder | None = None
        if bases is not None:
            from qstream.compression.local import LocalDecoder  # noqa: PLC0415 - the codec

            given = {name if model is None or name.startswith(f"{model}/") else f"{model}/{name}": a for name, a in bases.items()}
            self._decoder = LocalDecoder(given, max_bytes)
        base = settings or load_settings()
        at = bootstrap_servers
        self._manifests = _reader(TENSOR_MANIFEST, TensorManifest, at, base, from_start=False)
        self._before: deque[TensorManifest] = deque(_kept(base, at) if from_start else ())
        self._blocks: PlanSubscriber[RestoredBlock] | PlanSubscriber[CompressedBlock] = (
            _reader(TENSOR_RESTORED, RestoredBlock, at, base, from_start)
            if bases is None
            else _reader(TENSOR_COMPRESSED, CompressedBlock, at, base, from_start)
        )

    def tensors(self, timeout_s: float | None = None) -> Iterator[Whole | Incomplete]:
        """Tensors as they become whole, or are given up, until no record has come for `timeout_s`; None: for ever.

        Raises
        ------
        BlockError
            A block is damaged or does not fit its tensor, or a blob is not what its manifest says. It counts as one that did not
            come; call again to go on.
        ConfigError
            A step is in a blob, and no `blobs` were given.
        StoreUnavailable
            The store of blobs cannot be read.
        """
        for item in self._items(timeout_s):
            if isinstance(item, TensorStep):
                series = item.manifest.series
                yield from (Whole(f"{series}/{name}", item.step, array) for name, array in item.tensors.items())
            elif isinstance(item, Whole | Incomplete):
                yield item

    def steps(self, timeout_s: float | None = None) -> Iterator[TensorStep]:
        """Steps as their last tensor comes, or as they are given up, until no record has come for `timeout_s`; None: for ever.

        Errors as `tensors` raises them.
        """
        while self._ready:
            yield self._ready.popleft()
        for item in self._items(timeout_s):
            now_s = time.monotonic()
            self._ready += self._steps.expire(now_s)
            if isinstance(item, TensorStep):
                self._ready.append(item)
            elif isinstance(item, TensorManifest):
                self._ready += self._steps.announce(item, now_s)
            elif item is not None:
                self._ready += self._steps.add(item, now_s)
            while self._ready:
                yield self._ready.popleft()

    def close(self) -> None:
        """Leave the topics."""
        self._blocks.close()
        self._manifests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _items(self, timeout_s: float | None) -> Iterator[Item | None]:
        """What the records bring, a step where a manifest has it in a blob; None whenever none came for a moment."""
        begun_s = time.monotonic()
        while True:
            manifest = self._next_manifest(0.0)
            if manifest is not None:
                yield from self._announced(manifest)
            block = self._blocks.poll(0.0 if manifest is not None else _POLL_S)
            now_s = time.monotonic()
            restored = None if block is None or self.model not in (None, block.model) else self._restored(block)
            if restored is not None and isinstance(block, CompressedBlock) and restored.skip_reason is TensorSkip.NO_BASE:
                yield from self._awaited(block)
                restored = self._restored(block)
            if restored is not None and self._wanted(restored):
                self.skipped.update([] if restored.skip_reason is None else [str(restored.skip_reason)])
                yield from self._assembler.add(restored, now_s)
            else:
                yield from self._assembler.expire(now_s)
            if manifest is not None or block is not None:
                begun_s = now_s
                continue
            yield None
            if timeout_s is not None and now_s - begun_s >= timeout_s:
                return

    def _next_manifest(self, timeout_s: float) -> TensorManifest | None:
        return self._before.popleft() if self._before else self._manifests.poll(timeout_s)

    def _announced(self, manifest: TensorManifest) -> Iterator[Item]:
        key = manifest.model, manifest.role
        self._newest[key] = max(manifest.step, self._newest.get(key, -1))
        if self.model in (None, manifest.model) and self._wanted(manifest):
            yield manifest if manifest.claim is None else self._opened(manifest)

    def _awaited(self, block: CompressedBlock) -> Iterator[Item]:
        """The manifests up to the step that the block steps on: that may be in a blob, and topics have no order between them."""
        key, base_step = (block.model, block.role), block.base_step or 0
        deadline_s = time.monotonic() + _ORDER_S
        while self.blobs is not None and self._newest.get(key, -1) < base_step and time.monotonic() < deadline_s:
            if (manifest := self._next_manifest(_POLL_S)) is not None:
                yield from self._announced(manifest)
        self._newest[key] = max(base_step, self._newest.get(key, -1))  # what has not come by now is not waited for again

    def _restored(self, block: RestoredBlock | CompressedBlock) -> RestoredBlock:
        if isinstance(block, RestoredBlock):
            return block
        assert self._decoder is not None  # or coded blocks would not be read
        return self._decoder.restore(block)

    def _opened(self, manifest: TensorManifest) -> TensorStep:
        """The step that a blob has."""
        assert manifest.claim is not None
        if self.blobs is None:
            raise ConfigError(must_be("blobs", f"given: step {manifest.step} of {manifest.series!r} is in a blob", None))
        from qstream.compression.local import opened  # noqa: PLC0415 - the codec

        found = opened(self.blobs.get(manifest.claim), self.max_bytes)
        whole = {f"{manifest.series}/{name}": array for name, array in found.items()}
        if self._decoder is not None:
            for tensor_id, array in whole.items():
                self._decoder.rebase(tensor_id, array)
        return step_of(manifest, {tensor_id: Whole(tensor_id, manifest.step, array) for tensor_id, array in whole.items()})


def _kept(settings: Settings, bootstrap_servers: str) -> list[TensorManifest]:
    """The manifests that the topic has, of those of blobs the newest of each series: later deltas step on that."""
    there = settings.model_copy(update={"bootstrap_servers": bootstrap_servers})
    found = []
    for message in read_all(there, TENSOR_MANIFEST.name):
        with suppress(FrameError):  # passed over, as every reader does
            found.append(frame_of(message, TensorManifest))
    newest = {one.series: one.step for one in sorted(found, key=lambda one: one.step) if one.claim is not None}
    return [one for one in found if one.claim is None or one.step == newest[one.series]]


def _reader(topic: Topic, frame: type[F], bootstrap_servers: str, settings: Settings, from_start: bool) -> PlanSubscriber[F]:
    """A subscriber that keeps one frame at most: those of tensors are large."""
    return PlanSubscriber(topic, frame, bootstrap_servers, from_start=from_start, max_keys=1, max_bytes=1, settings=settings)
