"""QStreamSearcher: our suggestions in Ray Tune, in its own process, without a broker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ray.tune.search import Searcher

from qstream.errors import ProblemError
from qstream.hpo.formats.distributions import Indexed, indexed_ray
from qstream.hpo.formats.space_files import Source
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Exhausted, suggest
from qstream.hpo.problem import Observation, finite
from qstream.hpo.space import SearchSpace
from schemas.hpo import TrialState
from schemas.wording import must_be


class QStreamSearcher(Searcher):  # type: ignore[misc] # Ray has no types
    """``TuneConfig(search_alg=QStreamSearcher())``.

    Space, metric and mode come from Ray's ``param_space`` and ``TuneConfig``, or from here: `space` is a ``param_space``, or what
    `SearchSpace.load` takes. A trial with an error, or without a finite metric, teaches where not to go. `save` and `restore`
    keep all trials, so that a restored experiment goes on as if it had not stopped.
    """

    def __init__(
        self,
        space: SearchSpace | Source | None = None,
        metric: str | None = None,
        mode: Literal["min", "max"] | None = None,
        options: HpoOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._metric: str | None = metric
        self._mode: str | None = mode
        self.options = options or HpoOptions()
        self.seed = seed
        self._trials: dict[str, dict[str, Any]] = {}  # by Ray's name: params, state, value
        self._space: SearchSpace | None = None
        self._indexed: Indexed | None = None
        if space is not None:
            self._set_space(space)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        if self._space is not None and config:
            return False
        if config:
            self._set_space(config)
        self._metric, self._mode = metric or self._metric, mode or self._mode
        return True

    def suggest(self, trial_id: str) -> Any:
        space, indexed = self._known()
        numbered = list(enumerate(self._trials.values()))
        sign = -1.0 if self._mode == "max" else 1.0
        try:
            found = suggest(
                space,
                [
                    Observation(
                        number, known["params"], None if known["value"] is None else sign * known["value"], known["state"]
                    )
                    for number, known in numbered
                    if known["state"] != "running"
                ],
                pending={number: known["params"] for number, known in numbered if known["state"] == "running"},
                trial=len(numbered),
                seed=self.seed,
                options=self.options,
            )
        except Exhausted:
            return Searcher.FINISHED
        self._trials[trial_id] = {"params": found.params, "state": "running", "value": None}
        return _nested(indexed.outward(found.params))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._trials:
            value = None if error else _number((result or {}).get(str(self._metric)))
            state: TrialState = "failed" if value is None else "complete"
            self._trials[trial_id] |= {"state": state, "value": value}

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """A result that this searcher did not suggest."""
        space, indexed = self._known()
        params = indexed.inward(_flat(parameters))
        space.encode(params)
        name = f"added-{len(self._trials)}"
        self._trials[name] = {"params": params, "state": "running", "value": None}
        self.on_trial_complete(name, {str(self._metric): value}, error or pruned)

    def save(self, checkpoint_path: str) -> None:
        space, _ = self._known()
        state = {"space": space.digest, "metric": self._metric, "mode": self._mode, "seed": self.seed, "trials": self._trials}
        Path(checkpoint_path).write_text(json.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        state = json.loads(Path(checkpoint_path).read_text())
        if self._space is not None and state["space"] != self._space.digest:
            raise ProblemError(must_be("space of the saved searcher", f"that of this one, {self._space.digest}", state["space"]))
        self._metric, self._mode, self.seed, self._trials = (state[name] for name in ("metric", "mode", "seed", "trials"))

    def _set_space(self, space: SearchSpace | Source) -> None:
        if isinstance(space, Mapping) and (indexed := indexed_ray(space)).parameters:
            self._indexed = indexed
            self._space = SearchSpace(indexed.parameters)
        else:
            self._space = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
            self._indexed = Indexed(self._space.parameters, {})

    def _known(self) -> tuple[SearchSpace, Indexed]:
        if self._space is None or self._indexed is None:
            raise ProblemError(must_be("space of a QStreamSearcher", "given, or a param_space with a domain", None))
        if self._mode not in ("min", "max") or not isinstance(self._metric, str):
            raise ProblemError(
                must_be("metric and mode of a QStreamSearcher", "a metric, and min or max", (self._metric, self._mode))
            )
        return self._space, self._indexed


def _number(value: Any) -> float | None:
    """A metric of Python, NumPy or PyTorch; None if it is no finite number."""
    try:
        return finite(value, "metric")
    except ProblemError:
        return None


def _nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """``outer/inner`` as Ray gives it to a trial."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        *outer, inner = name.split("/")
        at = found
        for key in outer:
            at = at.setdefault(key, {})
        at[inner] = value
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
