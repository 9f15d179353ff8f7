"""Training of the nets that correct restored values, by torch, on pairs of values and what a reader got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qstream.compression.nets import HELD_OUT, HIDDEN, SHAPES, WIDTH, Kind, Net
from qstream.errors import ProblemError
from qstream.learn.fit import one_thread
from schemas.wording import Shown, must_be

STEPS: Final[dict[str, int]] = {"denoiser": 500, "lstm": 150}
_RATE: Final = 3e-3
_BATCH_VALUES: Final = 8192


class Pair(NamedTuple):
    """Values [rows, columns], what a reader got, the step of all or of each; and what a simpler refiner made of it, if any."""

    x: NDArray[Any]
    restored: NDArray[Any]
    step: float | NDArray[Any]
    peer: NDArray[Any] | None = None


class _Convolution(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        sizes = ((2, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1))
        self.layers = nn.ModuleList(nn.Conv1d(a, b, WIDTH, padding=WIDTH // 2) for a, b in sizes)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, seen: Tensor) -> Tensor:
        h = seen.mT
        for layer in self.layers[:-1]:
            h = nn.functional.gelu(layer(h))
        return self.layers[-1](h)[:, 0]

    def arrays(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]


class _Recurrence(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, seen: Tensor) -> Tensor:
        return self.out(self.cell(seen)[0])[..., 0]

    def arrays(self) -> list[Tensor]:
        cell = self.cell
        return [cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0, self.out.weight, self.out.bias]


def train_net(pairs: Sequence[Pair], kind: Kind, *, steps: int | None = None, seed: int = 0) -> Net:
    """Train a net on four rows of five; the others judge it.

    The record holds the squared error on the held-out rows by that of the restored values (`left`), and that of the peer
    (`peer`).

    Raises
    ------
    ProblemError
        A pair is no matrix of ten rows or more.
    """
    for pair in pairs:
        if pair.x.ndim != 2 or pair.x.shape != pair.restored.shape or len(pair.x) < 2 * HELD_OUT:
            allowed = f"matrices of one shape with {2 * HELD_OUT} rows or more"
            raise ProblemError(must_be("pair", allowed, Shown(f"{pair.x.shape} and {pair.restored.shape}")))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _Convolution() if kind == "denoiser" else _Recurrence()
    with one_thread():
        _fit(net, pairs, steps or STEPS[kind], seed)
    names = SHAPES[kind]
    parameters = {name: tensor.detach().numpy().copy() for name, tensor in zip(names, net.arrays(), strict=True)}
    return Net(kind, parameters, _judged(Net(kind, parameters), pairs) | {"steps": steps or STEPS[kind], "seed": seed})


def _fit(net: Any, pairs: Sequence[Pair], count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prepared = [_prepared(pair) for pair in pairs]
    optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for n in range(count):
        seen, wanted = prepared[n % len(prepared)]
        some = torch.randint(len(seen), (max(1, _BATCH_VALUES // seen.shape[1]),), generator=generator)
        loss = (net(seen[some]) - wanted[some]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _prepared(pair: Pair) -> tuple[Tensor, Tensor]:
    """Inputs [rows, columns, 2] and corrections in steps of the rows to learn from."""
    rows = np.arange(len(pair.x)) % HELD_OUT != 0
    rms = float(np.sqrt(np.mean(np.square(pair.restored, dtype=np.float64)))) or 1.0
    y = pair.restored[rows].astype(np.float32)
    step = np.broadcast_to(np.asarray(pair.step, np.float32), pair.x.shape)[rows]
    seen = np.stack([y / rms, step / rms], axis=-1).astype(np.float32)
    wanted = ((pair.x[rows].astype(np.float32) - y) / np.where(step > 0, step, 1)).astype(np.float32)
    return torch.from_numpy(seen), torch.from_numpy(wanted)


def _judged(net: Net, pairs: Sequence[Pair]) -> dict[str, Any]:
    before = after = peer = 0.0
    for pair in pairs:
        rows = np.arange(len(pair.x)) % HELD_OUT == 0
        x = pair.x[rows].astype(np.float64)
        before += float(np.square(x - pair.restored[rows]).sum())
        after += float(np.square(x - net.correct(pair.restored, pair.step)[rows]).sum())
        peer += float(np.square(x - (pair.restored if pair.peer is None else pair.peer)[rows]).sum())
    return {"left": after / before, "peer": peer / before} if before else {"left": 1.0, "peer": 1.0}
