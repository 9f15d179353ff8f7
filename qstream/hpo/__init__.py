"""Hyperparameter search: trial results in, suggestions out, exactly one for every free worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.hpo.options import HpoOptions as HpoOptions
    from qstream.hpo.plan import Exhausted as Exhausted
    from qstream.hpo.plan import Suggestion as Suggestion
    from qstream.hpo.plan import suggest as suggest
    from qstream.hpo.problem import Limit as Limit
    from qstream.hpo.problem import Observation as Observation
    from qstream.hpo.space import SearchSpace as SearchSpace
    from qstream.hpo.study import Study as Study
    from qstream.hpo.study import Trial as Trial

__all__ = ["Exhausted", "HpoOptions", "Limit", "Observation", "SearchSpace", "Study", "Suggestion", "Trial", "suggest"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Exhausted": ".plan",
        "HpoOptions": ".options",
        "Limit": ".problem",
        "Observation": ".problem",
        "SearchSpace": ".space",
        "Study": ".study",
        "Suggestion": ".plan",
        "Trial": ".study",
        "suggest": ".plan",
    },
)
