"""Shares: the frame that says which part of the bytes between two leaves goes over which spine, and whose shares they are."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.learn.evolve import evolve
from qstream.learn.model import Model
from qstream.nvlink import rewards
from qstream.nvlink.leaves import LeafSpine
from qstream.nvlink.links import fullest, wcmp
from qstream.nvlink.memory import NO_WINDOW, Memory
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.splits import SplitState, arm_share, arms, plan_splits, start
from schemas.fabric import FabricReport, LinkTelemetry, RouteScore, RouteShares
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
    closed: int = NO_WINDOW,
    window: int = NO_WINDOW,
    model: Model | None = None,
    plan_id: str,
    ts_ns: int,
) -> RouteShares:
    """Learn from the window `closed`, and return the shares that serve from `window` on; neither: the topology is another."""
    up, down = leaves.up_gb_s, leaves.down_gb_s
    before = memory.now.splits
    last = None if before is None or demand is None else fullest(before.share, demand, up, down)
    guard, planner = _who(memory, leaves, options), "wcmp"
    if guard == "ours":
        share, state = plan_splits(demand, up, down, utilisation=measured, state=before, options=options, model=model)
        up, down = up * state.up_factor, down * state.down_factor
        drawn = None if demand is not None else _drawn(memory, state, wcmp(up, down), options, closed, window)
        if drawn is None:
            state = evolve(state, rewards=rewards.let_go(state.rewards))
            guard = "ours" if state.guard.answers == "candidate" else "held back"
            guard = "no window yet" if not state.steps else guard
        else:
            share, state, guard = drawn
        planner = "wcmp" if guard != "ours" else "mix" if drawn is None else "bandit"
        memory.set(splits=state)
    else:
        share = wcmp(up, down)
        if guard != "too large":
            memory.set(splits=_serving(before or start(up, down), share))
    score = None
    if demand is not None and demand.any():
        planned, peer = fullest(share, demand, up, down), fullest(wcmp(up, down), demand, up, down)
        score = _score(planned, peer, last)
    answer = _Answer(share, guard, planner, score, demand, options.rl and model is None)
    return _frame(memory, leaves, options, answer, plan_id, ts_ns)


def fallen_back(memory: Memory, leaves: LeafSpine, options: NvlinkOptions, *, plan_id: str, ts_ns: int) -> RouteShares:
    """WCMP's shares, because no telemetry came for long."""
    share = wcmp(leaves.up_gb_s, leaves.down_gb_s)
    if memory.now.splits is not None:
        memory.set(splits=_serving(memory.now.splits, share))
    return _frame(memory, leaves, options, _Answer(share, "stale"), plan_id, ts_ns)


def note_report(memory: Memory, report: FabricReport, options: NvlinkOptions) -> None:
    """Take in what a step achieved, where shares are learnt: the reward of those that serve."""
    splits = _learning(memory, options)
    if splits is not None:
        known = splits.rewards or rewards.start(memory.now.window)
        found = rewards.with_report(known, report, int(options.window_ms * 1e6))
        memory.set(splits=evolve(splits, rewards=found))


def note_telemetry(memory: Memory, told: LinkTelemetry, window: int, options: NvlinkOptions) -> None:
    """Take in what a record that counted says of rewards: whether pairs are told, and how long bytes waited."""
    splits = _learning(memory, options)
    if splits is not None and splits.rewards is not None:
        memory.set(splits=evolve(splits, rewards=rewards.with_telemetry(splits.rewards, told, window)))


def _learning(memory: Memory, options: NvlinkOptions) -> SplitState | None:
    frozen = options.freeze or "splits" in memory.now.frozen
    return None if frozen or options.shares != "mix" else memory.now.splits


def _drawn(
    memory: Memory, state: SplitState, base: Floats, options: NvlinkOptions, closed: int, window: int
) -> tuple[Floats, SplitState, Guard] | None:
    """The shares of the arm that serves without pairs, and the state with it; None where the bandit does not serve."""
    known = state.rewards
    if known is None or not state.steps:
        return None
    if closed == NO_WINDOW:
        if known.arm == rewards.NO_ARM or known.arm >= arms(state):
            return None
    elif not rewards.serves(known, memory.now.heard_ns, closed, options.stale_s):
        return None
    else:
        known = rewards.next_arm(known, arms(state), closed, window, options.seed)
    share = np.ascontiguousarray(arm_share(state, known.arm, base, options.wcmp_floor))
    return share, evolve(state, share=share, rewards=known), rewards.verdict(known)


def _serving(state: SplitState, share: Floats) -> SplitState:
    """The state while these shares serve, which are none of its own."""
    return state.model_copy(update={"share": share, "rewards": rewards.let_go(state.rewards)})


class _Answer(NamedTuple):
    """Shares [leaves, leaves, spines], what the guard says of them, what they come from, what they are worth, the demand of the
    window before, and whether a policy was asked for that is not there."""

    share: Floats
    guard: Guard
    planner: str = "wcmp"
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
    share, guard, planner, score, demand, missing = answer
    reason = Reason.MODEL_MISSING if missing and guard in ("ours", "held back", "no window yet") else None
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
