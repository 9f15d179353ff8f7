"""Load and compile what the first ask needs."""

from __future__ import annotations

import numpy as np

from qstream.hpo import plan
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Observation
from qstream.hpo.space import SearchSpace
from schemas.space import Parameter


def warm(options: HpoOptions) -> None:
    """Suggest for a small study twice: linear algebra, the solvers of these options and their kernels are loaded then.

    Without a failed trial the circuit explores, if the options have it do so; with one the process answers, on feasibility too.
    """
    space = SearchSpace([Parameter(name=name, type="float", low=0.0, high=1.0) for name in ("x", "y")])
    points = np.random.default_rng(0).random((max(options.initial, 12), 2))
    seen = [Observation(n, {"x": float(x), "y": float(y)}, float(x * y)) for n, (x, y) in enumerate(points)]
    failed = Observation(len(seen), {"x": 1.0, "y": 1.0}, None, "failed")
    for known in (seen, [*seen, failed]):
        plan.suggest(space, known, trial=len(known), options=options)
