"""vLLM's own EPLB with our policy: two processes rearrange real weights over gloo, rank 0's plan wins and is acknowledged."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from qstream.config import load_settings
from qstream.embedded.kafka import EmbeddedKafka
from qstream.engines.vllm import AGENT, MODEL, register
from qstream.routing.formats.export import export
from qstream.routing.placement import place
from qstream.routing.score import violations
from qstream.stream.client import Publisher
from qstream.stream.read import frame_of, read_all
from qstream.testing.rig import wait_until
from schemas.experts import ExpertTopology
from schemas.placement import PlacementAck
from schemas.topics import PLACEMENT_ACK, PLACEMENT_PLAN

LAYERS, EXPERTS, SLOTS, RANKS, WIDTH, STEPS = 3, 8, 12, 2, 4, 4
MODEL_NAME, VERSION = "moe", 7


class Moment:
    """An event or stream of a device that this machine lacks."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def record(self, *_: object) -> None: ...
    def wait(self, *_: object) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, _: object) -> float:
        return 0.0


def main() -> None:
    """The planner alone, then a plan that only rank 0 can read, then the agent's plan from a broker."""
    topology = ExpertTopology(num_layers=LAYERS, num_logical_experts=EXPERTS, num_gpus=RANKS, slots_per_gpu=SLOTS // RANKS)
    plan = place(load(0)[None].astype(np.int64), topology, seed=5)
    now = {"model": MODEL_NAME, "ts_ns": time.time_ns(), "version": VERSION}
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedKafka({PLACEMENT_PLAN.name: 1, PLACEMENT_ACK.name: 1}) as broker,
        Publisher(broker.bootstrap_servers) as publisher,
    ):
        path = Path(folder) / "plan.json"
        path.write_bytes(export(plan, "plan"))
        publisher.publish(PLACEMENT_PLAN, plan.model_copy(update=now))
        publisher.flush()
        os.environ |= {"QSTREAM_BOOTSTRAP_SERVERS": broker.bootstrap_servers, MODEL: MODEL_NAME}
        spawn = multiprocessing.get_context("spawn")
        ranks = [
            spawn.Process(target=serve, args=(rank, free_port, str(path))) for free_port in [port()] for rank in range(RANKS)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    assert all(rank.exitcode == 0 for rank in ranks), [rank.exitcode for rank in ranks]
    print(f"vllm {version('vllm')}: right")


def port() -> int:
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def unpinned(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Without pinned memory, which needs a GPU's driver."""

    def call(*arguments: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        return function(*arguments, **more)

    return call


def load(step: int) -> np.ndarray:
    """Tokens of each expert, float64 [L, E]."""
    base = np.random.default_rng(0).lognormal(5, 1, (LAYERS, EXPERTS))
    return (base * np.random.default_rng(step + 1).normal(1, 0.05, base.shape)).round()


def serve(rank: int, port: int, plan: str) -> None:
    """One worker: vLLM loads its plug-ins; our planner alone, then a plan that rank 0 alone can read, then the agent's."""
    os.environ["QSTREAM_EPLB"] = "planner"
    torch.Event = Moment
    torch.accelerator.current_stream = torch.accelerator.synchronize = lambda *_: Moment()
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb.policy import EPLB_POLICIES, DefaultEplbPolicy
    from vllm.plugins import load_general_plugins

    torch.empty_like, torch.Tensor.new_empty = unpinned(torch.empty_like), unpinned(torch.Tensor.new_empty)
    torch.Tensor.pin_memory = lambda tensor, *_: tensor
    load_general_plugins()
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    world = torch.distributed.group.WORLD
    group = SimpleNamespace(
        cpu_group=world, device_group=world, rank_in_group=rank, rank=rank, world_size=RANKS, device_communicator=None
    )
    parallel_state._EP = parallel_state._EPLB = group
    parallel_state._NODE_COUNT = 1
    rearrange(rank, "own planner: no plan")
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    register(plan if rank == 0 else "/nowhere/plan.json")
    rearrange(rank, "plan ")
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    register(AGENT)
    if rank == 0:
        wait_until(lambda: EPLB_POLICIES["default"].source() is not None)
    torch.distributed.barrier()
    rearrange(rank, f"plan {VERSION}")
    if rank == 0:
        wait_until(
            lambda: acknowledged() == [VERSION] * STEPS, saying=acknowledged
        )  # after each rearrangement that it is still in force
        print(f"plan {VERSION} of the agent: acknowledged on the broker once its map was in force")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def acknowledged() -> list[int]:
    """The versions that the engine has said to have applied."""
    acks = read_all(load_settings(), PLACEMENT_ACK.name, MODEL_NAME)
    return [frame_of(message, PlacementAck).applied_version for message in acks]


def rearrange(rank: int, used: str) -> None:
    """Steps of a new state, each with a rearrangement."""
    from vllm.distributed.eplb import eplb_state

    config = SimpleNamespace(
        use_async=False, window_size=1, step_interval=1, policy="default", communicator="torch_gloo", log_balancedness_interval=1
    )
    state = eplb_state.EplbState(
        SimpleNamespace(enable_elastic_ep=False, eplb_config=config, num_ubatches=0), torch.device("cpu")
    )
    model = model_of(rank)
    state.add_model(model, SimpleNamespace(model="moe", compute_hash=lambda: "moe"))
    assert state.policy.__module__.startswith("qstream"), state.policy
    (held,) = state.model_states.values()
    moved = []
    for step in range(STEPS):
        before = held.physical_to_logical_map.clone()
        count_tokens(held, load(step), rank)
        state.step()
        check(held, model, rank)
        moved.append(int((before != held.physical_to_logical_map).sum()))
        if rank == 0:
            assert state.policy.used.startswith(used), state.policy.used
    assert not used.startswith("plan ") or moved[1:] == [0] * (STEPS - 1), moved
    if rank == 0:
        print(f"{used!r}: {STEPS} rearrangements, {moved} slots changed, all weights are where the map says")


def model_of(rank: int) -> SimpleNamespace:
    """A model whose weights say which expert they are of."""
    local = SLOTS // RANKS
    first = torch.arange(SLOTS) % EXPERTS
    mine = first[rank * local : (rank + 1) * local].float()[:, None].expand(local, WIDTH)
    return SimpleNamespace(
        num_moe_layers=LAYERS,
        num_routed_experts=EXPERTS,
        num_logical_experts=EXPERTS,
        num_physical_experts=SLOTS,
        num_redundant_experts=SLOTS - EXPERTS,
        num_local_physical_experts=local,
        num_expert_groups=1,
        moe_layers=[],
        set_eplb_state=lambda *_: None,
        expert_weights=[[mine.clone() + 100 * layer] for layer in range(LAYERS)],
    )


def count_tokens(held: object, tokens: np.ndarray, rank: int) -> None:
    """Rank 0 has all the load of the pass, split evenly over an expert's replicas."""
    if rank == 0:
        map_ = held.physical_to_logical_map.numpy()
        for layer in range(LAYERS):
            shares = tokens[layer] / np.bincount(map_[layer], minlength=EXPERTS)
            held.expert_load_pass[layer] = torch.from_numpy(shares[map_[layer]].astype(np.int32))


def check(held: object, model: SimpleNamespace, rank: int) -> None:
    """Both ranks have one whole map, vLLM's derived maps agree with it, and each local weight is that of its expert."""
    map_ = held.physical_to_logical_map
    both = [torch.empty_like(map_) for _ in range(RANKS)]
    torch.distributed.all_gather(both, map_.contiguous())
    assert torch.equal(both[0], both[1]), "the ranks have different maps"
    assert violations(map_.numpy().astype(np.int32), EXPERTS, RANKS) == 0
    local = SLOTS // RANKS
    for layer in range(LAYERS):
        counts = torch.bincount(map_[layer], minlength=EXPERTS)
        assert torch.equal(counts, held.logical_replica_count[layer])
        mine = map_[layer, rank * local : (rank + 1) * local].float() + 100 * layer
        assert torch.equal(model.expert_weights[layer][0], mine[:, None].expand(local, WIDTH)), "a weight is of another expert"


if __name__ == "__main__":
    main()
