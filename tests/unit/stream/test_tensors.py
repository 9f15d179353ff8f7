"""TensorPublisher without a broker: what cannot be published is refused, and what is not confirmed is reported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qstream.config import Settings
from qstream.errors import BlockError, ConfigError, DeliveryFailed, ProblemError
from qstream.stream.tensors import TensorPublisher
from qstream.testing.rig import wait_until
from schemas.frame import FrameError

NOWHERE = "127.0.0.1:1"
QUIET = Settings(delivery_timeout_ms=100).with_kafka_defaults({"log_level": "0"})


def test_the_publish_after_a_failed_one_says_so():
    publisher = TensorPublisher(NOWHERE, settings=QUIET)

    def refused() -> DeliveryFailed | None:
        try:
            publisher.publish({"up": np.zeros(4)}, model="m", step=1)
        except DeliveryFailed as exc:
            return exc
        return None

    assert "were not confirmed" in str(wait_until(refused))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"tensors": {}}, ProblemError, "tensors must be at least one, got 0"),
        ({"tensors": {"up": np.array(["a"])}}, BlockError, "dtype of the array must be one of"),
        ({"tensors": {"up": np.zeros((1,) * 9)}}, BlockError, "array must be one of at most 8 axes"),
        ({"tensors": {"x" * 200: np.zeros(4)}}, ProblemError, "1 to 200 characters"),
        ({"tensors": dict.fromkeys(map("{:0190}".format, range(6000)), 0.0)}, FrameError, "TensorManifest.v1 must be at most"),
        ({"step": -1}, FrameError, "step"),
        ({"role": "noise"}, ProblemError, "role"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_sent(given: dict[str, Any], error: type[Exception], words: str):
    sent: list[object] = []
    publisher = TensorPublisher(NOWHERE, settings=QUIET)
    with pytest.raises(error, match=words):
        publisher.publish(**{"tensors": {"up": np.zeros(4)}, "model": "m", "step": 1, "on_block": sent.append} | given)
    assert sent == []


@pytest.mark.parametrize("given", [{"encode": "here"}, {"block_bytes": 4095}, {"block_bytes": 960_001}, {"claim_over": -1}])
def test_wrong_arguments_are_named(given: dict[str, Any]):
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must be"):
        TensorPublisher(NOWHERE, settings=QUIET, **given)


def test_nothing_is_compiled_or_trained_where_agents_code():
    code = "import sys, qstream.stream.tensors; print([name for name in ('numba', 'scipy', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
