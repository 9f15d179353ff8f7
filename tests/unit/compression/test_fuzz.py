"""Ten thousand damaged and lying blocks, archives and frames: an error with a code or the same tensor, within the memory limit.

Checks find damage. Where a sender made them fit, a tensor that was never coded may come back, but of the declared size.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from qstream.compression import (
    BlockError,
    CompressionOptions,
    RestoreOptions,
    compress_tensors,
    restore,
    restore_tensors,
)
from qstream.compression.header import PARTS_FREE, digest
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.compression.stream_options import EncodeOptions
from qstream.testing.feed import Feed
from schemas.frame import FrameError
from schemas.tensors import CompressedBlock, RestoredBlock, TensorBlock
from tests.unit.compression.chains import blocks
from tests.unit.compression.values import drawn, stepped

CODES = {"bad_frame", "checksum", "limit", "unknown_op", "base_mismatch", "basis_mismatch", "dtype", "shape"}
LIMIT = 1 << 20
OPTIONS = RestoreOptions(max_tensor_bytes=LIMIT)
NUMBERS = (-1, 0, 1, 7, 255, 65_536, 2**31, 2**40, 2**63, 1e-320, 1e300)
WORDS = (
    "",
    "float64",
    "bfloat16",
    "complex64",
    "bool",
    "object",
    "store",
    "zstd",
    "rans",
    "raw",
    "high",
    "exact",
    "bound",
    "none",
)


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Up to three bytes changed, and sometimes cut, doubled or with bytes behind."""
    bad = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        bad[rng.integers(len(bad))] ^= rng.integers(1, 256)
    kind = rng.integers(8)
    if kind == 0:
        del bad[rng.integers(len(bad)) :]
    elif kind == 1:
        bad += bad[: rng.integers(len(bad))]
    return bytes(bad)


def outcome(call: Callable[[], Any]) -> tuple[str | None, Any]:
    """The code of the error, or what came back."""
    try:
        return None, call()
    except BlockError as exc:
        return exc.code, None


def test_damaged_blocks_give_an_error_with_a_code_or_the_same_tensor() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _, data, needs, wanted in blocks():
        for _ in range(500):
            bad = damaged(rng, data)
            code, back = outcome(lambda bad=bad, needs=needs: restore(bad, OPTIONS, **needs))
            found.append(code)
            assert code is not None or back.array.tobytes() == wanted.tobytes()
    assert set(found) <= CODES | {None}
    assert sum(code is not None for code in found) > 0.95 * len(found)


def test_damaged_archives_give_an_error_with_a_code_or_the_same_tensors() -> None:
    rng = np.random.default_rng(2)
    bits = drawn(rng, "normal", "bfloat16", (16, 64)).view(np.uint16)
    base = {"a": bits, "b": np.arange(40.0), "c": np.ones((3, 4), np.int8), "d": np.float32(2)}
    new = base | {"a": stepped(rng, bits, 0.1)}
    data = compress_tensors(new, CompressionOptions(mode="delta"), base=base, dtypes={"a": "bfloat16"})
    for _ in range(2000):
        bad = damaged(rng, data)
        code, back = outcome(lambda bad=bad: restore_tensors(bad, OPTIONS, base=base))
        assert code in CODES or {name: x.tobytes() for name, x in back.items()} == {n: x.tobytes() for n, x in new.items()}


def lying(rng: np.random.Generator, data: bytes) -> bytes:
    """A block with a value of its header, a part or the order of things changed, and with checks that fit."""
    (size,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + size])
    header = json.loads(outer["__metadata__"]["qstream"])["tensors"][0]
    payload = bytearray(data[8 + size :])
    for _ in range(rng.integers(1, 3)):
        places = list(leaves(header))
        holder, key = places[rng.integers(len(places))]
        kind = rng.integers(5)
        if kind == 0 and payload:
            payload[rng.integers(len(payload))] ^= rng.integers(1, 256)
        elif kind == 1:
            ops = header["ops"]
            rng.shuffle(ops)
            del ops[rng.integers(len(ops) + 1) :]
        elif kind == 2:
            holder[key] = WORDS[rng.integers(len(WORDS))]
        elif isinstance(holder[key], (int, float)) and kind == 3:
            holder[key] += int(rng.integers(-2, 3))
        else:
            holder[key] = NUMBERS[rng.integers(len(NUMBERS))]
    at = 0
    for part in header["parts"]:
        if isinstance(part[1], int) and 0 <= part[1] <= len(payload):
            part[4] = digest(bytes(payload[at : at + part[1]]))
            at += part[1]
    if rng.random() < 0.5:
        header.pop("digest", None)
    body = f'"tensors":[{json.dumps(header)}]}}'
    outer["__metadata__"]["qstream"] = f'{{"v":1,"check":"{digest(body.encode())}",{body}'
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + bytes(payload)


def leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    """Where each word and number of a header is."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            yield from leaves(value)
        else:
            yield node, key


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that a liar chose
def test_lying_blocks_give_an_error_with_a_code_or_a_tensor_of_the_declared_size_within_the_limit() -> None:
    rng = np.random.default_rng(3)
    found = []
    tracemalloc.start()
    try:
        for _, data, needs, _ in blocks():
            for _ in range(100):
                bad = lying(rng, data)
                code, back = outcome(lambda bad=bad, needs=needs: restore(bad, OPTIONS, **needs))
                found.append(code)
                assert code is not None or back.array.nbytes <= LIMIT
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {"bad_frame", "unknown_op", "checksum", "limit", "dtype"} <= set(found)
    assert set(found) <= CODES | {None}
    assert peak < 8 * LIMIT + 2 * PARTS_FREE


@pytest.mark.parametrize("mode", ["lossless", "delta", "bounded"])
def test_damaged_frames_are_dead_letters_with_a_code_or_restore_what_was_sent(mode: str) -> None:
    rng = np.random.default_rng(4)
    held = drawn(rng, "normal", "bfloat16", (32, 64))
    into, back = Feed(CompressionProcessor(EncodeOptions(mode=mode))), Feed(DecompressionProcessor())
    for step in range(4):
        values = held.reshape(-1).view(np.uint8)
        sent = TensorBlock(
            tensor_id="m/w", model="m", role="weight", step=step, ts_ns=step, dtype="bfloat16", shape=held.shape,
            count=held.size, digest=digest(values), data=values,
        )  # fmt: skip
        coded = into.send(sent, 1000).events[0].frame
        assert isinstance(coded, CompressedBlock)
        wire, came_back = coded.encode(), []
        for n in range(160):
            try:
                bad = CompressedBlock.decode(damaged(rng, wire)) if n % 2 else None
            except FrameError:
                continue
            if bad is None:
                bad = coded.model_copy(update={"data": np.frombuffer(damaged(rng, coded.data.tobytes()), np.uint8)})
            if (bad.tensor_id, bad.step, bad.block) != (coded.tensor_id, coded.step, coded.block):
                continue  # another block: it would be the newest of its tensor
            came = back.send(bad, 1000)
            assert len(came.events) + len(came.dead) == 1
            if came.dead:
                assert came.dead[0].error_message.split(":")[0] in CODES
            else:
                frame = came.events[0].frame
                assert isinstance(frame, RestoredBlock)
                came_back.append(frame.data)
        found = back.send(coded, 1000).events[0].frame
        assert isinstance(found, RestoredBlock)
        assert found.data is not None
        assert mode == "bounded" or found.data.tobytes() == values.tobytes()
        assert all(data is None or data.tobytes() == found.data.tobytes() for data in came_back)
        held = stepped(rng, held.view(np.uint16), 0.05).view(held.dtype)
