"""Suggestions as a pure function: of any order, for any kind of space, until a space is used up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qstream.hpo import fitting, gp, plan, surrogate
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Exhausted, Suggestion, fit_due, fit_next, suggest, suggest_from
from qstream.hpo.problem import Limit, Observation, gather, warp
from qstream.hpo.space import SearchSpace
from schemas.solver import Reason
from schemas.space import Parameter

MIXED = SearchSpace.load(
    [
        {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        {"name": "batch", "type": "ordinal", "choices": [16, 32, 64]},
        {"name": "optimizer", "type": "categorical", "choices": ["adam", "sgd", "lion"]},
        {"name": "momentum", "type": "float", "low": 0.0, "high": 0.99, "when": {"parameter": "optimizer", "values": ["sgd"]}},
    ]
)
SMALL = HpoOptions(optimizer="gp", candidates=64, starts=3)


def observed(space: SearchSpace, n: int, seed: int = 0) -> list[Observation]:
    unit = space.snap(np.random.default_rng(seed).random((n, space.size)))
    loss = ((space.features(unit) - 0.3) ** 2).sum(1)
    return [Observation(i, space.decode(u), float(v)) for i, (u, v) in enumerate(zip(unit, loss, strict=True))]


def same(a: Suggestion, b: Suggestion) -> bool:
    return a.unit.tobytes() == b.unit.tobytes() and (a.params, a.predicted, a.solver, a.digest) == (
        b.params,
        b.predicted,
        b.solver,
        b.digest,
    )


def test_a_hundred_orders_of_arrival_give_the_same_bytes() -> None:
    seen, random = observed(MIXED, 10), np.random.default_rng(0)
    pending = {11: seen[3].params, 12: seen[5].params, 14: seen[1].params}
    least = SMALL.changed({"candidates": 16, "starts": 1})
    first = suggest(MIXED, seen, pending=pending, trial=15, seed=7, options=least)
    assert same(first, suggest(MIXED, seen[::-1], pending=pending, trial=15, seed=7, options=least))
    fit = fit_due(gather(MIXED, seen, pending, 15, 7), least)
    assert fit is not None
    theta = fit.compute()
    assert first.source == "gp"
    for at in range(100):
        order = [seen[i] for i in random.permutation(len(seen))]
        shuffled = dict(sorted(pending.items(), key=lambda _: random.random()))
        problem = gather(MIXED, order, shuffled, 15, 7)
        assert fitting.digest(problem, least) == first.digest  # of all bytes that a suggestion is computed from
        due = fit_due(problem, least)
        assert due is not None
        assert due.key == fit.key
        if at % 10 == 0:
            assert same(first, suggest_from(problem, least, theta=theta))


@pytest.mark.parametrize("optimizer", ["auto", "gp", "vqc", "hybrid", "sobol"])
def test_the_first_trials_are_sobol_points_and_each_seed_has_its_own(optimizer: str) -> None:
    options = SMALL.changed({"optimizer": optimizer})
    points = [suggest(MIXED, [], trial=t, seed=s, options=options) for s in (0, 1) for t in range(4)]
    assert {point.source for point in points} == {"sobol"}
    assert len({point.unit.tobytes() for point in points}) == 8


def test_hybrid_explores_by_the_circuit_then_refines_and_goes_over_at_once_where_limits_or_an_older_study_are_known() -> None:
    seen, options = observed(MIXED, 24), SMALL.changed({"optimizer": "hybrid"})
    assert [suggest(MIXED, seen[:n], trial=n, options=options).source for n in (9, 10, 19, 20)] == ["sobol", "vqc", "vqc", "gp"]
    assert suggest(MIXED, seen, trial=24, options=SMALL.changed({"optimizer": "vqc"})).source == "vqc"
    older = [(each.params, each.value) for each in seen]
    assert suggest(MIXED, seen[:12], trial=12, options=options, prior=older).source == "gp"
    failed = [*seen[:11], replace(seen[11], state="failed", value=None)]
    assert suggest(MIXED, failed, trial=12, options=options).source == "gp"
    found = suggest(MIXED, seen[:12], trial=12, options=options)
    assert (found.solver.solver, found.solver.execution, found.solver.asked) == ("vqc", "simulated-product", ("vqc", "gp"))
    assert found.predicted is not None


def test_a_circuit_that_knows_no_limits_takes_what_breaks_one_for_the_worst() -> None:
    seen = [replace(each, metrics={"ms": 9.0 if each.trial == 3 else 1.0}) for each in observed(MIXED, 12)]
    best = [replace(each, value=-5.0) if each.trial == 3 else each for each in seen]
    options, limit = SMALL.changed({"optimizer": "vqc"}), [Limit("ms", "<=", 5.0)]
    worst = max(each.value for each in seen if each.trial != 3)
    plain = [replace(each, value=worst) if each.trial == 3 else each for each in best]
    assert suggest(MIXED, best, trial=12, options=options, limits=limit).unit.tobytes() == (
        suggest(MIXED, plain, trial=12, options=options).unit.tobytes()
    )


def test_what_is_suggested_is_of_the_space_and_says_where_it_comes_from() -> None:
    found = suggest(MIXED, observed(MIXED, 12), trial=12, options=SMALL)
    assert MIXED.encode(found.params) == pytest.approx(found.unit, abs=0)
    assert found.solver.solver == "gp"
    assert found.predicted is not None
    assert found.predicted.std > 0
    assert found.fallback_reason is None


def test_parameters_fitted_ahead_give_the_same_suggestion() -> None:
    problem = gather(MIXED, observed(MIXED, 30), {}, 30, 3)
    fit = fit_due(problem, SMALL)
    assert fit is not None
    assert same(suggest_from(problem, SMALL), suggest_from(problem, SMALL, theta=fit.compute()))


def test_a_fit_that_is_due_was_announced_while_its_trials_were_the_newest() -> None:
    seen = observed(MIXED, 60)
    announced = set()
    for n in range(12, 60):
        problem = gather(MIXED, seen[:n], {}, n, 0)
        due, coming = fit_due(problem, SMALL), fit_next(problem, SMALL)
        assert due is not None
        if n > 12:
            assert due.key in announced
        announced |= {due.key} | ({coming.key} if coming else set())


def test_a_straggler_holds_no_fit_up_and_a_result_above_m_changes_none() -> None:
    assert fitting.settled(200, np.array([3, 180, 190, 195, 196, 197, 198, 199])) > 150
    seen = observed(MIXED, 60)
    before, after = (fit_due(gather(MIXED, seen[:n], {59: seen[59].params}, 60, 0), SMALL) for n in (58, 59))
    assert before is not None
    assert after is not None
    assert before.key == after.key


def test_a_discrete_space_is_used_up_without_a_duplicate() -> None:
    space = SearchSpace.load(
        [{"name": "a", "type": "categorical", "choices": ["x", "y", "z"]}, {"name": "b", "type": "int", "low": 1, "high": 8}]
    )
    seen: list[Observation] = []
    pending: dict[int, dict[str, object]] = {}
    for trial in range(24):
        found = suggest(space, seen, pending=pending, trial=trial, options=SMALL)  # type: ignore[arg-type]
        pending[trial] = found.params  # type: ignore[assignment]
        if trial >= 3:
            params = pending.pop(trial - 3)
            seen.append(Observation(trial - 3, params, float(str(params["b"]))))  # type: ignore[arg-type]
    every = [repr(found) for found in (*(o.params for o in seen), *pending.values())]
    assert len(set(every)) == 24
    with pytest.raises(Exhausted, match="24 configurations"):
        suggest(space, seen, pending=pending, trial=24, options=SMALL)  # type: ignore[arg-type]


def test_equal_values_teach_nothing_and_sobol_goes_on() -> None:
    seen = [Observation(o.trial, o.params, 1.0) for o in observed(MIXED, 20)]
    found = suggest(MIXED, seen, trial=20, options=SMALL)
    assert (found.source, found.predicted) == ("sobol", None)


def test_failed_trials_are_not_suggested_again_where_the_space_is_discrete() -> None:
    space = SearchSpace.load([{"name": "b", "type": "int", "low": 1, "high": 6}])
    failed = [Observation(i, {"b": i + 1}, None, "failed") for i in range(5)]
    assert suggest(space, failed, trial=5, options=SMALL).params == {"b": 6}


def test_predictions_are_in_the_units_of_the_objective() -> None:
    seen = [Observation(o.trial, o.params, 1000 + 5 * (o.value or 0)) for o in observed(MIXED, 30)]
    found = suggest(MIXED, seen, trial=30, options=SMALL)
    assert found.predicted is not None
    assert 980 < found.predicted.mean < 1010


def test_a_window_holds_the_best_and_the_newest() -> None:
    seen = observed(MIXED, 450)
    found = suggest(MIXED, seen, trial=450, options=SMALL)
    assert found.source == "gp"
    assert plan.fit_due(gather(MIXED, seen, {}, 450, 0), SMALL).trials < 450  # type: ignore[union-attr]


def test_the_kernel_that_predicts_best_what_is_left_out_is_chosen_by_settled_trials_alone() -> None:
    space = SearchSpace.load([{"name": name, "type": "float", "low": 0.0, "high": 1.0} for name in "ab"])
    options = SMALL.changed({"kernel": "auto"})
    seen = observed(space, 12)
    problem = gather(space, seen, {}, 12, 0)
    chosen = gp.COVARIANCES[fitting.kernel_of(problem, options, 11)](space.groups)
    x, z = space.features(problem.unit[:10]), warp(problem.value[:10])
    density = {}
    for name, make in gp.COVARIANCES.items():
        theta = gp.fit(make(space.groups), x, z)
        density[name] = gp.leave_one_out_density(gp.posterior(make(space.groups), theta, x, z), z).mean()
    best = gp.COVARIANCES[max(density, key=density.__getitem__)](space.groups)
    assert (type(chosen), repr(chosen)) == (type(best), repr(best))
    theta = fit_due(problem, options).compute()
    assert same(suggest_from(problem, options, theta=theta), suggest_from(problem, options))
    running = gather(space, seen[:11], {11: seen[11].params}, 12, 0)
    assert suggest_from(running, options).solver.variant == max(density, key=density.__getitem__)


def test_a_suggestion_by_a_quantum_kernel_says_how_its_twin_and_its_control_predict_the_same_results() -> None:
    space = SearchSpace.load([{"name": name, "type": "float", "low": 0.0, "high": 1.0} for name in "ab"])
    seen, options = observed(space, 12), SMALL.changed({"kernel": "reupload"})
    problem = gather(space, seen, {}, 12, 3)
    x, z = space.features(problem.unit[:10]), warp(problem.value[:10])
    density = []
    for make in (gp.COVARIANCES["reupload"], gp.COVARIANCES["matern"], gp.CONTROLS["reupload"]):
        covariance = make(space.groups)
        density.append(gp.leave_one_out_density(gp.posterior(covariance, gp.fit(covariance, x, z), x, z), z).mean())
    record = suggest_from(problem, options).solver
    assert (record.solver, record.variant, record.execution) == ("gp", "reupload", "simulated-statevector")
    assert (record.n, record.depth, record.shots, record.seed) == (2, 3, None, 3)
    assert (record.objective, record.twin, record.control) == pytest.approx(density)
    classical = suggest_from(problem, SMALL).solver
    assert (classical.execution, classical.twin, classical.control) == ("classical", None, None)


def test_a_deadline_lowers_the_effort_and_below_what_a_model_needs_sobol_goes_on() -> None:
    seen = observed(MIXED, 20)
    plain = suggest(MIXED, seen, trial=20, options=SMALL)
    roomy, tight = (suggest(MIXED, seen, trial=20, options=SMALL.changed({"deadline_ms": ms})) for ms in (1000.0, 5.0))
    assert (roomy.source, roomy.unit.tobytes()) == ("gp", plain.unit.tobytes())
    assert (tight.source, tight.fallback_reason) == ("sobol", Reason.DEADLINE_INSUFFICIENT)
    whole = HpoOptions(deadline_ms=36.0)
    few, some, many = (surrogate.within(whole, n) for n in (20, 200, 400))
    assert few == whole
    assert some is not None
    assert surrogate.FEWEST <= some.candidates < whole.candidates
    assert many is None


def test_trials_at_one_time_are_different_where_the_model_is_sure_of_the_optimum() -> None:
    space = SearchSpace([Parameter(name=name, type="float", low=0, high=1) for name in "xy"])
    options, seen, pending = HpoOptions(optimizer="gp", initial=8), [], {}
    for trial in range(14):
        params = suggest(space, seen, pending=pending, trial=trial, seed=2, options=options).params
        if trial < 8:
            seen.append(Observation(trial, params, sum((float(value) - 0.9) ** 2 for value in params.values())))
        else:
            pending[trial] = params
    assert len({tuple(round(float(value), 3) for value in params.values()) for params in pending.values()}) == 6


def test_a_running_trial_that_will_break_a_limit_does_not_count_as_reached() -> None:
    line = SearchSpace.load([{"name": "x", "type": "float", "low": 0, "high": 1}])
    seen = [Observation(i, {"x": i / 19}, -i / 19, metrics={"ms": 2.0 * i / 19}) for i in range(14)]
    limit = [Limit("ms", "<=", 1.0)]
    alone, with_fast = (
        suggest(line, seen, pending=running, trial=20, options=SMALL, limits=limit).solver.objective
        for running in ({}, {19: {"x": 1.0}})
    )
    assert alone is not None
    assert with_fast == pytest.approx(alone, abs=1.0)
