"""The toggles of compression and restoring, and the recommended configurations; read by `chains` and `decode` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from qstream.compression.header import Mode
from qstream.compression.parts import Level
from qstream.errors import OptionError, ProblemError
from qstream.module.options import ModuleOptions, Row
from schemas.wording import Shown, must_be

BoundKind = Literal["rms", "abs", "range", "point", "l2"]
Int8Scale = Literal["row", "tensor", "group"]
Transform = Literal["auto", "none", "klt", "fourier"]
Scenario = Literal["archive", "gradient_sync", "inference", "cpu_only", "weight_sync", "kv_cache", "optimizer"]

Restoring = Literal["sparse_activations", "dense_weights", "embeddings", "noisy"]
_EVERY_VALUE: Final = ("rms", "abs", "range", "point")
_BY_ERROR: Final = "bounded with bound_kind l2"
# The modes that use an argument of `compress`.
_USED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "base": ("delta",),
    "moment": ("rate",),
    "basis": ("rate", "gradient", _BY_ERROR),
    "influence": ("rate", "gradient", _BY_ERROR),
    "codebook": ("rate", "gradient", "int8", _BY_ERROR),
}
_ROWS: Final[Mapping[Scenario, Mapping[str, Any]]] = {
    "archive": {"mode": "rate", "level": "small", "qae": True, "denoiser": True},
    "gradient_sync": {"mode": "gradient", "target_bits": 1.0, "dropout": True},
    "inference": {"mode": "rate", "target_bits": 4.4, "qae": True, "dropout": True},
    "cpu_only": {"mode": "int8", "int8_scale": "row", "denoiser": True},
    "weight_sync": {"mode": "delta"},
    "kv_cache": {"mode": "bounded", "bound_kind": "l2", "bound": 0.03, "transform": "klt"},
    "optimizer": {"mode": "bounded", "bound_kind": "point", "bound": 0.125, "level": "small"},
}

_RESTORING: Final[Mapping[Restoring, Mapping[str, Any]]] = {
    "sparse_activations": {"hhl": True, "qsvt": True},
    "dense_weights": {"lstm": True},
    "embeddings": {},
    "noisy": {"qsvt": True, "lstm": True},
}


class CompressionOptions(ModuleOptions):
    """How a tensor is coded."""

    module: ClassVar[str] = "compression"
    situations: ClassVar[Mapping[str, tuple[str, ...]]] = {"scenario": get_args(Scenario)}
    recommendations: ClassVar[tuple[Row, ...]] = tuple(Row({"scenario": name}, row) for name, row in _ROWS.items())

    mode: Mode = Field(
        default="lossless",
        description="lossless and delta: exact bits; bounded: an error below a bound; rate: about target_bits a value; gradient:"
        " the same, for an optimizer that feeds the error back; int8: whole numbers and scales",
    )
    bound_kind: BoundKind = Field(
        default="rms",
        description="what bound is a part of: rms of the tensor, its range, each value (point), or 1 (abs), for every value; l2:"
        " the relative L2 error of the whole tensor",
    )
    bound: float = Field(default=0.05, gt=0, le=1e30, description="largest error, in units of bound_kind")
    target_bits: float | None = Field(
        default=None, ge=0.05, le=32, description="bits a value of rate and gradient; none: 4.4, gradients 1.0"
    )
    int8_scale: Int8Scale = Field(default="row", description="int8: values that share a scale; a group is 128 values of a row")
    level: Level = Field(
        default="balanced", description="fast: Huffman codes of exponents alone; balanced: of each plane; small: rANS, by class"
    )
    transform: Transform = Field(
        default="auto", description="auto: a given basis where it pays; klt, fourier: learnt from the tensor where none is given"
    )
    qae: bool = Field(
        default=False,
        description="a basis that is learnt from the tensor is found by a simulated circuit, where that is as good as the KLT",
    )
    denoiser: bool = Field(
        default=False, description="a net of the codebook, trained for the tensor, corrects what is restored, where that pays"
    )
    dropout: bool = Field(
        default=False,
        description="columns are left out and predicted from the others, where that pays; Monte-Carlo dropout says which, and"
        " which wires the circuit of qae can do without",
    )
    dropout_samples: int = Field(default=64, ge=1, le=10_000, description="random subsets tried by dropout")
    keep: float = Field(default=0.5, gt=0, lt=1, description="part of the columns that dropout keeps")
    table: bool = Field(default=True, description="values of one quantization step are restored as their centre, if that pays")
    spectral: bool = Field(default=True, description="singular values that the error explains are shrunk, where that pays")
    refine_ms: float = Field(
        default=0.0, ge=0, le=600_000, description="estimated work of a refiner above which it is left out; 0: no limit"
    )
    verify: bool = Field(default=True, description="coded blocks are decoded and compared before they are returned")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all random choices")

    @model_validator(mode="after")
    def _a_promise_that_can_be_kept(self) -> Self:
        exact = self.mode in ("lossless", "delta", "int8")
        every_value = self.mode == "bounded" and self.bound_kind in _EVERY_VALUE
        if self.transform in ("klt", "fourier") and (exact or every_value):
            allowed = f"auto or none with mode {self.mode}{f' and bound_kind {self.bound_kind}' if every_value else ''}"
            raise OptionError(must_be("option transform", allowed, self.transform))
        if self.qae and (exact or every_value):
            raise OptionError(must_be("option qae", f"false with mode {self.mode}, whose promise a basis would break", True))
        if self.denoiser and self.mode not in ("rate", "gradient", "int8"):
            raise OptionError(must_be("option denoiser", f"false with mode {self.mode}: it would break the promise", True))
        if self.dropout and (exact or every_value):
            raise OptionError(must_be("option dropout", f"false with mode {self.mode}: it would break the promise", True))
        if self.qae and self.transform in ("none", "fourier"):
            raise OptionError(must_be("option qae", f"false with transform {self.transform}", True))
        if self.mode == "bounded" and self.bound_kind in ("point", "l2") and self.bound >= 1:
            raise OptionError(must_be("option bound", f"below 1 with bound_kind {self.bound_kind}", self.bound))
        return self

    def uses(self, argument: str) -> bool:
        """Whether the mode uses an argument of `compress`: base, basis, moment, influence or codebook."""
        return self._way in _USED_BY[argument]

    def require_used(self, **given: object) -> None:
        """`ProblemError` that names an argument that is given, not None, and that the mode or another argument leaves unused."""
        held = {name for name, value in given.items() if value is not None}
        for name in sorted(held):
            if not self.uses(name):
                *others, last = _USED_BY[name]
                allowed = f"{', '.join(others)} or {last}" if others else last
                raise ProblemError(must_be("mode", f"{allowed} where {name} is given", Shown(self._way)))
        if "basis" in held and self.transform == "none":
            raise ProblemError(must_be("option transform", "auto, klt or fourier where basis is given", self.transform))
        if "influence" in held and (both := held & {"basis", "moment"}):
            raise ProblemError(must_be(min(both), "absent where influence is given", Shown("both")))

    @property
    def _way(self) -> str:
        """The mode, bounded with l2 apart from the others."""
        return _BY_ERROR if self.mode == "bounded" and self.bound_kind == "l2" else self.mode

    @property
    def bits(self) -> float:
        """The target of rate and gradient."""
        return self.target_bits if self.target_bits is not None else 1.0 if self.mode == "gradient" else 4.4

    @classmethod
    def recommended(cls, scenario: str | float = "archive", **situation: str | float) -> Self:
        """The recommended options for archive, gradient_sync, inference, cpu_only, weight_sync, kv_cache or optimizer."""
        return super().recommended(scenario=scenario, **situation)


class RestoreOptions(ModuleOptions):
    """How coded data are restored."""

    module: ClassVar[str] = "decompression"
    situations: ClassVar[Mapping[str, tuple[str, ...]]] = {"kind": get_args(Restoring)}
    recommendations: ClassVar[tuple[Row, ...]] = tuple(Row({"kind": name}, row) for name, row in _RESTORING.items())

    spectral: bool = Field(default=True, description="apply the spectral refiner that the encoder approved")
    qsvt: bool = Field(
        default=False, description="the spectral refiner is also done by a simulated circuit, on 64 x 64 values, and compared"
    )
    qft: bool = Field(
        default=False, description="a cosine transform is also done by a simulated circuit, on one row, and compared"
    )
    hhl: bool = Field(
        default=False,
        description="one column of what predicts pruned channels is also solved by a simulated circuit, and compared",
    )
    clock: int = Field(default=8, ge=1, le=16, description="hhl: qubits of the clock, three more than log2 of the condition")
    max_condition: float = Field(
        default=1e4, ge=1, le=1e12, description="hhl: condition of a system above which it is left alone"
    )
    degree: int = Field(
        default=80, ge=2, le=1000, multiple_of=2, description="qsvt: of the polynomial; 80 is as steep as the refiner"
    )
    denoiser: bool = Field(default=True, description="apply the convolution that the encoder approved, where the codebook has it")
    lstm: bool = Field(default=False, description="apply the LSTM that the encoder approved, if the codebook has it; slow")
    verify: bool = Field(default=True, description="compare digests of the base and of what is restored")
    max_tensor_bytes: int = Field(default=2**30, ge=1, le=2**50, description="largest tensor that is restored")

    @classmethod
    def recommended(cls, kind: str | float = "dense_weights", **situation: str | float) -> Self:
        """The recommended options for sparse_activations, dense_weights, embeddings or noisy tensors."""
        return super().recommended(kind=kind, **situation)
