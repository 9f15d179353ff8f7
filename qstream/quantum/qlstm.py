"""QLSTM: an LSTM whose four gates are variational circuits, all simulated in one product of matrices a step.

Source: Chen, Yoo & Fang, "Quantum Long Short-Term Memory", ICASSP 2022; here the gates share one embedded state, and linear maps
lead into and out of the circuits.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qstream.errors import ProblemError
from qstream.quantum.ising import basis_spins
from qstream.quantum.variational.embedding import product_state
from qstream.quantum.variational.frozen import FrozenQLSTM
from qstream.quantum.variational.gates import checked_qubits
from qstream.quantum.variational.layer import checked_tensor, circuit_unitary, cnot_rings, linear, parameters
from schemas.wording import Shown, must_be

GATES: Final = ("forget", "input", "cell", "output")


class QLSTM(nn.Module):  # type: ignore[misc]
    """A layer of recurrent cells over a sequence, called like a one-layer ``torch.nn.LSTM``.

    Each step turns input and hidden state into n angles, embeds them by RY, applies the circuit of each gate, reads Z of each
    qubit and maps it to the hidden size; all else is an LSTM. The unitaries are built once a forward pass.

    Parameters
    ----------
    input_size, hidden_size
        Features of a step, F and H.
    n, layers
        Qubits and entangling layers of each circuit; `weights` is [4, layers, n, 3], of the gates in `GATES`.
    entangled
        False leaves the CNOTs out, as a control.
    generator
        Source of the initial parameters.

    Raises
    ------
    ProblemError
        A size is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        n: int = 4,
        layers: int = 2,
        entangled: bool = True,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checked_qubits(n)
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("layers", layers)):
            if value < 1:
                raise ProblemError(must_be(name, "1 or more", value))
        self.input_size, self.hidden_size = input_size, hidden_size
        self.angles = linear(input_size + hidden_size, n, dtype=dtype, generator=generator)
        self.weights = nn.Parameter(2 * math.pi * torch.rand(len(GATES), layers, n, 3, dtype=dtype, generator=generator))
        self.readout = linear(n, hidden_size, dtype=dtype, generator=generator)
        self.register_buffer("rings", cnot_rings(n, layers) if entangled else None, persistent=False)
        self.register_buffer("signs", torch.tensor(basis_spins(n), dtype=dtype), persistent=False)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Hidden states [T, B, H] of inputs [T, B, F], and the last hidden and cell state, [1, B, H] each."""
        checked_tensor("x", x, self.weights.dtype)
        if x.ndim != 3 or not len(x) or x.shape[2] != self.input_size:
            raise ProblemError(
                must_be("x", f"[1 or more steps, samples, {self.input_size} features]", Shown(f"shape {tuple(x.shape)}"))
            )
        for name, part in zip(("hidden state", "cell state"), state or (), strict=state is not None):
            checked_tensor(name, part, self.weights.dtype)
            if part.shape != (1, x.shape[1], self.hidden_size):
                allowed = (1, x.shape[1], self.hidden_size)
                raise ProblemError(must_be(name, f"of the shape {allowed} for this x", Shown(f"shape {tuple(part.shape)}")))
        from_input, from_hidden = self.angles.weight.split([self.input_size, self.hidden_size], dim=1)
        driven = x @ from_input.T + self.angles.bias
        circuits, readout = self._circuits(), self._readout()
        hidden, cell = (part[0] for part in state) if state else (x.new_zeros(x.shape[1], self.hidden_size),) * 2
        outputs = []
        for drive in driven:
            parts = product_state(drive + hidden @ from_hidden.T) @ circuits
            gates = parts.square().reshape(len(drive), len(GATES), len(readout)) @ readout + self.readout.bias
            forget, write, _, out = torch.sigmoid(gates).unbind(1)
            cell = forget * cell + write * torch.tanh(gates[:, 2])
            hidden = out * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs), (hidden[None], cell[None])

    def _circuits(self) -> Tensor:
        """Real and imaginary part of each gate's transposed unitary side by side, [2^n, 4 * 2 * 2^n]."""
        matrices = circuit_unitary(self.weights, self.rings).mT
        return torch.cat([matrices.real, matrices.imag], dim=-1).transpose(0, 1).flatten(1)

    def _readout(self) -> Tensor:
        """From the squared parts of amplitudes to a gate before its activation, [2 * 2^n, H]."""
        return torch.cat([self.signs, self.signs]) @ self.readout.weight.T

    def freeze(self) -> FrozenQLSTM:
        """The trained cell as numpy arrays: one step at a time, without torch."""
        weight = _array(self.angles.weight)
        return FrozenQLSTM(
            from_input=weight[:, : self.input_size].T.copy(),
            from_hidden=weight[:, self.input_size :].T.copy(),
            shift=_array(self.angles.bias),
            circuits=_array(self._circuits()),
            readout=_array(self._readout()),
            offset=_array(self.readout.bias),
        )


class LSTMTwin(nn.Module):  # type: ignore[misc]
    """``torch.nn.LSTM`` and a linear map to the hidden size of a QLSTM, called like it."""

    def __init__(self, input_size: int, inner: int, hidden_size: int, lstm_bias: bool, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, inner, bias=lstm_bias, dtype=dtype)
        self.output = nn.Linear(inner, hidden_size, bias=bias, dtype=dtype)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [T, B, H] of inputs [T, B, F], and the last state of the inner LSTM."""
        hidden, last = self.lstm(x, state)
        return self.output(hidden), last


def lstm_twin(model: QLSTM) -> LSTMTwin:
    """The classical LSTM whose count of parameters is nearest to the model's, drawn from torch's global generator."""
    wanted, features, outputs = parameters(model), model.input_size, model.hidden_size

    def count(inner: int, lstm_bias: bool, bias: bool) -> int:
        return 4 * inner * (features + inner + 2 * lstm_bias) + inner * outputs + bias * outputs

    sizes = [(inner, lstm_bias, bias) for inner in range(1, wanted) for lstm_bias in (True, False) for bias in (True, False)]
    inner, lstm_bias, bias = min(sizes, key=lambda size: abs(count(*size) - wanted))
    return LSTMTwin(features, inner, outputs, lstm_bias, bias, model.weights.dtype)


def _array(tensor: Tensor) -> NDArray[np.floating[Any]]:
    array: NDArray[np.floating[Any]] = tensor.detach().cpu().numpy().copy()
    return array
