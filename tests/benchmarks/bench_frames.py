"""What frames cost: both forms of a batch of tokens, string ids, and token objects; medians on the machine at hand."""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from schemas import JSON, SAFETENSORS, TokenBatch
from schemas.frame import ContentType
from schemas.tokens import from_objects, hash_ids

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
        ("encode of 1,000 tokens as JSON", as_json[0] * 1e3, "ms", ""),
        ("decode of 1,000 tokens as JSON", as_json[1] * 1e3, "ms", ""),
        ("hash of string ids", len(ids) / hashing / 1e6, "M/s", ">= 1"),
        ("JSON list of token objects to a batch, a token", objects / TOKENS * 1e6, "us", ""),
    ]
