"""Score: each block from its publication to its return, compared with what was sent."""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.compression.assembler import TensorAssembler, Whole
from qstream.compression.dtypes import Form, as_floats
from qstream.compression.peers import compared
from qstream.demo.latency import percentiles
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.tensors import CompressedBlock, RestoredBlock, TensorBlock

ROLES: Final = ("weight", "gradient", "activation")
MAX_OPEN: Final = 4096
SMOOTHED: Final = 10  # newest steps of a shown loss
_ROUNDING: Final = 1e-5  # of a bound: an encoder's rms is of float32


class Sent(NamedTuple):
    """A block on its way, and when it was published."""

    block: TensorBlock
    at_s: float


@dataclass(slots=True)
class Errors:
    """Sums over values of their squares, `power`, and of those of their errors, `error`."""

    power: float = 0.0
    error: float = 0.0

    @property
    def rel_l2(self) -> float | None:
        """Norm of the error to the norm of the values; 0 where every value came back as it was."""
        return float(np.sqrt(self.error / self.power)) if self.power else None


@dataclass(slots=True)
class Tally(Errors):
    """Sums over the values of one role."""

    values: int = 0
    raw_bytes: int = 0
    coded_bytes: int = 0
    blocks: int = 0
    exact: int = 0

    @property
    def bits(self) -> float | None:
        """Bits a value, headers of blocks included."""
        return 8 * self.coded_bytes / self.values if self.values else None

    @property
    def ratio(self) -> float | None:
        """Bytes before to bytes after."""
        return self.raw_bytes / self.coded_bytes if self.coded_bytes else None


@dataclass(slots=True)
class PeerTally(Errors):
    """What int8 by row and an XOR with the step before, deflated, make of the same tensors, on the steps that are sampled."""

    values: int = 0
    int8_bits: float = 0.0
    xor_values: int = 0
    xor_bits: float = 0.0

    def figures(self) -> dict[str, float | None]:
        return {
            "int8_bits": self.int8_bits / self.values if self.values else None,
            "int8_rel_l2": self.rel_l2,
            "xor_deflate_bits": self.xor_bits / self.xor_values if self.xor_values else None,
        }


@dataclass(slots=True)
class Losses:
    """Loss of each step (nats a byte), of the model whose gradients travel and of its twin whose gradients do not."""

    own: list[float] = field(default_factory=list)
    twin: list[float] = field(default_factory=list)


class Score:
    """Blocks that are sent, coded and restored; `bound` is the promise to activations, a part of the rms of a block."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.tallies: dict[str, Tally] = {role: Tally() for role in ROLES}
        self.peers: dict[str, PeerTally] = {role: PeerTally() for role in ROLES}
        self.losses = Losses()
        self.tensors: set[str] = set()
        self.blocks = self.mismatches = self.violations = self.letters = 0
        self.took_ms: list[float] = []
        self._waiting: dict[tuple[str, int, int], Sent] = {}
        self._assembler = TensorAssembler(max_open=MAX_OPEN, timeout_s=math.inf)
        self._whole: dict[str, NDArray[Any]] = {}

    @property
    def waiting(self) -> int:
        """Blocks without an answer; a dead letter answers one, and does not say which."""
        return max(0, len(self._waiting) - self.letters)

    def sent(self, block: TensorBlock, at_s: float) -> None:
        """A block is about to be published."""
        self._waiting[_key(block)] = Sent(block, at_s)
        self.tensors.add(block.tensor_id)
        self.blocks += 1

    def received(self, frame: Frame, at_s: float) -> None:
        """What the agents answered."""
        if isinstance(frame, DeadLetter):
            self.letters += 1
        elif isinstance(frame, CompressedBlock):
            tally = self.tallies[frame.role]
            tally.values += frame.count
            tally.raw_bytes += frame.nbytes
            tally.coded_bytes += len(frame.data)
        elif isinstance(frame, RestoredBlock):
            self._restored(frame, at_s)

    def gradients(self) -> dict[str, NDArray[Any]]:
        """Gradients that came back whole since the last call, by tensor."""
        found, self._whole = self._whole, {}
        return found

    def compare_peers(self, role: str, form: Form, before: Form | None) -> None:
        """Give a tensor, and the same of the step before, to the usual formats."""
        peer, size = self.peers[role], form.array.size
        x = as_floats(form.array.reshape(-1), form.dtype).astype(np.float64)
        int8 = compared(form.array)["int8 row"]
        power = float(x @ x)
        peer.values += size
        peer.int8_bits += int8.bits * size
        peer.power += power
        peer.error += int8.rel_l2**2 * power
        if before is not None:
            peer.xor_values += size
            peer.xor_bits += 8.0 * len(zlib.compress((form.raw ^ before.raw).tobytes()))

    def figures(self, seconds: float) -> dict[str, Any]:
        """What was measured in so many seconds, for JSON; empty where nothing came back."""
        if not self.took_ms:
            return {}
        return {
            "seconds": seconds,
            "steps": len(self.losses.own),
            "tensors": len(self.tensors),
            "blocks": self.blocks,
            **{name: self._by_role(name) for name in ("bits", "ratio", "rel_l2")},
            "peers": {role: peer.figures() for role, peer in self.peers.items()},
            "mismatches": self.mismatches,
            "bound_violations": self.violations,
            "loss": newest(self.losses.own),
            "loss_uncompressed": newest(self.losses.twin),
            "latency_ms": percentiles(self.took_ms),
            "lost": self.waiting,
            "dead_letters": self.letters,
        }

    def _by_role(self, name: str) -> dict[str, float | None]:
        return {role: getattr(tally, name) for role, tally in self.tallies.items()}

    def _restored(self, frame: RestoredBlock, at_s: float) -> None:
        sent = self._waiting.pop(_key(frame), None)
        if sent is None:
            return
        self.took_ms.append((at_s - sent.at_s) * 1e3)
        tally = self.tallies[frame.role]
        tally.blocks += 1
        if frame.data is None:
            self.mismatches += 1
            return
        same = np.array_equal(frame.data, sent.block.data)
        tally.exact += same
        x, y = _values(sent.block, sent.block.data), _values(frame, frame.data)
        away = x - y
        tally.power += float(x @ x)
        tally.error += float(away @ away)
        self.mismatches += frame.promise == "exact" and not same
        if frame.promise == "bound":
            allowed = self.bound * float(np.sqrt(np.mean(np.square(x)))) * (1 + _ROUNDING)
            self.violations += int(np.count_nonzero(~(np.abs(away) <= allowed)))
        if frame.role == "gradient":
            for found in self._assembler.add(frame, time.monotonic()):
                if isinstance(found, Whole):
                    self._whole[found.tensor_id] = found.array


def newest(losses: list[float]) -> float | None:
    """The mean loss of the newest steps."""
    return float(np.mean(losses[-SMOOTHED:])) if losses else None


def _key(block: TensorBlock | RestoredBlock) -> tuple[str, int, int]:
    return block.tensor_id, block.step, block.block


def _values(block: TensorBlock | RestoredBlock, data: NDArray[np.uint8]) -> NDArray[np.float64]:
    raw = data.view("<u2" if block.dtype == "bfloat16" else block.dtype)
    found: NDArray[np.float64] = as_floats(raw, block.dtype).astype(np.float64)
    return found
