"""What a run's figures say, in sentences: what was gained, at what price, and where nothing was."""

from __future__ import annotations

from qstream.demo.routing.summary import Gains, Summary

LEAST_GAIN = 0.01  # relative; less is called no gain


def findings(summary: Summary) -> list[str]:
    """A sentence or two for each of placement, shares and traffic."""
    said = [_placement(summary.balance), _shares(summary.balance), _recount(summary)]
    said += [_traffic(summary.balance, "for balance"), _traffic(summary.colocate, "with colocate"), _price(summary)]
    if summary.switched and not summary.colocate.placement_plans:
        said.append("Traffic, with colocate: not measured, no plan that colocates experts came after the switch.")
    return [sentence for sentence in said if sentence is not None]


def _placement(gains: Gains) -> str:
    before, after = gains.next_window_balancedness.contiguous, gains.next_window_balancedness.plan
    if before is None or after is None:
        return "Placement: not measured, no window began after a plan."
    if after / before - 1 < LEAST_GAIN:
        return f"Placement: no gain, balancedness {before:.2f} → {after:.2f} on windows that the plans had not seen."
    return (
        f"Placement: the fullest GPU has {1 / after:.2f} times the mean load instead of {1 / before:.2f}, on windows that the"
        " plans had not seen."
    )


def _shares(gains: Gains) -> str:
    even, shares = gains.shares_on_next_tokens.even, gains.shares_on_next_tokens.shares
    if even is None or shares is None:
        return "Shares: not measured, too few tokens came after a placement."
    if shares / even - 1 < LEAST_GAIN:
        return f"Shares: no gain on the tokens after them, {even:.2f} → {shares:.2f}: the load changes faster than they come."
    return (
        f"Shares: {1 / shares:.2f} times the mean instead of {1 / even:.2f} by an even split, on tokens that came after them; no"
        " expert moves for that."
    )


def _recount(summary: Summary) -> str | None:
    if not summary.dispatch_shares:
        return None
    counted = f"{summary.dispatch_shares_recounted} of {summary.dispatch_shares} shares"
    if summary.claim_error is None:
        return f"        {counted} could be recounted from what was published."
    return f"        {counted} recounted from what was published; the agent's own figures differ by {summary.claim_error:.4f}."


def _traffic(gains: Gains, how: str) -> str | None:
    before, after = gains.cross_node_copies_per_token.contiguous, gains.cross_node_copies_per_token.plan
    if before is None or after is None:
        return None
    change = f"{before:.2f} → {after:.2f} copies of a token between nodes"
    if not before or 1 - after / before < LEAST_GAIN:
        return f"Traffic, {how}: no gain, {change}."
    return f"Traffic, {how}: {change}, {1 - after / before:.0%} less."


def _price(summary: Summary) -> str | None:
    """What `colocate` costs, next to plans for balance on the same tokens."""
    colocate, balance = summary.colocate, summary.balance_instead
    plan, instead = colocate.next_window_balancedness.plan, balance.next_window_balancedness.plan
    if plan is None or instead is None:
        return None
    text = f"Price of colocate, on the same tokens: balancedness {plan:.2f}, plans for balance {instead:.2f}"
    served = colocate.shares_on_next_tokens.shares, balance.shares_on_next_tokens.shares
    if served[0] is not None and served[1] is not None:
        text += f"; with shares {served[0]:.2f}, {served[1]:.2f}"
    return f"{text}; experts moved {colocate.moved_experts}, {balance.moved_experts}."
