"""Shares: the frame that says which part of the bytes between two leaves goes over which spine."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.learn.model import Model
from qstream.nvlink.leaves import LeafSpine
from qstream.nvlink.links import fullest, wcmp
from qstream.nvlink.memory import Memory
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.splits import plan_splits, start
from schemas.fabric import RouteScore, RouteShares
from schemas.solver import Reason, SolverRecord

Floats = NDArray[np.float64]
Guard = Literal["ours", "held back", "frozen", "switched off", "no window yet", "too large", "stale"]
SLOW: Final = 0.9  # part of its nominal speed below which a link is told as slow
MAX_LEARNT: Final = 1 << 15  # pairs times paths: beyond, the state would pass its limit, and WCMP serves
MAX_PUBLISHED: Final = 1 << 16  # entries of a frame: the pairs with least bytes are left to WCMP


def next_shares(
    memory: Memory,
    leaves: LeafSpine,
    options: NvlinkOptions,
    demand: Floats | None,
    measured: tuple[Floats, Floats] | None,
    *,
    model: Model | None = None,
    plan_id: str,
    ts_ns: int,
) -> RouteShares:
    """Learn from a closed window, and return the shares that serve the next one."""
    up, down = leaves.up_gb_s, leaves.down_gb_s
    before = memory.now.splits
    last = None if before is None or demand is None else fullest(before.share, demand, up, down)
    guard = _who(memory, leaves, options)
    if guard == "ours":
        share, state = plan_splits(demand, up, down, utilisation=measured, state=before, options=options, model=model)
        memory.set(splits=state)
        up, down = up * state.up_factor, down * state.down_factor
        guard = "ours" if state.guard.answers == "candidate" else "held back"
        guard = "no window yet" if not state.steps else guard
    else:
        share = wcmp(up, down)
        if guard != "too large":
            memory.set(splits=(before or start(up, down)).model_copy(update={"share": share}))
    score = None
    if demand is not None and demand.any():
        planned, peer = fullest(share, demand, up, down), fullest(wcmp(up, down), demand, up, down)
        score = _score(planned, peer, last)
    return _frame(memory, leaves, options, _Answer(share, guard, score, demand, options.rl and model is None), plan_id, ts_ns)


def fallen_back(memory: Memory, leaves: LeafSpine, options: NvlinkOptions, *, plan_id: str, ts_ns: int) -> RouteShares:
    """WCMP's shares, because no telemetry came for long."""
    share = wcmp(leaves.up_gb_s, leaves.down_gb_s)
    if memory.now.splits is not None:
        memory.set(splits=memory.now.splits.model_copy(update={"share": share}))
    return _frame(memory, leaves, options, _Answer(share, "stale"), plan_id, ts_ns)


class _Answer(NamedTuple):
    """Shares [leaves, leaves, spines], who gave them, what they are worth, the demand of the window before, and whether a
    policy was asked for that is not there."""

    share: Floats
    guard: Guard
    score: RouteScore | None = None
    demand: Floats | None = None
    missing: bool = False


def _who(memory: Memory, leaves: LeafSpine, options: NvlinkOptions) -> Guard:
    """Who may answer: the mix, or why not."""
    if leaves.up_gb_s.size * len(leaves.leaf) > MAX_LEARNT:
        return "too large"
    if options.freeze or "splits" in memory.now.frozen:
        return "frozen"
    if options.shares != "mix":
        return "switched off"
    return "stale" if memory.now.stale else "ours"


def _slow(memory: Memory) -> int:
    """Links that telemetry found slower than `SLOW` of what they say."""
    state = memory.now.splits
    return 0 if state is None else int((state.up_factor < SLOW).sum() + (state.down_factor < SLOW).sum())


def _score(planned: float, peer: float, last: float | None) -> RouteScore | None:
    if not np.isfinite([planned, peer]).all():
        return None  # leaves without a path send to one another
    return RouteScore(wcmp=peer, planned=planned, last_served=last if last is not None and np.isfinite(last) else None)


def _frame(memory: Memory, leaves: LeafSpine, options: NvlinkOptions, answer: _Answer, plan_id: str, ts_ns: int) -> RouteShares:
    share, guard, score, demand, missing = answer
    reason = Reason.MODEL_MISSING if missing and guard in ("ours", "held back", "no window yet") else None
    planner = "mix" if guard == "ours" else "wcmp"
    count, spines = len(leaves.leaf), len(leaves.spine)
    src, dst = np.nonzero(~np.eye(count, dtype=bool))
    if len(src) * spines > MAX_PUBLISHED:
        wanted = np.zeros(len(src)) if demand is None else demand[src, dst]
        kept = np.sort(np.argsort(-wanted, kind="stable")[: MAX_PUBLISHED // spines])
        src, dst = src[kept], dst[kept]
    rows = share[src, dst].astype(np.float32)
    record = SolverRecord(solver=planner, n=len(src), objective=None if score is None else score.planned, seed=options.seed)
    return RouteShares(
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=options.ttl_s,
        solver=record,
        fallback_reason=Reason.STALE if guard == "stale" else reason,
        fabric=memory.now.topology.fabric,
        topology_digest=memory.now.digest,
        planner=planner,
        guard=guard,
        score=score,
        heard_ns=memory.now.heard_ns,
        slow_links=_slow(memory),
        dropped=memory.now.foreign,
        pair_src=leaves.leaf[src].astype(np.int32),
        pair_dst=leaves.leaf[dst].astype(np.int32),
        via=np.broadcast_to(leaves.spine.astype(np.int32), rows.shape).copy(),
        share=np.minimum(rows, np.float32(1)),
    )
