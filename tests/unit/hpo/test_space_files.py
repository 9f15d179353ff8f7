"""Spaces come from the files that users have, and each fault of one is named: parameter, rule and value."""

from __future__ import annotations

import json
import math
import re

import pytest

from qstream.errors import ProblemError
from qstream.hpo import SearchSpace
from qstream.hpo.formats.space_files import read_space, read_study
from schemas import FrameError
from schemas.hpo import StudySpec

SWEEP = """
program: train.py
method: bayes
name: small
run_cap: 40
metric: {name: val_loss, goal: maximize}
parameters:
  lr: {min: 1e-5, max: 1e-1, distribution: log_uniform_values}
  layers: {min: 1, max: 8}
  drop: {min: 0.0, max: 0.5}
  act: {values: [relu, gelu]}
  width: {values: [64, 128, 256]}
  epochs: {value: 10}
  optimizer:
    parameters:
      beta: {min: 0.8, max: 0.99}
"""


def ranges(parameter):
    return (parameter.type, parameter.low, parameter.high, parameter.scale, parameter.step)


def test_a_sweep_of_wandb_is_read_with_its_goal_and_cap(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    fields, ignored = read_study(path)
    by_name = {parameter.name: parameter for parameter in fields.pop("parameters")}
    assert fields == {"objective": "val_loss", "direction": "maximize", "max_trials": 40, "study": "small"}
    assert ignored == ("method", "program")
    assert list(by_name) == ["lr", "layers", "drop", "act", "width", "epochs", "optimizer.beta"]
    assert ranges(by_name["lr"]) == ("float", 1e-5, 0.1, "log", None)
    assert ranges(by_name["layers"]) == ("int", 1, 8, "linear", None)
    assert ranges(by_name["drop"]) == ("float", 0.0, 0.5, "linear", None)
    assert (by_name["act"].type, by_name["act"].choices) == ("categorical", ("relu", "gelu"))
    assert (by_name["width"].type, by_name["width"].choices) == ("ordinal", (64, 128, 256))
    assert by_name["epochs"].choices == (10,)
    assert SearchSpace.load(path).names == tuple(by_name)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"distribution": "int_uniform", "min": 1, "max": 3}, ("int", 1, 3, "linear", None)),
        ({"distribution": "uniform", "min": 0, "max": 1}, ("float", 0, 1, "linear", None)),
        ({"distribution": "q_uniform", "min": 3, "max": 21, "q": 5}, ("int", 5, 20, "linear", 5)),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, ("float", 0, 1, "linear", 0.25)),
        ({"distribution": "log_uniform", "min": 0, "max": 1}, ("float", 1, math.e, "log", None)),
        ({"distribution": "q_log_uniform", "min": 0, "max": 3}, ("int", 1, 20, "log", None)),
        ({"distribution": "q_log_uniform_values", "min": 0.2, "max": 0.9, "q": 0.1}, ("float", 0.2, 0.9, "log", 0.1)),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 1}, ("float", 1 / math.e, 1, "log", None)),
        ({"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10}, ("float", 0.1, 10, "log", None)),
        ({"distribution": "normal", "mu": 5, "sigma": 1}, ("float", 2, 8, "linear", None)),
        ({"distribution": "q_normal", "mu": 5, "sigma": 1, "q": 1}, ("int", 2, 8, "linear", None)),
        ({"distribution": "log_normal"}, ("float", math.exp(-3), math.exp(3), "log", None)),
        ({"distribution": "q_log_normal"}, ("int", 1, 20, "log", None)),
        ({"distribution": "beta", "a": 2, "b": 5}, ("float", 0, 1, "linear", None)),
        ({"distribution": "q_beta", "a": 2, "b": 5, "q": 0.5}, ("float", 0, 1, "linear", 0.5)),
    ],
)
def test_every_distribution_of_a_sweep_gives_its_range_and_scale(fields, expected):
    (parameter,) = read_space({"parameters": {"x": fields}})
    assert ranges(parameter) == pytest.approx(expected)
    assert SearchSpace([parameter]).size == 1


def test_distributions_of_optuna_are_read_as_objects_and_as_its_json():
    distributions = pytest.importorskip("optuna").distributions
    space = {
        "lr": distributions.FloatDistribution(1e-5, 0.1, log=True),
        "drop": distributions.FloatDistribution(0, 0.5, step=0.1),
        "layers": distributions.IntDistribution(1, 9, step=2),
        "act": distributions.CategoricalDistribution(("relu", "gelu")),
        "one": distributions.FloatDistribution(3, 3),
    }
    found = read_space(space)
    written = {name: distributions.distribution_to_json(distribution) for name, distribution in space.items()}
    assert read_space(written) == read_space({name: json.loads(text) for name, text in written.items()}) == found
    assert [ranges(parameter) for parameter in found[:3]] == [
        ("float", 1e-5, 0.1, "log", None),
        ("float", 0, 0.5, "linear", 0.1),
        ("int", 1, 9, "linear", 2),
    ]
    assert found[4].choices == (3.0,)


def test_names_of_optuna_s_first_distributions_are_known():
    old = {
        "a": {"name": "LogUniformDistribution", "attributes": {"low": 0.1, "high": 1.0}},
        "b": {"name": "DiscreteUniformDistribution", "attributes": {"low": 0.0, "high": 1.0, "q": 0.25}},
        "c": {"name": "IntLogUniformDistribution", "attributes": {"low": 1, "high": 64, "step": 1}},
    }
    assert [ranges(parameter) for parameter in read_space(old)] == [
        ("float", 0.1, 1.0, "log", None),
        ("float", 0.0, 1.0, "linear", 0.25),
        ("int", 1, 64, "log", None),
    ]


def test_our_own_form_is_read_from_a_list_a_mapping_json_and_yaml(tmp_path):
    listed = [
        {"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        {"name": "n", "type": "int", "low": 1, "high": 4},
    ]
    named = {"parameters": {fields["name"]: {k: v for k, v in fields.items() if k != "name"} for fields in listed}}
    for name, text in {
        "a.json": json.dumps(listed, indent="\t"),
        "b.yaml": "parameters:\n  lr: {type: float, low: 1e-5, high: 1E-1, scale: log}\n  n: {type: int, low: 1, high: 4}\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert SearchSpace.load(tmp_path / name) == SearchSpace.load(listed) == SearchSpace.load(named)
    assert read_study({"study": "s", "max_trials": 7, **named}).fields["max_trials"] == 7


X = {"name": "x", "type": "float", "low": 0, "high": 1}
HOSTILE = [
    ([X | {"low": 1}], "low of parameter 'x' must be below high, 1, got 1"),
    ([X | {"low": 2}], "low of parameter 'x' must be below high, 1, got 2"),
    ([X | {"scale": "log"}], "low of parameter 'x' must be above 0 with scale log, got 0"),
    ([X | {"type": "int", "scale": "log"}], "low of parameter 'x' must be above 0.5, half a step, with scale log, got 0"),
    ([X | {"high": None}], "high of parameter 'x' must be given with type float, got None"),
    ([X | {"type": "int", "high": 1.5}], "high of parameter 'x' must be a whole number of at most 2^53, got 1.5"),
    ([X | {"step": 3}], "step of parameter 'x' must be at most high - low, 1, got 3"),
    ([X | {"step": 0}], "step of parameter 'x' must be greater than 0, got 0"),
    ([X | {"step": 1e-12}], "step of parameter 'x' must be at least"),
    ([X | {"low": 1e9, "high": 1e9 + 1e-3}], "high of parameter 'x' must be at least 3.7"),
    ([X | {"low": -1.7e308, "high": 1.7e308}], "low of parameter 'x' must be at most 1e+300 in size, got -1.7e+308"),
    ([X | {"low": 0.0, "high": 5e-324}], "high of parameter 'x' must be at least 1e-300 above low, got 5e-324"),
    ([X | {"high": math.nan}], "high of parameter 'x' must be a finite number, got nan"),
    ([X | {"low": "0"}], "low of parameter 'x' must be"),
    ([X | {"default": 2}], "default of parameter 'x' must be a number from 0 to 1, got 2"),
    ([X | {"default": [1]}], "default of parameter 'x' must be"),
    ([X | {"choices": [1]}], "choices of parameter 'x' must be absent with type float, got 1 choices"),
    ([X | {"colour": 1}], "a field of parameter 'x' must be one of name, type, low"),
    ([X | {"type": "real"}], "type of parameter 'x' must be 'float', 'int', 'categorical' or 'ordinal', got 'real'"),
    ([{"type": "float"}], "name of parameter None must be given, got nothing"),
    ([X, X], "parameters must be of distinct names, got 'x' twice"),
    ([X | {"name": f"x{n}"} for n in range(65)], "length of parameters must be 1 to 64, got 65"),
    ([], "length of parameters must be 1 to 64, got 0"),
    ([3], "a parameter must be a mapping of its fields, got 3"),
    ([{"name": "c", "type": "categorical"}], "choices of parameter 'c' must be 1 to 256 values with type categorical, got None"),
    ([{"name": "c", "type": "ordinal", "choices": []}], "choices of parameter 'c' must be 1 to 256 values"),
    ([{"name": "c", "type": "categorical", "choices": [1, 1.0]}], "choices of parameter 'c' must be distinct, got 1.0 twice"),
    (
        [{"name": "c", "type": "categorical", "choices": [None]}],
        "choices of parameter 'c' must be booleans, finite numbers or texts",
    ),
    ([{"name": "c", "type": "categorical", "choices": [math.inf]}], "choices of parameter 'c' must be booleans, finite numbers"),
    ([X | {"when": {"parameter": "y", "values": [1]}}], "when of parameter 'x' must be about a parameter of the space, got 'y'"),
    ([X | {"when": {"parameter": "x", "values": [1]}}], "when of parameter 'x' must be about a parameter with choices or steps"),
    (
        [
            {"name": "a", "type": "categorical", "choices": [1, 2], "when": {"parameter": "b", "values": [1]}},
            {"name": "b", "type": "categorical", "choices": [1, 2], "when": {"parameter": "a", "values": [1]}},
        ],
        "when of parameter 'a' must be without a cycle, got a -> b -> a",
    ),
    (
        [X | {"when": {"parameter": "c", "values": ["z"]}}, {"name": "c", "type": "categorical", "choices": ["a"]}],
        "values of when of parameter 'x' must be one of 'a', got 'z'",
    ),
    ({"parameters": 3}, "parameters must be a list, or a mapping by name, got int"),
    ({"lr": 3}, "a space must be a mapping with parameters, distributions of Optuna by name"),
    ({"parameters": {"x": {"min": 1}}}, "parameter 'x' must be given a value, values, or min and max"),
    ({"parameters": {"x": {"min": 1, "max": "a"}}}, "max of parameter 'x' must be a finite number, got 'a'"),
    ({"parameters": {"x": {"distribution": "cauchy", "min": 1}}}, "distribution of parameter 'x' must be one of constant, cat"),
    (
        {"parameters": {"x": {"distribution": "q_uniform", "min": 1, "max": 2, "q": 0}}},
        "q of parameter 'x' must be above 0, got 0",
    ),
    (
        {"parameters": {"x": {"distribution": "log_uniform", "min": 1, "max": 1e6}}},
        "min and max of parameter 'x' must be exponents",
    ),
    ({"parameters": {"x": {"values": [{}]}}}, "choices of parameter 'x' must be booleans, numbers or texts, got {}"),
]


@pytest.mark.parametrize(("space", "message"), HOSTILE, ids=[message[:60] for _, message in HOSTILE])
def test_a_space_that_contradicts_itself_is_refused_by_parameter_rule_and_value(space, message):
    with pytest.raises(ProblemError, match=re.escape(message)):
        SearchSpace.load(space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "a file of a space must be JSON or YAML (while parsing"),
        ("parameters:\n  x: {min: 0, max: 1}\n  x: {min: 0, max: 2}\n", "keys of a mapping must be distinct, got 'x' twice"),
        ('{"x": 1, "x": 2}', "keys of a mapping must be distinct, got 'x' twice"),
        ("? [1]\n: 2\n", "keys of a mapping must be text, got"),
        ("!!python/object/apply:os.getcwd []", "a file of a space must be JSON or YAML (could not determine a constructor"),
        ("", "what a file of a space holds must be a mapping or a list, got None"),
        ("lr,loss\n1,2\n", "what a file of a space holds must be a mapping or a list, got 'lr,loss 1,2'"),
    ],
)
def test_a_file_that_is_no_space_says_why(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ProblemError, match=re.escape(message)):
        SearchSpace.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProblemError, match=r"a file of a space must be readable text \(.*No such file"):
        SearchSpace.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": ()}, "parameters must have at least 1 item"),
        (
            {"parameters": ({"name": "x", "type": "float", "low": 1, "high": 0},)},
            "low of parameter 'x' must be below high, 0, got 1",
        ),
        ({"max_trials": 10_001}, "max_trials must be less than or equal to 10000, got 10001"),
        ({"lease_s": 0.0}, "lease_s must be greater than 0, got 0.0"),
        ({"direction": "up"}, "direction must be 'minimize' or 'maximize', got 'up'"),
        ({"prior_value": None}, "prior_value must be given where prior_points are, and only there, got 0 values"),
        ({"prior_points": [[1.0, 2.0]] * 2}, "prior_points must be a number for each of 4 parameters, got 2 a row"),
        ({"limits": ({"metric": "loss", "value": 1.0},)}, "limits must be one a metric, none of the objective, got 'loss' again"),
        (
            {"options": {f"option-{n}": "x" * 400 for n in range(100)}},
            "a study without its prior must be at most 32768 bytes, got",
        ),
    ],
)
def test_a_study_that_contradicts_itself_is_refused_by_field_rule_and_value(fields, message):
    with pytest.raises(FrameError, match=re.escape(message)):
        StudySpec.build(**(dict(StudySpec.example()) | fields))
