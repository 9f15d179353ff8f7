"""Whatever a file of a space or of past metrics holds, it is read or refused by a ProblemError, never anything else."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.hpo import SearchSpace
from qstream.hpo.formats.past import read_csv
from qstream.hpo.formats.space_files import read_study
from schemas.hpo import StudySpec
from schemas.space import Parameter

SPACE = SearchSpace(StudySpec.example().parameters)
SWEEP = ["parameter", "parameters", "value", "values", "min", "max", "distribution", "q", "mu", "sigma", "metric"]
WORDS = st.sampled_from(
    [*Parameter.model_fields, *SWEEP, "q_uniform", "log_normal", "float", "int", "log", "FloatDistribution", "x"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=12
)
PARAMETER = st.fixed_dictionaries(
    {"name": WORDS | SCALARS, "type": st.sampled_from(["float", "int", "categorical", "ordinal"])},
    optional={
        "low": SCALARS,
        "high": SCALARS,
        "step": SCALARS,
        "scale": SCALARS,
        "choices": VALUES,
        "when": VALUES,
        "default": VALUES,
    },
)
SPACES = (
    VALUES | st.lists(PARAMETER, max_size=3) | st.fixed_dictionaries({"parameters": st.dictionaries(WORDS, VALUES, max_size=3)})
)
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(SPACES)
def test_any_values_are_a_space_or_refused(value):
    with contextlib.suppress(ProblemError):
        space = SearchSpace.load(value) if isinstance(value, list) else SearchSpace(read_study(value).fields["parameters"])
        params = space.decode(np.full(space.size, 0.5))
        assert space.decode(space.encode(params)) == params


@FUZZ
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value, default=str).encode()))
def test_any_bytes_are_a_file_of_a_space_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "space"
    path.write_bytes(data)
    with contextlib.suppress(ProblemError):
        SearchSpace.load(path)


CELLS = st.sampled_from(
    ["lr", "batch_size", "optimizer", "momentum", "loss", "1e-3", "32", "adam", "sgd", "", "nan", "-inf", '"', "\x00", "\r"]
)


@FUZZ
@given(
    st.binary(max_size=60)
    | st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=5).map(lambda lines: "\n".join(lines).encode())
    | st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=5).map(
        lambda lines: "\n".join(["lr,batch_size,optimizer,momentum,loss", *lines]).encode()
    ),
    st.sampled_from(["refuse", "drop"]),
)
def test_any_bytes_are_past_metrics_or_refused(tmp_path_factory, data, on_bad):
    path = tmp_path_factory.getbasetemp() / "past"
    path.write_bytes(data)
    with contextlib.suppress(ProblemError):
        for params, value in read_csv(path, SPACE, on_bad=on_bad).rows:
            assert value == value
            SPACE.encode(params)


@pytest.mark.parametrize(
    "data",
    [b"x" * 200_000, b"[" * 5_000, b"a: &a [*a]", b"{}", b"a: 2024-01-01", b"lr: .nan", b"a: 2024-13-45", b"9" * 5_000],
    ids=["long", "deep", "recursive", "empty", "date", "nan", "no date", "digits"],
)
def test_files_that_are_made_to_break_readers_are_refused(tmp_path, data):
    path = tmp_path / "space"
    path.write_bytes(data)
    with pytest.raises(ProblemError):
        SearchSpace.load(path)
    with pytest.raises(ProblemError):
        read_csv(path, SPACE)
