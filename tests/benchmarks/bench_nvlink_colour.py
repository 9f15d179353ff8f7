"""Colourings of well-known graphs, beside networkx, and what simulated circuits reach on small ones."""

from __future__ import annotations

import time
from typing import Any, Final

import networkx as nx
import numpy as np
from threadpoolctl import threadpool_limits

from qstream.nvlink import colour_graph
from qstream.nvlink.colouring import saturated

Row = tuple[str, float, str, str]
DEADLINE_S: Final = 10.0
TARGETS: Final = {"queen8_8": 9, "125": 17, "250": 29, "500": 51}


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    found: list[Row] = []
    with threadpool_limits(1):
        colour_graph(random_graph(20))  # compiles
        for name, target in TARGETS.items():
            graph = queens(8) if name == "queen8_8" else random_graph(int(name))
            peer = nx.greedy_color(nx.from_numpy_array(graph), "DSATUR")
            fixed, fixed_s = _timed(lambda g=graph: colour_graph(g))
            timed = colour_graph(graph, deadline_s=DEADLINE_S, clock=time.process_time)
            order, order_s = min((_timed(lambda g=graph: saturated(g)) for _ in range(5)), key=lambda each: each[1])
            found += [
                (f"colours, {name}, networkx DSATUR", max(peer.values()) + 1, "", "-"),
                (f"colours, {name}, DSATUR", order.colours, "", "-"),
                (f"colours, {name}, DSATUR, time", 1e3 * order_s, "ms CPU", "<= 10"),
                (f"colours, {name}, fixed steps", fixed.colours, "", "-"),
                (f"colours, {name}, fixed steps, time", fixed_s, "s CPU", "-"),
                (f"colours, {name}, 10 s of CPU", timed.colours, "", f"<= {target}"),
            ]
    return found


def random_graph(n: int) -> Any:
    upper = np.triu(np.random.default_rng(0).random((n, n)) < 0.5, 1)
    return upper | upper.T


def queens(n: int) -> Any:
    row, column = np.divmod(np.arange(n * n), n)
    a, b = np.abs(row[:, None] - row), np.abs(column[:, None] - column)
    return ((a == 0) | (b == 0) | (a == b)) & ~np.eye(n * n, dtype=bool)


def _timed(call: Any) -> tuple[Any, float]:
    began = time.process_time()
    value = call()
    return value, time.process_time() - began
