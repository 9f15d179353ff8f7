"""Solvers are found by name, here and in other packages, and load the libraries that they need, when they need them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum import solvers
from qstream.quantum.ising import IsingProblem
from qstream.quantum.solvers import SOLVERS, find_solver, solve, solver_names, warm
from schemas.solver import Reason
from tests.unit.quantum.problems import glass


def test_the_table_s_names_are_the_solvers_own():
    assert set(SOLVERS) <= set(solver_names())
    assert [find_solver(name).name for name in SOLVERS] == list(SOLVERS)
    with pytest.raises(ProblemError, match="nonesuch"):
        find_solver("nonesuch")


def test_a_solver_whose_library_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("qstream.quantum.classical.anneal", "qstream.kernels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    fallback = solve(glass(6), "sa").meta.fallback
    assert fallback.reason is Reason.NOT_INSTALLED
    assert "numba" in fallback.detail
    assert "pip install" in fallback.detail


def test_a_fault_of_our_own_is_not_taken_for_a_missing_library(monkeypatch):
    monkeypatch.setattr(solvers, "SOLVERS", {**SOLVERS, "qaoa": "qstream.quantum.nonesuch:IT"})
    with pytest.raises(ModuleNotFoundError):
        solve(glass(6), "qaoa")


FRESH = """
import sys
import numpy as np
import qstream.quantum
from qstream.quantum import IsingProblem, solve
result = solve(IsingProblem(20, np.triu(np.ones((20, 20)), 1)), {solver!r}, deadline_s=0.2)
print(getattr(result.meta.fallback, "reason", None))
print([name for name in ("numba", "torch", "pennylane", "scipy", "networkx") if name in sys.modules])
"""


def fresh(solver: str) -> list[str]:
    code = FRESH.format(solver=solver)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_first_hurried_request_does_not_wait_for_a_slow_import():
    assert fresh("sa") == ["not_ready", "[]"]


def test_a_first_hurried_request_does_not_wait_for_pennylane_and_a_warm_device_answers_it():
    assert fresh("device:default.qubit") == ["not_ready", "[]"]
    assert fresh("device:nonesuch")[0] == "unavailable"
    warm("default.qubit", "nonesuch")
    assert solve(glass(4), "device:default.qubit", deadline_s=120.0).meta.fallback is None


def test_exact_search_needs_no_library_but_numpy():
    assert fresh("exact")[1] == "[]"


def test_importing_the_package_imports_nothing_and_its_names_are_there():
    code = (
        "import sys; import qstream.quantum as q\n"
        "print([m for m in sys.modules if m.startswith('qstream.')], 'numpy' in sys.modules)\n"
        "print(q.solve.__module__, q.IsingProblem.__name__, 'OneHotProblem' in dir(q), hasattr(q, 'nonesuch'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['qstream.quantum'] False", "qstream.quantum.solvers IsingProblem True False"]


PLUGIN = """
import numpy as np
from qstream.quantum.record import Answer

class Up:
    name = "up"
    path = "classical"
    def refusal(self, request): return None
    def estimate_ms(self, request): return 0.0
    def run(self, request, remaining_s):
        if request.seed == 13:
            raise KeyError("13")
        return Answer(np.ones(request.problem.n), 0.0, "search")

UP = Up()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A distribution on the path that offers two solvers, of which one lacks its library."""
    info = tmp_path / "up-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: up\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qstream.solvers]\nup = up_solver:UP\nbroken = up_missing:IT\n")
    (tmp_path / "up_solver.py").write_text(PLUGIN)
    (tmp_path / "up_missing.py").write_text("import a_library_that_is_not_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in ("up_solver", "up_missing"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("plugin")
def test_a_solver_of_another_package_is_found_by_its_entry_point_and_its_faults_are_refusals():
    assert {"up", "broken"} <= set(solver_names())
    ferromagnet = IsingProblem(4, -np.triu(np.ones((4, 4)), 1))
    result = solve(ferromagnet, "up")
    assert (result.meta.solver, result.energy, result.meta.fallback) == ("up", -6, None)
    faulty = solve(ferromagnet, "up", seed=13).meta.fallback
    assert (faulty.reason, faulty.detail) == (Reason.ERROR, "solver up: KeyError: '13'")
    missing = solve(ferromagnet, "broken").meta.fallback
    assert missing.reason is Reason.NOT_INSTALLED
    assert "a_library_that_is_not_here" in missing.detail
