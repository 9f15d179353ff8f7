"""The quantum LSTM equals one built of PennyLane circuits step by step, in training and frozen."""

from __future__ import annotations

import pickle

import numpy as np
import pennylane as qml
import pytest
import torch

from qstream.errors import ProblemError
from qstream.quantum.qlstm import QLSTM, lstm_twin
from qstream.quantum.variational.layer import parameters

pytestmark = pytest.mark.usefixtures("one_thread")


def qlstm_of(features: int, hidden: int, seed: int = 0, **options: object) -> QLSTM:
    generator = torch.Generator().manual_seed(seed)
    return QLSTM(features, hidden, dtype=torch.float64, generator=generator, **options)


def sequence(steps: int, samples: int, features: int, seed: int = 1) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(steps, samples, features)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def hidden_states_by_pennylane(model: QLSTM, x: np.ndarray, entangled: bool) -> np.ndarray:
    """One sample [T, F] through the equations of Chen et al., one circuit a gate and step."""
    weights, read = model.weights.detach().numpy(), model.readout
    n = weights.shape[2]

    @qml.qnode(qml.device("default.qubit", wires=n))
    def circuit(angles: np.ndarray, one: np.ndarray) -> object:
        qml.AngleEmbedding(angles, wires=range(n), rotation="Y")
        if entangled:
            qml.StronglyEntanglingLayers(one, wires=range(n))
        else:
            for layer in one:
                for i in range(n):
                    qml.Rot(*layer[i], wires=i)
        return [qml.expval(qml.PauliZ(i)) for i in range(n)]

    hidden = cell = np.zeros(model.hidden_size)
    outputs = []
    for step in x:
        angles = model.angles.weight.detach().numpy() @ np.concatenate([step, hidden]) + model.angles.bias.detach().numpy()
        forget, write, new, out = (
            read.weight.detach().numpy() @ np.array(circuit(angles, one)) + read.bias.detach().numpy() for one in weights
        )
        cell = sigmoid(forget) * cell + sigmoid(write) * np.tanh(new)
        hidden = sigmoid(out) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs)


@pytest.mark.parametrize(("n", "layers", "entangled"), [(4, 2, True), (3, 1, True), (3, 2, False), (1, 2, True)])
def test_a_sequence_is_the_one_of_pennylane_circuits(n, layers, entangled):
    model, x = qlstm_of(3, 5, n=n, layers=layers, entangled=entangled), sequence(3, 2, 3)
    outputs, _ = model(x)
    for sample in range(2):
        expected = hidden_states_by_pennylane(model, x[:, sample].numpy(), entangled)
        np.testing.assert_allclose(outputs[:, sample].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_the_interface_is_that_of_a_torch_lstm():
    x = sequence(4, 2, 3)
    theirs, ours = torch.nn.LSTM(3, 5, dtype=torch.float64), qlstm_of(3, 5)
    for first, second in zip(flat(theirs(x)), flat(ours(x)), strict=True):
        assert first.shape == second.shape
    outputs, (hidden, _) = ours(x)
    assert torch.equal(outputs[-1], hidden[0])


def flat(result: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    return (result[0], *result[1])


def test_a_sequence_in_two_parts_is_the_whole():
    model, x = qlstm_of(2, 3), sequence(6, 4, 2)
    whole, last = model(x)
    first, state = model(x[:2])
    second, end = model(x[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-14)


def test_gradients_are_finite_differences():
    model = qlstm_of(2, 2, n=2, layers=1)
    x = sequence(3, 2, 2).requires_grad_()
    names = [name for name, _ in model.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in model.parameters()]

    def outputs(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, given, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(outputs, (x, *values))


def test_frozen_steps_are_the_sequence():
    model, x = qlstm_of(3, 5), sequence(5, 2, 3)
    outputs, (_, cell) = model(x)
    frozen = pickle.loads(pickle.dumps(model.freeze()))
    state = frozen.start(2)
    for step, expected in zip(x.numpy(), outputs.detach().numpy(), strict=True):
        state = frozen.step(step, state)
        np.testing.assert_allclose(state[0], expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(state[1], cell[0].detach().numpy(), rtol=0, atol=1e-14)


def test_a_frozen_cell_does_not_follow_further_training():
    model, x = qlstm_of(3, 5), np.ones((1, 3))
    frozen = model.freeze()
    before = frozen.step(x, frozen.start(1))[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    assert np.array_equal(frozen.step(x, frozen.start(1))[0], before)


def test_an_empty_batch_gives_an_empty_answer():
    model = qlstm_of(3, 5)
    frozen = model.freeze()
    assert model(sequence(2, 0, 3))[0].shape == (2, 0, 5)
    assert frozen.step(np.zeros((0, 3)), frozen.start(0))[0].shape == (0, 5)


def test_extreme_inputs_stay_finite():
    frozen = QLSTM(1, 4, generator=torch.Generator().manual_seed(0)).freeze()
    state = frozen.step([[1e6]], frozen.start(1))
    assert state[0].dtype == np.float32
    assert np.abs(state[0]).max() <= 1


@pytest.mark.parametrize(("features", "hidden"), [(1, 1), (3, 9), (8, 8), (12, 5), (16, 32)])
def test_the_classical_twin_has_the_same_form_and_about_as_many_parameters(features, hidden):
    model, x = qlstm_of(features, hidden), sequence(3, 2, features)
    twin = lstm_twin(model)
    assert twin(x)[0].shape == model(x)[0].shape
    assert abs(parameters(twin) - parameters(model)) <= 0.1 * parameters(model)


def test_it_learns_a_wave_better_than_to_repeat_the_last_value():
    t = torch.arange(9, dtype=torch.float64)[:, None] + torch.linspace(0, 6, 16, dtype=torch.float64)
    wave = 0.5 * torch.sin(t)[..., None]
    model = qlstm_of(1, 3, n=3, layers=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (model(wave[:-1])[0][..., :1] - wave[1:]).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * (wave[1:] - wave[:-1]).square().mean().item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QLSTM(0, 1), "input_size must be .*got 0"),
        (lambda: QLSTM(1, 0), "hidden_size must be .*got 0"),
        (lambda: QLSTM(1, 1, layers=0), "layers must be .*got 0"),
        (lambda: QLSTM(1, 1, n=20), "n must be .*got 20"),
        (lambda: QLSTM(2, 1)(torch.ones(3, 1, 1)), r"x must be .*got shape \(3, 1, 1\)"),
        (lambda: QLSTM(2, 1)(torch.ones(0, 1, 2)), r"x must be .*got shape \(0, 1, 2\)"),
        (lambda: QLSTM(2, 1).freeze().step(np.ones(2), (np.zeros((1, 1)), np.zeros((1, 1)))), r"x must be .*got shape \(2,\)"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call()


def test_a_state_of_another_batch_is_named() -> None:
    model = qlstm_of(2, 3)
    x, fits, wrong = (torch.zeros(shape, dtype=torch.float64) for shape in ((4, 5, 2), (1, 5, 3), (1, 1, 3)))
    for state, name in (((wrong, fits), "hidden state"), ((fits, wrong), "cell state")):
        with pytest.raises(ProblemError, match=f"{name} must be .*got shape"):
            model(x, state)
    with pytest.raises(ProblemError, match=r"x must be .*got dtype"):
        model(x.float())
    frozen = model.freeze()
    with pytest.raises(ProblemError, match=r"hidden state must be .*got shape"):
        frozen.step(np.zeros((5, 2)), frozen.start(1))
