"""The command's face: help, versions, exit codes and the line that an error leaves."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import typer
from confluent_kafka import KafkaError, KafkaException
from typer.testing import CliRunner

from agents.names import agent_names
from agents.registry import Agent, find_agent
from qstream import __version__
from qstream.cli.ending import ended_well
from qstream.cli.main import VERBS, app
from qstream.cli.modules import only_shared
from qstream.errors import ConfigError, DeliveryFailed, Fatal, Fenced, OptionError, StoreUnavailable, Transient
from qstream.install import install_hint
from schemas.frame import FrameError

LEARN = ("show", "reset", "freeze", "thaw", "export", "import", "evaluate", "log")
SUBCOMMANDS = {"learn": LEARN, "topics": ("list", "apply"), "dlq": ("list", "show", "redrive"), "routing": ("place", "route")} | {
    "hpo": ("create", "change", "worker", "show", "history", "suggest", "replay", "restore", "mlflow")
}
COMMANDS = [*VERBS, *agent_names()]
ALL = [[name] for name in COMMANDS] + [[name, sub] for name, subs in SUBCOMMANDS.items() for sub in subs]


def invoke(*words: str, **environment: str):
    return CliRunner().invoke(app, list(words), env={"QSTREAM_BOOTSTRAP_SERVERS": None, "QSTREAM_REDIS_URL": None, **environment})


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_help_of_each_command_shows_an_example_of_itself(words):
    result = invoke(*words, "--help")
    assert result.exit_code == 0, result.output
    _, _, example = result.stdout.partition("Example:\n")
    own = f"qstream run {words[0]}" if words[0] in agent_names() and not find_agent(words[0]).commands else f"qstream {words[0]}"
    assert own in example.partition("Options:")[0]


def test_the_help_lists_every_command_and_needs_none_of_their_modules():
    show = "print(sorted(sys.modules), file=sys.stderr)"
    code = f"import sys\nfrom qstream.cli.main import app\ntry:\n app(['--help'])\nfinally:\n {show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    for heavy in ("numpy", "confluent_kafka", "faust", "numba", "pydantic", "torch"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.parametrize("words", [[], *([name] for name in SUBCOMMANDS)], ids=" ".join)
def test_no_summary_in_a_list_of_commands_is_cut(words):
    _, _, commands = invoke(*words, "--help").stdout.partition("Commands:\n")
    assert commands
    assert "..." not in commands


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_of_the_table_is_a_typer_app(name):
    module, _, attribute = VERBS[name][0].partition(":")
    assert isinstance(getattr(importlib.import_module(f"qstream.cli.{module}"), attribute), typer.Typer)


def test_no_module_has_the_name_of_a_shared_verb():
    assert not set(VERBS) & set(agent_names())


def test_a_module_without_commands_says_what_works_with_it():
    cooling = Agent(name="cooling", purpose="sets the pumps", topics=(), processor=lambda settings: None)
    result = CliRunner().invoke(only_shared(cooling), ["--help"])
    assert result.exit_code == 0
    assert "The cooling module sets the pumps." in result.stdout
    assert "qstream run cooling" in result.stdout


def test_the_version_is_the_package_version():
    assert invoke("--version").stdout == f"qstream {__version__}\n"


def test_an_unknown_command_is_wrong_usage():
    result = invoke("optimise")
    assert result.exit_code == 2
    assert "optimise" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("port must be 1 to 9, got 0"), 2),
        (OptionError("no option 'x'"), 2),
        (FrameError("model: got 3"), 1),
        (Transient("later"), 1),
        (DeliveryFailed("3 records"), 1),
        (StoreUnavailable("redis"), 1),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), 1),
        (FileNotFoundError(2, "No such file", "x"), 1),
        (Fatal("corrupt"), 70),
        (Fenced("a newer worker"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_is_no_bug_ends_with_its_code_and_one_line_on_stderr(error, code, capsys):
    def fail() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        ended_well(fail)
    assert ended.value.exit_code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        ended_well(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nonesuch"], f"agent must be one of {', '.join(agent_names())}, got 'nonesuch'"),
        (["run", "routing", "-b", "embedded", "--redis", "embedded", "--delivery", "exactly_once"], "no transactions"),
        (["run", "routing"], "bootstrap_servers or QSTREAM_BOOTSTRAP_SERVERS must be the address of a server"),
        (["run", "routing", "-b", "embedded"], "redis_url or QSTREAM_REDIS_URL must be the address of a server"),
        (["run", "routing", "--redis", "@/nowhere/url"], "--redis must be a URL, or @ and the path of a file"),
        (["run", "routing", "--delivery", "twice"], "delivery"),
        (["run", "routing", "--group-protocol", "new"], "group_protocol"),
        (["run", "routing", "--port", "70000"], "port"),
        (["run", "routing", "--worker-id", "a b"], "worker_id"),
        (["run", "routing", "--loglevel", "loud"], "DEBUG, INFO"),
        (["run", "routing", "--set", "nonesuch=1"], "nonesuch"),
        (["run", "routing", "--set", "min_gain=7"], "min_gain"),
        (["run", "routing", "--set", "min_gain"], "OPTION=VALUE"),
        (["run", "routing", "--set", "min_gain=1e999"], "finite"),
        (["control", "routing", "--set", "min_gain=-1e999"], "finite"),
        (["demo", "--json", "/nonexistent/x.json"], "/nonexistent/x.json"),
        (["demo", "energy", "--json", "--source", "x"], "one of nvml for the scene energy, got 'x'"),  # --json without a file
        (["demo", "--json", "energy", "--source", "x"], "one of nvml for the scene energy, got 'x'"),
        (["demo", "nonesuch"], "SCENE must be one of compression, energy, hpo, nvlink, routing, learn, got 'nonesuch'"),
        (["watch", "nonesuch"], "qstream.tokens.batch.v1"),
        (["publish", "-", "--topic", "dlq"], "must be the name of one topic or a part of it"),
        (["dlq", "list", "--agent", "nonesuch"], "routing"),
        (["dlq", "redrive"], "--all"),
        (["dlq", "redrive", "some/0/1", "--all"], "--all"),
        (["control", "nonesuch"], "routing"),
        (["control", "routing", "--pause", "--resume"], "--resume"),
        (["control", "routing", "--set", "seed=1", "--unset", "seed"], "seed"),
        (["control", "routing", "--show", "--pause"], "--show"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_word_is_named_before_any_server_is_asked(words, message):
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_of_the_environment_is_named_by_name():
    result = invoke("topics", "list", QSTREAM_PORT="many")
    assert result.exit_code == 2
    assert "port" in result.stderr


def test_the_registry_is_shown_without_a_broker():
    result = invoke("topics", "list", "--registry")
    assert result.exit_code == 0
    assert "qstream.placement.plan.v1" in result.stdout
    assert "PlacementPlan.v1" in result.stdout


def test_a_demo_that_does_not_run_leaves_the_file_of_its_figures_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "qstream.demo.routing.scene", raising=False)
    monkeypatch.delitem(sys.modules, "qstream.demo.model", raising=False)
    kept = tmp_path / "kept.json"
    kept.write_text("{}")
    for path in (tmp_path / "new.json", kept):
        result = invoke("demo", "--json", str(path))
        assert result.exit_code == 2
        assert install_hint("demo") in result.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept.json", "{}")]


def test_the_demo_without_torch_says_how_to_install_it():
    block = "import sys\nsys.modules['torch'] = None\nfrom qstream.cli.main import app\napp(['demo', '--seconds', '1'])"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert install_hint("demo") in done.stderr
    assert "Traceback" not in done.stderr
