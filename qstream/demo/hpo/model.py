"""A small language model in numpy, whose training is a trial: the next byte of the standard library's sources.

Embeddings of the last bytes, one hidden layer, softmax over 256 bytes (Bengio et al., "A neural probabilistic language model",
JMLR 3, 2003), trained by SGD with momentum on a fixed number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BYTES: Final = 256
EMBEDDED: Final = 12  # values a byte
TOKENS: Final = 24_000  # of a trial
HELD_OUT: Final = 4_096  # bytes at the end of the text that are never trained on
MAX_CONTEXT: Final = 12
ACTIVATIONS: Final[Mapping[str, tuple[Callable[[Floats], Floats], Callable[[Floats, Floats], Floats]]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x, y: (x > 0).astype(np.float32)),
    "tanh": (lambda x: np.tanh(x), lambda x, y: 1 - y * y),
    "silu": (lambda x: x * _sigmoid(x), lambda x, y: _sigmoid(x) + y * (1 - _sigmoid(x))),
}
"""Name to the function of x, and its derivative by x and y = f(x)."""
SPACE: Final[list[dict[str, Any]]] = [
    {"name": "learning_rate", "type": "float", "low": 1e-3, "high": 10.0, "scale": "log"},
    {"name": "batch", "type": "int", "low": 16, "high": 512, "scale": "log"},
    {"name": "width", "type": "int", "low": 8, "high": 192, "scale": "log"},
    {"name": "context", "type": "int", "low": 1, "high": MAX_CONTEXT},
    {"name": "momentum", "type": "float", "low": 0.0, "high": 0.99},
    {"name": "decay", "type": "float", "low": 1e-6, "high": 0.1, "scale": "log"},
    {"name": "activation", "type": "categorical", "choices": list(ACTIVATIONS)},
]
"""What the studies search, as `SearchSpace` takes it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One point of `SPACE`: `batch` and `context` in bytes, `width` in hidden units, `decay` a step and learning rate."""

    learning_rate: float
    batch: int
    width: int
    context: int
    momentum: float
    decay: float
    activation: str


def train(settings: Settings, text: NDArray[np.uint8], seed: int, tokens: int = TOKENS) -> float | None:
    """Loss (nats a byte) on the held-out end of `text` [N] after training on `tokens` bytes of the rest; None if it diverged.

    The same arguments give the same loss. N is at least `HELD_OUT` + `MAX_CONTEXT` + 1.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros(_size(settings), np.float32)
    embedded, _, hidden, _, out = _parts(weights, settings)
    for part, inputs in ((embedded, 1), (hidden, len(hidden)), (out, len(out))):
        part[...] = rng.normal(size=part.shape, scale=inputs**-0.5)
    velocity, gradient = np.zeros_like(weights), np.zeros_like(weights)
    trained = len(text) - HELD_OUT
    with np.errstate(all="ignore"):  # what overflows is found by its loss
        for _ in range(max(1, tokens // settings.batch)):
            at = rng.integers(settings.context, trained, settings.batch)
            if not np.isfinite(_learn(weights, gradient, settings, text, at)):
                return None
            velocity *= settings.momentum
            velocity -= settings.learning_rate * (gradient + settings.decay * weights)
            weights += velocity
        logits = _forward(weights, settings, _windows(text, np.arange(trained, len(text)), settings.context))[-1]
        loss = float(_cross_entropy(logits, text[trained:]).mean())
    return loss if np.isfinite(loss) else None


def _size(settings: Settings) -> int:
    inputs, width = settings.context * EMBEDDED, settings.width
    return BYTES * EMBEDDED + width + inputs * width + BYTES + width * BYTES


def _parts(flat: Floats, settings: Settings) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Views: embeddings [256, 12], bias [W], hidden weights [12 C, W], output bias [256], output weights [W, 256]."""
    inputs, width = settings.context * EMBEDDED, settings.width
    shapes = ((BYTES, EMBEDDED), (width,), (inputs, width), (BYTES,), (width, BYTES))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    embedded, bias, hidden, out_bias, out = (
        flat[end - int(np.prod(shape)) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)
    )
    return embedded, bias, hidden, out_bias, out


def _windows(text: NDArray[np.uint8], at: NDArray[np.int64], context: int) -> NDArray[np.uint8]:
    """The bytes before each position: uint8 [B, C]."""
    found: NDArray[np.uint8] = text[at[:, None] - np.arange(context, 0, -1)]
    return found


def _forward(weights: Floats, settings: Settings, windows: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats, Floats]:
    """Inputs [B, 12 C], hidden units before and after the activation [B, W], logits [B, 256]."""
    embedded, bias, hidden, out_bias, out = _parts(weights, settings)
    inputs = embedded[windows].reshape(len(windows), -1)
    before = inputs @ hidden + bias
    after = ACTIVATIONS[settings.activation][0](before)
    return inputs, before, after, after @ out + out_bias


def _learn(weights: Floats, gradient: Floats, settings: Settings, text: NDArray[np.uint8], at: NDArray[np.int64]) -> float:
    """Write the gradient of the mean loss at positions `at` [B], and return that loss."""
    windows, target = _windows(text, at, settings.context), text[at]
    inputs, before, after, logits = _forward(weights, settings, windows)
    _, _, hidden, _, out = _parts(weights, settings)
    d_embedded, d_bias, d_hidden, d_out_bias, d_out = _parts(gradient, settings)
    loss = float(_cross_entropy(logits, target).mean())
    d_logits = _softmax(logits)
    d_logits[np.arange(len(at)), target] -= 1
    d_logits /= len(at)
    d_before = (d_logits @ out.T) * ACTIVATIONS[settings.activation][1](before, after)
    d_out[...], d_out_bias[...] = after.T @ d_logits, d_logits.sum(0)
    d_hidden[...], d_bias[...] = inputs.T @ d_before, d_before.sum(0)
    d_embedded[...] = 0
    np.add.at(d_embedded, windows.ravel(), (d_before @ hidden.T).reshape(-1, EMBEDDED))
    return loss


def _cross_entropy(logits: Floats, target: NDArray[np.uint8]) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    found: Floats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(target)), target]
    return found


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found: Floats = powers / powers.sum(1, keepdims=True)
    return found


def _sigmoid(x: Floats) -> Floats:
    found: Floats = np.reciprocal(1 + np.exp(-x))
    return found
