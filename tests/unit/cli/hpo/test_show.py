"""`qstream hpo show`: what is said of trials that run."""

from __future__ import annotations

from qstream.cli.hpo.show import Seen
from schemas.hpo import StudySpec, TrialSuggestion
from schemas.solver import SolverRecord
from schemas.space import Parameter

SPEC = StudySpec(study="s", ts_ns=0, objective="loss", parameters=(Parameter(name="lr", type="float", low=0.1, high=1.0),))


def held(attempt: int) -> TrialSuggestion:
    """An answer that hands trial 3 out for ten minutes."""
    return TrialSuggestion(
        plan_id=f"qstream.hpo.trial.v1/0/{attempt}/0",
        ts_ns=0,
        ttl_s=600.0,
        solver=SolverRecord(solver="gp"),
        study="s",
        worker="w",
        status="run",
        trial=3,
        attempt=attempt,
        params={"lr": 0.5},
        lease_s=600.0,
        source="gp",
    )


def test_a_trial_that_a_stopped_worker_handed_back_goes_out_again_before_its_lease_passes() -> None:
    seen = Seen(SPEC, None, running={3: held(0)}, handed_back={(3, 0)})
    (row,) = seen.as_data(now_ns=1)["running"]
    assert row["handed_back"]
    assert row["expired"]


def test_a_trial_that_went_out_again_is_not_called_handed_back() -> None:
    seen = Seen(SPEC, None, running={3: held(1)}, handed_back={(3, 0)})
    (row,) = seen.as_data(now_ns=1)["running"]
    assert not row["handed_back"]
    assert not row["expired"]
