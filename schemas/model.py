"""ModelPart: a piece of a trained model, as it travels to all workers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from schemas.frame import Axes, Count, Frame, Name, Names, TimeNs, at_most
from schemas.wording import must_be

Kind = Literal["mlp", "lstm", "gru", "sage", "ridge", "svm"]
MAX_PART_BYTES = 900_000
MAX_MODEL_BYTES = 16 << 20
MAX_ENTRIES = 64
Setting = str | int | float | bool
Settings = Annotated[dict[Name, Setting], at_most(MAX_ENTRIES)]
Metrics = Annotated[dict[Name, float], at_most(MAX_ENTRIES)]
Part = Annotated[str, StringConstraints(pattern=r"^[^/]{1,100}$")]


class ModelPart(Frame):
    """Bytes of a model's file, which is a safetensors file. A model exists when all its parts are there and the hash is right.

    `part_key` is ``<module>/<name>/<version>/<part>``. A version never changes; that it is retired is said by its parts
    again, without data.
    """

    part_key: str = Field(min_length=7, max_length=250, description="``<module>/<name>/<version>/<part>``")
    module: Part = Field(description="whose workers use the model")
    name: Part = Field(description="what for")
    version: Count = Field(description="milliseconds since 1970 when it was trained")
    part: Count = Field(description="from 0")
    parts: int = Field(ge=1, le=64, description="how many there are")
    nbytes: int = Field(ge=0, le=MAX_MODEL_BYTES, description="of the whole file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the whole file")
    kind: Kind = Field(description="which function answers with it")
    feature_names: Names = Field(description="of the columns of an input")
    config: Settings = Field(default={}, description="what the answer needs besides the arrays")
    metrics: Metrics = Field(default={}, description="errors on held-out data, next to each its twin's as <metric>_twin")
    trained_on: Names = Field(default=(), description="topics and offsets, or digests of files")
    trained_ns: TimeNs = Field(default=0, description="when it was trained")
    retired: bool = Field(default=False, description="no worker uses it any more")
    data: Annotated[NDArray[np.uint8], Axes("bytes"), Field(description="this part of the file")]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        key = f"{self.module}/{self.name}/{self.version}/{self.part}"
        if self.part_key != key:
            raise ValueError(must_be("part_key", key, self.part_key))
        if self.part >= self.parts:
            raise ValueError(must_be("part", f"below {self.parts}, the number of parts", self.part))
        if len(self.data) > MAX_PART_BYTES:
            raise ValueError(must_be("data", f"at most {MAX_PART_BYTES} bytes", len(self.data)))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            part_key="energy/forecast/1700000000000/0",
            module="energy",
            name="forecast",
            version=1_700_000_000_000,
            part=0,
            parts=1,
            nbytes=2,
            sha256="0" * 64,
            kind="mlp",
            feature_names=("load",),
            config={"activation": "tanh"},
            metrics={"error": 0.3, "error_twin": 0.4},
            data=np.array([1, 2], np.uint8),
        )
