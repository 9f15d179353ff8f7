"""The compression scene played through both processors: what returns, what the optimizer takes, and how the score counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.compression.cutting import blocks_of
from qstream.compression.dtypes import canonical
from qstream.compression.header import digest
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.demo.compression.score import Score
from qstream.testing.feed import Feed
from schemas.deadletter import DeadLetter
from schemas.tensors import RestoredBlock, Role, TensorBlock, TensorPromise, TensorQuality

BOUND = 0.05


def block(values: np.ndarray, role: Role) -> TensorBlock:
    [found] = blocks_of(canonical(values), "w", model="m", role=role, step=0, ts_ns=1)
    return found


def back(sent: TensorBlock, values: np.ndarray, promise: TensorPromise) -> RestoredBlock:
    quality = TensorQuality(bits_per_value=1.0)
    return RestoredBlock(**sent.part, promise=promise, quality=quality, data=values.reshape(-1).view(np.uint8))


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)


def test_a_value_that_returns_changed_counts_as_a_mismatch_only_where_exact_bits_were_promised(matrix: np.ndarray) -> None:
    score, other = Score(BOUND), matrix.copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(math.inf))
    for role, promise in (("weight", "exact"), ("gradient", "none")):
        sent = block(matrix, role)
        score.sent(sent, 0.0)
        assert score.waiting == 1
        score.received(back(sent, other, promise), 0.5)
    assert score.waiting == 0
    assert score.mismatches == 1
    assert score.figures(1.0)["latency_ms"] == {"p50": 500.0, "p99": 500.0}
    assert score.figures(1.0)["rel_l2"]["weight"] > 0


def test_values_over_the_promised_bound_are_counted_by_the_score_itself_whatever_the_frame_says(matrix: np.ndarray) -> None:
    score, sent, other = Score(BOUND), block(matrix, "activation"), matrix.copy()
    rms = float(np.sqrt(np.mean(matrix.astype(np.float64) ** 2)))
    other[0, :3] += np.float32(0.99 * BOUND * rms), np.float32(1.01 * BOUND * rms), np.float32(np.nan)
    score.sent(sent, 0.0)
    score.received(back(sent, other, "bound"), 0.1)
    assert score.violations == 2


def test_a_dead_letter_answers_a_block_so_that_the_training_goes_on(matrix: np.ndarray) -> None:
    score = Score(BOUND)
    score.sent(block(matrix, "gradient"), 0.0)
    score.received(DeadLetter(topic="t", partition=0, offset=0, stage="process", error_class="Poison", timestamp_ms=1), 0.1)
    assert score.waiting == 0
    assert score.letters == 1
    assert score.gradients() == {}


def test_weights_return_bit_for_bit_and_the_optimizer_takes_restored_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from qstream.demo.compression import scene as module  # noqa: PLC0415 - needs torch
    from qstream.demo.model import Shape  # noqa: PLC0415 - as above

    monkeypatch.setattr(module, "SHAPE", Shape(layers=1, experts=2, top_k=1, width=32, heads=2, hidden=64, context=32))
    monkeypatch.setattr(module, "SEQUENCES", 4)
    scene, into, out = module.CompressionScene(0), Feed(CompressionProcessor()), Feed(DecompressionProcessor())
    for frames in scene.steps(0.0):
        for _, frame in frames:
            assert isinstance(frame, TensorBlock)
            assert frame.nbytes <= module.BLOCK_BYTES
            assert frame.digest == digest(frame.data)
            scene.published(frame, 0.0)
            for coded in into.send(frame, 1000).events:
                scene.received(coded.frame, 0.1)
                for restored in out.send(coded.frame, 1000).events:
                    scene.received(restored.frame, 0.1)
    figures = scene.figures(1.0, 0)
    assert into.dead == out.dead == []
    assert figures["steps"] == module.LEAST_STEPS
    assert (figures["lost"], figures["mismatches"], figures["bound_violations"]) == (0, 0, 0)
    assert figures["rel_l2"]["weight"] == 0
    assert 0 < figures["rel_l2"]["activation"] <= BOUND
    assert 0 < figures["rel_l2"]["gradient"] < 1
    assert all(0 < bits < 32 for bits in figures["bits"].values())
    own, twin = scene.score.losses.own, scene.score.losses.twin
    assert own[0] == twin[0]
    assert own[1] != twin[1], "the optimizer took what came back"
    assert abs(own[1] - twin[1]) < 0.1
