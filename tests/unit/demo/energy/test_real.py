"""The energy scene on the GPUs of a driver: readings and a topology as the driver says, and nothing that is ever set."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.demo.energy.real import DOMAIN, RealScene
from qstream.node import FakeNvml
from qstream.node.nvml import NvmlGpus
from schemas.energy import EnergyPlan
from schemas.power import GpuTelemetry
from tests.unit.node.library import Library


def test_readings_are_shown_and_plans_that_come_set_nothing() -> None:
    gpus = FakeNvml(2)
    for uuid in gpus.uuids:
        gpus.load(uuid, 0.15, 0.3)
    gpus.advance(5)
    scene = RealScene(0, NvmlGpus(Library(gpus)))
    topology = scene.topology(1)
    assert (topology.uuid, topology.budget_w) == (gpus.uuids, 1400.0)
    (frames,) = scene.steps(1)
    ((_, frame),) = frames
    assert isinstance(frame, GpuTelemetry)
    assert frame.domain == DOMAIN
    limits = np.array([300, 300], np.float32)
    plan = EnergyPlan.example().model_copy(
        update={"domain": DOMAIN, "uuid": gpus.uuids, "mode": "apply", "ts_ns": frame.ts_ns, "power_limit_w": limits}
    )
    scene.received(plan, 0.0)
    assert gpus.writes == []
    assert [gpus.power_limit_w(uuid) for uuid in gpus.uuids] == [700.0, 700.0]
    assert scene.figures(1.0, 0)["plans"] == 1
    assert "2 GPUs draw 5" in scene.line("ready")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["energy", "--source", "nvml"], "NVML must be there, with NVIDIA's driver and a GPU"),
        (["energy", "--source", "dcgm"], "--source must be one of nvml for the scene energy, got 'dcgm'"),
        (["learn", "--source", "nvml"], "--source must be absent for the scene learn, got 'nvml'"),
    ],
)
def test_a_source_that_is_not_there_is_said(options, said) -> None:
    shown = CliRunner().invoke(app, ["demo", *options])
    assert shown.exit_code != 0
    assert said in str(shown.exception or "") + " ".join(shown.output.split())
