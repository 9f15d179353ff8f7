"""The demo's clients say nothing of their own when they are cut off."""

from __future__ import annotations

import pytest

from qstream.config import load_settings
from qstream.demo.stage import QUIET
from qstream.stream.client import Publisher


def test_an_interrupted_producer_drops_what_it_holds_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    publisher = Publisher("127.0.0.1:1", "demo", load_settings(kafka=QUIET))
    publisher.publish_raw("any", b"k", b"v")
    publisher.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    del publisher
    assert capfd.readouterr().err == ""
