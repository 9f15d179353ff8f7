"""The demo's sentences: a gain is reported with its price, and so is its absence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qstream.demo.routing.findings import findings
from qstream.demo.routing.summary import Ends, Gains, Percentiles, Split, Summary, Versus

NOTHING = Gains(0, 0, 0, Versus(None, None), Split(None, None), Split(None, None), Versus(None, None))
BALANCE = Gains(5, 50, 10, Versus(0.5, 0.8), Split(0.8, 0.95), Split(0.8, 0.9), Versus(0.75, 0.78))
COLOCATE = Gains(2, 60, 10, Versus(0.5, 0.7), Split(0.7, 0.9), Split(0.7, 0.75), Versus(0.75, 0.6))
SUMMARY = Summary(
    seconds=1.0,
    tokens=1,
    token_batches=1,
    routing_plans=1,
    placement_plans=7,
    placement_plans_skipped=0,
    moved_experts=110,
    dispatch_shares=9,
    dispatch_shares_recounted=8,
    claim_error=0.25,
    switched=True,
    balance=BALANCE,
    colocate=COLOCATE,
    balance_instead=BALANCE,
    latency_ms=Percentiles(None, None),
    dead_letters=0,
    lost=0,
    repeated=0,
    loss=Ends(None, None),
)


def said(summary: Summary) -> str:
    return "\n".join(findings(summary))


def test_gains_are_given_as_the_fullest_gpu_over_the_mean():
    text = said(SUMMARY)
    assert "1.25 times the mean load instead of 2.00" in text
    assert "1.11 times the mean instead of 1.25" in text
    assert "0.75 → 0.60 copies of a token between nodes, 20% less" in text


def test_the_price_of_less_traffic_is_given_next_to_plans_for_balance_on_the_same_tokens():
    [price] = [sentence for sentence in findings(SUMMARY) if sentence.startswith("Price")]
    assert "balancedness 0.70, plans for balance 0.80" in price
    assert "with shares 0.75, 0.90" in price
    assert "experts moved 60, 50" in price


def test_more_traffic_is_called_no_gain():
    assert "Traffic, for balance: no gain, 0.75 → 0.78" in said(SUMMARY)


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        (replace(BALANCE, next_window_balancedness=Versus(0.8, 0.8)), "Placement: no gain, balancedness 0.80 → 0.80"),
        (replace(BALANCE, next_window_balancedness=Versus(0.8, 0.7)), "Placement: no gain, balancedness 0.80 → 0.70"),
        (replace(BALANCE, shares_on_next_tokens=Split(0.8, 0.8)), "Shares: no gain on the tokens after them, 0.80 → 0.80"),
        (NOTHING, "Placement: not measured"),
        (NOTHING, "Shares: not measured"),
    ],
)
def test_a_figure_without_gain_or_without_measure_is_said_to_be_one(gains: Gains, sentence: str):
    assert sentence in said(replace(SUMMARY, balance=gains))


def test_shares_that_could_not_be_recounted_and_claims_that_differ_are_told():
    assert "8 of 9 shares recounted from what was published; the agent's own figures differ by 0.2500" in said(SUMMARY)
    assert "0 of 9 shares could be recounted" in said(replace(SUMMARY, dispatch_shares_recounted=0, claim_error=None))


def test_a_run_that_was_not_switched_has_no_word_of_colocate():
    assert "colocate" not in said(replace(SUMMARY, switched=False, colocate=NOTHING, balance_instead=NOTHING))


def test_a_switch_that_no_plan_followed_is_told():
    text = said(replace(SUMMARY, colocate=NOTHING, balance_instead=NOTHING))
    assert "Traffic, with colocate: not measured, no plan that colocates experts came after the switch." in text
