"""Training by hand: a replica gives its gradients as arrays, and its optimizer takes those that came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch user knows it by
from numpy.typing import NDArray

from qstream.demo.model import BALANCE_WEIGHT, MoELanguageModel, Shape
from qstream.demo.text import TextBatch
from qstream.learn.fit import one_thread

Arrays = Mapping[str, NDArray[np.float32]]
CLIP: Final = 1.0


class Work(NamedTuple):
    """Cross-entropy of a batch (nats a byte), the gradients of the loss by parameter, and what each block gave the next,
    float32 [sequences, context, width], by block."""

    loss: float
    gradients: Arrays
    activations: Arrays


class Replica:
    """A mixture-of-experts language model with Adam; equal seeds, batches and gradients give equal weights.

    Arrays are by parameter: float32, in the parameter's shape.
    """

    def __init__(self, shape: Shape, *, seed: int, learning_rate: float) -> None:
        self.model = MoELanguageModel(shape, seed=seed)
        self._named = dict(self.model.named_parameters())
        self._optimizer = torch.optim.Adam(self._named.values(), lr=learning_rate, fused=True)

    def gradients(self, batch: TextBatch) -> Work:
        """What a worker makes of a batch; the weights stay as they are."""
        activations: dict[str, NDArray[np.float32]] = {}
        with one_thread(), _recorded(self.model, activations):
            loss, balance_loss = self._loss(batch)
            self._optimizer.zero_grad()
            (loss + BALANCE_WEIGHT * balance_loss).backward()
        found = {name: parameter.grad.numpy().copy() for name, parameter in self._named.items()}
        return Work(loss.item(), found, activations)

    def step(self, gradients: Arrays) -> None:
        """One step of Adam with these gradients, whose common norm is clipped to 1."""
        with one_thread():
            for name, gradient in gradients.items():
                self._named[name].grad = torch.from_numpy(gradient)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self._optimizer.step()

    def loss(self, batch: TextBatch) -> float:
        """Cross-entropy of a batch (nats a byte)."""
        with one_thread(), torch.no_grad():
            return float(self._loss(batch)[0].item())

    def weights(self) -> Arrays:
        """The weights as they are."""
        return {name: parameter.detach().numpy().copy() for name, parameter in self._named.items()}

    def _loss(self, batch: TextBatch) -> tuple[Any, Any]:
        logits, balance_loss = self.model(torch.from_numpy(batch.inputs))
        return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten()), balance_loss


@contextmanager
def _recorded(model: MoELanguageModel, found: dict[str, NDArray[np.float32]]) -> Iterator[None]:
    """Keep the output of each block of a forward pass."""

    def keep(name: str, _module: object, _inputs: object, output: tuple[Any, Any]) -> None:
        found[name] = output[0].detach().numpy().copy()

    hooks = [block.register_forward_hook(partial(keep, f"blocks.{at}")) for at, block in enumerate(model.blocks)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mean(gradients: Sequence[Arrays]) -> Arrays:
    """The mean of the workers' gradients."""
    return {name: np.mean([each[name] for each in gradients], axis=0, dtype=np.float32) for name in gradients[0]}


def shares(batch: TextBatch, workers: int) -> list[TextBatch]:
    """A part of the sequences for each worker."""
    return [
        TextBatch(
            batch.inputs[at::workers],
            batch.targets[at::workers],
            batch.domain[at::workers],
            batch.domain_names,
            batch.request_id[at::workers],
        )
        for at in range(workers)
    ]
