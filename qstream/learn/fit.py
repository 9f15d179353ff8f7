"""Fit: what trainers that use torch share. Torch is imported here only by who trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums in the same order on any machine, and small matrices gain nothing from more."""
    import torch  # noqa: PLC0415 - no worker needs it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lstm_arrays(cell: Any, head: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a model of kind ``lstm``, from torch's cell and the linear layer on top of it."""
    arrays = {
        "weight_ih": cell.weight_ih_l0,
        "weight_hh": cell.weight_hh_l0,
        "bias": cell.bias_ih_l0 + cell.bias_hh_l0,
        "head.weight": head.weight,
        "head.bias": head.bias,
    }
    return {name: value.detach().numpy() for name, value in arrays.items()}
