"""Work: the desk, names and folders of a worker put together, and what it prints."""

from __future__ import annotations

import math
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from qstream.cli.hpo.child import Running, program_of, start
from qstream.cli.hpo.command import Command, require_choices, require_names
from qstream.cli.hpo.local import Local
from qstream.cli.hpo.names import held_name, usual_name
from qstream.cli.hpo.outcome import Verdict
from qstream.cli.hpo.records import find_study
from qstream.cli.hpo.remote import Remote
from qstream.cli.hpo.slots import Answer, Desk, Slots
from qstream.cli.hpo.study_file import limit_of, study_of, with_prior
from qstream.cli.hpo.texts import keeps, params_text, trial_text
from qstream.cli.names import parse_options
from qstream.cli.output import counted, print_json, printable
from qstream.config import Settings
from qstream.errors import ConfigError, ProblemError, QstreamError
from qstream.hpo.older import SAVED
from qstream.hpo.study import ENDLESS_S, Study
from qstream.node.trouble import Troubles
from schemas.hpo import MAX_RUNNING, FailReason, StudySpec
from schemas.wording import must_be

EXIT_STOPPED: Final = 143  # as a shell has it for SIGTERM


class NoneComplete(QstreamError):
    """Trials ended, and none of them gave a value: there is nothing that the search could have learnt from."""


@dataclass(frozen=True, slots=True)
class Work:
    """How trials are run, whoever hands them out."""

    command: Command
    slots: int
    timeout_s: float | None
    grace_s: float
    logs: Path | None
    give_up: int
    count: int | None
    as_json: bool


def work_there(study: str, name: str | None, settings: Settings, work: Work, stop: threading.Event) -> None:
    """Run the trials of a study that an agent behind a broker searches."""
    spec = find_study(settings, study)
    _require_fits(work.command, spec)
    with held_name(study, name, usual_name(os.environ, socket.gethostname())) as own:
        names = [f"{own}/{slot}" for slot in range(work.slots)]
        _say(f"{own} works on {study} at {settings.bootstrap_servers}, {counted(work.slots, 'slot')}, Ctrl-C to end")
        slots = _run(Remote(study, names, settings, Troubles(_say)), names, spec, work, stop)
    _end(slots)


def work_here(file: Path, given: Mapping[str, Any], work: Work, stop: threading.Event) -> None:
    """Search on this machine alone, over the study of a file or one that was saved; print the best."""
    save, study = given["--save"], _study(file, given)
    if save is not None and (save.suffix != SAVED or not save.absolute().parent.is_dir()):
        raise ConfigError(must_be("--save", f"a {SAVED} file in a folder that is there", str(save)))
    names = [f"slot/{slot}" for slot in range(work.slots)]
    with held_name(str(save.resolve()), "local", "") if save is not None else nullcontext():
        if save is not None and save.exists():
            study = _resumed(save, study, names)
            _say(f"going on with {save}: {counted(len(study.records()), 'trial')} so far")
        _require_fits(work.command, study.spec)
        slots = _run(Local(study, save), names, study.spec, work, stop, best=None if study.best is None else study.best.value)
    best = study.best
    if work.as_json:
        print_json({"best": best and best.model_dump(), "trials": len(study.records()), "ended": study.ended})
    elif best is not None:
        typer.echo(printable(f"best: trial {best.trial}  {study.spec.objective} {best.value:.6g}  {params_text(best.params)}"))
    complete = any(record.outcome == "complete" for record in study.records())
    if best is None and complete:
        _say("no trial keeps all limits")
    _end(slots, complete=complete)


def _study(file: Path, given: Mapping[str, Any]) -> Study:
    """The study of a file, with what options of the command say."""
    limits = given["--limit"]
    fields = {
        "max_trials": given["--trials"],
        "objective": given["--objective"],
        "direction": given["--direction"],
        "limits": None if limits is None else [limit_of(text) for text in limits],
        "seed": given["--seed"],
        "lease_s": ENDLESS_S,  # the slots are in this process: none goes silent
        "max_running": MAX_RUNNING,
    }
    spec = study_of(file, fields, time.time_ns(), parse_options(given["--set"] or []))
    try:
        return Study.from_spec(with_prior(spec, given["--prior"]))
    except ProblemError as exc:
        raise ConfigError(f"{file}: {exc}") from exc


def _resumed(save: Path, fresh: Study, names: Sequence[str]) -> Study:
    """The study that was saved, with what may change as it is now; `ConfigError` if it is another. Trials that were cut off in
    slots that are not there any more are handed back."""
    try:
        study = Study.load(save)
        study.change(fresh.spec)
        for trial, slot in study.running.items():
            if slot not in names:
                study.tell(trial, state="failed", worker=slot, reason=FailReason.PREEMPTED)
    except ProblemError as exc:
        raise ConfigError(f"--save: {exc}") from exc
    return study


def _run(
    desk: Desk, names: Sequence[str], spec: StudySpec, work: Work, stop: threading.Event, *, best: float | None = None
) -> Slots:
    """Run trials, print each and a summary; the slots, as they ended. `best` is the value of the best trial so far, if it is
    known."""
    sign = 1.0 if spec.direction == "minimize" else -1.0
    least = math.inf if best is None else sign * best

    def ended(answer: Answer, verdict: Verdict, took_s: float) -> None:
        nonlocal least
        value = (
            sign * verdict.metrics[spec.objective] if verdict.state == "complete" and keeps(verdict.metrics, spec) else math.inf
        )
        better, least = value < least, min(value, least)
        if work.as_json:
            print_json(_as_data(answer, verdict, took_s))
        else:
            typer.echo(printable(trial_text(answer, verdict, spec.objective, took_s, best=better)))

    with _folder(work.logs) as folder:

        def begin(answer: Answer, slot: int, now_s: float) -> Running:
            return start(
                work.command,
                answer.params,
                {"trial": answer.trial, "attempt": answer.attempt, "slot": slot, "study": spec.study, "worker": answer.worker},
                folder / f"{answer.trial:05}.{answer.attempt}",
                now_s=now_s,
                timeout_s=work.timeout_s,
                grace_s=work.grace_s,
            )

        slots = Slots(
            desk,
            names,
            begin,
            spec.objective,
            stop=stop,
            clock=time.monotonic,
            pause=time.sleep,
            say=_say,
            on_end=ended,
            give_up=work.give_up,
            count=work.count,
        )
        slots.run()
    counts = ", ".join(f"{number} {what}" for what, number in sorted(slots.ended.items()))
    _say(f"{counts or 'no trials'}{f'; the study is done: {slots.why}' if slots.why else ''}")
    return slots


def _end(slots: Slots, *, complete: bool = False) -> None:
    """End with the exit code of what happened.

    A worker that was stopped before the end says so, or a batch system would not start it again; one whose trials all failed
    does too, or a script would go on with nothing. `complete`: the study has a complete trial, of whatever run.
    """
    if not slots.finished:
        raise typer.Exit(EXIT_STOPPED)
    ended = slots.ended.total()
    if ended and not (complete or slots.ended["complete"]):
        raise NoneComplete(printable(f"none of {counted(ended, 'trial')} was complete; the last one: {slots.says}"))


def _require_fits(command: Command, spec: StudySpec) -> None:
    """`ConfigError` if the command cannot run the trials of the study."""
    names = [parameter.name for parameter in spec.parameters]
    require_names(command, names, [parameter.name for parameter in spec.parameters if parameter.when is not None])
    require_choices(command, {parameter.name: parameter.choices or () for parameter in spec.parameters})
    if "{" not in command.words[0]:
        program_of(command)


@contextmanager
def _folder(logs: Path | None) -> Iterator[Path]:
    """The folder named, kept; else one that goes with the worker."""
    if logs is not None:
        yield logs
        return
    folder = Path(tempfile.mkdtemp(prefix="qstream-hpo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_data(answer: Answer, verdict: Verdict, took_s: float) -> dict[str, Any]:
    return {
        "trial": answer.trial,
        "attempt": answer.attempt,
        "worker": answer.worker,
        "source": answer.source,
        "params": dict(answer.params),
        "state": verdict.state,
        "metrics": dict(verdict.metrics),
        "reason": verdict.reason,
        "says": verdict.says,
        "duration_s": round(took_s, 3),
    }


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)
