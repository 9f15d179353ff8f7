"""Policy: numpy gives what PyTorch gives, and a model that does not fit its input is named."""

import numpy as np
import pytest
import torch

from qstream.learn import LearnError, policy
from qstream.learn.model import Model


def model(kind, arrays, features, **config):
    names = tuple(f"f{i}" for i in range(features))
    return Model(module="m", name="n", version=1, kind=kind, arrays=arrays, feature_names=names, config=config)


def weights(layer, **names):
    return {ours: getattr(layer, theirs).detach().numpy() for ours, theirs in names.items()}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_perceptron_equals_torch(activation):
    torch.manual_seed(0)
    first, second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
    arrays = weights(first, **{"0.weight": "weight", "0.bias": "bias"}) | weights(
        second, **{"1.weight": "weight", "1.bias": "bias"}
    )
    x = torch.randn(5, 4)
    expected = second(getattr(torch, activation)(first(x))).detach().numpy()
    np.testing.assert_allclose(policy.mlp(model("mlp", arrays, 4, activation=activation), x.numpy()), expected, rtol=0, atol=1e-5)


def test_an_lstm_equals_torch_step_by_step():
    torch.manual_seed(0)
    cell, head = torch.nn.LSTM(3, 6, batch_first=True), torch.nn.Linear(6, 2)
    arrays = weights(cell, weight_ih="weight_ih_l0", weight_hh="weight_hh_l0") | weights(
        head, **{"head.weight": "weight", "head.bias": "bias"}
    )
    arrays["bias"] = (cell.bias_ih_l0 + cell.bias_hh_l0).detach().numpy()
    x = torch.randn(4, 20, 3)
    expected = head(cell(x)[0]).detach().numpy()
    made, carry = model("lstm", arrays, 3), None
    for t in range(20):
        y, carry = policy.lstm(made, x[:, t].numpy(), carry)
        np.testing.assert_allclose(y, expected[:, t], rtol=0, atol=1e-5)
    assert carry.shape == (2, 4, 6)


def test_graph_sage_equals_its_definition_with_a_matrix():
    rng = np.random.default_rng(0)
    arrays = {
        "0.own.weight": rng.normal(size=(4, 3)),
        "0.neighbour.weight": rng.normal(size=(4, 3)),
        "0.bias": rng.normal(size=4),
    }
    arrays |= {
        "1.own.weight": rng.normal(size=(2, 4)),
        "1.neighbour.weight": rng.normal(size=(2, 4)),
        "1.bias": rng.normal(size=2),
    }
    x, edges = rng.normal(size=(5, 3)), np.array([[0, 1, 2, 2], [1, 2, 1, 3]])
    mean = np.zeros((5, 5))
    mean[edges[1], edges[0]] = 1
    mean /= np.maximum(mean.sum(1, keepdims=True), 1)
    h = np.maximum(x @ arrays["0.own.weight"].T + mean @ x @ arrays["0.neighbour.weight"].T + arrays["0.bias"], 0)
    expected = h @ arrays["1.own.weight"].T + mean @ h @ arrays["1.neighbour.weight"].T + arrays["1.bias"]
    np.testing.assert_allclose(policy.sage(model("sage", arrays, 3), x, edges), expected, rtol=1e-12)
    np.testing.assert_allclose(policy.sage(model("sage", arrays, 3), x, edges[:, [3, 1, 0, 2]]), expected, rtol=1e-12)


MLP = {"0.weight": np.ones((2, 3)), "0.bias": np.zeros(2)}
LSTM = {
    "weight_ih": np.ones((8, 3)),
    "weight_hh": np.ones((8, 2)),
    "bias": np.ones(8),
    "head.weight": np.ones((1, 2)),
    "head.bias": np.ones(1),
}
SAGE = {"0.own.weight": np.ones((2, 3)), "0.neighbour.weight": np.ones((2, 3)), "0.bias": np.zeros(2)}
X = np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: policy.mlp(model("sage", MLP, 3), X), "model must be of kind mlp"),
        (lambda: policy.mlp(model("mlp", MLP, 3), np.ones((4, 2))), "x must be of shape"),
        (lambda: policy.mlp(model("mlp", MLP, 3), np.full((4, 3), np.nan)), "x must be finite"),
        (lambda: policy.mlp(model("mlp", MLP, 3), np.ones(3)), "x must be of shape"),
        (lambda: policy.mlp(model("mlp", MLP, 2), np.ones((4, 2))), r"arrays\['0.weight'\] must be of shape \(any, 2\)"),
        (lambda: policy.mlp(model("mlp", MLP, 3, activation="sine"), X), r"config\['activation'\] must be relu or tanh"),
        (lambda: policy.mlp(model("mlp", {"w": np.ones(1)}, 3), X), "model must be with an array 0.weight"),
        (lambda: policy.lstm(model("lstm", LSTM, 3), X, np.zeros((2, 4, 3))), "carry must be of shape"),
        (lambda: policy.lstm(model("lstm", LSTM | {"bias": np.ones(4)}, 3), X), r"arrays\['bias'\] must be of shape"),
        (lambda: policy.sage(model("sage", SAGE, 3), X, [[0], [4]]), "edges must be nodes from 0 to 3"),
        (lambda: policy.sage(model("sage", SAGE, 3), X, [[0.0], [1.0]]), "edges must be whole numbers"),
    ],
)
def test_what_does_not_fit_is_named(call, named):
    with pytest.raises(LearnError, match=f"^{named}"):
        call()


def test_large_inputs_do_not_overflow():
    y, carry = policy.lstm(model("lstm", LSTM, 3), 1e9 * np.ones((1, 3)))
    assert np.isfinite(y).all()
    assert np.isfinite(carry).all()


def test_a_gru_equals_torch_step_by_step():
    torch.manual_seed(0)
    cell, head = torch.nn.GRU(3, 6, batch_first=True), torch.nn.Linear(6, 2)
    names = {ours: f"{ours}_l0" for ours in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    arrays = weights(cell, **names) | weights(head, **{"head.weight": "weight", "head.bias": "bias"})
    x = torch.randn(4, 20, 3)
    expected = head(cell(x)[0]).detach().numpy()
    made, carry = model("gru", arrays, 3), None
    for t in range(20):
        y, carry = policy.gru(made, x[:, t].numpy(), carry)
        np.testing.assert_allclose(y, expected[:, t], rtol=0, atol=1e-5)
    assert carry.shape == (4, 6)
    assert policy.outputs(made) == 2


def test_a_linear_model_is_its_definition():
    made = model("ridge", {"weight": np.array([[2.0, -1.0]]), "bias": np.array([0.5])}, 2)
    assert policy.ridge(made, [[1.0, 3.0], [0.0, 0.0]]).tolist() == [[-0.5], [0.5]]
    assert policy.outputs(made) == 1
