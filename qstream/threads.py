"""One thread for linear algebra: of small matrices it takes tenfold and more on several, and a busy machine makes it worse.

Agents and commands say so in the environment before numpy is loaded (`agents`). In a program of somebody else, such as a
notebook, it is too late for that: there the libraries are told while our functions run, and told back after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the linear algebra of numpy and scipy to one thread meanwhile; also a decorator.

    The libraries have one setting for all threads of the process; a thread that limits them already keeps its own.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> Any:
    """Those of numpy and of scipy, each of which brings its own: both are loaded first."""
    import scipy.linalg  # noqa: F401, PLC0415 slow to import, needed from the first model on
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 looks at all that is loaded

    return ThreadpoolController()
