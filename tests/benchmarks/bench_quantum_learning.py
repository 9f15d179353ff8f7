"""Learning circuits: times next to PennyLane's and the classical twins', and what all arms learn. One thread, simulated."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from threadpoolctl import threadpool_limits

from qstream.quantum.kernel import AngleOverlap, Fidelity, Kernel, Projected, Rbf, fit_ridge, nystrom
from qstream.quantum.qlstm import QLSTM, lstm_twin
from qstream.quantum.variational.embedding import angle, iqp
from qstream.quantum.variational.layer import VariationalLayer, classical_twin, parameters
from tests.benchmarks.clock import median_s

Row = tuple[str, float, str, str]

_SEEDS = range(3)


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return [*layer_rows(), *kernel_rows(), *qlstm_rows(), *learnt_rows(), *regression_rows(), *forecast_rows()]


def layer_rows() -> list[Row]:
    n, layers = 8, 3
    layer, x = VariationalLayer(n, layers), torch.rand(64, n)
    theirs = pennylane_layer(n, layers)
    theirs.load_state_dict(layer.state_dict())
    twin = classical_twin(layer)
    difference = (layer(x) - theirs(x)).abs().max().item()
    ours_s, theirs_s = median_s(lambda: train_step(layer, x)), median_s(lambda: train_step(theirs, x), 5)
    unitary, states = layer.freeze(), angle(np.ones((1024, n), np.float32))
    return [
        ("layer n=8 L=3, batch 64, forward and backward", 1e3 * ours_s, "ms", "<= 20"),
        ("  PennyLane default.qubit", 1e3 * theirs_s, "ms", "-"),
        ("  PennyLane / ours", theirs_s / ours_s, "", ">= 5"),
        ("  largest difference, float32", 1e6 * difference, "1e-6", "<= 10"),
        ("  classical twin", 1e3 * median_s(lambda: train_step(twin, x)), "ms", "-"),
        ("  forward alone", 1e3 * median_s(lambda: layer(x)), "ms", "-"),
        ("  frozen, 1,024 states", 1e3 * median_s(lambda: states @ unitary.T), "ms", "-"),
    ]


def kernel_rows() -> list[Row]:
    x, many = np.random.default_rng(0).uniform(0, 3, (512, 8)), np.random.default_rng(1).uniform(0, 3, (10_000, 8))
    features = nystrom(Fidelity(iqp), many, 256, np.random.default_rng(0))

    @qml.qnode(qml.device("default.qubit", wires=8))
    def overlap(a: np.ndarray, b: np.ndarray) -> object:
        qml.AngleEmbedding(a, wires=range(8))
        qml.adjoint(qml.AngleEmbedding)(b, wires=range(8))
        return qml.probs(wires=range(8))

    few = x[:12]
    pennylane_s = median_s(lambda: qml.kernels.square_kernel_matrix(few, lambda a, b: overlap(a, b)[0]), 3)
    return [
        ("Gram of 512 points, n=8, angle", 1e3 * median_s(lambda: Fidelity()(x)), "ms", "<= 150"),
        ("Gram of 512 points, n=8, IQP", 1e3 * median_s(lambda: Fidelity(iqp)(x)), "ms", "<= 150"),
        ("  PennyLane, 12 points", 1e3 * pennylane_s, "ms", "-"),
        ("  angle without states, classical", 1e3 * median_s(lambda: AngleOverlap()(x)), "ms", "-"),
        ("  Gaussian, classical", 1e3 * median_s(lambda: Rbf()(x)), "ms", "-"),
        ("  projected IQP", 1e3 * median_s(lambda: Projected(iqp)(x)), "ms", "-"),
        ("Nystrom features of 10,000 points, 256 landmarks", 1e3 * median_s(lambda: features(many), 3), "ms", "-"),
    ]


def qlstm_rows() -> list[Row]:
    model, x = QLSTM(3, 9), torch.rand(16, 32, 3)
    twin, frozen = lstm_twin(model), model.freeze()
    one, state = np.ones((1, 3)), frozen.start(1)
    circuit = pennylane_layer(4, 2)

    def pennylane_step() -> None:
        with torch.no_grad():
            for _ in range(4):
                circuit(torch.ones(1, 4))

    return [
        ("QLSTM, frozen, one step of one sample", 1e3 * median_s(lambda: frozen.step(one, state), 200), "ms", "<= 2"),
        ("  PennyLane, the four circuits alone", 1e3 * median_s(pennylane_step), "ms", "-"),
        ("QLSTM, training step, 16 steps x 32 samples", 1e3 * median_s(lambda: train_step(model, x)), "ms", "-"),
        ("  torch LSTM of equal parameters", 1e3 * median_s(lambda: train_step(twin, x)), "ms", "-"),
        ("  parameters", float(parameters(model)), "", "-"),
        ("  parameters of the twin", float(parameters(twin)), "", "-"),
    ]


def learnt_rows() -> list[Row]:
    """Test error of a product of two cosines after equal training, means over seeds."""
    arms: dict[str, Callable[[torch.Generator], torch.nn.Module]] = {
        "circuit": lambda generator: VariationalLayer(4, 3, generator=generator),
        "circuit, embedding again": lambda generator: VariationalLayer(4, 3, reupload=True, generator=generator),
        "circuit without entanglers": lambda generator: VariationalLayer(4, 3, entangled=False, generator=generator),
        "perceptron of equal parameters": lambda generator: classical_twin(VariationalLayer(4, 3), generator=generator),
    }

    def error(arm: Callable[[torch.Generator], torch.nn.Module], seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        x = 3 * torch.rand(192, 4, generator=generator)
        y = torch.cos(x[:, :1]) * torch.cos(x[:, 1:2])
        model = trained(arm(generator), x[:64], y[:64], 150)
        with torch.no_grad():
            return ((model(x[64:])[:, :1] - y[64:]).square().mean() / y.var()).item()

    return [(f"fit of cos x cos y, {name}: error / variance", _mean(error, arm), "", "-") for name, arm in arms.items()]


def regression_rows() -> list[Row]:
    """Test error of kernel ridge regression, scale of features and alpha chosen on held-out points, means over seeds."""
    kernels: dict[str, Kernel] = {
        "IQP fidelity": Fidelity(iqp),
        "angle fidelity": Fidelity(),
        "projected IQP": Projected(iqp),
        "Gaussian": Rbf(),
    }

    def error(kernel: Kernel, seed: int) -> float:
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 3, (500, 4))
        y = np.exp(-np.abs(x - 1.5).sum(1)) + np.sin(x[:, 0] * x[:, 1])
        fits = []
        for scale, alpha in itertools.product((0.1, 0.2, 0.4, 0.7, 1.0), (1e-6, 1e-4, 1e-2)):
            model = fit_ridge(kernel, scale * x[:200], y[:200], alpha=alpha, rng=rng)
            errors = (model.predict(scale * x[200:]) - y[200:]) ** 2 / y.var()
            fits.append((errors[:100].mean(), errors[100:].mean()))
        return float(min(fits)[1])

    return [(f"kernel ridge, {name}: error / variance", _mean(error, kernel), "", "-") for name, kernel in kernels.items()]


def forecast_rows() -> list[Row]:
    """Test error of the next value of noisy waves after equal training, means over seeds."""
    arms: dict[str, Callable[[torch.Generator], torch.nn.Module]] = {
        "QLSTM": lambda generator: QLSTM(1, 3, generator=generator),
        "QLSTM without entanglers": lambda generator: QLSTM(1, 3, entangled=False, generator=generator),
        "torch LSTM of equal parameters": lambda generator: lstm_twin(QLSTM(1, 3, generator=generator)),
    }

    def waves(generator: torch.Generator) -> torch.Tensor:
        phase, speed = 6 * torch.rand(96, generator=generator), 0.5 + torch.rand(96, generator=generator)
        clean = 0.5 * torch.sin(torch.arange(17)[:, None] * speed + phase)
        return (clean + 0.05 * torch.randn(clean.shape, generator=generator))[..., None]

    def error(arm: Callable[[torch.Generator], torch.nn.Module], seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        wave = waves(generator)
        first = torch.nn.Sequential(arm(generator), _FirstOutput())
        model = trained(first, wave[:-1, :32], wave[1:, :32], 100)
        with torch.no_grad():
            return _nmse(model(wave[:-1, 32:]), wave[1:, 32:])

    def persistence(_: None, seed: int) -> float:
        wave = waves(torch.Generator().manual_seed(seed))
        return _nmse(wave[:-1, 32:], wave[1:, 32:])

    found = [(f"forecast of waves, {name}: error / variance", _mean(error, arm), "", "-") for name, arm in arms.items()]
    return [*found, ("forecast of waves, the last value: error / variance", _mean(persistence, None), "", "-")]


class _FirstOutput(torch.nn.Module):
    def forward(self, result: tuple[torch.Tensor, object]) -> torch.Tensor:
        return result[0][..., :1]


def pennylane_layer(n: int, layers: int) -> torch.nn.Module:
    """The same circuit as PennyLane runs it."""

    @qml.qnode(qml.device("default.qubit", wires=n), diff_method="backprop")
    def circuit(inputs: torch.Tensor, weights: torch.Tensor) -> object:
        qml.AngleEmbedding(inputs, wires=range(n))
        qml.StronglyEntanglingLayers(weights, wires=range(n))
        return [qml.expval(qml.PauliZ(i)) for i in range(n)]

    return qml.qnn.TorchLayer(circuit, {"weights": (layers, n, 3)})


def train_step(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Forward and backward of a mean square."""
    model.zero_grad()
    result = model(x)
    (result[0] if isinstance(result, tuple) else result).square().mean().backward()


def trained(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> torch.nn.Module:
    """The model after some steps of Adam on its first output."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x)[..., :1] - y).square().mean().backward()
        optimizer.step()
    return model


def _nmse(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).square().mean() / wanted.var()).item()


def _mean(error: Callable[..., float], arm: object) -> float:
    return statistics.mean(error(arm, seed) for seed in _SEEDS)
