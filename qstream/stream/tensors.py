"""Tensors: what a trainer and an engine embed to move arrays of any size, `TensorPublisher` and `TensorSubscriber`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.compression.assembler import Incomplete as Incomplete
from qstream.compression.assembler import Whole as Whole
from qstream.compression.cutting import MIN_BLOCK_BYTES, blocks_of, series_of, tensor_id_of
from qstream.compression.dtypes import Form, canonical
from qstream.compression.steps import TensorStep as TensorStep
from qstream.config import Settings, load_settings
from qstream.errors import ConfigError, ProblemError
from qstream.state.blobs import BlobStore
from qstream.stream.client import Publisher
from qstream.stream.tensor_reader import TensorSubscriber as TensorSubscriber
from schemas.tensors import (
    MAX_BLOCK_BYTES,
    CompressedBlock,
    Role,
    TensorBlock,
    TensorManifest,
    TensorMode,
    TensorPart,
    TensorPolicy,
)
from schemas.topics import TENSOR_BLOCK, TENSOR_COMPRESSED, TENSOR_MANIFEST
from schemas.wording import must_be

if TYPE_CHECKING:  # the codec and its kernels are loaded where tensors are coded here, and not by agents
    from qstream.compression.local import LocalEncoder
    from qstream.compression.options import CompressionOptions

BLOCK_BYTES: Final = 1 << 19
CLAIM_OVER: Final = 64 << 20
QUEUE_KBYTES: Final = 64 << 10  # of records on their way; librdkafka's default holds 1 GiB
CONFIRM_MS: Final = 60_000  # for a queue that is full of blocks
Tensors = Mapping[str, ArrayLike]


class TensorPublisher:
    """Publishes steps of tensors as blocks, or a step that is too large for blocks as one archive in a `BlobStore`.

    `publish` queues and returns; it waits while 64 MiB are on their way, and the arrays may change once it has returned.
    `flush` returns when the broker has everything, and raises `DeliveryFailed` if it has not, as the next `publish` does: what
    is not confirmed in a minute, or the setting delivery_timeout_ms, is lost. Leaving the ``with`` block flushes, after an
    error for one second. Use it from one thread.

    Parameters
    ----------
    encode
        ``agent``: blocks travel as they are to the agent `compression`. ``local``: they are coded here, and restored by the
        agent `decompression` or a subscriber with `bases`. Deltas of large tensors are coded locally: an agent keeps 1 MiB of
        each tensor.
    block_bytes
        Largest block, 4,096 to 960,000 bytes of values.
    claim_over
        With `blobs`: bytes above which a step is put there, coded, and its manifest says where it is; before coding where agents
        code.
    blobs
        The store; None: blocks of whatever size.
    options
        How tensors are coded here, locally or for the store, where the policy of a call does not say otherwise.

    >>> with TensorPublisher("localhost:9092") as publisher:                                            # doctest: +SKIP
    ...     publisher.publish({"layers.0.up": array}, model="my-moe", step=1)
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        encode: Literal["agent", "local"] = "agent",
        block_bytes: int = BLOCK_BYTES,
        claim_over: int = CLAIM_OVER,
        blobs: BlobStore | None = None,
        options: CompressionOptions | None = None,
        settings: Settings | None = None,
    ) -> None:
        if encode not in ("agent", "local"):
            raise ConfigError(must_be("encode", "agent or local", encode))
        if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES:
            raise ConfigError(must_be("block_bytes", f"{MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}", block_bytes))
        if claim_over < 0:
            raise ConfigError(must_be("claim_over", "0 or more bytes", claim_over))
        self.encode, self.block_bytes, self.claim_over, self.blobs = encode, block_bytes, claim_over, blobs
        self._options = options
        self._coder: LocalEncoder | None = None
        if encode == "local":
            from qstream.compression.local import LocalEncoder  # noqa: PLC0415 - the codec
            from qstream.compression.warm import warm  # noqa: PLC0415 - as above

            warm()
            self._coder = LocalEncoder(options)
        base = (settings or load_settings()).with_kafka_defaults({"queue.buffering.max.kbytes": str(QUEUE_KBYTES)})
        if "delivery_timeout_ms" not in base.model_fields_set:
            base = base.model_copy(update={"delivery_timeout_ms": CONFIRM_MS})
        self._publisher = Publisher(bootstrap_servers, "qstream/tensors", base)

    def publish(
        self,
        tensors: Tensors,
        *,
        model: str,
        step: int,
        role: Role = "weight",
        worker: str | None = None,
        policy: TensorPolicy | None = None,
        dtypes: Mapping[str, str] | None = None,
        influence: Mapping[str, NDArray[np.float32]] | None = None,
        ts_ns: int | None = None,
        on_block: Callable[[TensorPart], None] = lambda _: None,
    ) -> TensorManifest:
        """Publish one step of a series: its blocks, then the manifest that names them.

        Parameters
        ----------
        tensors
            By name; of any shape and strides.
        model, role, worker
            Of the series. Its tensors have the ids ``<model>/<name>``, or ``<model>/<role>[/<worker>]/<name>`` for other roles
            than weight.
        step
            Rises within a series, also over restarts: a step back is refused by the agents and passed over by subscribers.
        policy
            How these tensors are coded, in place of the agent's options.
        dtypes
            For tensors that are given as their bits: the type, such as bfloat16, by name.
        influence : float32 [columns]
            By name: how much each column matters, for mode rate.
        ts_ns
            When the tensors were taken; None: now.
        on_block
            Called with each block that was queued.

        Raises
        ------
        BlockError, ProblemError
            A tensor is of an unknown type or has more than 8 axes, an id is too long, or a blob is too large for its store.
            Nothing was sent then, except where coding fails in mode local.
        StoreUnavailable
            The store of blobs cannot be written.
        FrameError
            A field is wrong, or the names of the tensors are too many for one record: about 10,000.
        DeliveryFailed
            The broker has not confirmed something that was published before.
        """
        self._publisher.require_confirmed()
        if not tensors:
            raise ProblemError(must_be("tensors", "at least one", 0))
        forms = {name: canonical(array, (dtypes or {}).get(name)) for name, array in tensors.items()}
        series = series_of(model, role, worker)
        manifest: dict[str, Any] = {
            "series": series,
            "model": model,
            "role": role,
            "worker": worker,
            "step": step,
            "ts_ns": time.time_ns() if ts_ns is None else ts_ns,
            "tensors": tuple(tensor_id_of(series, name) for name in forms),
            "format": "blocks",
        }
        found = TensorManifest.build(**manifest)
        found.encode()  # so that one that is too large is refused before its blocks are sent
        more = influence or {}
        blocks = [self._blocks(form, name, found, policy, more.get(name)) for name, form in forms.items()]
        if self._coder is not None:
            found = self._publish_coded(self._coder, forms, chain.from_iterable(blocks), found, policy, on_block)
        elif store := self._store(forms, None if policy is None else policy.mode):
            found = self._put(store, forms, found, policy)
        else:
            for block in chain.from_iterable(blocks):
                self._publisher.publish(TENSOR_BLOCK, block)
                on_block(block)
        self._publisher.publish(TENSOR_MANIFEST, found)
        return found

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued is confirmed."""
        self._publisher.flush(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._publisher.__exit__(kind, error, trace)

    def _blocks(
        self,
        form: Form,
        name: str,
        manifest: TensorManifest,
        policy: TensorPolicy | None,
        influence: NDArray[np.float32] | None,
    ) -> Iterator[TensorBlock]:
        return blocks_of(
            form,
            name,
            model=manifest.model,
            role=manifest.role,
            worker=manifest.worker,
            step=manifest.step,
            ts_ns=manifest.ts_ns,
            block_bytes=self.block_bytes,
            policy=policy,
            influence=influence,
        )

    def _publish_coded(
        self,
        coder: LocalEncoder,
        forms: Mapping[str, Form],
        blocks: Iterable[TensorBlock],
        manifest: TensorManifest,
        policy: TensorPolicy | None,
        on_block: Callable[[TensorPart], None],
    ) -> TensorManifest:
        """Code the blocks here and publish them; a step that may become a claim is held until its coded size is known."""
        store = self._store(forms, coder.mode(policy))
        waiting: list[CompressedBlock] = []
        total = 0
        for block in blocks:
            if store is not None and total > self.claim_over:  # nothing of it is sent
                coder.hold(block)
                continue
            coded = coder.code(block)
            total += len(coded.data)
            if store is None:
                self._publisher.publish(TENSOR_COMPRESSED, coded)
                on_block(coded)
            else:
                waiting.append(coded)
        if store is not None and total > self.claim_over:
            return self._put(store, forms, manifest, policy)
        for coded in waiting:
            self._publisher.publish(TENSOR_COMPRESSED, coded)
            on_block(coded)
        return manifest.model_copy(update={"anchor_step": coder.anchor_step(manifest.tensors)})

    def _store(self, forms: Mapping[str, Form], mode: TensorMode | None) -> BlobStore | None:
        """Where a step goes that is too large for blocks. What gradients owe is known to what codes their blocks."""
        large = sum(form.array.nbytes for form in forms.values()) > self.claim_over
        return self.blobs if large and mode != "gradient" else None

    def _put(
        self, store: BlobStore, forms: Mapping[str, Form], manifest: TensorManifest, policy: TensorPolicy | None
    ) -> TensorManifest:
        from qstream.compression.local import archive  # noqa: PLC0415 - the codec

        claim = store.put(archive(forms, self._options, policy, manifest.step))
        return manifest.model_copy(update={"format": "qsz", "claim": claim, "anchor_step": manifest.step})
