"""Two workers train one model on gradients that travelled: how much loss that costs, next to peers. Sizes are whole for ours,
payloads alone for peers; vectors travel exactly in all of them, as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.compression import CompressionOptions, Feedback, restore
from qstream.compression.warm import warm
from qstream.demo.compression.training import Arrays, Replica, mean, shares
from qstream.demo.model import Shape
from qstream.demo.text import Corpus, batches, load_corpus
from tests.benchmarks.bench_learn import Row

SEEDS, STEPS, WORKERS = range(3), 120, 2
SEQUENCES, HELD_OUT = 16, 16  # a step's, of both workers; batches on which the loss is measured
LEARNING_RATE = 2e-3
# One expert, so that each matrix sees every token. Headers and vectors, which are exact, add .2 bits to a model of this size.
SHAPE = Shape(layers=2, experts=1, top_k=1, width=128, heads=4, hidden=512, context=64)
BITS = 0.98
SMALL = 4096  # values: smaller tensors travel with the vectors
TOP, RANK = 0.1, 4
VECTORS = "vectors"

Matrix = NDArray[np.float32]
Coder = Callable[[Matrix], tuple[Matrix, float]]  # a gradient in, what came back and its bits out


class Outcome(NamedTuple):
    """Loss on text that was not trained on (nats a byte), and bits a value of all gradients."""

    loss: float
    bits: float


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    warm()
    corpus = load_corpus()
    gradient = CompressionOptions(mode="gradient", target_bits=BITS)
    plain = gradient.changed({"spectral": False, "table": False})
    runs: dict[str, Callable[[str], Coder]] = {
        "none": lambda _: exact,
        "gradient mode": lambda name: ours(gradient, name),
        "error feedback without refiners": lambda name: ours(plain, name),
        f"top-k {TOP:.0%} with error feedback": lambda _: fed_back(top_k),
        f"PowerSGD rank {RANK} with error feedback": lambda _: fed_back(low_rank()),
    }
    found: list[Row] = []
    without = 0.0
    for name, coder in runs.items():
        outcomes = [trained(corpus, seed, coder) for seed in SEEDS]
        loss, bits = (float(np.mean(column)) for column in zip(*outcomes, strict=True))
        if name == "none":
            without = loss
            found.append((f"{STEPS} steps of {WORKERS} workers, {len(SEEDS)} seeds, no compression: loss", loss, "nats", "-"))
            continue
        own = name == "gradient mode"
        found.append((f"{name}: loss above that", loss - without, "nats", "<= .010" if own else "-"))
        found.append(("  bits a value", bits, "bits", "<= 1.2" if own else "-"))
    return found


def trained(corpus: Corpus, seed: int, coder: Callable[[str], Coder]) -> Outcome:
    """Train with gradients that each worker sends through coders of its own."""
    replica = Replica(SHAPE, seed=seed, learning_rate=LEARNING_RATE)
    names = [VECTORS, *replica.weights()]
    coders = [{name: coder(name) for name in names} for _ in range(WORKERS)]
    text = batches(corpus, SEQUENCES, SHAPE.context, np.random.default_rng(seed), dominance=0.0)
    bits, values = 0.0, 0
    for batch in islice(text, STEPS):
        came = []
        for share, own in zip(shares(batch, WORKERS), coders, strict=True):
            gradients = replica.gradients(share).gradients
            back = {}
            for name, gradient in bucketed(gradients).items():
                back[name], more = own[name](gradient)
                bits, values = bits + more, values + gradient.size
            came.append(unpacked(back, gradients))
        replica.step(mean(came))
    held_out = batches(corpus, SEQUENCES, SHAPE.context, np.random.default_rng(1000 + seed), dominance=0.0)
    return Outcome(float(np.mean([replica.loss(batch) for batch in islice(held_out, HELD_OUT)])), bits / values)


def bucketed(gradients: Arrays) -> Arrays:
    """Matrices as they are, and all small tensors as one vector."""
    small = [gradient.reshape(-1) for gradient in gradients.values() if gradient.size < SMALL]
    return {name: each for name, each in gradients.items() if each.size >= SMALL} | {VECTORS: np.concatenate(small)}


def unpacked(back: Arrays, like: Arrays) -> Arrays:
    """The tensors of `bucketed`, each in its own shape again."""
    found, at = {}, 0
    for name, gradient in like.items():
        if gradient.size < SMALL:
            found[name] = back[VECTORS][at : at + gradient.size].reshape(gradient.shape)
            at += gradient.size
        else:
            found[name] = back[name]
    return found


def exact(gradient: Matrix) -> tuple[Matrix, float]:
    return gradient, 32.0 * gradient.size


def ours(options: CompressionOptions, name: str) -> Coder:
    feedback = Feedback(options, name=name)

    def send(gradient: Matrix) -> tuple[Matrix, float]:
        done = feedback.code(gradient)
        return restore(done).array, 8.0 * len(done.data)

    return send


def fed_back(coder: Coder) -> Coder:
    """A coder of matrices that gets what it lost with the next one; vectors stay exact."""
    owed: Any = 0.0

    def send(gradient: Matrix) -> tuple[Matrix, float]:
        nonlocal owed
        if gradient.ndim < 2:
            return exact(gradient)
        wanted = gradient + owed
        back, bits = coder(wanted.reshape(-1, gradient.shape[-1]))
        owed = wanted - back.reshape(gradient.shape)
        return back.reshape(gradient.shape), bits

    return send


def top_k(matrix: Matrix) -> tuple[Matrix, float]:
    """The largest tenth, as values of 16 bits and positions at their entropy."""
    count = max(1, int(TOP * matrix.size))
    least = np.partition(np.abs(matrix), -count, axis=None)[-count]
    position = -(TOP * math.log2(TOP) + (1 - TOP) * math.log2(1 - TOP))
    return np.where(np.abs(matrix) >= least, matrix, 0).astype(np.float32), 16.0 * count + position * matrix.size


def low_rank() -> Coder:
    """Factors of rank 4 in 16 bits a value by one power iteration from the last one's (Vogels et al. 2019)."""
    right: Matrix | None = None

    def send(matrix: Matrix) -> tuple[Matrix, float]:
        nonlocal right
        if right is None:
            right = np.random.default_rng(0).standard_normal((matrix.shape[1], RANK)).astype(np.float32)
        left, _ = np.linalg.qr(matrix @ right)
        right = matrix.T @ left
        return left @ right.T, 16.0 * RANK * sum(matrix.shape)

    return send
