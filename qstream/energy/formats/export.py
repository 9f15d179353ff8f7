"""A plan as files that other tools take: a script of nvidia-smi, one of NVIDIA's DPS, annotations of NVIDIA Dynamo.

Followed are `nvidia-smi` of driver 570 (``-pl``, ``-lgc``, ``-rgc``), `dpsctl gpu-policy` as NVIDIA documents it since limits are
applied GPU by GPU, and the example ``power-aware-budget`` of Dynamo (ai-dynamo/dynamo, commit 2da9332, API ``v1beta1``).
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import named
from qstream.errors import ProblemError
from schemas.energy import PARKED, RELEASED, EnergyPlan
from schemas.power import PowerTopology
from schemas.wording import Shown, must_be

BASH: Final = "#!/usr/bin/env bash"
SAME_W: Final = 0.5
COMPONENT: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
ROLES: Final = ("prefill", "decode")
LIMIT: Final = "dynamo.nvidia.com/gpu-power-limit"
PRODUCT: Final = "nvidia.com/gpu.product"


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What an export is made of. Arrays are by GPU of the topology: `now_w` float64, the limits in force, -1 unknown; `role`,
    its workload or job, may be empty."""

    plan: EnergyPlan
    topology: PowerTopology
    now_w: NDArray[np.float64]
    role: tuple[str, ...]

    def rows(self) -> list[tuple[int, int]]:
        """The place of each target in the plan and in the topology."""
        at = {uuid: row for row, uuid in enumerate(self.topology.uuid)}
        return [(target, at[uuid]) for target, uuid in enumerate(self.plan.uuid)]

    def state(self, target: int) -> int:
        """0 active, 1 parked, 2 released."""
        return 0 if self.plan.state is None else int(self.plan.state[target])

    def watts(self, target: int, row: int) -> int:
        """The limit in whole watts, not above the plan's unless the least that may be set is; of a released GPU its default."""
        least, default = (float(array[row]) for array in (self.topology.limit_min_w, self.topology.limit_default_w))
        limit = float(self.plan.power_limit_w[target])
        return max(math.floor(limit if limit > 0 else default), math.ceil(least))

    def before_w(self, row: int) -> float:
        """The limit in force, where the recording says it, else the default."""
        return float(self.now_w[row] if self.now_w[row] > 0 else self.topology.limit_default_w[row])

    def node(self, row: int) -> str:
        """The node of a GPU."""
        return self.topology.node[int(self.topology.node_of_gpu[row])]


Exporter = Callable[[Exported], str]


def export(exported: Exported, name: str) -> bytes:
    """The bytes of a file of that format.

    Raises
    ------
    ConfigError
        The format is unknown.
    ProblemError
        The plan has no target, or the format cannot say it.
    """
    exporter = named("export", EXPORTERS, name)
    if not exported.plan.uuid:
        raise ProblemError(must_be("plan", "of 1 or more targets", Shown("none: no GPU has opted in, with known limits")))
    return exporter(exported).encode()


def _nvidia_smi(given: Exported) -> str:
    """A script that sets the limits of the node it runs on: first what goes down, then what goes up."""
    steps: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for target, row in given.rows():
        node = steps.setdefault(given.node(row), {"lower": [], "raise": [], "undo": []})
        gpu, watts = shlex.quote(given.plan.uuid[target]), given.watts(target, row)
        if given.state(target) == RELEASED:
            node["lower"].append((math.inf, f"# {_text(given.plan.uuid[target])} was not heard: its limit stays as it is"))
            continue
        if given.state(target) == PARKED:
            node["lower"].append((-math.inf, f"# {_text(given.plan.uuid[target])} has no watts to run: take its work away"))
        change = watts - given.before_w(row)
        node["raise" if change > SAME_W else "lower"].append((change, f"nvidia-smi -i {gpu} -pl {watts}"))
        clock = float(given.plan.sm_clock_mhz[target])
        if clock > 0:
            node["lower"].append((change, f"nvidia-smi -i {gpu} -lgc {_lowest_mhz(given.topology, row)},{math.floor(clock)}"))
            node["undo"].append((0, f"nvidia-smi -i {gpu} -rgc"))
        node["undo"].append((0, f"nvidia-smi -i {gpu} -pl {math.floor(given.topology.limit_default_w[row])}"))
    cases = []
    for name, node in steps.items():
        for step, commands in node.items():
            lines = [command for _, command in sorted(commands, key=lambda pair: pair[0])]
            cases += [f"{shlex.quote(f'{step}/{name}')})", *(f"  {line}" for line in lines), "  ;;"]
    return "\n".join(
        [
            BASH,
            *_head(given),
            "# As root on each node: bash FILE         what goes down, then what goes up",
            "# Where a budget spans nodes: bash FILE lower on all of them, then bash FILE raise",
            "# To undo it:           bash FILE undo    the default limits; clocks that were locked here are free again",
            "# The node is $NODE_NAME, else that of hostname -s. Limits go when the driver is unloaded: nvidia-smi -pm 1",
            "set -euo pipefail",
            "node=${NODE_NAME:-$(hostname -s)}",
            "for step in ${1:-lower raise}; do",
            'case "$step/$node" in',
            *cases,
            '*) echo "no such step or node: $step/$node" >&2; exit 2 ;;',
            "esac",
            "done",
            "",
        ]
    )


def _dps(given: Exported) -> str:
    """A script of `dpsctl gpu-policy`: one value for each GPU of a node, nodes without a raise first."""
    targets: dict[int, int] = {row: target for target, row in given.rows()}
    nodes: list[tuple[float, str, str, str]] = []
    left_out = []
    for number, name in enumerate(given.topology.node):
        rows = np.flatnonzero(given.topology.node_of_gpu == number).tolist()
        if not any(row in targets for row in rows):
            continue
        if "=" in name or "," in name:
            raise ProblemError(must_be("node", "a name without = and , for dps", name))
        other = next((given.topology.uuid[row] for row in rows if row not in targets), None)
        if other is not None:
            left_out.append(
                f"# {_text(name)} is left out: DPS takes a limit for each of its GPUs, and {_text(other)} is not a target"
            )
            continue
        watts = [given.watts(targets[row], row) for row in rows]
        most = max(new - given.before_w(row) for new, row in zip(watts, rows, strict=True))
        default = [math.floor(given.topology.limit_default_w[row]) for row in rows]
        nodes.append((most, name, _policy(name, watts), _policy(name, default)))
    if not nodes:
        raise ProblemError(must_be("plan", "for at least one node with all its GPUs as targets, for dps", Shown("none")))
    nodes.sort(key=lambda node: node[0])
    return "\n".join(
        [
            BASH,
            *_head(given),
            "# bash FILE sets them; bash FILE undo sets the default limits. The nodes must be in active resource groups of DPS,",
            "# which checks the limits against its own budgets, and may clamp or refuse them: read them back.",
            "# The values of a node are in the order of its GPU ids, 0 first: that of the topology.",
            *left_out,
            "set -euo pipefail",
            'case "${1:-set}" in',
            "set)",
            *(f"  {policy}" for _, _, policy, _ in nodes),
            "  ;;",
            "undo)",
            *(f"  {policy}" for _, _, _, policy in nodes),
            "  ;;",
            '*) echo "no such step: $1" >&2; exit 2 ;;',
            "esac",
            "",
        ]
    )


def _policy(node: str, watts: list[int]) -> str:
    limits = ",".join(map(str, watts))
    return f"dpsctl gpu-policy --node {shlex.quote(f'{node}={limits}')}"


def _dynamo(given: Exported) -> str:
    """Annotations of the worker components of a DynamoGraphDeployment: one limit for all GPUs of a component, the least."""
    members: dict[str, list[tuple[int, int]]] = {}
    for target, row in given.rows():
        if given.role[row] and given.state(target) != RELEASED:
            members.setdefault(given.role[row], []).append((target, row))
    if not members:
        rule = "of GPUs whose workload (prefill, decode) or job the recording says, for dynamo"
        raise ProblemError(must_be("plan", rule, Shown("none")))
    lines = [
        *_head(given),
        "# To be merged into a DynamoGraphDeployment before it is created: Dynamo refuses changes of these limits later.",
        *_planner_budget(given),
        "apiVersion: nvidia.com/v1beta1",
        "kind: DynamoGraphDeployment",
        "metadata:",
        f"  name: {json.dumps(given.plan.domain)}",
        "spec:",
        "  components:",
    ]
    for name, rows in sorted(members.items()):
        lines += _component(given, name, rows)
    return "\n".join([*lines, ""])


def _component(given: Exported, name: str, rows: list[tuple[int, int]]) -> list[str]:
    """One worker component."""
    if COMPONENT.fullmatch(name) is None:
        raise ProblemError(must_be("job", "a DNS label of lowercase letters, digits and -, for dynamo", name))
    watts = [given.watts(target, row) for target, row in rows]
    models = {given.topology.model_name(row) for _, row in rows}
    if len(models) > 1:
        raise ProblemError(must_be(f"GPUs of {name}", "of one model, for dynamo", Shown(", ".join(sorted(models)))))
    product = models.pop().replace(" ", "-")
    selector = f"          {PRODUCT}: {json.dumps(product)}"
    known = product.startswith("NVIDIA-")
    return [
        f"    - name: {json.dumps(name)}",
        f"      type: {name if name in ROLES else 'worker'}",
        "      podTemplate:",
        "        metadata:",
        "          annotations:",
        f"            # {len(rows)} GPUs, planned with {min(watts)} to {max(watts)} W",
        f'            {LIMIT}: "{min(watts)}"',
        *(["        spec:", "          nodeSelector:", f"  {selector}"] if known else [f"        # add nodeSelector {PRODUCT}"]),
    ]


def _planner_budget(given: Exported) -> list[str]:
    """The Planner's budget over the GPUs: the domain's, without what else is charged to it."""
    plan = given.plan
    if plan.budget_w is None or plan.planned_w is None or plan.upper_w is None or plan.domain not in plan.budget_of:
        return []
    at = plan.budget_of.index(plan.domain)
    watts = math.floor(plan.budget_w[at] - (plan.planned_w[at] - float(plan.upper_w.sum())))
    setting = json.dumps({"enable_power_awareness": True, "total_gpu_power_limit": watts})
    return [f"# For the Planner's configuration: {setting}"]


def _head(given: Exported) -> list[str]:
    """What the file is, and whether budgets hold under it."""
    plan = given.plan
    lines = [f"# GPU power limits of domain {_text(plan.domain)}, planned by qstream from a recording: {plan.status}"]
    if plan.status == "infeasible":
        parked = f"{len(plan.parked)} GPUs have no watts to run"
        lines.append(f"# The budgets CANNOT be kept: {plan.missing_w:.0f} W are missing, {parked}")
    return lines


def _text(name: str) -> str:
    """A name within a comment: nothing in it may end the line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _lowest_mhz(topology: PowerTopology, row: int) -> int:
    """The lowest supported clock of a GPU; 0, which is taken as the lowest, where none is known."""
    if topology.sm_clock_mhz is None or not topology.model_name(row):
        return 0
    clocks = topology.sm_clock_mhz[topology.model.index(topology.model_name(row))]
    return math.ceil(float(clocks[clocks > 0].min(initial=np.inf))) if (clocks > 0).any() else 0


EXPORTERS: Final[Mapping[str, Exporter]] = {"nvidia-smi": _nvidia_smi, "dps": _dps, "dynamo": _dynamo}
