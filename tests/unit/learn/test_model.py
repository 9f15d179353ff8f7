"""Model: what is put into parts comes out of them, and of any other parts nothing does."""

import subprocess
import sys

import numpy as np
import pytest

from qstream.learn import LearnError
from qstream.learn.model import Model, assemble, from_bytes, parts, to_bytes
from schemas.frame import JSON, FrameError
from schemas.model import MAX_PART_BYTES, ModelPart


def model(version=7, size=500_000, **changes):
    arrays = {"0.weight": np.random.default_rng(abs(version)).normal(size=(1, size)).astype(np.float32), "0.bias": np.zeros(1)}
    described = {"config": {"activation": "tanh"}, "metrics": {"error": 0.3, "error_twin": 0.4}, "trained_on": ("log@0-9",)}
    return Model(
        **{"module": "m", "name": "n", "version": version, "kind": "mlp", "arrays": arrays, "feature_names": ("x",)}
        | described
        | changes
    )


def test_a_model_of_several_parts_is_the_same_in_any_order_and_with_repeats():
    made = model()
    sent = [ModelPart.decode(part.encode()) for part in parts(made)]
    assert [len(part.data) for part in sent[:-1]] == [MAX_PART_BYTES] * (len(sent) - 1)
    assert [part.part_key for part in sent] == [f"m/n/7/{number}" for number in range(3)]
    found = assemble([*sent[::-1], sent[1]])
    assert to_bytes(found) == to_bytes(made)
    assert (found.config, found.metrics, found.trained_on) == (made.config, made.metrics, made.trained_on)
    np.testing.assert_array_equal(found.arrays["0.weight"], made.arrays["0.weight"])


def test_equal_models_give_equal_bytes_whatever_the_order_of_their_arrays():
    made = model(size=4)
    turned = model(size=4, arrays=dict(reversed(made.arrays.items())), config=dict(reversed(made.config.items())))
    assert to_bytes(made) == to_bytes(turned)


def with_changes(part, /, **changes):
    return ModelPart.build(**{name: getattr(part, name) for name in ModelPart.model_fields} | changes)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda sent, other: [], "none"),
        (lambda sent, other: sent[:1] + sent[2:], "none with number 1"),
        (lambda sent, other: sent[:2] + other[2:], "m/n/8/2"),
        (lambda sent, other: [*sent[:2], with_changes(sent[2], retired=True)], "retired"),
        (lambda sent, other: [*sent[:2], with_changes(sent[2], data=sent[2].data[::-1].copy())], "hash"),
        (lambda sent, other: [*sent[:2], with_changes(sent[2], data=sent[2].data[:-1])], "bytes"),
        (lambda sent, other: [with_changes(part, kind="sage") for part in sent], "described"),
        (lambda sent, other: [with_changes(part, sha256="0" * 64) for part in sent], "hash"),
        (lambda sent, other: [*sent[:2], with_changes(sent[2], sha256="0" * 64)], "of one file"),
    ],
)
def test_parts_that_are_missing_mixed_retired_or_spoilt_give_no_model(spoil, named):
    with pytest.raises(LearnError, match=named):
        assemble(spoil(parts(model()), parts(model(8))))


@pytest.mark.parametrize(
    "data", [b"", b"no model", to_bytes(model(size=2))[:-1], to_bytes(model(size=2)).replace(b"qstream", b"another")]
)
def test_other_bytes_are_no_model(data):
    with pytest.raises(LearnError, match="safetensors file"):
        from_bytes(data)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"module": "a/b"}, "module"),
        ({"version": -1}, "version"),
        ({"kind": "tree"}, "kind"),
        ({"feature_names": ()}, "feature_names"),
        ({"arrays": {}}, "arrays"),
        ({"arrays": {"w": np.array([np.nan])}}, r"arrays\['w'\]"),
        ({"arrays": {"w": np.array([1])}}, r"arrays\['w'\]"),
    ],
)
def test_a_bad_model_is_named(changes, named):
    with pytest.raises(LearnError, match=rf"^{named} must be "):
        model(**changes)


def test_a_model_too_large_for_the_topic_is_refused():
    with pytest.raises(LearnError, match="at most 16777216 bytes"):
        parts(model(size=5_000_000))


def test_the_arrays_of_a_model_cannot_be_written_to():
    made = model(size=2)
    with pytest.raises(ValueError, match="read-only"):
        made.arrays["0.bias"][0] = 1
    with pytest.raises(TypeError):
        made.arrays["0.bias"] = np.ones(1)


def test_a_part_in_both_forms_is_equal_and_names_a_wrong_key():
    part = ModelPart.example()
    assert ModelPart.decode(part.encode(JSON), JSON) == ModelPart.decode(part.encode()) == part
    with pytest.raises(FrameError, match="part_key must be"):
        with_changes(part, version=1)
    with pytest.raises(FrameError, match="part must be below 1"):
        with_changes(part, part=1, part_key="energy/forecast/1700000000000/1")


def test_learners_and_models_are_imported_without_what_trains_them():
    code = """
import sys
from qstream.learn import bandit, evaluate, guard, model, policy
print(*{"torch", "scipy.stats", "pandas", "sklearn", "pennylane"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
