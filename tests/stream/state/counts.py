"""Counts: the state that the tests of the store keep, and the places that they keep it at."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import numpy as np
import redis
from numpy.typing import NDArray

from qstream.contract import TopicPartition
from schemas.frame import Axes, Frame

P0, P1 = TopicPartition("in.v1", 0), TopicPartition("in.v1", 1)
KEY: Final = "model-a"
HASH: Final = "qstream:{m:model-a}"
PATIENCE_MS: Final = 60_000


class Inner(Frame):
    note: str = ""


class Counts(Frame):
    note: str = ""
    counts: Annotated[NDArray[np.int64], Axes("partitions")]
    inner: Inner | None = None
    table: Annotated[NDArray[np.int32], Axes("layers", "windows", "experts")] | None = None


class CountsV2(Counts):
    VERSION = 2

    @classmethod
    def tag(cls) -> str:
        return "Counts.v2"


def counts(*values: int, **fields: Any) -> Counts:
    return Counts(counts=np.array(values, np.int64), **fields)


def wait_for_version(raw: redis.Redis, version: int) -> None:
    deadline = time.monotonic() + 120
    while raw.hget(HASH, "version") != str(version).encode():
        assert time.monotonic() < deadline
        time.sleep(0.005)
