"""Registry: only whole models that fit are used, whatever comes in which order; a key pins, promotes and rejects versions."""

import numpy as np
import pytest

from qstream.learn import LearnError, registry, version
from qstream.learn.model import Model, parts
from qstream.learn.registry import Models, Registry, Want
from schemas.model import ModelPart
from schemas.topics import MODELS

WANT = Want(("mlp",), ("x", "y"), 1)


def model(number=1, *, name="next", module="meter", size=2, kind="mlp", features=("x", "y")):
    weights = {"0.weight": np.full((size, 2), number / 10), "0.bias": np.zeros(size)}
    weights |= {"1.weight": np.ones((1, size)), "1.bias": np.zeros(1)}
    return Model(module=module, name=name, version=number, kind=kind, arrays=weights, feature_names=features)


def rows(*models):
    return {part.part_key: part for one in models for part in parts(one)}


def retired(part):
    changes = {"retired": True, "data": np.zeros(0, np.uint8)}
    return ModelPart.build(**{name: getattr(part, name) for name in ModelPart.model_fields} | changes)


@pytest.fixture
def read():
    return Registry("meter", {"next": WANT}).taken


def test_parts_in_any_order_are_a_model_once_the_last_has_come(read):
    large = model(size=60_000)
    sent = rows(large)
    assert len(sent) > 1
    backwards = list(sent.items())[::-1]
    for count in range(1, len(sent)):
        found = read(dict(backwards[:count]))
        assert found.newest("next") is None
        assert found.refused == {"next/1": f"{count} of its {len(sent)} parts have come"}
    found = read(dict(backwards))
    assert found.newest("next") == 1
    np.testing.assert_array_equal(found.get("next", 1).arrays["0.weight"], large.arrays["0.weight"])


def test_a_model_is_assembled_once_and_other_modules_and_names_are_passed_over(read):
    first = read(rows(model(), model(2, module="energy"), model(3, name="other")))
    sent = rows(model())
    assert list(first.by_name) == ["next"]
    assert first.refused == {}
    found = read(sent)
    assert read(dict(sent) | rows(model(4))).get("next", 1) is found.get("next", 1)


def mixed():
    one, two = (list(rows(model(size=size)).values()) for size in (60_000, 60_001))
    return {part.part_key: part for part in (one[0], *two[1:])}


def wrong_hash():
    (part,) = rows(model()).values()
    changed = {name: getattr(part, name) for name in ModelPart.model_fields} | {"sha256": "0" * 64}
    return {part.part_key: ModelPart.build(**changed)}


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (mixed(), "of one file"),
        (wrong_hash(), "with its hash"),
        (rows(model(features=("y", "x"))), "feature_names must be x, y, got y, x"),
        (rows(model(kind="gru")), "kind must be mlp"),
        (rows(model(features=("x", "y", "z"))), "feature_names"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_logged_once_and_may_come_right(read, sent, named, caplog):
    for _ in range(3):
        found = read(sent)
        assert named in found.refused["next/1"]
        assert found.newest("next") is None
    assert len(caplog.messages) == 1
    assert read(rows(model())).newest("next") == 1


def test_a_model_whose_arrays_give_no_answer_is_refused():
    found = Registry("meter", {"next": Want(("mlp",), ("x", "y"), 3)}).taken(rows(model()))
    assert found.refused == {"next/1": "outputs of the model must be 3, got 1"}


def test_the_newest_versions_are_used_within_the_limits(read, monkeypatch):
    monkeypatch.setattr(registry, "MAX_VERSIONS", 3)
    found = read(rows(*(model(number) for number in range(1, 6))))
    assert sorted(found.by_name["next"]) == [3, 4, 5]
    assert sorted(found.refused) == ["next/1", "next/2"]
    monkeypatch.setattr(registry, "MAX_BYTES", 100)
    assert read(rows(model())).newest("next") is None


def test_a_retired_version_is_gone(read):
    sent = rows(model(1), model(2))
    sent["meter/next/2/0"] = retired(sent["meter/next/2/0"])
    found = read(sent)
    assert (found.newest("next"), found.get("next", 2), found.refused) == (1, None, {})
    assert MODELS.compacted
    assert MODELS.partitions == 1
    assert found.retired == {("next", 2)}


def in_use(*numbers):
    return Models({"next": {number: model(number) for number in numbers}})


def played(state, candidate, incumbent_loss, candidate_loss, until):
    for _ in range(10_000):
        state, verdict = version.compare(state, candidate, incumbent_loss, candidate_loss)
        if verdict == until:
            return state
    raise AssertionError(until)


def test_a_version_is_offered_promoted_and_rolled_back_and_never_offered_again():
    state, used = version.choose(version.start("next", bound=1.0), in_use())
    assert used == version.Used(None, False)
    state, used = version.choose(state, in_use(1))
    assert (used.model.version, used.answers, used.fallback_reason) == (1, False, "")
    state = played(state, used.candidate, 0.8, 0.2, "promote")
    state, used = version.choose(state, in_use(1))
    assert used.answers
    state = played(state, used.candidate, 0.2, 0.8, "rollback")
    state, used = version.choose(state, in_use(1))
    assert used == version.Used(None, False)
    state, used = version.choose(state, in_use(1, 2))
    assert (used.candidate, used.answers, state.rejected[-2:].tolist()) == ("next@2", False, [-1, 1])
    state, used = version.choose(state, in_use(1))
    assert used == version.Used(None, False, "", "model_missing")
    assert (state.guard.promotions, state.guard.rollbacks) == (1, 1)
    stored = version.VersionState.decode(state.encode())
    assert version.choose(stored, in_use(1, 3))[1].candidate == "next@3"


def test_a_pinned_version_that_is_retired_leaves_the_answer_to_the_incumbent_and_an_older_one_is_watched():
    state, used = version.choose(version.start("next", bound=1.0), in_use(1, 2))
    state = played(state, used.candidate, 0.8, 0.2, "promote")
    kept, used = version.choose(state, in_use())
    assert used == version.Used(None, False, "", "model_missing")
    assert kept.encode() == state.encode()
    assert version.choose(kept, in_use(1, 2))[1].answers
    state, used = version.choose(state, in_use(1))
    assert (used.candidate, used.answers, used.fallback_reason) == ("next@1", False, "model_missing")
    assert version.choose(state, in_use(1))[1].fallback_reason == ""


def test_losses_of_a_version_that_is_no_longer_pinned_change_nothing():
    state, old = version.choose(version.start("next", bound=1.0), in_use(1))
    state, _ = version.choose(state, in_use(1, 2))
    after, verdict = version.compare(state, old.candidate, 0.9, float("nan"))
    assert verdict == "wait"
    assert after is state
    assert version.compare(state, "", 0.9, 0.1)[0] is state


def test_a_version_set_by_hand_answers_unguarded_and_none_uses_no_model():
    state = version.start("next", bound=1.0)
    for option in (1, "1"):
        after, used = version.choose(state, in_use(1, 2), option)
        assert (used.model.version, used.answers, used.candidate) == (1, True, "")
        assert after is state
    assert version.choose(state, in_use(1), 7)[1] == version.Used(None, False, "", "model_missing")
    assert version.choose(state, in_use(1), "none") == (state, version.Used(None, False))
    with pytest.raises(LearnError, match="auto, none or the number of a version"):
        version.choose(state, in_use(1), "newest")


def test_a_nonsense_answer_retires_a_version_for_its_key_at_once():
    state, used = version.choose(version.start("next", bound=1.0), in_use(1))
    state, verdict = version.compare(state, used.candidate, 0.5, float("nan"))
    assert verdict == "trip"
    assert version.choose(state, in_use(1))[1].model is None
    state, used = version.choose(state, in_use(1, 2))
    assert version.choose(version.trip(state), in_use(1, 2))[1].model is None
