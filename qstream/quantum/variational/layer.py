"""VariationalLayer: a trainable circuit as a torch module, simulated for a whole batch in a few matrix products.

Strongly entangling layers (Schuld et al., PRA 2020) in PennyLane's conventions; weights may go both ways unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qstream.errors import ProblemError
from qstream.quantum.ising import basis_spins
from qstream.quantum.variational.embedding import amplitude, angle, iqp
from qstream.quantum.variational.gates import Axis, checked_qubits, default_ranges, group_matrices, ring, rot, rotate
from schemas.wording import Shown, must_be

Embedding = Literal["angle", "amplitude", "iqp"]
Readout = Literal["z", "probabilities"]


class VariationalLayer(nn.Module):  # type: ignore[misc]
    """Embed features, apply trained rotations and CNOT rings, read out; drop-in for PennyLane's TorchLayer.

    Parameters
    ----------
    n
        Qubits.
    layers
        Entangling layers; the parameter `weights` is [layers, n, 3].
    embedding, axis
        How features become a state, and about which axis ``angle`` rotates. ``angle`` and ``iqp`` take n features,
        ``amplitude`` up to 2^n.
    readout
        ``z``: expectation of Z of each qubit [B, n]; ``probabilities``: of each basis state [B, 2^n].
    reupload
        Embed again before every layer (Perez-Salinas et al., Quantum 2020); not for ``amplitude``.
    entangled
        False leaves the CNOTs out: the control that shows what entanglement adds.
    ranges
        Reach of the CNOTs of each layer, 1 to n - 1; by default 1, 2, ... in turn.
    generator
        Source of the initial weights, uniform in [0, 2 pi).

    Raises
    ------
    ProblemError
        A number is out of range or the options exclude each other.
    """

    def __init__(
        self,
        n: int,
        layers: int,
        *,
        embedding: Embedding = "angle",
        axis: Axis = "X",
        readout: Readout = "z",
        reupload: bool = False,
        entangled: bool = True,
        ranges: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checked_qubits(n)
        if layers < 1:
            raise ProblemError(must_be("layers", "1 or more", layers))
        for name, value, kind in (("embedding", embedding, Embedding), ("axis", axis, Axis), ("readout", readout, Readout)):
            if value not in get_args(kind):
                raise ProblemError(must_be(name, f"one of {', '.join(get_args(kind))}", value))
        if reupload and embedding == "amplitude":
            raise ProblemError(must_be("reupload", "False with embedding 'amplitude', which prepares a state,", reupload))
        self.n, self.embedding, self.axis, self.readout, self.reupload = n, embedding, axis, readout, reupload
        self.weights = nn.Parameter(2 * math.pi * torch.rand(layers, n, 3, dtype=dtype, generator=generator))
        rings = cnot_rings(n, layers, ranges) if entangled else None
        self.register_buffer("rings", rings, persistent=False)
        self.register_buffer("signs", torch.tensor(basis_spins(n), dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """What is read out [B, n] or [B, 2^n] for features [B, F]."""
        states = self.states(x)
        probabilities = states.real.square() + states.imag.square()
        return probabilities @ self.signs if self.readout == "z" else probabilities

    def states(self, x: Tensor) -> Tensor:
        """States [B, 2^n] at the end of the circuit."""
        states = self.embed(x)
        if not self.reupload:
            return entangle(states, self.weights, self.rings)
        for layer in range(len(self.weights)):
            if layer:
                states = self.embed(x, states)
            part = slice(layer, layer + 1)
            states = entangle(states, self.weights[part], None if self.rings is None else self.rings[part])
        return states

    def embed(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """States [B, 2^n] of features, applied to `start` if given."""
        checked_tensor("x", x, self.weights.dtype)
        if self.embedding == "amplitude":
            return amplitude(x, self.n)
        if x.ndim != 2 or x.shape[1] != self.n:
            raise ProblemError(must_be("x", f"[samples, {self.n} features]", Shown(f"shape {tuple(x.shape)}")))
        return angle(x, self.axis, start) if self.embedding == "angle" else iqp(x, start=start)

    def unitary(self) -> Tensor:
        """The trained part of the circuit as a matrix [2^n, 2^n], differentiable; states go through as ``states @ U.T``.

        `ProblemError` for a layer that re-uploads: its circuit depends on the features.
        """
        if self.reupload:
            raise ProblemError(must_be("reupload", "False for a fixed unitary", True))
        return circuit_unitary(self.weights, self.rings)

    def freeze(self) -> NDArray[np.complexfloating[Any, Any]]:
        """The trained unitary as a numpy array, for inference without torch."""
        frozen: NDArray[np.complexfloating[Any, Any]] = self.unitary().detach().cpu().numpy().copy()
        return frozen


class _Reorder(torch.autograd.Function):  # type: ignore[misc]
    """Reorder the last axis by a permutation; the gradient is its inverse, much faster than indexing's scatter-add."""

    generate_vmap_rule = True

    @staticmethod
    def forward(states: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return states.index_select(-1, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Reorder.apply(grad, inverse, index), None, None


def cnot_rings(n: int, layers: int, ranges: Sequence[int] | None = None) -> Tensor | None:
    """The CNOTs of each layer as permutations and their inverses, int64 [layers, 2, 2^n]; None for a single qubit."""
    reaches = default_ranges(n, layers) if ranges is None else tuple(ranges)
    if len(reaches) != layers or (n > 1 and not all(1 <= reach < n for reach in reaches)):
        raise ProblemError(must_be("ranges", f"{layers} numbers from 1 to {n - 1}", reaches))
    if n == 1:
        return None
    index = np.stack([ring(n, reach) for reach in reaches])
    return torch.from_numpy(np.stack([index, np.argsort(index, axis=1)], axis=1))


def entangle(states: Tensor, weights: Tensor, rings: Tensor | None) -> Tensor:
    """Strongly entangling layers of weights [..., L, n, 3] on states [..., S, 2^n]; leading axes match or broadcast.

    `rings` are `cnot_rings`, or None for rotations alone.
    """
    matrices = group_matrices(rot(weights))
    for layer in range(weights.shape[-3]):
        states = rotate(states, [matrix[..., layer, :, :] for matrix in matrices])
        if rings is not None:
            states = _Reorder.apply(states, rings[layer, 0], rings[layer, 1])
    return states


def circuit_unitary(weights: Tensor, rings: Tensor | None) -> Tensor:
    """Unitaries [..., 2^n, 2^n] of the layers with weights [..., L, n, 3]."""
    size = 1 << weights.shape[-2]
    dtype = torch.complex128 if weights.dtype == torch.float64 else torch.complex64
    basis = torch.eye(size, dtype=dtype, device=weights.device).expand(*weights.shape[:-3], size, size)
    return entangle(basis, weights, rings).mT


class ClassicalTwin(nn.Module):  # type: ignore[misc]
    """A perceptron with one hidden layer that stands in for a VariationalLayer: same input, output and range."""

    def __init__(self, hidden: nn.Linear, output: nn.Linear, readout: Readout) -> None:
        super().__init__()
        self.hidden, self.output, self.readout = hidden, output, readout

    def forward(self, x: Tensor) -> Tensor:
        y = self.output(torch.tanh(self.hidden(x)))
        return torch.tanh(y) if self.readout == "z" else torch.softmax(y, -1)


def classical_twin(
    layer: VariationalLayer, features: int | None = None, generator: torch.Generator | None = None
) -> ClassicalTwin:
    """The perceptron whose count of parameters is nearest to the layer's; what a quantum result must be compared with.

    It has one hidden unit at least. `features` are the layer's inputs where they are not n, as ``amplitude`` allows.
    """
    inputs, outputs = features or layer.n, layer.n if layer.readout == "z" else 1 << layer.n
    wanted, unit = parameters(layer), inputs + 1 + outputs
    sizes = [(width, bias) for width in range(1, wanted // unit + 2) for bias in (True, False)]
    width, bias = min(sizes, key=lambda size: abs(size[0] * unit + size[1] * outputs - wanted))
    dtype = layer.weights.dtype
    hidden = linear(inputs, width, dtype=dtype, generator=generator)
    return ClassicalTwin(hidden, linear(width, outputs, bias=bias, dtype=dtype, generator=generator), layer.readout)


def linear(
    inputs: int, outputs: int, *, bias: bool = True, dtype: torch.dtype, generator: torch.Generator | None = None
) -> nn.Linear:
    """A linear map with torch's usual initial values, from a generator of one's own."""
    module = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
    return module


def checked_tensor(name: str, value: object, dtype: torch.dtype) -> None:
    """`ProblemError` that names `name` unless the value is a tensor of the module's dtype."""
    if not isinstance(value, Tensor):
        raise ProblemError(must_be(name, "a torch tensor", Shown(f"type {type(value).__name__}")))
    if value.dtype != dtype:
        raise ProblemError(must_be(name, f"of the module's dtype, {dtype}", Shown(f"dtype {value.dtype}")))


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
