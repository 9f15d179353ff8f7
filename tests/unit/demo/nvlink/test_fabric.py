"""The modelled fabric: what the topology says, what falls without a word, and a server that leaves."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.demo.nvlink.fabric import GPUS, SERVERS, SPINES, UPLINK_GB_S, Fabric
from qstream.demo.nvlink.frames import WINDOW_NS, telemetry
from schemas.fabric import GPU, LEAF, SPINE


def test_the_topology_has_servers_below_leaves_of_their_own_and_some_links_of_half_the_speed() -> None:
    fabric = Fabric(0)
    kinds = fabric.topology.node_type
    assert [(kinds == kind).sum() for kind in (GPU, LEAF, SPINE)] == [SERVERS * GPUS, SERVERS, SPINES]
    assert fabric.topology.warnings == ()
    assert set(np.unique(fabric.up_gb_s)) | set(np.unique(fabric.down_gb_s)) == {UPLINK_GB_S / 2, UPLINK_GB_S}
    assert fabric.blocks.skip_reason is None
    assert fabric.server[fabric.linear(16)].tolist() == np.repeat(range(4), GPUS).tolist()
    assert fabric.index[fabric.linear(16)].tolist() == list(range(GPUS)) * 4


def test_j_is_bytes_times_us_a_kb() -> None:
    fabric, nbytes = Fabric(0), np.zeros((8, 8))
    nbytes[0, 1], nbytes[0, 4] = 450e3, 50e3  # within a server, and to the next one, half as much again above the leaf
    assert fabric.cost_us(nbytes, fabric.linear(8)) == pytest.approx(1.0 + 1.5)


def test_an_uplink_that_falls_is_not_in_the_topology_and_shows_in_what_switches_count() -> None:
    fabric = Fabric(0)
    before = fabric.topology.digest()
    spine = fabric.slow(1)
    assert fabric.topology.digest() == before
    assert fabric.true_up_gb_s[1, spine] == pytest.approx(fabric.up_gb_s[1, spine] / 4)
    offered = np.full((SERVERS, SERVERS, SPINES), 0.1 * UPLINK_GB_S * WINDOW_NS) * ~np.eye(SERVERS, dtype=bool)[:, :, None]
    told = telemetry(fabric, 3, 1, 0, WINDOW_NS, offered)
    assert told.link_queue_us is not None
    up, down = fabric.leaves.up_of[told.link], fabric.leaves.down_of[told.link]
    full = told.link_queue_us > 0
    assert np.flatnonzero(full).tolist() == np.flatnonzero(up == 1 * SPINES + spine).tolist()
    assert told.link_bytes[full] == pytest.approx(fabric.true_up_gb_s[1, spine] * WINDOW_NS)
    # What waits before the uplink does not come to the downlinks behind it, which are not full.
    behind = (down >= 0) & (down // SERVERS == spine) & (down % SERVERS != 1)
    assert told.link_bytes[behind] == pytest.approx((3 + 0.25 / 0.4) * 0.1 * UPLINK_GB_S * WINDOW_NS)
    assert told.pair_bytes is not None
    assert told.pair_bytes.sum() == pytest.approx(offered.sum())


def test_a_server_that_leaves_takes_its_gpus_and_leaves_its_leaf() -> None:
    fabric = Fabric(0)
    before, gpus = fabric.topology, fabric.linear(20)
    fabric.leave(2)
    assert (fabric.topology.node_type == GPU).sum() == (SERVERS - 1) * GPUS
    assert fabric.leaves.up_gb_s == pytest.approx(fabric.up_gb_s)
    assert fabric.topology.digest() != before.digest()
    assert fabric.renumbered(gpus, before) is None
    kept = fabric.renumbered(gpus[-GPUS:], before)
    assert kept is not None
    assert fabric.server[kept].tolist() == [4] * GPUS
    assert set(fabric.server[fabric.linear(16)].tolist()) == {0, 1, 3, 4}
