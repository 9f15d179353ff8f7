"""Blocks of tensors on their way: as they are, coded, and restored; what was trained for them, and what belongs together."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.digest import Digest
from schemas.frame import Axes, Count, Frame, Name, Names, TimeNs
from schemas.names import require_distinct
from schemas.part import Part
from schemas.solver import Execution, SolverRecord
from schemas.wording import Shown, must_be

MAX_AXES: Final = 8
MAX_BLOCKS: Final = 1 << 20
MAX_TENSOR_BYTES: Final = 1 << 50
MAX_BLOCK_BYTES: Final = 960_000  # of values: a frame has room for its header besides
MAX_CODEBOOK_BYTES: Final = 900_000
ITEM_BYTES: Final[dict[str, int]] = {
    **dict.fromkeys(("bool", "int8", "uint8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}

Role = Literal["weight", "gradient", "activation", "kv_cache", "optimizer", "embedding", "other"]
TensorMode = Literal["lossless", "delta", "bounded", "rate", "gradient", "int8"]
TensorBoundKind = Literal["rms", "abs", "range", "point", "l2"]
TensorPromise = Literal["exact", "bound", "l2", "none"]
Bytes = NDArray[np.uint8]


class TensorSkip(StrEnum):
    """Why a block is not restored; a closed list, fit for a metric's label."""

    NO_BASE = "no_base"  # the base of a delta is missing or another one: the next anchor needs none
    NO_BASIS = "no_basis"  # the basis or net that the block names is not there
    STATE_LIMIT = "state_limit"  # the tensor is larger than what is kept of one for deltas


class TensorPolicy(Part):
    """How a producer wants a block coded, in place of the agent's options."""

    mode: TensorMode = Field(description="what is kept: exact bits, a bound, or a rate")
    bound_kind: TensorBoundKind | None = Field(default=None, description="what the bound is a part of; absent: as the agent's")
    bound: float | None = Field(default=None, gt=0, description="largest error in units of `bound_kind`; absent: as the agent's")
    target_bits: float | None = Field(default=None, gt=0, le=32, description="bits a value of rate and gradient")


class TensorQuality(Part):
    """What the encoder measured on the true values, of which it counts the finite ones."""

    bits_per_value: float = Field(ge=0, description="bits of `data` a value")
    max_abs_error: float = Field(default=0.0, ge=0, description="largest error of a value")
    rel_l2: float = Field(default=0.0, ge=0, description="norm of the error to the norm of the values")
    escapes: Count = Field(default=0, description="values that travel as they are, next to the coded ones")
    bound: float | None = Field(default=None, ge=0, description="what was promised; none without a bound")
    max_relative_error: float | None = Field(
        default=None, ge=0, description="largest error as a part of its value, where `bound` is one"
    )


class TensorRefined(Part):
    """A correction that the encoder approved and whether it was applied, or a circuit that did the same."""

    name: Name = Field(description="of the correction, such as spectral or denoiser, or of the circuit that checked it")
    left: float | None = Field(
        default=None, ge=0, description="part of the squared error that it left when the encoder measured it"
    )
    execution: Execution = Field(default="classical")
    reason: Name | None = Field(default=None, description="why it was not applied")
    difference: float | None = Field(default=None, ge=0, description="how far a circuit is from what was computed")
    twin_difference: float | None = Field(default=None, ge=0, description="how far the circuit's classical twin is from it")
    n: Count | None = Field(default=None, description="qubits of the circuit")
    depth: Count | None = Field(default=None, description="how often the circuit applies the matrix that it is about")
    shots: Count | None = Field(default=None, description="samples of the circuit; 0: amplitudes were read")


class TensorClaim(Part):
    """Where the values lie that are too many for records."""

    uri: str = Field(min_length=1, max_length=1000, description="where a store of blobs has them")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the whole blob")
    nbytes: Count = Field(description="of the whole blob")


class TensorPart(Frame):
    """Which values of which tensor a block has: `count` of them from `start` on, in C order.

    A block has whole rows, which lie along the last axis; only a row that is larger than a block is cut.
    """

    tensor_id: Name = Field(description="``<series>/<tensor>``, of weights ``<model>/<tensor>``")
    model: Name = Field(description="the model that the tensor belongs to")
    role: Role = Field(description="what the tensor is to the model")
    step: Count = Field(description="step of the training or series, which rises")
    ts_ns: TimeNs = Field(description="when the tensor was taken, ns since 1970")
    dtype: Literal[tuple(ITEM_BYTES)] = Field(description="type of the values")  # type: ignore[valid-type]
    shape: Annotated[tuple[Count, ...], Field(strict=False, max_length=MAX_AXES)] = Field(description="of the whole tensor")
    block: Count = Field(default=0, description="number of the block, from 0")
    blocks: int = Field(default=1, ge=1, le=MAX_BLOCKS, description="blocks of the tensor")
    start: Count = Field(default=0, description="first value of the block")
    count: Count = Field(description="values of the block")

    @property
    def nbytes(self) -> int:
        """Bytes of the block's values."""
        return self.count * ITEM_BYTES[self.dtype]

    @property
    def tensor_nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The tensor's shape where the block is the whole of it, else rows and columns, or values of one row."""
        if self.count == math.prod(self.shape):
            return self.shape
        columns = self.shape[-1]
        return (self.count // columns, columns) if len(self.shape) > 1 and self.count % columns == 0 else (self.count,)

    @property
    def part(self) -> dict[str, Any]:
        """These fields, for another frame about the same block."""
        return {name: getattr(self, name) for name in TensorPart.model_fields if name != "frame"}

    @model_validator(mode="after")
    def _inside(self) -> Self:
        size, columns = math.prod(self.shape), self.shape[-1] if self.shape else 1
        if self.tensor_nbytes > MAX_TENSOR_BYTES:
            raise ValueError(must_be("bytes of the tensor", f"at most {MAX_TENSOR_BYTES}", Shown(f"shape {self.shape}")))
        if self.block >= self.blocks:
            raise ValueError(must_be("block", f"below blocks, {self.blocks}", self.block))
        if self.start + self.count > size:
            raise ValueError(must_be("start + count", f"at most {size}, the values of the tensor", self.start + self.count))
        if self.count == 0 and size:
            raise ValueError(must_be("count", f"at least 1 of {size} values", 0))
        if self.count:
            whole = self.start % columns == 0 and self.count % columns == 0
            if not whole and self.start % columns + self.count > columns:
                got = Shown(f"values {self.start} to {self.start + self.count}")
                raise ValueError(must_be("a block", f"whole rows of {columns}, or within one row", got))
        return self


_PART: Final[dict[str, Any]] = {
    "tensor_id": "my-moe/layers.3.mlp.up",
    "model": "my-moe",
    "role": "weight",
    "step": 1200,
    "ts_ns": 1_700_000_000_000_000_000,
    "dtype": "bfloat16",
    "shape": (4, 3),
    "block": 1,
    "blocks": 2,
    "start": 6,
    "count": 6,
}


class TensorBlock(TensorPart):
    """Values of a tensor, to be coded."""

    policy: TensorPolicy | None = Field(default=None, description="how the block is coded; none: by the agent's options")
    base_step: Count | None = Field(
        default=None, description="mode delta: the step that this one follows; absent: the one that came before"
    )
    digest: Digest = Field(description="xxh3-64 of `data`")
    data: Annotated[Bytes, Axes("bytes")] = Field(description="the values, little-endian, in C order")
    influence: Annotated[NDArray[np.float32], Axes("columns")] | None = Field(
        default=None, description="how much each column matters, for mode rate"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_bytes(self, self.data)
        columns = self.block_shape[-1] if self.block_shape else 1
        if self.influence is not None and len(self.influence) != columns:
            raise ValueError(must_be("length of influence", f"{columns}, one for each column", len(self.influence)))
        return self

    @classmethod
    def example(cls) -> Self:
        data = np.arange(12, dtype=np.uint8)
        return cls(**_PART, policy=TensorPolicy(mode="delta"), base_step=1199, digest="5ace6a511c10894b", data=data)


class CompressedBlock(TensorPart):
    """A coded block. `data` is what `qstream.compression.restore` reads: a header with the chain, its checks and the payload.

    An anchor needs nothing that came before it.
    """

    anchor: bool = Field(description="whether the block restores without an earlier one")
    kept: bool = Field(default=True, description="whether a delta may step on the values, so that a reader must keep them")
    base_step: Count | None = Field(default=None, description="step of the base of a delta")
    base_digest: Digest | None = Field(default=None, description="xxh3-64 of the values of the base of a delta")
    basis_digest: Digest | None = Field(default=None, description="the basis that the block was multiplied by")
    promise: TensorPromise = Field(
        description="exact bits; bound: of each value; l2: of the norm of the error; none: as it was measured"
    )
    quality: TensorQuality = Field(strict=False, description="what the encoder measured")
    ops: Names = Field(description="the chain, in the order of coding")
    solver: SolverRecord | None = Field(
        default=None, strict=False, description="the circuit that helped to code, and its classical twin"
    )
    fallback_reason: Name | None = Field(default=None, description="why the block was not coded as asked for")
    switched_off: Names = Field(default=(), description="options that were not tried, since they did not pay for earlier blocks")
    data: Annotated[Bytes, Axes("bytes")] = Field(description="the coded block")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.anchor and (self.base_step is not None or self.base_digest is not None):
            raise ValueError(must_be("base_step and base_digest of an anchor", "absent", (self.base_step, self.base_digest)))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            **_PART,
            anchor=True,
            promise="exact",
            quality=TensorQuality(bits_per_value=8 * 7 / 6),
            ops=("split_float",),
            data=np.arange(7, dtype=np.uint8),
        )


class RestoredBlock(TensorPart):
    """A block as it came back; without `data` where it waits for an anchor or a codebook."""

    promise: TensorPromise = Field(description="what the encoder promised")
    verified: bool = Field(default=False, description="whether the values have the digest that the encoder gave")
    quality: TensorQuality = Field(strict=False, description="what the encoder measured")
    refined: Annotated[tuple[TensorRefined, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="corrections that the encoder approved"
    )
    skip_reason: TensorSkip | None = Field(default=None, strict=False, description="why the block is not restored")
    data: Annotated[Bytes, Axes("bytes")] | None = Field(
        default=None, description="the values, little-endian, in C order; absent with a `skip_reason`"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.data is None) != (self.skip_reason is not None):
            raise ValueError(must_be("a restored block", "one with either data or a skip_reason", self.skip_reason))
        if self.data is not None:
            _require_bytes(self, self.data)
        return self

    @classmethod
    def example(cls) -> Self:
        quality = TensorQuality(bits_per_value=8 * 7 / 6)
        return cls(**_PART, promise="exact", verified=True, quality=quality, data=np.arange(12, dtype=np.uint8))


class TensorCodebook(Frame):
    """What was trained for one tensor, such as a basis: the bytes of a codebook file, which is a safetensors file."""

    tensor_id: Name = Field(description="the tensor that it was trained for")
    model: Name = Field(description="the model that the tensor belongs to")
    ts_ns: TimeNs = Field(description="when it was trained, ns since 1970")
    kind: Literal["basis", "table", "denoiser", "lstm"] = Field(description="what was trained")
    digest: Digest = Field(description="that blocks name it by")
    data: Annotated[Bytes, Axes("bytes")] = Field(description="the file")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.data) > MAX_CODEBOOK_BYTES:
            raise ValueError(must_be("length of data", f"at most {MAX_CODEBOOK_BYTES} bytes", len(self.data)))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            tensor_id=_PART["tensor_id"],
            model="my-moe",
            ts_ns=1_700_000_000_000_000_000,
            kind="basis",
            digest="5ace6a511c10894b",
            data=np.arange(16, dtype=np.uint8),
        )


class TensorManifest(Frame):
    """The tensors of one step of a series, and where they are: in blocks of their own, or in one file.

    A series is what one publisher sends of a model: its weights, or the gradients of one worker. Ids of its tensors are
    ``<series>/<tensor>``.
    """

    series: Name = Field(description="``<model>`` of its weights, else ``<model>/<role>`` or ``<model>/<role>/<worker>``")
    model: Name = Field(description="the model")
    role: Role = Field(description="what the tensors are to the model")
    worker: Name | None = Field(default=None, description="which of several workers they are of")
    step: Count = Field(description="step of the training or series")
    ts_ns: TimeNs = Field(description="when the tensors were taken, ns since 1970")
    tensors: Names = Field(description="ids of the tensors")
    anchor_step: Count | None = Field(default=None, description="newest step that needs no earlier one; absent where agents code")
    format: Literal["blocks", "qsz"] = Field(description="blocks on a topic, or an archive of `qstream compression`")
    claim: TensorClaim | None = Field(default=None, description="the file; none for blocks")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_distinct(self, "tensors")
        if (self.claim is None) != (self.format == "blocks"):
            raise ValueError(must_be("claim", "given for a file and absent for blocks", Shown(self.format)))
        if self.anchor_step is not None and self.anchor_step > self.step:
            raise ValueError(must_be("anchor_step", f"at most step, {self.step}", self.anchor_step))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            series="my-moe",
            model="my-moe",
            role="weight",
            step=1200,
            ts_ns=1_700_000_000_000_000_000,
            tensors=("my-moe/layers.3.mlp.up", "my-moe/layers.3.mlp.down"),
            anchor_step=1152,
            format="qsz",
            claim=TensorClaim(uri="file:///blobs/" + "0" * 64, sha256="0" * 64, nbytes=81_920),
        )


def _require_bytes(part: TensorPart, data: Bytes) -> None:
    if len(data) != part.nbytes:
        raise ValueError(must_be("length of data", f"{part.nbytes}, the bytes of {part.count} {part.dtype}", len(data)))
    if len(data) > MAX_BLOCK_BYTES:
        raise ValueError(must_be("length of data", f"at most {MAX_BLOCK_BYTES} bytes", len(data)))
