"""Exports: scripts run and set what the plan says in the right order, and nothing in a name can be run."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest
import yaml

from qstream.energy.formats.export import Exported, export
from qstream.errors import ConfigError, ProblemError
from schemas.energy import EnergyPlan
from schemas.power import PowerTopology

NASTY = "GPU 'x'; touch pwned #\n$(touch pwned)"


def exported(*, limits=(300, 500, 400, 250), clocks=(-1, 1590, -1, -1), state=(0, 0, 0, 0), now=(-1, -1, 350, 250), **fields):
    """Four GPUs on two nodes; the third goes up, the fourth stays."""
    given = {
        "domain": "d",
        "budget_w": 2000.0,
        "node": ("n0", "n1"),
        "uuid": ("GPU-a", "GPU-b", "GPU-c", "GPU-d"),
        "model": ("NVIDIA H100 80GB HBM3",),
        "node_of_gpu": np.array([0, 0, 1, 1], np.int32),
        "model_of_gpu": np.zeros(4, np.int32),
        "limit_min_w": np.full(4, 200, np.float32),
        "limit_max_w": np.full(4, 700, np.float32),
        "limit_default_w": np.full(4, 700, np.float32),
        "sm_clock_mhz": np.array([[345, 1590, 1980]], np.float32),
    }
    roles = fields.pop("role", ("prefill", "prefill", "decode", "decode"))
    topology = PowerTopology(**given | {name: value for name, value in fields.items() if name in PowerTopology.model_fields})
    uuid = fields.get("targets", topology.uuid)
    kept = [topology.uuid.index(name) for name in uuid]
    plan = EnergyPlan(
        domain=topology.domain,
        plan_id="offline/d",
        ts_ns=1,
        ttl_s=30.0,
        version=1,
        fence=1,
        mode="dry_run",
        status=fields.get("status", "feasible"),
        missing_w=fields.get("missing_w", 0.0),
        uuid=uuid,
        power_limit_w=np.array(limits, np.float32)[kept],
        sm_clock_mhz=np.array(clocks, np.float32)[kept],
        upper_w=np.array(limits, np.float32)[kept],
        state=np.array(state, np.uint8)[kept],
        budget_of=("d",),
        budget_w=np.array([2000.0]),
        planned_w=np.array([1450.0]),
    )
    return Exported(plan, topology, np.array(now, np.float64), roles)


def ran(tmp_path, body, *words, node="n0", fails="none"):
    """What a script runs: a word list a command, of tools that only write down how they were called, and fail for one GPU."""
    script = tmp_path / "script.sh"
    script.write_bytes(body)
    for tool in ("nvidia-smi", "dpsctl"):
        (tmp_path / tool).write_text(
            f'#!/bin/sh\nprintf "%s|" {tool} "$@" >> calls; echo >> calls\n[ "$2" != {fails} ] || exit 4\n'
        )
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "calls").write_text("")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NODE_NAME": node}
    done = subprocess.run(
        ["bash", str(script), *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    calls = [line.rstrip("|").split("|") for line in (tmp_path / "calls").read_text().splitlines()]
    return done.returncode, calls, done.stderr


def test_the_script_of_a_node_sets_its_limits_what_goes_down_first(tmp_path):
    body = export(exported(), "nvidia-smi")
    assert ran(tmp_path, body)[:2] == (
        0,
        [
            ["nvidia-smi", "-i", "GPU-a", "-pl", "300"],
            ["nvidia-smi", "-i", "GPU-b", "-pl", "500"],
            ["nvidia-smi", "-i", "GPU-b", "-lgc", "345,1590"],
        ],
    )
    both = [["nvidia-smi", "-i", "GPU-d", "-pl", "250"], ["nvidia-smi", "-i", "GPU-c", "-pl", "400"]]
    assert ran(tmp_path, body, node="n1")[1] == both
    assert ran(tmp_path, body, "lower", node="n1")[1] == both[:1]
    assert ran(tmp_path, body, "raise", node="n1")[1] == both[1:]


def test_undo_puts_the_defaults_back_and_frees_the_clocks_that_were_locked(tmp_path):
    code, calls, _ = ran(tmp_path, export(exported(), "nvidia-smi"), "undo")
    assert (code, calls) == (
        0,
        [
            ["nvidia-smi", "-i", "GPU-a", "-pl", "700"],
            ["nvidia-smi", "-i", "GPU-b", "-rgc"],
            ["nvidia-smi", "-i", "GPU-b", "-pl", "700"],
        ],
    )


@pytest.mark.parametrize(("words", "node"), [((), "n7"), (("format",), "n0")])
def test_a_node_or_step_that_the_script_does_not_know_sets_nothing(tmp_path, words, node):
    code, calls, said = ran(tmp_path, export(exported(), "nvidia-smi"), *words, node=node)
    assert (code, calls) == (2, [])
    assert "no such step or node" in said


@pytest.mark.parametrize("tool", ["nvidia-smi", "dps"])
def test_a_name_is_an_argument_and_never_a_command(tmp_path, tool):
    given = exported(
        uuid=(NASTY, "GPU-b", "GPU-c", "GPU-d"), node=("n0;touch pwned", "n1"), domain="d\ntouch pwned", state=(1, 0, 0, 0)
    )
    code, calls, said = ran(tmp_path, export(given, tool), node="n0;touch pwned")
    assert code == 0, said
    assert not (tmp_path / "pwned").exists()
    assert len(calls) > 1


def test_a_failed_decrease_stops_the_script_before_any_raise(tmp_path):
    code, calls, _ = ran(tmp_path, export(exported(), "nvidia-smi"), node="n1", fails="GPU-d")
    assert (code, calls) == (4, [["nvidia-smi", "-i", "GPU-d", "-pl", "250"]])


def test_a_released_gpu_keeps_its_limit_and_a_parked_one_is_named():
    text = export(
        exported(state=(2, 1, 0, 0), limits=(-1, 200, 400, 250), status="infeasible", missing_w=90.0), "nvidia-smi"
    ).decode()
    assert "GPU-a -pl 700" in text.split("undo/n0")[0] or "GPU-a was not heard: its limit stays as it is" in text
    assert "nvidia-smi -i GPU-a" not in text
    assert "GPU-b has no watts to run" in text
    assert "CANNOT be kept: 90 W are missing, 1 GPUs have no watts to run" in text


def test_dps_gets_a_value_for_each_gpu_of_a_node_those_without_a_raise_first(tmp_path):
    code, calls, _ = ran(tmp_path, export(exported(), "dps"))
    assert (code, calls) == (
        0,
        [["dpsctl", "gpu-policy", "--node", "n0=300,500"], ["dpsctl", "gpu-policy", "--node", "n1=400,250"]],
    )
    assert ran(tmp_path, export(exported(), "dps"), "undo")[1][0] == ["dpsctl", "gpu-policy", "--node", "n0=700,700"]


def test_dps_leaves_out_a_node_with_a_gpu_that_is_no_target():
    text = export(exported(targets=("GPU-a", "GPU-b", "GPU-c")), "dps").decode()
    assert "# n1 is left out: DPS takes a limit for each of its GPUs, and GPU-d is not a target" in text
    assert "n1=" not in text
    with pytest.raises(ProblemError, match="plan must be for at least one node with all its GPUs as targets, for dps, got none"):
        export(exported(targets=("GPU-a",)), "dps")


def test_dynamo_gets_one_limit_for_each_component_and_the_planner_its_budget():
    text = export(exported(), "dynamo").decode()
    shown = yaml.safe_load(text)
    assert (shown["apiVersion"], shown["kind"], shown["metadata"]["name"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment", "d")
    decode, prefill = shown["spec"]["components"]
    assert (decode["name"], decode["type"]) == ("decode", "decode")
    template = prefill["podTemplate"]
    assert template["metadata"]["annotations"] == {"dynamo.nvidia.com/gpu-power-limit": "300"}  # an integer as text
    assert template["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    setting = json.loads(text.split("configuration: ")[1].splitlines()[0])
    assert setting == {"enable_power_awareness": True, "total_gpu_power_limit": 2000}


def test_what_a_format_cannot_say_is_refused():
    for given, name, message in (
        (exported(targets=()), "nvidia-smi", "plan must be of 1 or more targets"),
        (exported(role=("", "", "", "")), "dynamo", "whose workload .* or job the recording says, for dynamo"),
        (exported(role=("Chat 1", "", "", "")), "dynamo", "job must be a DNS label .*, got 'Chat 1'"),
        (exported(model=("a", "b"), model_of_gpu=np.array([0, 1, 0, 0], np.int32), sm_clock_mhz=None), "dynamo", "of one model"),
        (exported(node=("n=0", "n1")), "dps", "node must be a name without = and , for dps, got 'n=0'"),
    ):
        with pytest.raises(ProblemError, match=message):
            export(given, name)
    with pytest.raises(ConfigError, match="export must be one of nvidia-smi, dps, dynamo, got 'slurm'"):
        export(exported(), "slurm")


def test_watts_are_whole_and_never_above_the_plan_or_below_the_least_limit():
    text = export(
        exported(limits=(299.7, 200.4, 400, 250), limit_min_w=np.array([200, 200.2, 200, 200], np.float32)), "dps"
    ).decode()
    assert "n0=299,201" in text
