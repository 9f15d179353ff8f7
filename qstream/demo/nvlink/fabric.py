"""Fabric: the modelled servers of the scene, their leaves and spines, and what happens to them."""

from __future__ import annotations

from typing import Final

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from qstream.nvlink import from_networkx
from qstream.nvlink.blocks import Blocks, blocks_of
from qstream.nvlink.leaves import LeafSpine, leaf_spine
from schemas.fabric import GPU, FabricTopology

NAME: Final = "modelled"
SERVERS: Final = 5  # one more than the job takes, each below a leaf of its own
GPUS: Final = 4  # of a server; each has a NIC, and NIC r of all servers are rail r
SPINES: Final = 4
NVLINK_GB_S, NIC_GB_S, UPLINK_GB_S = 450.0, 50.0, 50.0  # per direction
KNOWN_SLOW: Final = 0.15  # of the links to and from spines have half of it, as the topology says
FALL: Final = 0.25  # what an uplink keeps that falls without a word
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Fabric:
    """The topology that is published, and the capacities that links really have.

    `up_gb_s` [SERVERS, SPINES] and `down_gb_s` [SPINES, SERVERS] are what the topology says, `true_up_gb_s` what uplinks carry.
    `server` and `index` say where each node is that is a GPU, -1 for others.
    """

    topology: FabricTopology
    leaves: LeafSpine
    blocks: Blocks
    server: Ints
    index: Ints

    def __init__(self, seed: int) -> None:
        self._graph = drawn(np.random.default_rng(seed))
        self._adopt()
        self.up_gb_s, self.down_gb_s = self.leaves.up_gb_s, self.leaves.down_gb_s
        self.true_up_gb_s = self.up_gb_s.copy()

    def slow(self, leaf: int) -> int:
        """Let the first uplink of a leaf that has its full speed keep a quarter of it, and return its spine."""
        spine = int(self.up_gb_s[leaf].argmax())
        self.true_up_gb_s[leaf, spine] *= FALL
        return spine

    def leave(self, server: int) -> None:
        """Take a server away; its leaf stays."""
        gone = [name for name, node in self._graph.nodes(data=True) if node.get("host") == f"server{server}"]
        self._graph.remove_nodes_from(gone)
        self._adopt()

    def linear(self, ranks: int) -> NDArray[np.int32]:
        """GPUs in order: what a job gets if no planner places it."""
        return np.flatnonzero(self.topology.node_type == GPU)[:ranks].astype(np.int32)

    def renumbered(self, gpus: NDArray[np.int32], before: FabricTopology) -> NDArray[np.int32] | None:
        """The same GPUs as nodes of the topology now; None if one is gone."""
        place = {name: at for at, name in enumerate(self.topology.node_name)}
        names = [before.node_name[gpu] for gpu in gpus.tolist()]
        return np.array([place[name] for name in names], np.int32) if all(name in place for name in names) else None

    def cost_us(self, nbytes: Floats, gpus: NDArray[np.int32]) -> float:
        """J of bytes [ranks, ranks] in us: bytes times us/KB."""
        block = self.blocks.block_of_gpu[np.searchsorted(self.blocks.gpu, gpus)]
        return float((nbytes * self.blocks.distance[np.ix_(block, block)]).sum()) / 1e3

    def _adopt(self) -> None:
        self.topology = from_networkx(self._graph, fabric=NAME)
        self.blocks = blocks_of(self.topology)
        leaves = leaf_spine(self.topology)
        assert leaves is not None  # it has both
        self.leaves = leaves
        self.server = np.full(len(self.topology.node_name), -1)
        self.index = self.server.copy()
        for at, name in enumerate(self.topology.node_name):
            if self.topology.node_type[at] == GPU:
                self.server[at], self.index[at] = (int(part) for part in name.removeprefix("gpu").split("."))


def drawn(rng: np.random.Generator) -> nx.DiGraph:
    """The fabric as a graph; some links to and from spines have half of their speed."""
    graph = nx.DiGraph()
    for leaf in range(SERVERS):
        graph.add_node(f"leaf{leaf}", type="leaf")
    for spine in range(SPINES):
        graph.add_node(f"spine{spine}", type="spine")
        for leaf in range(SERVERS):
            for ends in ((f"leaf{leaf}", f"spine{spine}"), (f"spine{spine}", f"leaf{leaf}")):
                gb_s = UPLINK_GB_S * (0.5 if rng.random() < KNOWN_SLOW else 1.0)
                graph.add_edge(*ends, kind="roce", bw_gb_s=gb_s)
    for server in range(SERVERS):
        where = {"host": f"server{server}", "domain": f"server{server}"}
        graph.add_node(f"switch{server}", type="nvswitch", **where)
        for index in range(GPUS):
            gpu = f"gpu{server}.{index}"
            graph.add_node(gpu, type="gpu", **where)
            for other, kind, gb_s in ((f"switch{server}", "nvlink", NVLINK_GB_S), (f"leaf{server}", "roce", NIC_GB_S)):
                graph.add_edge(gpu, other, kind=kind, bw_gb_s=gb_s)
                graph.add_edge(other, gpu, kind=kind, bw_gb_s=gb_s)
    return graph
