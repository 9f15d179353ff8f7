"""Summary: the figures of a run, as they are printed and go to JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Versus:
    """One quantity under the fixed contiguous placement and under the plans, on the same tokens; None: nothing measured."""

    contiguous: float | None
    plan: float | None


@dataclass(frozen=True, slots=True)
class Split:
    """Balancedness of GPUs under one placement, replicas served evenly and by shares, on the same tokens; None: nothing."""

    even: float | None
    shares: float | None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds; None: nothing measured."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last value of a series."""

    first: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class Gains:
    """What the plans made for one goal did, or would do. `windows` are those scored; shares are scored on the tokens that
    they were made of, and on tokens that came after them."""

    placement_plans: int
    moved_experts: int
    windows: int
    next_window_balancedness: Versus
    shares_on_their_tokens: Split
    shares_on_next_tokens: Split
    cross_node_copies_per_token: Versus


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run, as they go to JSON.

    `lost` are token batches without a plan. `dispatch_shares_recounted` are those whose tokens were found among the published
    ones; `claim_error` is the largest difference of their balancedness to what they say themselves. `balance` is of the agent
    before the switch, `colocate` after it, and `balance_instead` what plans for balance would do on the tokens of `colocate`.
    """

    seconds: float
    tokens: int
    token_batches: int
    routing_plans: int
    placement_plans: int
    placement_plans_skipped: int
    moved_experts: int
    dispatch_shares: int
    dispatch_shares_recounted: int
    claim_error: float | None
    switched: bool
    balance: Gains
    colocate: Gains
    balance_instead: Gains
    latency_ms: Percentiles
    dead_letters: int
    lost: int
    repeated: int
    loss: Ends
