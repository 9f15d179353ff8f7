"""A small mixture-of-experts language model in PyTorch, and how to read the routing of any such model while it trains.

The one file of qstream that imports torch. To instrument your own model, copy `recorded_routing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch user knows it by
from numpy.typing import NDArray
from torch import Tensor, nn

from qstream.demo.text import TextBatch

BYTES = 256
# Weak on purpose: at the usual 1e-2 the experts even out and there is little left to place. Real models keep such skew.
BALANCE_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; the default has about one million parameters. `hidden` is the width of one expert."""

    layers: int = 3
    experts: int = 16
    top_k: int = 2
    width: int = 96
    heads: int = 4
    hidden: int = 96
    context: int = 128


@dataclass(frozen=True, slots=True, eq=False)
class LayerRouting:
    """Where one layer sent its tokens: ids int32 [T, K], best first; weights float32 [T, K], each row sums to 1."""

    layer: int
    topk_ids: NDArray[np.int32]
    topk_weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TrainStep:
    """What one optimizer step saw and did; tokens run sequence by sequence.

    Attributes
    ----------
    step, loss, wall_s
        Index from 0, mean cross-entropy (nats a byte), duration of the step.
    token_id : uint64 [T]
        ``step << 20 | row``: unique over a run (up to 2**20 tokens a step) and the same in every run.
    request_id : uint64 [T]
        The sequence that the token belongs to.
    position : int32 [T]
        Place of the token in its sequence.
    label : int32 [T]
        Domain of the text, an index into `label_names`.
    routing : tuple of LayerRouting [L]
    """

    step: int
    loss: float
    token_id: NDArray[np.uint64]
    request_id: NDArray[np.uint64]
    position: NDArray[np.int32]
    label: NDArray[np.int32]
    label_names: tuple[str, ...]
    routing: tuple[LayerRouting, ...]
    wall_s: float


class Router(nn.Module):  # type: ignore[misc]
    """Choose top_k experts a token. Balance loss: Switch Transformer (2021), eq. 4."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.top_k, self.experts = shape.top_k, shape.experts
        self.score = nn.Linear(shape.width, shape.experts, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probability = self.score(x).softmax(dim=-1)  # [T, E]
        weights, ids = probability.topk(self.top_k)  # [T, K], best first
        share = torch.bincount(ids.flatten(), minlength=self.experts) / ids.numel()
        balance_loss = self.experts * (share * probability.mean(dim=0)).sum()
        return weights / weights.sum(dim=-1, keepdim=True), ids, balance_loss


class MixtureOfExperts(nn.Module):  # type: ignore[misc]
    """Feed-forward layer in which each token meets only the experts that its router chose; no token is dropped."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.router = Router(shape)
        self.up = nn.Parameter(torch.empty(shape.experts, shape.width, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids, balance_loss = self.router(x)
        # Sorted by expert, the tokens of one expert lie together: one dense product each, twice as fast on a CPU as
        # padding all experts to the fullest.
        order = ids.flatten().argsort(stable=True)
        token = order // ids.shape[1]
        load = torch.bincount(ids.flatten(), minlength=len(self.up)).tolist()
        groups = zip(x[token].split(load), self.up.unbind(), self.down.unbind(), strict=True)
        out = torch.cat([F.silu(group @ up) @ down for group, up, down in groups])
        return torch.zeros_like(x).index_add(0, token, out * weights.flatten()[order, None]), balance_loss


class Block(nn.Module):  # type: ignore[misc]
    """Causal attention, then the experts, each on a normalised residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.mix = nn.Linear(shape.width, shape.width, bias=False)
        self.moe_norm = nn.LayerNorm(shape.width)
        self.moe = MixtureOfExperts(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, s, d = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, d))
        y, balance_loss = self.moe(self.moe_norm(x).view(b * s, d))
        return x + y.view(b, s, d), balance_loss


class MoELanguageModel(nn.Module):  # type: ignore[misc]
    """Byte-level decoder: int64 [B, S] -> logits [B, S, 256] and the summed balance loss. Equal seed, equal weights."""

    def __init__(self, shape: Shape | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        self.embed = nn.Embedding(BYTES, shape.width)
        self.place = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=shape.width**-0.5 / 2, generator=generator)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        balance_loss = torch.zeros(())
        for block in self.blocks:
            x, balance = block(x)
            balance_loss = balance_loss + balance
        return self.norm(x) @ self.embed.weight.T, balance_loss


@contextmanager
def recorded_routing(model: nn.Module) -> Iterator[list[LayerRouting]]:
    """Append the routing of every layer to the list, in order, at each forward pass; the model itself is not changed.

    For another model, name its router class and unpack what its routers return.
    """
    routing: list[LayerRouting] = []

    def record(layer: int, _module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
        weights, ids, _ = output
        routing.append(LayerRouting(layer, ids.int().cpu().numpy(), weights.detach().float().cpu().numpy()))

    routers = [module for module in model.modules() if isinstance(module, Router)]
    hooks = [router.register_forward_hook(partial(record, layer)) for layer, router in enumerate(routers)]
    try:
        yield routing
    finally:
        for hook in hooks:
            hook.remove()


def train(
    model: MoELanguageModel,
    batches: Iterable[TextBatch],
    *,
    steps: int | None = None,
    learning_rate: float = 2e-3,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[TrainStep]:
    """Train with AdamW and yield each step together with its routing; endless if `steps` is None.

    Guarantee: for equal weights, batches and `threads`, the same routing bit for bit on the same machine (every
    operation used is deterministic on a CPU). `threads` is set for the whole process: leave cores to the agents.
    """
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    with recorded_routing(model) as routing:
        for step, batch in enumerate(islice(batches, steps)):
            start = clock()
            routing.clear()
            logits, balance_loss = model(torch.from_numpy(batch.inputs))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
            optimizer.zero_grad()
            (loss + BALANCE_WEIGHT * balance_loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rows, context = batch.inputs.shape
            yield TrainStep(
                step=step,
                loss=loss.item(),
                token_id=np.arange(rows * context, dtype=np.uint64) | np.uint64(step << 20),
                request_id=np.repeat(batch.request_id, context),
                position=np.tile(np.arange(context, dtype=np.int32), rows),
                label=np.repeat(batch.domain, context),
                label_names=batch.domain_names,
                routing=tuple(routing),
                wall_s=clock() - start,
            )
