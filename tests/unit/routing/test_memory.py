"""Windows close in order, the ring keeps the newest, loads count once; labels and pairs are counted, and bounded."""

import numpy as np

from qstream.routing.colocate import coactivation
from qstream.routing.memory import LABEL_CHOICES, PAIR_WINDOWS, Memory, RoutingState
from qstream.routing.problem import contiguous
from qstream.routing.sample import COUNT_MAX
from qstream.routing.snapshot import begin_plan, end_plan, kept_coactivation
from qstream.state.fields import pack, unpack
from schemas import ExpertTopology, TokenBatch

TOPOLOGY = ExpertTopology(num_layers=2, num_logical_experts=3, num_gpus=2, slots_per_gpu=2)


def filled(memory: Memory, value: int) -> None:
    memory.add(np.full((2, 3), value), None, 2 * 3 * value)


def test_a_window_is_full_when_all_layers_together_have_their_tokens():
    memory = Memory.fresh(TOPOLOGY, windows=2)
    memory.add(np.array([3, 0, 0]), layer=0, token_layers=3)
    assert not memory.is_full(window_tokens=2)
    memory.add(np.array([0, 1, 0]), layer=1, token_layers=1)
    assert memory.is_full(window_tokens=2)
    assert memory.now.open_count.tolist() == [[3, 0, 0], [0, 1, 0]]


def test_the_ring_keeps_the_newest_windows_oldest_first():
    memory = Memory.fresh(TOPOLOGY, windows=3)
    lengths = []
    for value in range(1, 6):
        filled(memory, value)
        memory.close_window(windows=3)
        history = memory.history()
        lengths.append(len(history))
        assert history[-1].tolist() == np.full((2, 3), value).tolist()
        memory = Memory(memory.state())
    assert lengths == [1, 2, 3, 3, 3]
    assert history[:, 0, 0].tolist() == [3, 4, 5]
    assert memory.now.open_tokens == 0


def test_the_ring_may_grow_and_shrink_while_it_is_used():
    memory = Memory.fresh(TOPOLOGY, windows=2)
    seen = {}
    for value, windows in enumerate((2, 2, 4, 4, 4, 2, 1), start=1):
        filled(memory, value)
        memory.close_window(windows)
        seen[value] = memory.history()[:, 0, 0].tolist()
    assert seen == {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 3, 4], 5: [2, 3, 4, 5], 6: [5, 6], 7: [7]}


def test_a_count_beyond_the_ring_s_type_saturates():
    memory = Memory.fresh(TOPOLOGY, windows=1)
    memory.add(np.full((2, 3), 2**40), None, 1)
    memory.close_window(1)
    assert memory.history().max() == COUNT_MAX


def test_a_load_window_counts_once_and_old_names_are_forgotten():
    memory = Memory.fresh(TOPOLOGY, windows=1)
    assert [memory.remember_window(name) for name in ("a/1", "a/2", "a/1")] == [True, True, False]
    for n in range(100):
        memory.remember_window(f"b/{n}")
    assert len(memory.now.seen_windows) == 64
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


def test_beside_gpus_without_capacity_the_others_hold_every_expert():
    dead = TOPOLOGY.model_copy(update={"num_gpus": 3, "gpu_capacity": np.array([1, 0, 1], np.float32)})
    plan = contiguous(dead)[0]
    assert set(plan[[0, 1, 4, 5]].tolist()) == {0, 1, 2}


NODES = TOPOLOGY.model_copy(update={"num_nodes": 2, "num_logical_experts": 4})


def labelled(names: str | list[str], label: list[int], layer: int = 0, seed: int = 0, experts: int = 4) -> TokenBatch:
    ids = np.random.default_rng(seed).random((len(label), experts)).argsort(1)[:, :2].astype(np.int32)
    return TokenBatch(
        batch_id="b",
        ts_ns=1,
        model="m",
        layer=layer,
        token_id=np.arange(len(label), dtype=np.uint64),
        topk_ids=ids,
        label=np.array(label, np.int32),
        label_names=tuple(names),
    )


def by_label(memory: Memory) -> dict[str, list[list[int]]]:
    return {name: memory.now.label_count[:, row].tolist() for row, name in enumerate(memory.now.label_names)}


def expected(batches: list[TokenBatch], *names: str) -> list[list[int]]:
    """Gate choices of the tokens of these labels, by layer and expert, counted one by one."""
    out = np.zeros((2, 4), int)
    for batch in batches:
        for label, ids in zip(batch.label, batch.topk_ids, strict=True):
            if label >= 0 and batch.label_names[label] in names:
                for e in ids:
                    out[batch.layer, e] += 1
    return out.tolist()


def test_gate_choices_are_counted_by_label_in_the_order_in_which_labels_come():
    memory = Memory.fresh(NODES, windows=1)
    batches = [labelled("xab", [2, 1, -1, 2, 2], 0, 1), labelled("ca", [0, 1, 1], 1, 2), labelled("a", [-1], 0, 3)]
    for batch in batches:
        memory.add_batch(batch, 16, True)
    assert memory.now.label_names == ("a", "b", "c")
    assert by_label(memory) == {name: expected(batches, name) for name in "abc"}


def test_padding_counts_nowhere():
    batch = labelled("ab", [0, 1, 1, 0, 1, 1])
    ids = np.full((12, 3), -1, np.int32)
    ids[::2, :2] = batch.topk_ids
    columns = {"topk_ids": ids, "label": np.repeat(batch.label, 2), "token_id": np.repeat(batch.token_id, 2)}
    found, plain = Memory.fresh(NODES, windows=1), Memory.fresh(NODES, windows=1)
    found.add_batch(batch.model_copy(update=columns), 16, 1000)
    plain.add_batch(batch, 16, 1000)
    assert found.now.open_tokens == plain.now.open_tokens == 6
    assert found.now.open_count.tolist() == plain.now.open_count.tolist()
    assert by_label(found) == by_label(plain)
    pairs = []
    for memory in (found, plain):
        begin_plan(memory, 0, True)
        pairs.append(kept_coactivation(memory.now, 1000)().tolist())
    assert pairs[0] == pairs[1]


def test_labels_beyond_the_first_ones_count_as_other():
    memory = Memory.fresh(NODES, windows=1)
    batches = [labelled("abcd", [0, 1, 2, 3, 3], 1, 1), labelled("eda", [0, 1, 2, 2], 0, 2)]
    for batch in batches:
        memory.add_batch(batch, 3, True)
    assert by_label(memory) == {
        "a": expected(batches, "a"),
        "b": expected(batches, "b"),
        "other": expected(batches, "c", "d", "e"),
    }


def test_fewer_labels_merge_when_a_window_closes_and_none_forgets_them():
    memory = Memory.fresh(NODES, windows=1)
    batches = [labelled("abcd", [0, 1, 2, 3, 3], 1, 1)]
    memory.add_batch(batches[0], 16, True)
    memory.fade(2, True)
    assert by_label(memory) == {"a": expected(batches, "a"), "other": expected(batches, "b", "c", "d")}
    memory.fade(0, True)
    memory.add_batch(batches[0], 0, True)
    assert (memory.now.label_names, memory.now.label_count) == ((), None)


def test_the_counts_of_a_label_that_had_very_many_tokens_are_halved_and_others_stay():
    memory = Memory.fresh(NODES, windows=1)
    memory.set(label_names=("often", "rare"), label_count=np.array([[[LABEL_CHOICES] * 4, [1, 0, 2, 0]]] * 2, np.int32))
    memory.fade(16, True)
    assert memory.now.label_count.tolist() == [[[LABEL_CHOICES // 4] * 4, [1, 0, 2, 0]]] * 2


def test_what_waits_stands_beside_what_was_counted_and_is_known_for_one_window():
    memory = Memory.fresh(NODES, windows=1)
    memory.queue({"b": 5, "never seen": 7, "a": 2}, 16)
    assert memory.demand() is None
    memory.add_batch(labelled("ab", [0, 0, 1]), 16, True)
    labels, queued = memory.demand()
    assert queued.tolist() == [2, 5, 7]
    assert labels[:2].tolist() == [memory.now.label_count[:, row].tolist() for row in (0, 1)]
    assert not labels[2].any()
    memory.fade(16, True)
    assert memory.demand()[1].tolist() == [0, 0, 0]


def test_what_a_plan_is_made_of_stays_as_it_was_at_the_end_of_its_window():
    memory = Memory.fresh(NODES, windows=1)
    memory.add_batch(labelled("ab", [0, 0, 1, 0]), 16, 100)
    memory.queue({"a": 2}, 16)
    begin_plan(memory, 7, True)
    before = [array.tolist() for array in (memory.now.planning_labels, memory.now.planning_queued, memory.now.planning_sample)]
    memory.fade(16, True)
    memory.add_batch(labelled("abc", [2, 2, 1, 1]), 16, 100)
    memory = Memory(memory.state())
    memory.add_batch(labelled("abc", [2, 2, 1, 1]), 16, 100)
    assert [
        array.tolist() for array in (memory.now.planning_labels, memory.now.planning_queued, memory.now.planning_sample)
    ] == before
    assert (memory.now.planning.active, memory.now.planning.begun_ns) == (True, 7)
    end_plan(memory)
    assert (memory.now.planning.active, memory.now.planning_labels, memory.now.planning_sample) == (False, None, None)


def test_a_queue_of_very_many_labels_is_kept_by_its_largest():
    memory = Memory.fresh(NODES, windows=1)
    memory.add_batch(labelled("z", [0, 0]), 16, True)
    memory.queue({f"tenant {n:04d}": n for n in range(4000)} | {"z": 1}, 4)
    assert memory.now.queued == {"z": 1, **{f"tenant {n}": n for n in (3999, 3998, 3997)}, "other": sum(range(3997))}
    assert memory.demand()[1].tolist() == [1, sum(range(4000))]


def test_co_activations_of_tokens_are_sampled_and_those_of_loads_added_and_faded():
    memory = Memory.fresh(NODES, windows=1)
    batch = labelled("a", [0] * 400, 1, 5)
    memory.add_batch(batch, 0, 1000)
    want = coactivation(batch.topk_ids[:, None], 4)[0]
    begin_plan(memory, 0, True)
    assert kept_coactivation(memory.now, 1000)()[1].tolist() == want.tolist()
    load = np.stack([8 * np.ones((4, 4), np.int64)] * len(memory.now.open_count))
    memory.add_pairs(load)
    memory.fade(0, True)
    begin_plan(memory, 0, True)
    assert kept_coactivation(memory.now, 1000)()[1].tolist() == (want + 8 * (PAIR_WINDOWS - 1) // PAIR_WINDOWS).tolist()
    memory.fade(0, False)
    memory.add_batch(batch, 0, 0)
    assert memory.now.sample is memory.now.sampled_of is memory.now.pair_count is None


def test_a_first_batch_of_fewer_experts_a_token_hides_no_co_activations_of_those_that_follow():
    memory = Memory.fresh(NODES, windows=1)
    batch = labelled("a", [0] * 400, 1, 5)
    memory.add_batch(batch.model_copy(update={"topk_ids": batch.topk_ids[:, :1].copy()}), 0, 1000)
    memory.add_batch(batch, 0, 1000)
    begin_plan(memory, 0, True)
    assert kept_coactivation(memory.now, 1000)()[1].tolist() == coactivation(batch.topk_ids[:, None], 4)[0].tolist()


def test_pair_counts_that_have_faded_take_no_room():
    memory = Memory.fresh(NODES, windows=1)
    memory.add_pairs(np.ones((len(memory.now.open_count), 4, 4), np.int64))
    memory.fade(0, True)
    assert memory.now.pair_count is None


def test_loads_alone_tell_co_activations_and_nothing_tells_none():
    memory = Memory.fresh(NODES, windows=1)
    begin_plan(memory, 0, True)
    assert kept_coactivation(memory.now, 1000)() is None
    memory.add_pairs(np.ones((len(memory.now.open_count), 4, 4), np.int64))
    begin_plan(memory, 0, True)
    assert (kept_coactivation(memory.now, 1000)() == 1).all()


def test_co_activations_are_kept_of_large_models_and_where_nodes_matter():
    one = Memory.fresh(NODES.model_copy(update={"num_nodes": 1}), windows=1)
    one.add_batch(labelled("a", [0] * 8), 0, 100)
    large = Memory.fresh(NODES.model_copy(update={"num_layers": 58, "num_logical_experts": 256, "slots_per_gpu": 128}), windows=1)
    large.add_batch(labelled("a", [0] * 8), 0, 100)
    assert one.now.sample is None
    assert large.now.sampled_of.sum() == 8


def test_a_state_is_not_changed_by_the_memory_that_was_read_from_it():
    memory = Memory.fresh(NODES, windows=1)
    memory.add_batch(labelled("ab", [0, 1] * 8), 16, True)
    memory.queue({"a": 1}, 16)
    state = memory.state()
    before = state.encode()
    again = Memory(state)
    again.add_batch(labelled("abc", [0, 1, 2] * 8), 16, True)
    again.add_batch(labelled("abc", [0, 1, 2] * 8), 16, True)
    again.queue({"a": 2}, 16)
    again.fade(2, True)
    assert state.encode() == before
    assert unpack(RoutingState, pack(state)) == state


def test_the_state_of_a_large_model_stays_small_and_so_does_each_of_its_fields():
    large = ExpertTopology(
        model="m",
        num_layers=58,
        num_logical_experts=256,
        top_k=8,
        num_nodes=4,
        num_gpus=32,
        slots_per_gpu=9,
        node_of_gpu=np.repeat(np.arange(4, dtype=np.int32), 8),
    )
    memory = Memory.fresh(large, windows=16)
    names = [f"tenant {n} ".ljust(100, "x") for n in range(40)]
    for n in range(16):
        memory.add_batch(labelled(names, list(range(40)), n, n, experts=256), 16, True)
        memory.remember_window(f"source/{n}")
        memory.add(np.full((58, 256), 1000), None, 1)
        memory.close_window(16)
    memory.queue(dict.fromkeys(names, 10**9), 16)
    memory.propose(memory.now.placement, 1, 1)
    begin_plan(memory, 1, True)
    fields = pack(memory.state())
    assert sum(map(len, fields.values())) <= 4 << 20
    assert max(map(len, fields.values())) <= 64 << 10
