"""Messages about values are short, and the same everywhere."""

from __future__ import annotations

from schemas.wording import MAX_SHOWN, Shown, must_be


def test_a_message_names_the_field_the_rule_and_the_value() -> None:
    assert must_be("device", "a name of the pool", "qpu 7") == "device must be a name of the pool, got 'qpu 7'"


def test_a_description_is_not_quoted() -> None:
    assert must_be("topk_ids", "[tokens, k]", Shown("3 dimensions")) == "topk_ids must be [tokens, k], got 3 dimensions"


def test_a_long_value_is_cut() -> None:
    message = must_be("model", "at most 256 characters", "m" * 10_000)
    assert len(message) == len("model must be at most 256 characters, got ") + MAX_SHOWN
