"""Circuits of fabrics on small problems, all simulated: windows of a placement, colours of GPUs, kernels of layouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import networkx as nx
import numpy as np
from threadpoolctl import threadpool_limits

from qstream.nvlink import ContentionModel, generate, kernel_matrix
from qstream.quantum.convert import coloring_of
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.fixed_weight import solve_fixed_weight
from qstream.quantum.qaoa.subspace_solver import QAOA_XY
from qstream.quantum.record import SolveRequest
from tests.benchmarks.bench_nvlink import layout_rows
from tests.benchmarks.stick import DATA, load_scores

Row = tuple[str, float, str, str]
GRAPHS: Final = 20
SHOTS: Final = 256


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    with threadpool_limits(1):
        return [*windows(), *colours(), *kernels()]


def windows() -> list[Row]:
    """Half of n units on each side, over 20 graphs: probability of an optimum, and how often one of 256 shots is one."""
    found: list[Row] = []
    for n, p in ((12, 4), (14, 2), (14, 4), (14, 8)):
        asked = (n, p) == (14, 4)
        chance, hit, took = [], [], []
        for weights in graphs(n):
            problem = IsingProblem(n, -weights, np.zeros(n))
            began = time.process_time()
            answer = solve_fixed_weight(problem, n // 2, p=p, shots=SHOTS, seed=0)
            took.append(1e3 * (time.process_time() - began))
            assert answer.p_opt is not None
            assert answer.optimum is not None
            chance.append(answer.p_opt)
            hit.append(answer.energy <= answer.optimum + 1e-9)
        assert answer.control is not None
        assert answer.control.p_opt is not None
        name = f"window, n = {n}, p = {p} (simulated)"
        found += [
            (f"{name}, optimum found", float(np.mean(hit)), "", ">= 0.95" if asked else "-"),
            (f"{name}, P(opt)", float(np.mean(chance)), "", ">= 0.08" if asked else "-"),
            (f"{name}, P(opt) at p = 0", answer.control.p_opt, "", "-"),
            (f"{name}, time", float(np.median(took)), "ms CPU", "<= 40" if asked else "-"),
        ]
    return found


def graphs(n: int) -> Iterator[Any]:
    """In turn uniform weights at density .5, unit weights at .3, 4-regular with lognormal(0, .7), lognormal(0, 1.5) at .4."""
    rng = np.random.default_rng(123)
    for number in range(GRAPHS):
        if number % 4 == 0:
            weights = rng.random((n, n)) * (rng.random((n, n)) < 0.5)
        elif number % 4 == 1:
            weights = (rng.random((n, n)) < 0.3) * 1.0
        elif number % 4 == 2:
            regular = nx.random_regular_graph(4, n, seed=int(rng.integers(2**31)))
            weights = nx.to_numpy_array(regular) * rng.lognormal(0, 0.7, (n, n))
        else:
            weights = rng.lognormal(0, 1.5, (n, n)) * (rng.random((n, n)) < 0.4)
        yield np.triu(weights, 1)


def colours() -> list[Row]:
    """Four colours for the GPUs of a DGX-1V, joined by NVLink as wide as it is."""
    box, graph = generate("dgx-1v"), nx.Graph()
    graph.add_nodes_from(range(8))
    for a, b, kind, gb_s in zip(box.link_src, box.link_dst, box.link_kind, box.link_gb_s, strict=True):
        if kind == 0:
            graph.add_edge(int(a), int(b), weight=float(gb_s))
    problem, found = coloring_of(graph, 4), []
    QAOA_XY.run(SolveRequest(problem, p=1, shots=1), lambda: 60.0)
    for p in (1, 3, 4, 6, 10):
        began = time.process_time()
        answer = QAOA_XY.run(SolveRequest(problem, p=p, shots=SHOTS), lambda: 60.0)
        took_ms = 1e3 * (time.process_time() - began)
        assert answer.p_opt is not None
        assert answer.control is not None
        assert answer.control.p_opt is not None
        name = f"DGX-1V, 4 colours, p = {p} (simulated)"
        found += [
            (f"{name}, P(opt)", answer.p_opt, "", ">= 0.22" if p == 4 else "-"),
            (f"{name}, time", took_ms, "ms CPU", "<= 120" if p == 4 else "-"),
        ]
    return [*found, ("DGX-1V, 4 colours, P(opt) at p = 0", answer.control.p_opt, "", "-")]


def kernels() -> list[Row]:
    """Area under the curve of support vector machines on 8 principal components of layouts: quantum kernels beside the RBF."""
    stick = load_scores("nvlink_stick")
    if stick is None or not (DATA / "nvlink" / "contention_log.npz").exists():
        return []
    from sklearn.svm import SVC  # noqa: PLC0415 an extra

    log = stick.layouts("train")
    x = layout_rows(log)
    bound, took = (np.array([layout[name] for layout in log]) for name in ("bound_s", "time_s"))
    slow = took / bound > np.median(took / bound)
    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:8].T
    x = 0.7 * x / x.std(axis=0)
    found: list[Row] = []
    order = np.random.default_rng(0).permutation(len(x))
    seen, other = order[:600], order[600:1200]
    for name in ("fidelity", "fidelity-iqp", "projected", "projected-iqp"):
        fitted, asked = kernel_matrix(x[seen], kernel=name), kernel_matrix(x[other], x[seen], name)
        for label, train, test in ((name, fitted.gram, asked.gram), (f"RBF beside {name}", fitted.rbf, asked.rbf)):
            model = SVC(C=3.0, kernel="precomputed").fit(train, slow[seen])
            found.append(
                (f"contention, AUC, 8 components, {label}", stick.auc(model.decision_function(test), slow[other]), "", "-")
            )
        found.append((f"alignment of {name} and RBF", fitted.alignment, "", "-"))
    whole = ContentionModel.fit(layout_rows(log)[seen], slow[seen])
    found.append(
        ("contention, AUC, all features, RBF", stick.auc(whole.probability(layout_rows(log)[other]), slow[other]), "", "-")
    )
    return found
