"""The check that an agent's declaration holds: what it names exists, fits its processor, and passes the conformance checks."""

from __future__ import annotations

import typer

from agents.registry import Agent, load
from qstream.config import Settings
from qstream.module.options import ModuleOptions
from qstream.testing.checks import check_frame, check_processor


def check_agent(agent: Agent) -> None:
    """Everything that an agent declares exists, its topics are its processor's, and its examples pass `check_processor`.

    Raises
    ------
    AssertionError
        Names the part of the agent that is missing or wrong.
    ConfigError
        A reference of the agent cannot be imported, or a setting or option is wrong.
    """
    name = agent.name
    settings = agent.with_settings(Settings(options=dict(agent.example_options)))
    Settings(**dict(agent.settings))
    processor = agent.processor(settings)
    assert processor.name == name, f"{name}: its processor calls itself {processor.name!r}"
    used = {*processor.inputs, *processor.tables, *processor.outputs}
    missing = sorted(topic.name for topic in used - set(agent.topics))
    assert not missing, f"{name}: topics lacks {', '.join(missing)}"
    unused = sorted(topic.name for topic in set(agent.topics) - used)
    assert not unused, f"{name}: topics has {', '.join(unused)}, which its processor neither reads nor writes"
    for topic in agent.topics:
        check_frame(topic.frame)
    for path in (agent.lines, agent.observe, *agent.scenes.values(), *agent.trainers.values(), *agent.logs.values()):
        assert not path or callable(load(path)), f"{name}: {path} cannot be called"
    if agent.options:
        options = load(agent.options)
        assert issubclass(options, ModuleOptions), f"{name}: {agent.options} is not a ModuleOptions"
        assert options.module == name, f"{name}: {agent.options} says that its module is {options.module!r}"
    if agent.commands:
        assert isinstance(load(agent.commands), typer.Typer), f"{name}: {agent.commands} is not a typer app"
    assert agent.examples, f"{name}: examples is not declared"
    records = load(agent.examples)()
    untried = sorted({topic.name for topic in processor.inputs} - {record.topic for record in records})
    check_processor(processor, records)
    assert not untried, f"{name}: no example of {', '.join(untried)}"
