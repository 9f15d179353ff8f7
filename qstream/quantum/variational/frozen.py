"""FrozenQLSTM: a trained quantum LSTM as numpy arrays, to take one step at a time without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.variational.embedding import product_state
from schemas.wording import Shown, must_be

Real = NDArray[np.floating[Any]]
RecurrentState = tuple[Real, Real]


@dataclass(frozen=True, slots=True, eq=False)
class FrozenQLSTM:
    """The matrices of a trained `qstream.quantum.qlstm.QLSTM`; made by its `freeze`.

    Attributes
    ----------
    from_input [F, n], from_hidden [H, n], shift [n]
        Angles of the n qubits are ``x @ from_input + h @ from_hidden + shift``.
    circuits [2^n, 4 * 2 * 2^n]
        Real and imaginary part of the transposed unitary of the forget, input, cell and output gate, side by side.
    readout [2 * 2^n, H], offset [H]
        From the squared parts of a circuit's amplitudes to its gate.
    """

    from_input: Real
    from_hidden: Real
    shift: Real
    circuits: Real
    readout: Real
    offset: Real

    def start(self, samples: int) -> RecurrentState:
        """Hidden and cell state before the first step, zeros [B, H] each."""
        zeros = np.zeros((samples, len(self.offset)), self.offset.dtype)
        return zeros, zeros

    def step(self, x: ArrayLike, state: RecurrentState) -> RecurrentState:
        """Hidden and cell state [B, H] after inputs [B, F]; the hidden state is the output."""
        inputs = np.asarray(x, self.shift.dtype)
        if inputs.ndim != 2 or inputs.shape[1] != len(self.from_input):
            raise ProblemError(must_be("x", f"[samples, {len(self.from_input)} features]", Shown(f"shape {inputs.shape}")))
        hidden, cell = state
        for name, part in (("hidden", hidden), ("cell", cell)):
            if np.shape(part) != (allowed := (len(inputs), len(self.offset))):
                raise ProblemError(
                    must_be(f"{name} state", f"of the shape {allowed} for this x", Shown(f"shape {np.shape(part)}"))
                )
        parts = product_state(inputs @ self.from_input + hidden @ self.from_hidden + self.shift) @ self.circuits
        gates = (parts * parts).reshape(len(inputs), 4, len(self.readout)) @ self.readout + self.offset
        opened = _sigmoid(gates)
        cell = opened[:, 0] * cell + opened[:, 1] * np.tanh(gates[:, 2])
        return opened[:, 3] * np.tanh(cell), cell


def _sigmoid(x: Real) -> Real:
    # By tanh, which cannot overflow.
    result: Real = 0.5 + 0.5 * np.tanh(0.5 * x)
    return result
