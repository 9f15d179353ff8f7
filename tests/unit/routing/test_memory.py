"""Windows close in order, the ring keeps the newest, loads count once."""

import numpy as np

from qstream.routing.memory import COUNT_MAX, Memory, RoutingState, contiguous
from qstream.state.fields import pack, unpack
from schemas import ExpertTopology

TOPOLOGY = ExpertTopology(num_layers=2, num_logical_experts=3, num_gpus=2, slots_per_gpu=2)


def filled(memory: Memory, value: int) -> None:
    memory.add(np.full((2, 3), value), None, 2 * 3 * value)


def test_a_window_is_full_when_all_layers_together_have_their_tokens():
    memory = Memory.fresh(TOPOLOGY, windows=2)
    memory.add(np.array([3, 0, 0]), layer=0, token_layers=3)
    assert not memory.is_full(window_tokens=2)
    memory.add(np.array([0, 1, 0]), layer=1, token_layers=1)
    assert memory.is_full(window_tokens=2)
    assert memory.open_count.tolist() == [[3, 0, 0], [0, 1, 0]]


def test_the_ring_keeps_the_newest_windows_oldest_first():
    memory = Memory.fresh(TOPOLOGY, windows=3)
    lengths = []
    for value in range(1, 6):
        filled(memory, value)
        history = memory.close_window(windows=3)
        lengths.append(len(history))
        assert history[-1].tolist() == np.full((2, 3), value).tolist()
        memory = Memory(RoutingState(**memory.fields()))
    assert lengths == [1, 2, 3, 3, 3]
    assert history[:, 0, 0].tolist() == [3, 4, 5]
    assert memory.open_tokens == 0


def test_the_ring_may_grow_and_shrink_while_it_is_used():
    memory = Memory.fresh(TOPOLOGY, windows=2)
    seen = {}
    for value, windows in enumerate((2, 2, 4, 4, 4, 2, 1), start=1):
        filled(memory, value)
        seen[value] = memory.close_window(windows)[:, 0, 0].tolist()
    assert seen == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 3, 4], 5: [2, 3, 4, 5], 6: [5, 6], 7: [7]}


def test_a_count_beyond_the_ring_s_type_saturates():
    memory = Memory.fresh(TOPOLOGY, windows=1)
    memory.add(np.full((2, 3), 2**40), None, 1)
    assert memory.close_window(1).max() == COUNT_MAX


def test_a_load_window_counts_once_and_old_names_are_forgotten():
    memory = Memory.fresh(TOPOLOGY, windows=1)
    assert [memory.remember_window(name) for name in ("a/1", "a/2", "a/1")] == [True, True, False]
    for n in range(100):
        memory.remember_window(f"b/{n}")
    assert len(memory.seen_windows) == 64
    assert memory.remember_window("a/1")


def test_a_working_copy_leaves_the_state_alone():
    state = Memory.fresh(TOPOLOGY, windows=1).state()
    before = state.encode()
    memory = Memory(state)
    filled(memory, 5)
    memory.close_window(1)
    assert state.encode() == before


def test_a_state_with_history_and_seen_windows_survives_its_storage():
    memory = Memory.fresh(TOPOLOGY.model_copy(update={"node_of_gpu": np.array([0, 1], np.int32), "num_nodes": 2}), windows=2)
    memory.remember_window("a/1")
    filled(memory, 3)
    memory.close_window(2)
    state = memory.state()
    assert unpack(RoutingState, pack(state)) == state


def test_without_a_plan_slot_p_holds_expert_p_modulo_e():
    assert contiguous(TOPOLOGY).tolist() == [[0, 1, 2, 0], [0, 1, 2, 0]]
