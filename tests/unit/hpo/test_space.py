"""Configurations and points of the unit cube are one to one, in every kind of space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.hpo import SearchSpace
from schemas.space import Parameter, When

FLOAT = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def parameters(draw, name="x"):
    """One parameter of any kind."""
    kind = draw(st.sampled_from(["float", "int", "categorical", "ordinal"]))
    if kind in ("categorical", "ordinal"):
        scalars = st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=3)
        choices = draw(
            st.lists(scalars, min_size=1, max_size=6, unique_by=lambda v: (isinstance(v, bool), isinstance(v, str), v))
        )
        return Parameter(name=name, type=kind, choices=tuple(choices))
    log = draw(st.booleans())
    if kind == "int":
        low = draw(st.integers(1 if log else -(10**6), 10**6))
        return Parameter(name=name, type=kind, low=low, high=low + draw(st.integers(1, 10**9)), scale="log" if log else "linear")
    low = draw(st.floats(1e-9, 10) if log else st.floats(-1e3, 1e3))
    high = low * draw(st.floats(1.001, 1e9)) if log else low + draw(st.floats(1e-3, 1e3))
    step = draw(st.none() | st.floats((high - low) / 1000, (high - low) / 3))
    if log and step is not None and low <= step / 2:
        step = None
    return Parameter(name=name, type=kind, low=low, high=high, scale="log" if log else "linear", step=step)


def tree() -> SearchSpace:
    """An optimizer with a switch below one of its values, and parameters below those."""
    return SearchSpace(
        [
            Parameter(
                name="beta", type="float", low=0.5, high=0.99, when=When(parameter="nesterov", values=(True,)), default=0.9
            ),
            Parameter(name="optimizer", type="categorical", choices=("adam", "sgd", "lion")),
            Parameter(
                name="nesterov", type="categorical", choices=(False, True), when=When(parameter="optimizer", values=("sgd",))
            ),
            Parameter(name="layers", type="int", low=1, high=4),
            Parameter(name="last", type="ordinal", choices=(8, 16), when=When(parameter="layers", values=(3, 4))),
        ]
    )


@settings(max_examples=200, deadline=None)
@given(parameters(), st.floats(0, 1))
def test_a_point_comes_back_as_the_middle_of_its_cell_and_stays_there(parameter, u):
    space = SearchSpace([parameter])
    params = space.decode(np.array([u]))
    unit = space.encode(params)
    assert space.decode(unit) == params
    assert type(space.decode(unit)["x"]) is type(params["x"])
    np.testing.assert_array_equal(space.snap(np.array([[u]]))[0], unit)
    np.testing.assert_array_equal(space.snap(unit[None])[0], unit)
    back, inside = space.from_points(space.to_points(unit[None]))
    assert inside.all()
    np.testing.assert_allclose(back[0], unit, atol=2**-20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_conditional_parameters_are_there_only_under_their_condition(point):
    space = tree()
    unit = np.array(point)
    params = space.decode(unit)
    assert ("nesterov" in params) == (params["optimizer"] == "sgd")
    assert ("beta" in params) == (params.get("nesterov") is True)
    assert ("last" in params) == (params["layers"] in (3, 4))
    np.testing.assert_array_equal(space.encode(params), space.snap(unit[None])[0])
    if "beta" not in params:
        assert space.snap(unit[None])[0, 0] == pytest.approx((0.9 - 0.5) / 0.49, abs=2**-20)


def test_the_number_of_configurations_is_that_of_an_enumeration():
    space = SearchSpace([p for p in tree().parameters if p.name != "beta"])
    grid = np.stack(np.meshgrid(*[np.linspace(0.01, 0.99, 13)] * 4), -1).reshape(-1, 4)
    assert space.cardinality == len(set(space.keys(grid))) == (2 + 2) * (2 + 2 * 2)
    assert space.discrete
    assert tree().cardinality is None


def test_two_choices_are_at_distance_one_and_share_a_length_scale():
    space = tree()
    points = np.full((3, 5), 0.5)
    points[:, 1] = (0.1, 0.5, 0.9)
    features = space.features(points)
    assert space.groups.tolist() == [0, 1, 1, 1, 2, 3, 4]
    assert features.shape == (3, 7)
    assert ((features[0, 1:4] - features[2, 1:4]) ** 2).sum() == pytest.approx(1.0)


def test_values_have_no_more_digits_than_tell_them_apart():
    space = SearchSpace([Parameter(name="lr", type="float", low=1e-5, high=0.1, scale="log")])
    assert space.decode(np.array([0.0])) == {"lr": 1e-5}
    assert space.decode(np.array([0.5])) == {"lr": 0.001}
    assert len(repr(space.decode(np.array([0.123456]))["lr"])) <= 13


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "parameter 'optimizer' must be one of 'adam', 'sgd', 'lion', got nothing"),
        ({"optimizer": "sgd", "layers": 1}, "parameter 'nesterov' must be one of False, True, got nothing"),
        ({"optimizer": "adam", "layers": 9}, "parameter 'layers' must be a whole number from 1 to 4, got 9"),
        ({"optimizer": "adam", "layers": True}, "parameter 'layers' must be a whole number from 1 to 4, got True"),
        ({"optimizer": "adam", "layers": 1, "lr": 1}, "a parameter must be one of beta, optimizer"),
        ({"optimizer": "sgd", "nesterov": 1, "layers": 1}, "parameter 'nesterov' must be one of False, True, got 1"),
    ],
)
def test_a_configuration_that_is_not_of_the_space_is_refused_by_name(params, message):
    with pytest.raises(ProblemError, match=message):
        tree().encode(params)
