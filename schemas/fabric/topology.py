"""FabricTopology: GPUs, the nodes that join them, and the links between, with the meaning of their numbers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.digest import digest
from schemas.frame import Axes, Frame, Name, Names, TimeNs, require
from schemas.names import first_twice, require_count, require_distinct
from schemas.wording import Shown, must_be

# What the numbers of `node_type`, `node_health` and `link_kind` mean: their place in these.
NODE_TYPES: Final = ("gpu", "nvswitch", "pcie", "cpu", "nic", "leaf", "spine", "host")
HEALTH: Final = ("ok", "degraded", "down")
LINK_KINDS: Final = ("nvlink", "xgmi", "pcie", "c2c", "smp", "ib", "roce", "ethernet")
GPU, NVSWITCH, PCIE, CPU, NIC, LEAF, SPINE, HOST = range(len(NODE_TYPES))
DOWN: Final = HEALTH.index("down")

MAX_GB_S: Final = 10_000.0  # of one link; what is above is in bits


class FabricTopology(Frame):
    """The GPUs of a fabric, what switches and joins them, and the links between, each direction a link.

    A domain is an NVLink clique or a rack. `node_host` is the index of the node of type host (7) on which a node is, -1 if
    unknown. Names are distinct, except that a host may be named as something else is. A NIC may be left out: then it is the link
    from its GPU to the leaf. Links of a pair of nodes that have the same kind are one link with their number in `link_count` and
    their speed, all together, in `link_gb_s`.
    """

    fabric: Name = Field(description="name of the fabric: one graph, planned as one")
    ts_ns: TimeNs = Field(default=0, description="when it was described, ns since 1970")
    source: str = Field(default="", max_length=200, description="what the description was read from")
    node_name: Names = Field(description="name of each node")
    domain_name: Names = Field(default=(), description="names of the domains, which `node_domain` points to")
    warnings: Names = Field(default=(), description="what was strange in the description, a sentence each")
    node_type: Annotated[NDArray[np.uint8], Axes("nodes")] = Field(
        description="0 gpu, 1 nvswitch, 2 pcie, 3 cpu, 4 nic, 5 leaf, 6 spine, 7 host"
    )
    node_host: Annotated[NDArray[np.int32], Axes("nodes")] = Field(description="node of type host that it is on; -1 unknown")
    node_domain: Annotated[NDArray[np.int32], Axes("nodes")] = Field(description="NVLink domain or rack; -1 none")
    node_health: Annotated[NDArray[np.uint8], Axes("nodes")] = Field(description="0 ok, 1 degraded, 2 down")
    node_free: Annotated[NDArray[np.bool_], Axes("nodes")] = Field(description="whether jobs may be placed on it")
    link_src: Annotated[NDArray[np.int32], Axes("links")] = Field(description="node that sends")
    link_dst: Annotated[NDArray[np.int32], Axes("links")] = Field(description="node that receives")
    link_kind: Annotated[NDArray[np.uint8], Axes("links")] = Field(
        description="0 nvlink, 1 xgmi, 2 pcie, 3 c2c, 4 smp, 5 ib, 6 roce, 7 ethernet"
    )
    link_count: Annotated[NDArray[np.int32], Axes("links")] = Field(description="links of this pair of nodes, taken together")
    link_gb_s: Annotated[NDArray[np.float32], Axes("links")] = Field(description="nominal payload speed of all together, GB/s")
    link_effective_gb_s: Annotated[NDArray[np.float32], Axes("links")] | None = Field(
        default=None, description="speed that programs reach, GB/s; absent: nominal"
    )
    link_latency_us: Annotated[NDArray[np.float32], Axes("links")] | None = Field(default=None, description="latency, us")
    link_up: Annotated[NDArray[np.bool_], Axes("links")] | None = Field(
        default=None, description="whether the link works; absent: all do"
    )

    def digest(self) -> str:
        """16 hex digits that are the same for the same arrays, whatever the names."""
        return digest(self)

    @property
    def speed_gb_s(self) -> NDArray[np.float32]:
        """Speed of each link that plans use, float32 [links]: effective where known."""
        return self.link_gb_s if self.link_effective_gb_s is None else self.link_effective_gb_s

    @property
    def up(self) -> NDArray[np.bool_]:
        """Whether each link works, bool [links]: all where `link_up` is absent."""
        return np.ones(len(self.link_src), np.bool_) if self.link_up is None else self.link_up

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether each link works and joins two nodes that are not down, bool [links]."""
        works: NDArray[np.bool_] = self.node_health != DOWN
        usable: NDArray[np.bool_] = self.up & works[self.link_src] & works[self.link_dst] & (self.link_src != self.link_dst)
        return usable

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        nodes = len(self.node_type)
        require_count(self, "node_name", nodes, "the nodes")
        require_distinct(self, "domain_name")
        for field, words in (("node_type", NODE_TYPES), ("node_health", HEALTH), ("link_kind", LINK_KINDS)):
            require(self, field, 0, len(words) - 1)
        require(self, "node_host", -1, nodes - 1)
        require(self, "node_domain", -1, len(self.domain_name) - 1)
        if not (self.node_type == GPU).any():
            raise ValueError(must_be("node_type", "of at least one GPU (0)", Shown("none")))
        on = self.node_host[self.node_host >= 0]
        if (self.node_type[on] != HOST).any():
            wrong = self.node_name[int(on[self.node_type[on] != HOST][0])]
            raise ValueError(must_be("node_host", "nodes of type host", wrong))
        hosts = self.node_type == HOST
        for kind in (True, False):
            names = [name for name, is_host in zip(self.node_name, hosts.tolist(), strict=True) if is_host is kind]
            if (twice := first_twice(names)) is not None:
                raise ValueError(must_be("node_name", "distinct names", Shown(f"{twice!r} twice")))
        if not len(self.link_src):
            raise ValueError(must_be("link_src", "of at least one link", Shown("none")))
        require(self, "link_src", 0, nodes - 1, f"a node, 0 to {nodes - 1}")
        require(self, "link_dst", 0, nodes - 1, f"a node, 0 to {nodes - 1}")
        require(self, "link_count", 1)
        require(self, "link_latency_us", 0)
        for field in ("link_gb_s", "link_effective_gb_s"):
            speed = getattr(self, field)
            if speed is not None and (speed <= 0).any():
                raise ValueError(must_be(field, "above 0", Shown(f"{float(speed.min()):g}")))
            if speed is not None and (most := float((speed / self.link_count).max())) > MAX_GB_S:
                rule = f"at most {MAX_GB_S:g} GB/s a link, in bytes"
                raise ValueError(must_be(field, rule, Shown(f"{most:g}, which may be bits")))
        return self

    @classmethod
    def example(cls) -> Self:
        src, dst = np.array([[0, 4], [1, 4], [2, 5], [3, 5], [0, 6], [1, 7], [2, 6], [3, 7]], np.int32).T
        return cls(
            fabric="pod-1",
            ts_ns=1_700_000_000_000_000_000,
            source="example",
            node_name=("a0", "a1", "b0", "b1", "switch-a", "switch-b", "leaf-0", "leaf-1", "host-a", "host-b"),
            domain_name=("rack-a", "rack-b"),
            node_type=np.array([0, 0, 0, 0, 1, 1, 5, 5, 7, 7], np.uint8),
            node_host=np.array([8, 8, 9, 9, -1, -1, -1, -1, 8, 9], np.int32),
            node_domain=np.array([0, 0, 1, 1, 0, 1, -1, -1, -1, -1], np.int32),
            node_health=np.zeros(10, np.uint8),
            node_free=np.ones(10, np.bool_),
            link_src=np.concatenate([src, dst]),
            link_dst=np.concatenate([dst, src]),
            link_kind=np.tile(np.array([0, 0, 0, 0, 5, 5, 5, 5], np.uint8), 2),
            link_count=np.tile(np.array([18, 18, 18, 18, 1, 1, 1, 1], np.int32), 2),
            link_gb_s=np.tile(np.array([900, 900, 900, 900, 50, 50, 50, 50], np.float32), 2),
        )


def words(kinds: tuple[str, ...], numbers: NDArray[Any]) -> list[str]:
    """The word for each number, such as ``words(NODE_TYPES, topology.node_type)``."""
    return [kinds[number] for number in numbers.tolist()]
