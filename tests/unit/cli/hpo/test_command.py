"""A trial's command: values become words of their own, and what only a shell could run is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.cli.hpo.command import parse_command, require_choices, require_names
from qstream.errors import ConfigError

FACTS = {"trial": 7, "slot": 2}


def test_values_are_words_whatever_they_hold():
    command = parse_command("python train.py --lr {lr} --note '{note}' --out runs/{trial}/{slot}")
    words, variables = command.filled({"lr": 0.001, "note": "a b; rm -rf $HOME"}, FACTS)
    assert words == ["python", "train.py", "--lr", "0.001", "--note", "a b; rm -rf $HOME", "--out", "runs/7/2"]
    assert variables == {}


def test_switches_and_integers_are_written_as_in_json():
    words, _ = parse_command("t {flag} {batch} {tiny}").filled({"flag": True, "batch": 32, "tiny": 1e-7}, {})
    assert words == ["t", "true", "32", "1e-07"]


def test_variables_before_the_program_are_set_for_it():
    words, variables = parse_command("CUDA_VISIBLE_DEVICES={slot} MODE='a b' python t.py").filled({}, FACTS)
    assert (words, variables) == (["python", "t.py"], {"CUDA_VISIBLE_DEVICES": "2", "MODE": "a b"})


def test_double_braces_are_braces():
    words, _ = parse_command("""t --json '{{"lr": {lr}}}'""").filled({"lr": 0.5}, {})
    assert words == ["t", "--json", '{"lr": 0.5}']


def test_args_are_all_parameters():
    words, _ = parse_command("t {args} --last").filled({"lr": 0.5, "act": "a b"}, FACTS)
    assert words == ["t", "--lr=0.5", "--act=a b", "--last"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cd x && python t.py", "no shell reads them"),
        ("python t.py > out", "no shell reads them"),
        ("python t.py --out $SCRATCH/x", "no shell reads them"),
        ("A=1", "no shell reads them"),
        ("", "no shell reads them"),
        ("python 'x", "closed quotes"),
        ("t '{\"lr\": {lr}}'", "{{ or }} for a brace"),
        ("t {lr", "{{ or }} for a brace"),
    ],
)
def test_what_a_command_cannot_be_is_named(text: str, rule: str):
    with pytest.raises(ConfigError, match="--command must be") as caught:
        parse_command(text)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("t {lrr}", r"a placeholder of --command must be a parameter \(lr, momentum\) .*, got \{lrr\}"),
        ("t {momentum}", "every trial has"),
        ("t --all={args}", "a word of its own"),
    ],
)
def test_a_placeholder_that_no_trial_can_fill_is_named_before_the_first(text: str, rule: str):
    with pytest.raises(ConfigError, match=rule):
        require_names(parse_command(text), ["lr", "momentum"], ["momentum"])


def test_a_shell_is_given_plain_values_only():
    command = parse_command("sh -c 'cd $TMPDIR && python t.py --act {act} --lr {lr}'")
    assert command.filled({"act": "gelu", "lr": 1e-3}, {})[0][2] == "cd $TMPDIR && python t.py --act gelu --lr 0.001"
    require_choices(command, {"act": ("gelu", True), "unused": ("$(reboot)",)})
    with pytest.raises(ConfigError, match="a value of act must be letters"):
        require_choices(command, {"act": ("gelu", "$(reboot)")})
    with pytest.raises(ConfigError, match="a value of act must be letters"):
        command.filled({"act": "x y", "lr": 1.0}, {})


@given(st.text(), st.text())
def test_no_value_adds_or_removes_a_word(first: str, second: str):
    words, _ = parse_command("t {a} --b={b}").filled({"a": first, "b": second}, {})
    assert words == ["t", first, f"--b={second}"]
