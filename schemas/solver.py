"""SolverRecord: which solver answered, what it cost, and what it is measured against; the closed list of fallback reasons."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, StringConstraints

from schemas.frame import Count, Int64
from schemas.part import Part

# What was simulated of a circuit: the whole state, its feasible part, a closed form, the density matrix without or with noise,
# its action on each eigenvalue, the product of its unitaries, or qubits that are not entangled, in closed form.
Simulation = Literal[
    "simulated-statevector",
    "simulated-subspace",
    "simulated-analytic-p1",
    "simulated-density",
    "simulated-noisy",
    "simulated-spectral",
    "simulated-gates",
    "simulated-product",
]
CLASSICAL: Final = "classical"
DEVICE: Final = "device:"
Execution = Annotated[
    str,
    StringConstraints(pattern=rf"^({CLASSICAL}|{'|'.join(get_args(Simulation))}|{DEVICE}[A-Za-z0-9._-]{{1,64}})$"),
    Field(description="classical, simulated-<what was simulated>, or device:<name in the device pool>"),
]
SolverName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

# The solvers of this repository. A module or a solver of another package brings names of its own, of the same form.
SOLVERS: Final[Mapping[str, str]] = {
    "incumbent": "the solution that was given to be improved",
    "kept": "the plan in force stays, without a search",
    "contiguous": "in the order of the numbers, as engines begin",
    "hash": "rendezvous hashing with bounded loads",
    "auction": "auction of the gate's choices under capacities",
    "soonest": "each task as soon as possible, without a search",
    "list": "tasks placed one by one under a cap, what found no place earlier in the next try",
    "lpt-swap": "largest first, then exchanges that improve",
    "swap-annealing": "annealing by exchanges",
    "hqc": "windows solved from the plan in hand, turn after turn",
    "exact": "enumeration; proves the optimum",
    "greedy": "descent from random starts",
    "sa": "simulated annealing",
    "dsb": "discrete simulated bifurcation",
    "qaoa": "QAOA circuits",
    "qaoa-xy": "QAOA circuits that keep to one-hot states",
    "rqaoa": "recursive QAOA at depth 1",
    "device": "a QAOA circuit on a device of the pool; the variant is its name",
    "dwave-sa": "simulated annealing of dwave-samplers",
    "cp-sat": "OR-tools' branch and bound",
    "qae": "an autoencoder's circuit, trained to find a basis",
    "klt": "eigenvectors of the covariance",
    "warm": "the best points of an older study, tried again",
    "sobol": "points of a scrambled Sobol sequence",
    "gp": "a Gaussian process and its expected improvement",
    "wcmp": "shares in proportion to the narrower link of each path",
    "bandit": "shares that a bandit chose by what steps achieved",
    "mix": "a weighted mean of the shares of several planners",
    "vqc": "a circuit that minimises a Hamiltonian fitted to what was observed",
}


class Reason(StrEnum):
    """Why a solver that was asked for did not answer; a closed list, fit for a metric's label."""

    DISABLED = "disabled"
    NOT_INSTALLED = "not_installed"
    UNAVAILABLE = "unavailable"
    UNHEALTHY = "unhealthy"
    BREAKER_OPEN = "breaker_open"
    OVERLOADED = "overloaded"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    DEADLINE_INSUFFICIENT = "deadline_insufficient"
    TIMEOUT = "timeout"
    ERROR = "error"
    INVALID_OUTPUT = "invalid_output"
    NOT_READY = "not_ready"
    MODEL_MISSING = "model_missing"
    TWIN_IS_BETTER = "twin_is_better"
    STALE = "stale"
    PRIOR_MISLEADS = "prior_misleads"


class SolverRecord(Part):
    """The record that every plan carries, so that a reader can judge the answer.

    `solver`, `variant` and `execution` are of what gave the answer: a name of a table such as `SOLVERS`, never a text to be
    parsed. `asked` are the solvers that were asked for, in their order, whichever answered in the end; `depth` (layers), `shots`
    and `control` belong to the circuits among them. `objective` is what was minimised or maximised (see the plan), `bound` a
    proven limit of it and `exact` its optimum, where they are known; `control` and `twin` are what the control and the classical
    solver reach with the same budget. The control draws at random (the circuit at depth 0, or random points of the same
    Hamiltonian); of a quantum kernel it is the same one without entangling gates. Where a problem is solved in parts, such as
    windows, batches or layers, `tried` counts those that were worked on, and `kept` those whose answer is part of the plan.
    `n` is the size of the problem, or of one part of it. `wall_ms` is absent where no deadline was set, so that equal inputs
    give equal records.
    """

    solver: SolverName = Field(description="the solver that gave the answer, a name of `SOLVERS` or of another package")
    variant: SolverName | None = Field(default=None, description="which form of the solver, or which device")
    execution: Execution = Field(default=CLASSICAL)
    asked: Annotated[tuple[SolverName, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="the solvers that were asked for, in their order"
    )
    n: Count | None = Field(default=None, description="size of the problem, or of one part of it")
    depth: Count | None = Field(default=None, description="layers of the circuits")
    shots: Count | None = Field(default=None, description="samples of each circuit")
    seed: Int64 = Field(default=0, description="seed of everything that was drawn at random")
    wall_ms: float | None = Field(
        default=None, ge=0, description="time that the solvers took, ms; none where no deadline was set"
    )
    objective: float | None = Field(default=None, description="value of the answer, in the plan's own measure")
    bound: float | None = Field(default=None, description="proven limit of the objective")
    exact: float | None = Field(default=None, description="proven optimum of the objective")
    control: float | None = Field(
        default=None,
        description="objective that the control reaches with the same budget: what draws at random (the circuit at depth 0, or"
        " random points of the same Hamiltonian), or a quantum kernel without entangling gates",
    )
    twin: float | None = Field(default=None, description="objective that the classical solver reaches with the same budget")
    tried: Count | None = Field(default=None, description="parts of the problem that were worked on")
    kept: Count | None = Field(default=None, description="parts whose answer is in the plan")
