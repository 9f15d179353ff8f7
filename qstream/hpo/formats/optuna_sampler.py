"""QStreamSampler: our suggestions in a study of Optuna, in its own process and storage, without a broker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import xxhash
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from qstream.hpo.formats.distributions import Indexed, indexed_optuna
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Exhausted, suggest
from qstream.hpo.problem import Limit, Observation, rng
from qstream.hpo.space import SearchSpace
from schemas.control import Scalar

MAX_COUNTED: Final = 10_000  # configurations of a space up to which it is noticed that all were tried
_ASKED: Final = "qstream:asked"  # system attribute of a trial: what it was given, which others must know before it is used


class QStreamSampler(BaseSampler):
    """``optuna.create_study(sampler=QStreamSampler())``.

    The sampler holds no state: the same trials of a storage give the same suggestion, in any process. Trials that run are taken
    into account, failed ones teach where not to go, and ``trial.set_constraint`` sets limits. The first trial, and parameters
    that not all completed trials have, are drawn evenly. ``optimize`` stops when every configuration of a discrete space was
    tried; ``ask`` then repeats one.
    """

    def __init__(self, options: HpoOptions | None = None, seed: int = 0) -> None:
        self.options = options or HpoOptions()
        self.seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._raise_error_if_multi_objective(study)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        shared = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: found for name, found in shared.items() if not found.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if not search_space:
            return {}
        indexed = indexed_optuna(search_space)
        space = SearchSpace(indexed.parameters)
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        try:
            found = suggest(
                space,
                _observations(trials, indexed, sign),
                pending=dict(_pending(trials, indexed)),
                trial=trial.number,
                seed=self.seed,
                options=self.options,
                limits=_limits(trials),
            )
        except Exhausted:
            with suppress(RuntimeError):  # it is not within `optimize`
                study.stop()
            return {}
        study._storage.set_trial_system_attr(trial._trial_id, _ASKED, json.dumps(found.params))
        return indexed.outward(found.params)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        search_space = self.infer_relative_search_space(study, trial)
        if not search_space:
            return
        indexed = indexed_optuna(search_space)
        space = SearchSpace(indexed.parameters)
        if space.cardinality is not None and space.cardinality <= MAX_COUNTED:
            tried = [params for other in study.get_trials(deepcopy=False) if (params := _params(other, indexed)) is not None]
            if tried and len(set(space.keys(np.stack([space.encode(params) for params in tried])))) >= space.cardinality:
                with suppress(RuntimeError):  # it is not within `optimize`
                    study.stop()

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        if param_distribution.single():
            return param_distribution.to_external_repr(_only(param_distribution))
        indexed = indexed_optuna({param_name: param_distribution})
        drawn = rng(self.seed, xxhash.xxh3_64_intdigest(param_name.encode()), trial.number).random(1)
        return indexed.outward(SearchSpace(indexed.parameters).decode(np.asarray(drawn)))[param_name]


def _only(distribution: BaseDistribution) -> float:
    """The internal value of a distribution that has one."""
    return float(getattr(distribution, "low", 0))


def _observations(trials: Sequence[FrozenTrial], indexed: Indexed, sign: float) -> Iterator[Observation]:
    for trial in trials:
        params = _params(trial, indexed)
        if params is None:
            continue
        if trial.state == TrialState.COMPLETE and trial.values and math.isfinite(trial.values[0]):
            yield Observation(trial.number, params, sign * trial.values[0], metrics=trial.constraints)
        elif trial.state == TrialState.PRUNED:
            yield Observation(trial.number, params, None, "pruned")
        elif trial.state in (TrialState.FAIL, TrialState.COMPLETE):
            yield Observation(trial.number, params, None, "failed")


def _pending(trials: Sequence[FrozenTrial], indexed: Indexed) -> Iterator[tuple[int, dict[str, Scalar]]]:
    for trial in trials:
        if trial.state == TrialState.RUNNING and (params := _params(trial, indexed)) is not None:
            yield trial.number, params


def _params(trial: FrozenTrial, indexed: Indexed) -> dict[str, Scalar] | None:
    """The configuration of a trial in the space, or what it was given and has not used yet; None if it is of another space."""
    given: dict[str, Any] = json.loads(trial.system_attrs.get(_ASKED, "{}"))
    found = given | indexed.inward(trial.params)
    names = [parameter.name for parameter in indexed.parameters]
    return {name: found[name] for name in names} if all(name in found for name in names) else None


def _limits(trials: Sequence[FrozenTrial]) -> tuple[Limit, ...]:
    """Each constraint that any trial has set: it is kept at 0 or less."""
    return tuple(Limit(name, "<=", 0.0) for name in sorted({name for trial in trials for name in trial.constraints}))
