"""Logged: decisions joined, policies in question, rows that make no sense, and files that read back equal."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn import decision
from qstream.learn.dsjson import from_dsjson, to_dsjson
from qstream.learn.evaluate import evaluate
from qstream.learn.logged import Logged, join, policy_of, policy_of_model, since, sound, warnings
from qstream.learn.model import Model
from qstream.learn.table import from_table, to_table


@pytest.fixture(scope="module")
def log() -> Logged:
    """400 decisions of which the second arm earns 1 and the first 0."""
    state, frames = decision.start(("fast", "exact"), ("one", "size"), rule="thompson"), []
    for number in range(400):
        name, size = str(number), number % 7 / 7
        state, decided, _ = decision.choose(state, [1.0, size], name, number, learn="on", explore=0.2)
        state, lines = decision.reward(state, name, float(decided.arm), number + 1, learn="on")
        frames.append(decision.log(state, lines, module="m", key="k", learner="c", reward_name="r", learn="on"))
    return join(frames)


@pytest.mark.parametrize(("policy", "worth"), [("arm:fast", 0.0), ("arm:exact", 1.0), ("uniform", 0.5)])
def test_the_worth_of_a_policy_that_was_not_followed_is_found(log: Logged, policy: str, worth: float):
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, policy_of(log, policy)).doubly_robust
    assert found.low <= worth <= found.high


def test_what_was_done_is_worth_what_it_earned(log: Logged):
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, policy_of(log, "logged"))
    assert found.ips.value == pytest.approx(found.logged)


def test_a_policy_that_does_not_exist_is_refused_by_name(log: Logged):
    with pytest.raises(
        LearnError, match=r"^policy must be one of arm:fast, arm:exact, uniform, logged, model:NAME@VERSION, got 'arm:none'$"
    ):
        policy_of(log, "arm:none")


ROWS = ("arm", "reward", "propensity", "expected", "context", "ts_ns")


def same(left: Logged, right: Logged) -> Iterator[str]:
    """The fields that are equal."""
    yield from (name for name in ROWS if np.array_equal(getattr(left, name), getattr(right, name)))
    yield from (name for name in ("id", "arm_names", "feature_names") if getattr(left, name) == getattr(right, name))


def test_dsjson_reads_back_equal_but_for_what_was_expected(log: Logged):
    again = from_dsjson(to_dsjson(log))
    assert set(Logged._fields[:9]) - set(same(again, log)) == {"expected"}
    assert not again.expected.any()
    assert warnings(again)[0].startswith("the log has no expected rewards")


def test_a_table_reads_back_equal_also_as_text(log: Logged):
    columns = to_table(log)
    assert set(same(from_table(columns), log)) == set(Logged._fields[:9])
    text = {name: [str(cell) for cell in column] for name, column in columns.items()}
    assert set(same(from_table(text), log)) == set(Logged._fields[:9])
    by_index = from_table(columns | {"arm": log.arm.tolist()})
    assert np.array_equal(by_index.arm, log.arm)


def test_a_line_of_dsjson_counts_from_1_and_has_the_chosen_action_first(log: Logged):
    row = int(np.flatnonzero(log.arm == 1)[0])
    line = json.loads(list(to_dsjson(log))[row])
    assert (line["_label_Action"], line["_labelIndex"], line["a"]) == (2, 1, [2, 1])
    assert line["_label_cost"] == -1
    assert line["p"] == [log.propensity[row, 1], log.propensity[row, 0]]
    assert line["_label_probability"] == line["p"][0]


def test_vowpal_wabbit_reads_the_same_actions_costs_and_probabilities(log: Logged):
    vw = pytest.importorskip("vowpalwabbit")
    workspace = vw.Workspace("--dsjson --cb_explore_adf --quiet")
    for row, line in list(enumerate(to_dsjson(log)))[:50]:
        shared, *actions = workspace.parse(line)
        kind = vw.LabelType.CONTEXTUAL_BANDIT
        labels = [(at, cost) for at, example in enumerate(actions) for cost in example.get_label(kind).costs]
        ((taken, cost),) = labels
        assert (len(actions), taken, cost.action) == (2, log.arm[row], log.arm[row] + 1)
        assert (cost.cost, cost.probability) == (-log.reward[row], np.float32(log.propensity[row, log.arm[row]]))
        seen = [shared.feature_weight("S", at) for at in range(shared.num_features_in("S"))]
        assert seen == [number for number in log.context[row] if number]  # it keeps no zeros
        workspace.finish_example([shared, *actions])
    workspace.finish()


@pytest.mark.parametrize("line", ['{"a": [1]}', "[]", "torn {", '{"c": {"_multi": [1]}}', "[" * 10_000])
def test_a_line_that_is_no_decision_is_counted_and_named(log: Logged, line: str):
    found = from_dsjson([next(to_dsjson(log)), line, ""])
    assert (len(found.id), found.damaged) == (1, 1)
    assert found.fault.startswith("line 2 must be a decision in DSJSON, got ")
    assert warnings(found)[0].startswith("left out as damaged: 1, the first: line 2")
    with pytest.raises(LearnError, match=r"^line 1 must be a decision in DSJSON, got "):
        from_dsjson([line])


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("_label_Action", 3, "_label_Action must be 1 to 2, got 3"),
        ("_label_cost", "much", "could not convert"),
        ("a", [1, 1], "a must be actions 1 to 2"),
        ("p", [0.5], "p must be 2 chances, got [0.5]"),
        ("Timestamp", "2500-01-01T00:00:00Z", "Timestamp must be from 1970 to 2262"),
    ],
)
def test_a_field_of_dsjson_that_is_wrong_is_named(log: Logged, field: str, value: object, named: str):
    first, second = list(to_dsjson(log))[:2]
    assert named in from_dsjson([first, json.dumps(json.loads(second) | {field: value})]).fault


@pytest.mark.parametrize(
    ("column", "cell", "named"),
    [
        ("arm", "slow", "arm must be one of fast, exact, got -1"),
        ("reward", "much", "reward must be a finite number, got nan"),
        ("reward", "inf", "reward must be a finite number, got inf"),
        ("propensity_fast", "0.7", "propensity must be chances that sum to 1"),
        ("propensity_fast", "-0.5", "propensity must be chances that sum to 1"),
        ("expected_exact", "", "expected must be finite numbers"),
        ("context_size", "nan", "context must be finite numbers"),
        ("ts_ns", "yesterday", "ts_ns must be 0 or more"),
    ],
)
def test_a_row_of_a_table_that_makes_no_sense_is_left_out_counted_and_named(log: Logged, column: str, cell: str, named: str):
    columns = to_table(since(log, 390))
    columns[column][2] = cell
    found = sound(from_table(columns))
    assert (len(found.id), found.damaged) == (9, 1)
    assert found.fault.startswith(f"decision '392': {named}")
    assert evaluate(*found[3:7], policy_of(found, "uniform")).decisions == 9


def test_an_arm_that_was_taken_with_propensity_0_makes_no_sense(log: Logged):
    few = since(log, 399)
    wrong = few._replace(propensity=np.eye(2)[1 - few.arm])
    with pytest.raises(LearnError, match=r"^log must be of one sound decision or more, got 1 damaged ones: decision '399': prop"):
        sound(wrong)


def test_decisions_without_a_reward_are_left_out_and_counted(log: Logged):
    columns = to_table(since(log, 390))
    for name, cells in (("reward", [None, "", float("nan")]), ("rewarded", [0, "0", 0.0])):
        found = from_table(columns | {name: [*cells, *columns.get(name, [1] * 10)[3:]]})
        assert (len(found.id), found.unrewarded, found.damaged) == (7, 3, 0)
    assert warnings(found)[0] == "left out without a reward: 3, next to 7 with one"


@pytest.mark.parametrize("missing", ["arm", "reward", "propensity_", "expected_fast"])
def test_a_table_without_a_column_is_refused_by_its_name(log: Logged, missing: str):
    columns = {name: column for name, column in to_table(log).items() if not name.startswith(missing)}
    with pytest.raises(LearnError, match=f"^table must be with a column {missing}"):
        from_table(columns)


def test_a_model_s_policy_is_the_softmax_of_its_outputs_by_the_names_of_features_and_arms(log: Logged):
    model = Model(
        module="m",
        name="choice",
        version=1,
        kind="ridge",
        arrays={"weight": np.array([[2.0], [0.0]]), "bias": np.zeros(2)},
        feature_names=("size",),
        config={"arms": "exact,fast"},
    )
    chances = policy_of_model(log, model)
    assert np.allclose(chances[:, 1], 1 / (1 + np.exp(-2 * log.context[:, 1])))
    assert np.allclose(chances.sum(1), 1)
    for changed, named in (
        ({"kind": "lstm"}, "model must be of kind mlp or ridge"),
        ({"feature_names": ("speed",)}, "log must be with the model's feature speed"),
        ({"config": {"arms": "exact"}}, "model must be of the arms fast, exact"),
        ({"arrays": {"weight": np.ones((3, 1)), "bias": np.zeros(3)}}, "model must be of 2 outputs"),
    ):
        with pytest.raises(LearnError, match=named):
            policy_of_model(log, dataclasses.replace(model, **changed))


def test_decisions_before_a_time_are_left_out(log: Logged):
    assert len(since(log, 390).id) == 10
    with pytest.raises(LearnError, match=r"^log must be of a decision since"):
        since(log, 1000)
