"""Membership on a real broker: a worker is ready when its group knows it, with partitions or without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from qstream.testing.rig import Rig, wait_until


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_worker_that_gets_no_partition_is_ready_all_the_same(make_rig: Callable[..., Rig], protocol: str):
    rig = make_rig(partitions=1, group_protocol=protocol)
    with ExitStack() as running:
        threads = [running.enter_context(rig.loop(worker_id=f"worker-{n}")) for n in range(4)]
        statuses = wait_until(lambda: [found for found in [[t.loop.status() for t in threads]] if all(s.ready for s in found)])[0]
        wait_until(lambda: sum(t.loop.status().partitions for t in threads) == 2)
        assert all(status.running for status in statuses)
