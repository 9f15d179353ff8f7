"""What frames cost: both forms of a batch of tokens, string ids, and token objects; medians on the machine at hand."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from schemas import JSON, SAFETENSORS, TokenBatch
from schemas.frame import Axes, ContentType, Frame
from schemas.tokens import from_objects, hash_ids

SMALL_ARRAYS = 8
SMALL_NUMBERS = 16
TOKENS = 10_000
TOP_K = 6


def batch(tokens: int) -> TokenBatch:
    """A batch as a serving engine sends it: ids, requests, positions, ranks and the gate's six choices."""
    rng = np.random.default_rng(7)
    return TokenBatch(
        batch_id="step-7/layer-0",
        ts_ns=1,
        model="demo-moe",
        layer=0,
        token_id=np.arange(tokens, dtype=np.uint64),
        request_id=rng.integers(0, 2**63, tokens).astype(np.uint64),
        position=np.arange(tokens, dtype=np.int32),
        src_rank=rng.integers(0, 32, tokens).astype(np.int32),
        topk_ids=rng.integers(0, 64, (tokens, TOP_K)).astype(np.int32),
        topk_weights=rng.random((tokens, TOP_K)).astype(np.float32),
    )


Floats = Annotated[NDArray[np.float32], Axes("numbers")]
Integers = Annotated[NDArray[np.int32], Axes("numbers")]


def small_frame(array_type: Any, arrays: int) -> type[Frame]:
    """A frame of arrays of one kind, as many topics have them: a name and columns of few numbers."""
    annotations = {"name": str} | {f"column_{n}": array_type for n in range(arrays)}
    return type("Small", (Frame,), {"__annotations__": annotations, "__module__": __name__})


def array_decode_us(array_type: Any) -> float:
    """CPU of decoding one more array of a small frame: that of a frame of several less that of a frame of one."""
    numbers = np.ones(SMALL_NUMBERS, np.float32 if array_type is Floats else np.int32)
    cpu_us = []
    for arrays in (SMALL_ARRAYS, 1):
        cls = small_frame(array_type, arrays)
        data = cls(name="n", **{f"column_{n}": numbers for n in range(arrays)}).encode()
        cpu_us.append(least_cpu_us(lambda cls=cls, data=data: cls.decode(data)))  # type: ignore[misc]
    return (cpu_us[0] - cpu_us[1]) / (SMALL_ARRAYS - 1)


def least_cpu_us(work: Callable[[], object], calls: int = 2000, rounds: int = 7) -> float:
    """CPU microseconds of one call in the quickest round: what the code needs, without what its neighbours take."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            work()
        times.append(time.process_time() - start)
    return min(times) / calls * 1e6


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def both_ways_s(tokens: int, content_type: ContentType, repeats: int) -> tuple[float, float]:
    """Seconds to encode and to decode a batch."""
    frame = batch(tokens)
    data = frame.encode(content_type)
    return (
        median_s(lambda: frame.encode(content_type), repeats),
        median_s(lambda: TokenBatch.decode(data, content_type), repeats),
    )


def rows() -> list[tuple[str, float, str, str]]:
    """What, value, unit and target of each measurement; an empty target promises nothing."""
    large, small = both_ways_s(TOKENS, SAFETENSORS, 200), both_ways_s(256, SAFETENSORS, 1000)
    # Ten thousand tokens with six choices are more than a megabyte of JSON, so that its batch is a tenth.
    as_json = both_ways_s(TOKENS // 10, JSON, 50)
    ids = [f"request-{index:08d}" for index in range(10 * TOKENS)]
    text = json.dumps(
        [{"id": f"t{i}", "metadata": {"request_id": i, "src_rank": i % 8}, "complexity": 1.5} for i in range(TOKENS)]
    )
    hashing = median_s(lambda: hash_ids(ids), 20)
    objects = median_s(lambda: from_objects(json.loads(text), batch_id="b", model="m", ts_ns=1), 20)
    return [
        ("encode and decode of 10,000 tokens", sum(large) * 1e3, "ms", "<= 1"),
        ("encode of 256 tokens", small[0] * 1e6, "us", ""),
        ("decode of 256 tokens", small[1] * 1e6, "us", "<= 100"),
        ("CPU of decoding one array of 16 integers of a small frame", array_decode_us(Integers), "us", "<= 4"),
        ("CPU of decoding one array of 16 floats of a small frame", array_decode_us(Floats), "us", "<= 4"),
        ("encode of 1,000 tokens as JSON", as_json[0] * 1e3, "ms", ""),
        ("decode of 1,000 tokens as JSON", as_json[1] * 1e3, "ms", ""),
        ("hash of string ids", len(ids) / hashing / 1e6, "M/s", ">= 1"),
        ("JSON list of token objects to a batch, a token", objects / TOKENS * 1e6, "us", ""),
    ]
