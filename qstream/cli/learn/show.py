"""`qstream learn show`: what each learner of a key knows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qstream.cli.learn.stored import Known, Module, find, keys, known, learning, opened
from qstream.cli.options import AsJson, RedisUrl
from qstream.cli.output import counted, print_json, print_table
from qstream.learn.describe import describe


def show(
    module: Module,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="A key, such as a model; else all of them.")] = None,
    redis: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what the learners of a key know.

    Arms, shares, counts, regret, coverage, guard, versions, and rewards that are pending, expired or unmatched.
    Regret is what a round has cost above the best arm, had that been taken always. The states are read as the workers have
    written them; nothing is changed.

    \b
    Example:
      qstream learn show routing --redis redis://localhost:6379/0
      qstream learn show routing demo-moe --json
    """
    processor = learning(module)
    with opened(processor, redis) as store:
        if key is not None:
            found = [known(processor, store, key)]
        else:
            every = (find(processor, store, name) for name in keys(processor, store))
            found = [known_one for known_one in every if known_one is not None]
    facts = [_facts(module, one) for one in found]
    if as_json:
        print_json(facts if key is None else facts[0])
        return
    if not facts:
        typer.echo(f"{module} has no state of any key yet")
    for one in facts:
        typer.echo(f"{module} {one['key']}, state {one['version']}, {counted(one['commands'], 'command')} obeyed")
        print_table(("learner", "what", "value"), _rows(one["learners"]))


def _facts(module: str, one: Known) -> dict[str, Any]:
    learners = {name: describe(learner) | {"frozen": name in one.frozen} for name, learner in one.learners.items()}
    return {"module": module, "key": one.key, "version": one.version, "commands": one.commands, "learners": learners}


def _rows(learners: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    rows = []
    for name, facts in learners.items():
        arms = facts.get("arms", {})
        if facts.get("steps", facts.get("rewards")) == 0:
            facts = {what: value for what, value in facts.items() if what != "best_fixed_arm"}  # of none seen
        for what, value in facts.items():
            if what != "arms":
                rows.append((name, what, _text(value)))
        rows += [(name, f"arm {arm}", "  ".join(f"{k} {_text(v)}" for k, v in of.items())) for arm, of in arms.items()]
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "none" if value in (None, "") else str(value)
