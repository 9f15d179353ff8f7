"""`qstream hpo suggest`: the next configurations to try, from a file of past results, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qstream.cli.hpo.texts import params_text, value_text
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, OptionChanges
from qstream.cli.output import counted, print_json, print_table, printable, solver_text
from qstream.errors import ConfigError, ProblemError

if TYPE_CHECKING:
    from qstream.hpo.study import Study, Trial

MAX_COUNT = 256


def suggest(
    space: Annotated[Path, typer.Argument(metavar="FILE", help="A space or study, as YAML or JSON, or a sweep of W&B.")],
    *,
    past: Annotated[
        Path | None, typer.Option("--history", metavar="FILE", help="Past results of this search, as CSV or as a saved study.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(metavar="FILE", help="Results of an older search: CSV, a saved study, a URL of Optuna.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many, all different, to be run at one time.")] = 1,
    objective: Annotated[str | None, typer.Option(help="The column that decides; else loss.")] = None,
    direction: Annotated[str | None, typer.Option(help="minimize or maximize.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="THEIRS=OURS", help="A column under another name; may be repeated.")
    ] = None,
    on_bad: Annotated[str, typer.Option("--on-bad", help="Rows that do not fit the space: refuse or drop.")] = "refuse",
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Another seed gives others.")] = None,
    changes: OptionChanges = None,
    as_json: AsJson = False,
) -> None:
    """Print which configurations to try next. The same files and seed give the same ones.

    \b
    Example:
      qstream hpo suggest space.yaml
      qstream hpo suggest space.yaml --history past.csv --count 4
      qstream hpo suggest space.yaml --history past.csv --objective accuracy --direction maximize --json
    """
    from qstream.cli.hpo import study_file as files  # noqa: PLC0415 - numpy, which help does not need
    from qstream.hpo.older import older_rows  # noqa: PLC0415 - as above
    from qstream.hpo.study import Study  # noqa: PLC0415 - as above

    names, bad = files.rename_of(rename or []), files.on_bad_of(on_bad)
    given = {"objective": objective, "direction": direction, "seed": seed}
    spec = files.study_of(space, given, 0, parse_options(changes or []))
    spec = files.with_prior(spec, prior, rename=names, on_bad=bad)
    try:
        study = Study.from_spec(spec)
        rows = 0
        if past is not None:
            found = older_rows(study.space, past, spec.objective, spec.direction, rename=names, on_bad=bad)
            files.say_dropped(past, found)
            rows = len([study.add(params, value, now_s=0) for params, value in found.rows])
        trials = [study.ask(now_s=0) for _ in range(count)]
    except ProblemError as exc:
        raise ConfigError(str(exc)) from exc
    handed = [trial for trial in trials if trial.status == "run"]
    if as_json:
        best = study.best
        print_json({"results": rows, "best": best and best.model_dump(), "suggestions": [_data(trial) for trial in handed]})
    else:
        _print(handed, spec.objective)
        typer.echo(printable(f"from {counted(rows, 'result')}{_best(study)}"))
    if len(handed) < count:
        typer.echo(f"{counted(len(handed), 'configuration')} left of {count} that were asked for", err=True)


def _print(trials: list[Trial], objective: str) -> None:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = []
    for trial in trials:
        expected = "" if trial.predicted is None else f"{trial.predicted.mean:.5g} ± {trial.predicted.std:.2g}"
        values = [value_text(trial.params[name]) if name in trial.params else "-" for name in names]
        rows.append((*values, expected, "" if trial.solver is None else solver_text(trial.solver)))
    print_table((*names, f"expected {objective}", "by"), rows)


def _best(study: Study) -> str:
    best = study.best
    return "" if best is None else f"; the best: {study.spec.objective} {best.value:.6g} at {params_text(best.params)}"


def _data(trial: Trial) -> dict[str, Any]:
    return {
        "params": dict(trial.params),
        "source": trial.source,
        "predicted": trial.predicted and trial.predicted.model_dump(),
        "solver": trial.solver and trial.solver.model_dump(mode="json", exclude_none=True),
    }
