"""Export of a study's history to MLflow: a parent run for the study, a child run for each trial, found again by their tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from qstream.errors import ConfigError
from qstream.install import install_hint
from schemas.hpo import Direction, TrialRecord
from schemas.wording import must_be

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT: Final = "mlflow.parentRunId"
STUDY, TRIAL, OUTCOME = "qstream.study", "qstream.trial", "qstream.outcome"
STATUS: Final = {"complete": "FINISHED", "failed": "FAILED", "infeasible": "FAILED", "pruned": "KILLED", "lost": "KILLED"}
MAX_VALUE: Final = 500  # characters of a parameter that every version of MLflow takes
_NOT_A_NAME = re.compile(r"[^\w\-. :/]")
_QUOTED = re.compile(r"['\"`\\]")
_PAGE = 1000


class Exported(NamedTuple):
    """Trials that have a new run, a run that was completed or corrected, and one that needed nothing."""

    created: int
    changed: int
    unchanged: int


def export(
    records: Iterable[TrialRecord],
    tracking_uri: str,
    *,
    study: str,
    objective: str = "loss",
    direction: Direction = "minimize",
    experiment: str = "qstream",
) -> Exported:
    """Write a study's history to a tracking server or store.

    It may run again at any time, and after a crash: nothing is written twice. Runs are found by the tags ``qstream.study`` and
    ``qstream.trial``, and children name their parent by ``mlflow.parentRunId``, so that any process can export. Metrics are
    written only where a run lacks them, since MLflow appends. Two exports of one study must not run at the same time: MLflow
    has no lock.

    Parameters
    ----------
    records
        The study's outcomes in the order of the topic; duplicates and superseded results are left out.
    objective, direction
        The metric that decides, and which way is better: the parent has the best values as ``best OBJECTIVE``, by trial.
    experiment
        Name of MLflow's experiment, which is made if it is not there.

    Raises
    ------
    ConfigError
        MLflow is not installed, or the server does not take a run: the message says why.
    """
    try:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 an extra
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 as above
    except ImportError as exc:
        raise ConfigError(f"export to MLflow needs MLflow, which is not installed: {install_hint('mlflow')}") from exc
    try:
        return _export(MlflowClient(tracking_uri=tracking_uri), decisive(records), study, objective, direction, experiment)
    except MlflowException as exc:
        reason = " ".join(str(exc).split())
        raise ConfigError(must_be("tracking URI", f"of a server or store that takes runs ({reason})", tracking_uri)) from exc


def decisive(records: Iterable[TrialRecord]) -> dict[int, TrialRecord]:
    """The one outcome of each trial that counts, by number: its result, else the last that was said of it."""
    found: dict[int, TrialRecord] = {}
    for record in records:
        if record.outcome in STATUS and (record.trial not in found or found[record.trial].outcome != "complete"):
            found[record.trial] = record
    return dict(sorted(found.items()))


def _export(
    client: MlflowClient, records: dict[int, TrialRecord], study: str, objective: str, direction: Direction, experiment: str
) -> Exported:
    known = client.get_experiment_by_name(experiment)
    place = known.experiment_id if known is not None else client.create_experiment(experiment)
    parent, children = None, {}
    for run in _runs(client, place, study):
        if TRIAL in run.data.tags:
            children[run.data.tags[TRIAL]] = run
        else:
            parent = run
    if parent is None:
        parent = client.create_run(place, tags={STUDY: study}, run_name=study)
    created = changed = 0
    for number, record in records.items():
        run = children.get(str(number))
        if run is not None and run.data.tags.get(OUTCOME) == record.outcome and run.info.status == STATUS[record.outcome]:
            continue
        created, changed = created + (run is None), changed + (run is not None)
        if run is None:
            tags = {STUDY: study, TRIAL: str(number), PARENT: parent.info.run_id}
            run = client.create_run(place, start_time=record.asked_ns // 10**6, tags=tags, run_name=f"trial {number}")
        _write(client, run, record)
    _write_best(client, parent, records, objective, direction)
    return Exported(created, changed, len(records) - created - changed)


def _runs(client: MlflowClient, place: str, study: str) -> Iterator[Run]:
    """The runs of a study, its parent among them."""
    wanted = "" if _QUOTED.search(study) else f"tags.`{STUDY}` = '{study}'"
    token: str | None = None
    while True:
        page = client.search_runs([place], wanted, max_results=_PAGE, order_by=["attributes.start_time"], page_token=token)
        yield from (run for run in page if run.data.tags.get(STUDY) == study)
        token = page.token
        if not token:
            return


def _write(client: MlflowClient, run: Run, record: TrialRecord) -> None:
    """Fill a trial's run; the tag of its outcome comes last but one, so that what was cut short is found and completed."""
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 an extra

    done_ms = record.done_ns // 10**6
    params = [Param(_name(name), str(value)[:MAX_VALUE]) for name, value in record.params.items()]
    metrics = [
        Metric(_name(name), value, done_ms, 0) for name, value in record.metrics.items() if _name(name) not in run.data.metrics
    ]
    about: dict[str, Any] = {
        "qstream.attempt": record.attempt,
        "qstream.worker": record.worker,
        "qstream.source": record.source or "added",
        "qstream.late": str(record.late).lower(),
        **({"qstream.reason": str(record.reason)} if record.reason is not None else {}),
    }
    tags = [RunTag(name, str(value)) for name, value in about.items()]
    client.log_batch(run.info.run_id, metrics=metrics, params=params, tags=tags)
    client.set_tag(run.info.run_id, OUTCOME, record.outcome)
    client.set_terminated(run.info.run_id, STATUS[record.outcome], end_time=done_ms)


def _write_best(client: MlflowClient, parent: Run, records: dict[int, TrialRecord], objective: str, direction: Direction) -> None:
    """The best value by trial number on the parent, from where the last export ended."""
    from mlflow.entities import Metric  # noqa: PLC0415 an extra

    name = _name(f"best {objective}")
    there = client.get_metric_history(parent.info.run_id, name) if name in parent.data.metrics else []
    best, last = None, max((point.step for point in there), default=-1)
    points = []
    for number, record in records.items():
        value = record.metrics.get(objective) if record.outcome == "complete" else None
        if value is not None and (best is None or (value < best if direction == "minimize" else value > best)):
            best = value
            if number > last:
                points.append(Metric(name, value, record.done_ns // 10**6, number))
    for begin in range(0, len(points), _PAGE):
        client.log_batch(parent.info.run_id, metrics=points[begin : begin + _PAGE])


def _name(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return _NOT_A_NAME.sub("_", name)
