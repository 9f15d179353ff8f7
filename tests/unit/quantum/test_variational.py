"""Variational circuits equal PennyLane's, their gradients equal the shift rule, and their controls are what they claim."""

from __future__ import annotations

import io
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pennylane as qml
import pytest
import torch

from qstream.errors import ProblemError
from qstream.quantum.variational import embedding
from qstream.quantum.variational.gates import default_ranges, ring
from qstream.quantum.variational.layer import VariationalLayer, classical_twin, parameters

README = Path(__file__).parents[3] / "qstream/quantum/variational/README.md"


pytestmark = pytest.mark.usefixtures("one_thread")


def layer_of(n: int, layers: int, seed: int = 0, **options: object) -> VariationalLayer:
    generator = torch.Generator().manual_seed(seed)
    return VariationalLayer(n, layers, dtype=torch.float64, generator=generator, **options)


def features(samples: int, n: int, seed: int = 1) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(samples, n)))


def embed_by_pennylane(x: np.ndarray, kind: str, axis: str, n: int) -> None:
    if kind == "angle":
        qml.AngleEmbedding(x, wires=range(n), rotation=axis)
    elif kind == "iqp":
        qml.IQPEmbedding(x, wires=range(n))
    else:
        qml.AmplitudeEmbedding(x, wires=range(n), normalize=True, pad_with=0.0)


def states_by_pennylane(layer: VariationalLayer, x: torch.Tensor, ranges: tuple[int, ...]) -> np.ndarray:
    weights = layer.weights.detach().numpy()

    @qml.qnode(qml.device("default.qubit", wires=layer.n))
    def circuit(row: np.ndarray) -> object:
        for index, reach in enumerate(ranges):
            if index == 0 or layer.reupload:
                embed_by_pennylane(row, layer.embedding, layer.axis, layer.n)
            one = weights[index : index + 1]
            qml.StronglyEntanglingLayers(one, wires=range(layer.n), ranges=[reach] if layer.n > 1 else None)
        return qml.state()

    return np.stack([circuit(row) for row in x.numpy()])


CASES = [
    (n, kind, axis, reupload)
    for n in (1, 2, 3, 5)
    for kind, axis, reupload in (
        ("angle", "X", False),
        ("angle", "Y", False),
        ("angle", "X", True),
        ("angle", "Y", True),
        ("iqp", "X", False),
        ("iqp", "X", True),
        ("amplitude", "X", False),
    )
]


@pytest.mark.parametrize(("n", "kind", "axis", "reupload"), CASES)
def test_the_states_are_those_of_pennylane(n, kind, axis, reupload):
    layer = layer_of(n, 3, embedding=kind, axis=axis, reupload=reupload)
    x = features(3, min(2**n, 5) if kind == "amplitude" else n)
    expected = states_by_pennylane(layer, x, default_ranges(n, 3))
    np.testing.assert_allclose(layer.states(x).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_eight_qubits_in_two_groups_and_nine_in_three_are_those_of_pennylane():
    for n in (8, 9):
        layer, x = layer_of(n, 2, reupload=True), features(2, n)
        expected = states_by_pennylane(layer, x, default_ranges(n, 2))
        np.testing.assert_allclose(layer.states(x).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_chosen_ranges_are_those_of_pennylane():
    layer, x = layer_of(4, 3, ranges=(3, 1, 2)), features(2, 4)
    expected = states_by_pennylane(layer, x, (3, 1, 2))
    np.testing.assert_allclose(layer.states(x).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("readout", ["z", "probabilities"])
def test_the_layer_takes_the_place_of_a_pennylane_torch_layer(readout):
    n = 3

    @qml.qnode(qml.device("default.qubit", wires=n))
    def circuit(inputs: torch.Tensor, weights: torch.Tensor) -> object:
        qml.AngleEmbedding(inputs, wires=range(n))
        qml.StronglyEntanglingLayers(weights, wires=range(n))
        return [qml.expval(qml.PauliZ(i)) for i in range(n)] if readout == "z" else qml.probs(wires=range(n))

    theirs = qml.qnn.TorchLayer(circuit, {"weights": (2, n, 3)}).double()
    ours = VariationalLayer(n, 2, readout=readout, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = features(4, n)
    assert ours(x).shape == theirs(x).shape
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_shift_rule():
    layer, x = layer_of(3, 2), features(2, 3).requires_grad_()
    probe = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)

    def total(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(layer, {"weights": weights}, (inputs,)) @ probe).sum()

    weights = layer.weights.detach().clone().requires_grad_()
    by_weight, by_input = torch.autograd.grad(total(weights, x), (weights, x))
    for gradient, moved, values in ((by_weight, 0, weights), (by_input, 1, x)):
        for place in itertools.product(*map(range, values.shape)):
            ends = []
            for sign in (1, -1):
                shifted = values.detach().clone()
                shifted[place] += sign * math.pi / 2
                ends.append(total(*((shifted, x) if moved == 0 else (weights, shifted))))
            assert gradient[place].item() == pytest.approx((ends[0] - ends[1]).item() / 2, abs=1e-12)


@pytest.mark.parametrize("options", [{"reupload": True}, {"embedding": "iqp", "reupload": True}, {"embedding": "amplitude"}])
def test_gradients_are_finite_differences_to_the_second_order(options):
    layer = layer_of(2, 2, **options)
    x = features(2, 2).requires_grad_()
    weights = layer.weights.detach().clone().requires_grad_()

    def outputs(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weights": weights}, (inputs,))

    assert torch.autograd.gradcheck(outputs, (weights, x))
    assert torch.autograd.gradgradcheck(outputs, (weights, x))


def test_gradients_of_single_samples_come_from_one_call():
    layer, x = layer_of(3, 2), features(4, 3)

    def total(weights: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weights": weights}, (row[None],)).square().sum()

    weights = layer.weights.detach()
    found = torch.func.vmap(torch.func.grad(total), (None, 0))(weights, x)
    for row, gradient in zip(x, found, strict=True):
        expected = torch.autograd.functional.jacobian(lambda given, row=row: total(given, row), weights)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"reupload": True}, {"embedding": "iqp", "reupload": True}, {"embedding": "amplitude"}])
def test_an_empty_batch_gives_an_empty_answer(options):
    assert layer_of(8, 2, **options)(features(0, 8)).shape == (0, 8)


def test_the_frozen_unitary_is_the_circuit_s_matrix():
    layer, x = layer_of(3, 2), features(4, 3)
    frozen = layer.freeze()
    assert isinstance(frozen, np.ndarray)
    expected = qml.matrix(qml.StronglyEntanglingLayers(layer.weights.detach().numpy(), wires=range(3)), wire_order=range(3))
    np.testing.assert_allclose(frozen, expected, rtol=0, atol=1e-12)
    states = embedding.angle(x.numpy()) @ frozen.T
    np.testing.assert_allclose(states, layer.states(x).detach().numpy(), rtol=0, atol=1e-12)


def test_the_unitary_of_a_circuit_that_embeds_again_is_refused():
    with pytest.raises(ProblemError, match=r"reupload must be .*got True"):
        layer_of(2, 2, reupload=True).freeze()


def test_without_entanglers_an_output_depends_on_its_own_feature_alone():
    x = features(1, 4)
    for entangled in (True, False):
        layer = layer_of(4, 2, entangled=entangled)
        jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, 0, :]
        crosstalk = (jacobian - torch.diag(jacobian.diagonal())).abs().max().item()
        assert (crosstalk > 0.1) if entangled else (crosstalk < 1e-14)
        assert parameters(layer) == 24


@pytest.mark.parametrize(("layers", "reupload"), [(1, False), (3, False), (1, True), (2, True), (3, True)])
def test_embedding_again_raises_the_highest_frequency_to_the_number_of_layers(layers, reupload):
    # Schuld, Sweke & Meyer (PRA 2021): a feature uploaded r times gives a Fourier series of degree r.
    x = torch.arange(16, dtype=torch.float64)[:, None] * (2 * math.pi / 16)
    spectrum = np.abs(np.fft.rfft(layer_of(1, layers, reupload=reupload)(x)[:, 0].detach().numpy())) / 16
    degree = layers if reupload else 1
    assert spectrum[degree] > 1e-3
    assert spectrum[degree + 1 :].max() < 1e-14


def test_a_single_qubit_learns_a_shifted_cosine_that_it_can_express():
    layer = layer_of(1, 2)
    x = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
    target = torch.cos(x + 0.8)
    for _ in range(60):
        loss = (layer(x) - target).square().mean()
        (slope,) = torch.autograd.grad(loss, layer.weights)
        layer.weights.data -= 0.8 * slope
    assert loss.item() < 1e-4


def test_a_ring_is_the_product_of_its_cnots():
    n, reach = 4, 3
    expected = np.eye(2**n)
    for control in range(n):
        expected = qml.matrix(qml.CNOT(wires=[control, (control + reach) % n]), wire_order=range(n)).real @ expected
    np.testing.assert_array_equal(np.eye(2**n)[ring(n, reach)], expected)


def test_weights_are_saved_and_nothing_else():
    layer, x = layer_of(3, 2, seed=1), features(2, 3)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    read = torch.load(stored)
    assert list(read) == ["weights"]
    other = layer_of(3, 2, seed=2)
    other.load_state_dict(read)
    assert torch.equal(other(x), layer(x))


def test_equal_generators_give_equal_weights():
    assert torch.equal(layer_of(3, 2, seed=4).weights, layer_of(3, 2, seed=4).weights)
    assert not torch.equal(layer_of(3, 2, seed=4).weights, layer_of(3, 2, seed=5).weights)


@pytest.mark.parametrize("readout", ["z", "probabilities"])
@pytest.mark.parametrize(("n", "layers"), [(2, 3), (4, 3), (8, 3), (4, 8)])
def test_the_classical_twin_has_the_same_form_and_almost_as_many_parameters(n, layers, readout):
    layer = layer_of(n, layers, readout=readout)
    twin, x = classical_twin(layer), features(5, n)
    assert twin(x).shape == layer(x).shape
    assert twin(x).abs().max().item() <= 1
    # Of a perceptron, the smallest step is a hidden unit or the outputs' bias.
    unit = 1 + n + layer(x).shape[1]
    assert abs(parameters(twin) - parameters(layer)) <= unit


def test_numpy_and_torch_share_one_embedding():
    x = features(3, 3)
    start = embedding.amplitude(np.random.default_rng(2).normal(size=(3, 8)), 3)
    for embed in (
        embedding.product_state,
        embedding.angle,
        embedding.iqp,
        lambda a: embedding.amplitude(a, 2),
        lambda a: embedding.angle(a, "Y", torch.tensor(start) if isinstance(a, torch.Tensor) else start),
        lambda a: embedding.iqp(a, 2, torch.tensor(start) if isinstance(a, torch.Tensor) else start),
    ):
        np.testing.assert_allclose(embed(x.numpy()), embed(x).numpy(), rtol=0, atol=1e-15)


def test_embedding_onto_the_zero_state_is_embedding():
    x = features(3, 4).numpy()
    zero = np.eye(1, 16, dtype=np.complex128).repeat(3, axis=0)
    for axis in ("X", "Y"):
        np.testing.assert_allclose(embedding.angle(x, axis, zero), embedding.angle(x, axis), rtol=0, atol=1e-15)
    np.testing.assert_allclose(embedding.iqp(x, 2, zero), embedding.iqp(x, 2), rtol=0, atol=1e-15)


def test_repeated_iqp_is_pennylane_s():
    x = features(1, 3).numpy()

    @qml.qnode(qml.device("default.qubit"))
    def circuit() -> object:
        qml.IQPEmbedding(x[0], wires=range(3), n_repeats=3)
        return qml.state()

    np.testing.assert_allclose(embedding.iqp(x, 3)[0], circuit(), rtol=0, atol=1e-12)


def test_single_precision_stays_single():
    x = np.ones((2, 3), np.float32)
    for embed in (embedding.angle, embedding.iqp, lambda a: embedding.amplitude(a, 2)):
        assert embed(x).dtype == np.complex64
    layer = VariationalLayer(3, 2)
    assert layer(torch.from_numpy(x)).dtype == torch.float32
    assert layer.freeze().dtype == np.complex64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VariationalLayer(0, 1), "n must be .*got 0"),
        (lambda: VariationalLayer(15, 1), "n must be .*got 15"),
        (lambda: VariationalLayer(2, 0), "layers must be .*got 0"),
        (lambda: VariationalLayer(3, 2, ranges=(1,)), "ranges must be 2 numbers from 1 to 2"),
        (lambda: VariationalLayer(3, 1, ranges=(3,)), "ranges must be 1 numbers from 1 to 2"),
        (lambda: VariationalLayer(3, 1, embedding="amplitude", reupload=True), "reupload must be .*got True"),
        (lambda: VariationalLayer(3, 1, readout="samples"), "readout must be .*got 'samples'"),
        (lambda: VariationalLayer(3, 1)(torch.ones(2, 4)), r"x must be .*got shape \(2, 4\)"),
        (lambda: embedding.angle(np.ones(3)), r"x must be .*got shape \(3,\)"),
        (lambda: embedding.angle(np.ones((2, 2)), "Z"), "axis must be .*got 'Z'"),
        (lambda: embedding.amplitude(np.ones((2, 5)), 2), "1 to 4 features"),
        (lambda: embedding.amplitude(np.array([[1.0, 2.0], [0.0, 0.0]]), 1), "row of zeros"),
        (lambda: embedding.iqp(np.ones((2, 2)), 0), "repeats must be .*got 0"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call()


def test_kernels_embeddings_and_frozen_cells_need_neither_torch_nor_sklearn_nor_pennylane():
    code = (
        "import sys, qstream.quantum.kernel, qstream.quantum.variational.embedding, qstream.quantum.variational.frozen;"
        "print([name for name in ('torch', 'sklearn', 'pennylane') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_the_readme_s_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, 3, dtype=torch.float64), np.zeros((2, 3)), [[0.0, 0.0, 0.0]]]
)
@pytest.mark.parametrize("kind", ["angle", "amplitude", "iqp"])
def test_a_layer_takes_tensors_of_its_dtype_only(kind: str, x: object) -> None:
    with pytest.raises(ProblemError, match=r"^x must be .*got (dtype|type) "):
        VariationalLayer(3, 1, embedding=kind)(x)


@pytest.mark.parametrize(
    "x", [[[0.0, 1.0]], np.zeros((1, 2), complex), torch.zeros(1, 2, dtype=torch.complex64), np.array([["a"]])]
)
def test_an_embedding_takes_arrays_of_real_numbers_only(x: object) -> None:
    for embed in (embedding.angle, embedding.iqp, embedding.product_state, lambda x: embedding.amplitude(x, 2)):
        with pytest.raises(ProblemError, match=r"^x must be .*got (dtype|type) "):
            embed(x)
