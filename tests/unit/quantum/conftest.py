"""What tests of the quantum engine share."""

import threading
from collections.abc import Iterator

import psutil
import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices this small take up to 20 times longer when threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def of_others() -> set[object]:
    """The threads and processes that other tests of this run have left here."""
    return {*threading.enumerate(), *psutil.Process().children(recursive=True)}
