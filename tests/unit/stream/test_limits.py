"""Limits: what is refused, and that small keys go on next to large ones."""

from __future__ import annotations

import time

import numpy as np
import pytest

from qstream.config import Settings
from qstream.errors import StateLimit
from qstream.routing.memory import Memory
from qstream.stream.limits import Limits, frame_bytes
from schemas import ExpertTopology

MIB = 1 << 20


def state(kib: int):
    """A state of about so many KiB."""
    topology = ExpertTopology(model="m", num_layers=1, num_logical_experts=64, num_gpus=1, slots_per_gpu=64)
    return Memory.fresh(topology, windows=kib * 4).now


def limits(**given: int) -> Limits:
    return Limits(Settings(**given))  # type: ignore[arg-type]


def test_the_bytes_of_a_frame_are_those_of_its_arrays_and_of_the_frames_in_it():
    small, large = state(1), state(101)
    assert frame_bytes(large) - frame_bytes(small) == 100 << 10
    capacity = np.ones(1, np.float32)
    within = small.model_copy(update={"topology": small.topology.model_copy(update={"gpu_capacity": capacity})})
    assert frame_bytes(within) - frame_bytes(small) == capacity.nbytes


def test_keys_beyond_the_setting_are_refused_and_those_that_are_there_go_on():
    found = limits(max_keys=2)
    for key in ("a", "b"):
        found.admit(key, None, state(1))
    with pytest.raises(StateLimit, match="the worker's states must be at most 2 keys, by the setting max_keys, got 3"):
        found.admit("c", None, state(1))
    found.admit("a", state(1), state(2))
    found.forget(["a"])
    found.admit("c", None, state(1))


def test_a_key_whose_state_has_expired_frees_its_place_and_one_that_was_renewed_does_not():
    found = limits(max_keys=2)
    for key in ("a", "b"):
        found.admit(key, None, state(1))
        found.expires(key, time.monotonic() - 1)
    found.admit("b", state(1), state(1))  # renewed before anything looked
    found.admit("c", None, state(1))
    with pytest.raises(StateLimit, match="max_keys, got 3"):
        found.admit("d", None, state(1))


def test_a_state_beyond_the_setting_is_refused_and_one_that_does_not_grow_is_taken():
    found = limits(max_key_bytes=1 << 16)
    with pytest.raises(StateLimit, match="the state of 'a' must be at most 65536 bytes, by the setting max_key_bytes, got"):
        found.admit("a", None, state(100))
    found.admit("b", state(100), state(90))
    found.admit("b", state(100), state(100))


def test_large_keys_fill_the_room_of_a_worker_and_those_below_their_share_go_on():
    found = limits(max_state_bytes=MIB)
    for n in range(3):
        found.admit(f"large{n}", None, state(300))
    with pytest.raises(StateLimit, match="at most 1048576 bytes, by the setting max_state_bytes"):
        found.admit("large3", None, state(300))
    found.admit("small", None, state(10))
    found.admit("small", state(10), state(100))
    with pytest.raises(StateLimit, match="max_state_bytes"):
        found.admit("large0", state(300), state(600))


def test_what_a_failed_turn_has_admitted_counts_once():
    found = limits(max_keys=1)
    found.admit("a", None, state(1))
    found.admit("a", None, state(1))
    found.keep([])
    found.admit("b", None, state(1))
