"""Unseen tasks: the network beats its twin where links tell, the twin answers elsewhere, and no prediction passes a bound."""

import subprocess
import sys

import numpy as np
import pytest

from qstream.energy import features, unseen
from qstream.energy.train_gnn import heap, lessons, train_gnn
from qstream.errors import LearnError
from qstream.learn.model import from_bytes, parts, to_bytes
from qstream.learn.registry import Registry
from schemas.solver import Reason
from schemas.tasks import TaskGraph
from tests.unit.energy.pipelines import graph, pair

GRAPHS = [graph(seed) for seed in range(100)]


@pytest.fixture(scope="module")
def trained():
    return train_gnn(GRAPHS, seed=0, deadline_s=600)


def test_where_tasks_share_what_they_work_on_the_network_beats_its_twin_on_graphs_kept_apart(trained):
    model, report = trained
    assert report.loss.value <= (1 - unseen.GAIN) * report.loss_twin.value
    assert report.beats_twin
    assert report.twin == "boosted trees"
    assert report.held_out == 25
    assert unseen.answers(model) == "network"
    assert unseen.reason(model) is None
    declared, came = pair(500)
    hidden = ~features.measured(declared)
    own = unseen.error(unseen.predict(model, declared), features.curves(came))[hidden].mean()
    assert own < 0.5 * unseen.declared_error(declared, features.curves(came))[hidden].mean()


def test_a_network_that_gains_too_little_leaves_the_answer_to_its_twin():
    model, report = train_gnn(GRAPHS, seed=0, deadline_s=600, rounds=0)
    assert not report.beats_twin
    assert unseen.reason(model) is Reason.TWIN_IS_BETTER
    declared, _ = pair(500)
    x, link = features.columns(declared, features.measured(declared), unseen.categories(model)), features.links(declared)
    assert (unseen.predict(model, declared) == unseen.twin_curves(model, x, link)).all()


def test_the_trees_answer_in_numpy_as_they_do_in_scikit_learn():
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    trees = ensemble.GradientBoostingRegressor(n_estimators=12, max_depth=unseen.DEPTH, random_state=0).fit(x, x[:, 0] * x[:, 1])
    inner, leaves = 2**unseen.DEPTH - 1, 2**unseen.DEPTH
    feature, threshold, value = np.zeros((1, 12, inner)), np.zeros((1, 12, inner)), np.zeros((1, 12, leaves))
    for at, tree in enumerate(trees.estimators_[:, 0]):
        heap(tree.tree_, feature[0, at], threshold[0, at], value[0, at], trees.learning_rate)
    said = unseen.boosted(x, feature, threshold, value)[:, 0] + trees.init_.constant_.item()
    np.testing.assert_allclose(said, trees.predict(x), rtol=1e-5, atol=1e-6)


def test_a_prediction_only_lowers_what_was_declared_and_leaves_what_was_measured(trained):
    model, _ = trained
    for seed in range(500, 520):
        declared, _ = pair(seed)
        said, seen = unseen.with_predictions(declared, model), features.measured(declared)
        assert (said.duration <= declared.duration).all()
        assert (said.power_w <= declared.power_w).all()
        assert (said.duration[seen] == declared.duration[seen]).all()
        assert ((said.duration > 0) == (declared.duration > 0)).all()
        TaskGraph.decode(said.encode())
    assert unseen.with_predictions(graph(7), model) == graph(7)


def test_the_slots_that_are_predicted_are_enough_for_most_tasks(trained):
    model, _ = trained
    enough = []
    for seed in range(500, 540):
        declared, came = pair(seed)
        said, hidden = unseen.with_predictions(declared, model), ~features.measured(declared)
        enough += (said.duration >= came.duration)[hidden, 0].tolist()
    assert np.mean(enough) > 0.85


def test_equal_graphs_give_equal_models_that_a_registry_takes_and_a_graph_that_came_again_counts_once(trained):
    again, _ = train_gnn([GRAPHS[0], *GRAPHS], seed=0, deadline_s=600)
    assert to_bytes(again) == to_bytes(trained[0])
    model = from_bytes(to_bytes(trained[0]))
    models = Registry("energy", {unseen.NAME: unseen.WANT}).taken({part.part_key: part for part in parts(model)})
    assert models.get(unseen.NAME, 0) is not None


def test_a_hidden_task_is_not_among_what_the_model_sees():
    for lesson in lessons(GRAPHS[:3], features.COLUMNS[:1], 0):
        assert not lesson.x[lesson.hidden][:, features.COLUMNS.index("known") :].any()
        assert lesson.hidden.any()


def test_a_model_with_too_few_graphs_is_not_trained():
    with pytest.raises(LearnError, match="20 or more TaskGraphs with two measured tasks, got 19"):
        train_gnn(GRAPHS[:19], seed=0, deadline_s=1)


def test_an_agent_starts_and_answers_without_torch_and_scikit_learn(trained, tmp_path):
    model, frame = tmp_path / "model.safetensors", tmp_path / "graph.safetensors"
    model.write_bytes(to_bytes(trained[0]))
    frame.write_bytes(pair(500)[0].encode())
    program = f"""
import sys
sys.modules.update(torch=None, sklearn=None)
from pathlib import Path
from qstream.energy import unseen
from qstream.energy.processor import EnergyProcessor
from qstream.learn.model import from_bytes
from schemas.tasks import TaskGraph
EnergyProcessor().warm()
graph = TaskGraph.decode(Path({str(frame)!r}).read_bytes())
print(unseen.with_predictions(graph, from_bytes(Path({str(model)!r}).read_bytes())).duration.sum())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == unseen.with_predictions(pair(500)[0], trained[0]).duration.sum()
