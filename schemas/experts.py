"""ExpertTopology and ExpertLoad: where experts may live, and how many tokens they received."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.frame import Axes, Count, Frame, Name, TimeNs, at_most, require
from schemas.wording import must_be

# A topology is a few bytes, and what it asks for is arrays of these sizes. The largest models run fit several times:
# DeepSeek-V3 has 61 layers of 256 experts, which on 4,096 GPUs with 2 slots take 0.5 million slots and 64 million pairs.
MAX_SLOTS: Final = 1 << 20  # layers times slots
MAX_PAIRS: Final = 1 << 26  # layers times experts times GPUs


class ExpertTopology(Frame):
    """The model graph: layers and experts of one model, and the GPUs and nodes that hold them.

    Physical slot p is on GPU ``p // slots_per_gpu``. Without `node_of_gpu` the GPUs are spread over the nodes in order,
    as evenly as their numbers allow. All layers together have at most 2**20 slots, and at most 2**26 pairs of an expert and
    a GPU.
    """

    model: Name = Field(default="default", description="name of the model")
    num_layers: int = Field(ge=1, le=4096, description="mixture-of-experts layers")
    num_logical_experts: int = Field(ge=1, le=65536, description="experts of one layer, each counted once")
    num_groups: int = Field(default=1, ge=1, le=65536, description="groups into which the gate divides the experts of a layer")
    top_k: int = Field(default=1, ge=1, le=65536, description="experts that the gate chooses for one token")
    num_nodes: int = Field(default=1, ge=1, le=65536, description="nodes, among which the GPUs are spread")
    num_gpus: int = Field(ge=1, le=65536, description="GPUs that hold the experts of each layer")
    slots_per_gpu: int = Field(ge=1, le=65536, description="experts that one GPU holds of one layer, replicas included")
    bytes_dispatch: Count = Field(default=0, description="bytes to send one token copy to an expert")
    bytes_combine: Count = Field(default=0, description="bytes to send the result of one token copy back")
    expert_bytes: Count = Field(default=0, description="bytes of the weights of one expert, which a move carries")
    nvlink_gb_s: float | None = Field(default=None, gt=0, description="bandwidth of a GPU within a node, GB/s")
    rdma_gb_s: float | None = Field(default=None, gt=0, description="bandwidth of a GPU between nodes, GB/s")
    node_of_gpu: Annotated[NDArray[np.int32], Axes("gpus")] | None = Field(
        default=None, description="node of each GPU, from 0; absent: spread evenly in order"
    )
    gpu_capacity: Annotated[NDArray[np.float32], Axes("gpus")] | None = Field(
        default=None, description="relative speed of each GPU: 1 healthy, 0 dead; absent: 1 each"
    )
    rank_cost: Annotated[NDArray[np.float64], Axes("gpus", "gpus")] | None = Field(
        default=None, description="cost of sending from one GPU to another, in us/KB or without a unit"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        experts, slots = self.num_logical_experts, self.num_slots
        self._check_size()
        if slots < experts:
            raise ValueError(must_be("num_gpus * slots_per_gpu", f"at least {experts} slots, one an expert", slots))
        if self.slots_per_gpu > experts:
            rule = f"at most {experts}, since a GPU holds no two replicas of one expert"
            raise ValueError(must_be("slots_per_gpu", rule, self.slots_per_gpu))
        if self.top_k > experts:
            raise ValueError(must_be("top_k", f"at most {experts}, the experts of a layer", self.top_k))
        if self.num_nodes > self.num_gpus:
            raise ValueError(must_be("num_nodes", f"at most {self.num_gpus}, the GPUs", self.num_nodes))
        for name in ("node_of_gpu", "gpu_capacity", "rank_cost"):
            array = getattr(self, name)
            if array is not None and len(array) != self.num_gpus:
                raise ValueError(must_be(f"len({name})", f"{self.num_gpus}, one a GPU", len(array)))
        require(self, "node_of_gpu", 0, self.num_nodes - 1)
        require(self, "gpu_capacity", 0)
        require(self, "rank_cost", 0)
        return self

    def _check_size(self) -> None:
        """Before anything of that size is made."""
        layers, gpus, experts = self.num_layers, self.num_gpus, self.num_logical_experts
        for what, size, most in (
            ("num_layers * num_gpus * slots_per_gpu", layers * self.num_slots, MAX_SLOTS),
            ("num_layers * num_gpus * num_logical_experts", layers * gpus * experts, MAX_PAIRS),
        ):
            if size > most:
                raise ValueError(must_be(what, f"at most {most}", size))

    @property
    def num_slots(self) -> int:
        """Physical slots P of a layer."""
        return self.num_gpus * self.slots_per_gpu

    def nodes(self) -> NDArray[np.int32]:
        """int32 [gpus]: the node of each GPU, given or spread evenly in order."""
        if self.node_of_gpu is not None:
            return self.node_of_gpu
        return even_nodes(self.num_gpus, self.num_nodes)

    @classmethod
    def example(cls) -> Self:
        return cls(
            model="demo-moe",
            num_layers=2,
            num_logical_experts=4,
            top_k=2,
            num_nodes=2,
            num_gpus=4,
            slots_per_gpu=2,
            node_of_gpu=np.array([0, 0, 1, 1], np.int32),
        )


def even_nodes(gpus: int, nodes: int) -> NDArray[np.int32]:
    """int32 [gpus]: GPUs spread evenly over nodes, in order."""
    return (np.arange(gpus) * nodes // gpus).astype(np.int32)


class ExpertLoad(Frame):
    """Tokens that each logical expert received in one window. Only additive counters, so that windows can be summed.

    A window is known by (`source`, `window_id`): a repeated one counts once.
    """

    model: Name = Field(description="the model whose tokens were counted")
    source: Name = Field(default="default", description="the producer that counted them")
    window_id: Name = Field(description="name of the window, unique to the source; a repeated one counts once")
    t0_ns: TimeNs = Field(description="begin of the window, ns since 1970")
    t1_ns: TimeNs = Field(description="end of the window, ns since 1970")
    num_tokens: Count = Field(description="tokens that were counted in the window, each once")
    phase: Literal["prefill", "decode", "mixed"] = Field(
        default="mixed", description="phase of inference that the tokens were in"
    )
    queued_by_label: Annotated[dict[Name, Count], at_most(4096)] | None = Field(
        default=None, max_length=4096, description="tokens that wait at the end of the window, by label"
    )
    logical_count: Annotated[NDArray[np.int64], Axes("layers", "experts")] = Field(description="tokens that each expert received")
    source_count: Annotated[NDArray[np.int64], Axes("layers", "ranks", "experts")] | None = Field(
        default=None, description="tokens that each expert received, by the rank that sent them"
    )
    physical_count: Annotated[NDArray[np.int64], Axes("layers", "slots")] | None = Field(
        default=None, description="tokens that each physical slot received"
    )
    cooccurrence: Annotated[NDArray[np.int64], Axes("layers", "experts", "experts")] | None = Field(
        default=None, description="tokens that chose both experts of a pair"
    )
    transition: Annotated[NDArray[np.int64], Axes("gaps", "experts", "experts")] | None = Field(
        default=None, description="tokens that went from an expert of one layer to an expert of the next"
    )

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.t1_ns < self.t0_ns:
            raise ValueError(must_be("t1_ns", f"at least t0_ns, {self.t0_ns}", self.t1_ns))
        for name in self.arrays:
            require(self, name, 0, 2**53, "0 to 2**53, token counts")
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            model="demo-moe",
            window_id="41",
            t0_ns=1_700_000_000_000_000_000,
            t1_ns=1_700_000_001_000_000_000,
            num_tokens=12,
            logical_count=np.array([[9, 6, 5, 4], [3, 8, 7, 6]], np.int64),
        )
