"""Blocks of files that are otherwise written by hand, from the code: tables of modules and of options, services of agents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agents.names import files
from agents.registry import Agent, find_agent
from qstream.config import Settings
from qstream.learn.options import RECOMMENDED

PLANNED: Final[Mapping[str, str]] = {
    "hpo": "decides which trials of a hyperparameter search start, go on or stop",
    "nvlink": "decides which GPU holds which rank, which link carries which bytes",
    "attention": "decides which blocks of keys a query block reads, and how the others are summarised",
}
HEAD: Final = "\n| module | purpose | state |\n|---|---|---|\n"
SERVICE: Final = """\
  {name}:
    <<: *agent
    command: [run, {name}]
    ports: ["127.0.0.1:${{{variable}:-{port}}}:6066"]
"""


def filled(root: Path) -> dict[str, str]:
    """The text of each file with a block, its block filled, by its path below `root`."""
    agents = [find_agent(name) for name in files()]
    blocks = {
        "README.md": ("modules", readme_table(agents)),
        "docs/pages/modules/index.md": ("modules", modules_table(agents)),
        "docs/pages/howto/learning.md": ("recommended", recommended_table()),
        "deploy/compose/compose.yaml": ("agents", "\n".join(service(agent) for agent in agents)),
        "deploy/compose/.env.example": ("agents", "".join(f"{variable(agent)}={port(agent)}\n" for agent in agents)),
    }
    return {path: _fill(path, (root / path).read_text(), *block) for path, block in blocks.items()}


def readme_table(agents: list[Agent]) -> str:
    """The modules that are here, with those planned in one row."""
    rows = [f"| [{agent.name}](qstream/{room(agent)}/README.md) | {agent.purpose} | here |\n" for agent in agents]
    if planned := _planned(agents):
        rows.append(f"| {', '.join(planned)} | [what each will decide](docs/pages/modules/index.md) | planned |\n")
    yours = "maps any keyed records and state to plans: [write a module](docs/pages/howto/module.md)"
    return HEAD + "".join(rows) + f"| yours | {yours} | an hour |\n\n"


def modules_table(agents: list[Agent]) -> str:
    """The modules that are here and those planned, a row each."""
    rows = [f"| [{agent.name}]({room(agent)}.md) | {agent.purpose} | here |\n" for agent in agents]
    rows += [f"| {name} | {purpose} | planned |\n" for name, purpose in _planned(agents).items()]
    return HEAD + "".join(rows) + "\n"


def recommended_table() -> str:
    """The recommended configurations of what learns."""
    rows = []
    for row in RECOMMENDED:
        learner = f"{row.learner}{f' (`{row.rule}`)' if row.rule else ''}" if row.learner else "any"
        options = ", ".join(f"`{name}={value}`" for name, value in row.options.items())
        rows.append(f"| {row.situation} | {learner} | {options} |\n")
    return "\n| situation | learner | options |\n|---|---|---|\n" + "".join(rows) + "\n"


def room(agent: Agent) -> str:
    """The folder of the agent's module, which may be that of two agents."""
    return agent.package.rpartition(".")[2]


def service(agent: Agent) -> str:
    """The agent as a service of `compose.yaml`."""
    return SERVICE.format(name=agent.name, variable=variable(agent), port=port(agent))


def variable(agent: Agent) -> str:
    """What the port of its health pages is called in the environment of compose."""
    return f"{agent.name.upper()}_PORT"


def port(agent: Agent) -> int:
    """The port of the agent's health pages on this machine, where its user sets none."""
    return int(agent.settings.get("port", Settings.model_fields["port"].default))


def _planned(agents: list[Agent]) -> dict[str, str]:
    here = {agent.name for agent in agents}
    return {name: purpose for name, purpose in PLANNED.items() if name not in here}


def _fill(path: str, text: str, name: str, block: str) -> str:
    """The text with what stands between its lines ``begin <name>`` and ``end <name>`` replaced."""
    found, times = re.subn(
        rf"(^[^\n]*\bbegin {name}\b[^\n]*\n).*?(^[^\n]*\bend {name}\b)",
        lambda at: at[1] + block + at[2],
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    if times != 1:
        raise ValueError(f"{path} must have one line 'begin {name}' and one 'end {name}', got {times} such blocks")
    return found
