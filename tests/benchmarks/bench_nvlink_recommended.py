"""The recommended options of fabrics beside the defaults: what each row wins in the model, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from qstream.nvlink import ContentionModel, NvlinkOptions, blocks_of, generate, job_profile, place_job
from qstream.nvlink.ground import ground_of, traffic_of
from qstream.nvlink.sketch import Link, Sketch
from qstream.nvlink.tries import simulated_us
from schemas.fabric import GPU, FabricPlan, FabricTopology, JobProfile
from tests.benchmarks.bench_nvlink import layout_rows
from tests.benchmarks.stick import DATA, load_scores

Row = tuple[str, float, str, str]
VOLUMES: Final = {"tp": 4e9, "dp": 1e9, "ep": 2e9, "pp": 0.25e9}
SEEDS: Final = (0, 1, 2)


class Case(NamedTuple):
    """A job on the free part of a fabric, next to another one; `gpus` and `static` are the situation."""

    name: str
    topology: FabricTopology
    job: JobProfile
    others: Sequence[tuple[JobProfile, Any]]
    gpus: int
    static: bool = False


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    model = contention()
    found: list[Row] = []
    with threadpool_limits(1):
        for case in cases(0):  # imports, and compiles
            plan_of(case, NvlinkOptions.recommended(case.gpus, case.static), model)
        for number in range(len(cases(0))):
            found += compared([cases(seed)[number] for seed in SEEDS], model)
    return found


def compared(drawn: list[Case], model: ContentionModel | None) -> list[Row]:
    """One row of the table: the mean over draws of cost and simulated time over the defaults', and the CPU time of both."""
    name, ratio, times, same = drawn[0].name, [], [], []
    took: dict[str, list[float]] = {"defaults": [], "recommended": []}
    for case in drawn:
        terms = {"defaults": NvlinkOptions(), "recommended": NvlinkOptions.recommended(case.gpus, case.static)}
        plans, seconds = {}, {}
        for kind, options in terms.items():
            began = time.process_time()
            plans[kind] = plan_of(case, options, model)
            seconds[kind] = time.process_time() - began
            took[kind].append(1e3 * seconds[kind])
        score = {kind: plan.score for kind, plan in plans.items()}
        if score["defaults"] is not None and score["recommended"] is not None:
            ratio.append(score["recommended"].cost_us / score["defaults"].cost_us)
        after, before = (time_of(case, plans[kind]) for kind in ("recommended", "defaults"))
        times.append(after / before if before else 1.0)
        same.append(np.array_equal(plans["recommended"].gpu_of_rank, plans["defaults"].gpu_of_rank))
    return [
        (f"{name}, J over the defaults'", float(np.mean(ratio)) if ratio else 1.0, "", "-"),
        (f"{name}, simulated time over the defaults'", float(np.mean(times)), "", "-"),
        (f"{name}, same plans", float(np.mean(same)), "", "-"),
        *((f"{name}, {kind}", float(np.median(ms)), "ms CPU", "-") for kind, ms in took.items()),
    ]


def plan_of(case: Case, options: NvlinkOptions, model: ContentionModel | None) -> FabricPlan:
    others = [(traffic_of(job), gpus) for job, gpus in case.others]
    return place_job(case.job, case.topology, options=options, others=others, model=model)


def time_of(case: Case, plan: FabricPlan) -> float:
    """When the last flow between boxes ends, next to the other jobs, us; 0 where no spine is to be chosen."""
    ground = ground_of(case.topology, blocks_of(case.topology))
    if ground is None or plan.gpu_of_rank is None:
        return 0.0
    jobs = [*((traffic_of(job), gpus) for job, gpus in case.others), (traffic_of(case.job), plan.gpu_of_rank)]
    return simulated_us(ground.layout(jobs))


def cases(seed: int) -> list[Case]:
    """One of each row of the recommendations, and a single tier."""
    rng = np.random.default_rng(seed)
    box = with_busy(generate("dgx-1v"), rng.permutation(8)[:2])
    few = generate("hgx-h100", hosts=6)
    few = with_busy(few, rng.permutation(48)[:14])
    pod, other, where = shared_pod(rng)
    return [
        Case("6 GPUs (classifier)", box, job(tp=2, dp=3), (), 6),
        Case("32 GPUs (qaoa)", few, job(tp=4, dp=8, ep=16), (), 32),
        Case("192 GPUs beside a job (qaoa, rl)", pod, job(tp=8, pp=2, dp=4, ep=16), [(other, where)], 192),
        Case("192 GPUs, static (classifier, rl)", pod, job(tp=8, pp=2, dp=4, ep=16), [(other, where)], 192, static=True),
        Case("one tier of 72 (qaoa, rl)", generate("gb200-nvl72"), job(tp=8, dp=8, ep=8), (), 72),
    ]


def job(**sizes: int) -> JobProfile:
    return job_profile(sizes, volumes=VOLUMES)


def with_busy(topology: FabricTopology, busy: Any) -> FabricTopology:
    free = topology.node_free.copy()
    free[np.flatnonzero(topology.node_type == GPU)[busy]] = False
    return topology.model_copy(update={"node_free": free})


def shared_pod(rng: np.random.Generator) -> tuple[FabricTopology, JobProfile, Any]:
    """6 racks of 4 boxes below a leaf each, uplinks for half of that, 15 % of them slow; a third of the boxes has a job."""
    sketch = Sketch()
    for spine in range(8):
        sketch.node(f"spine{spine}", "spine")
    for rack in range(6):
        sketch.node(f"leaf{rack}", "leaf")
        for box in range(4):
            host = f"r{rack}b{box}"
            sketch.node(f"{host}s", "nvswitch", host=host, domain=host)
            for gpu in range(8):
                sketch.node(f"{host}g{gpu}", "gpu", host=host, domain=host)
                sketch.link(f"{host}g{gpu}", f"{host}s", Link("nvlink", 18, 450.0), both=True)
                sketch.link(f"{host}g{gpu}", f"leaf{rack}", Link("ib", 1, 50.0), both=True)
        for spine in range(8):
            for ends in ((f"leaf{rack}", f"spine{spine}"), (f"spine{spine}", f"leaf{rack}")):
                sketch.link(*ends, Link("ib", 2, 100.0 * (0.25 if rng.random() < 0.15 else 1.0)), both=False)
    pod = sketch.topology("pod", "drawn")
    boxes = rng.permutation(24)[:8]
    gpus = np.flatnonzero(pod.node_type == GPU)
    busy = (boxes[:, None] * 8 + np.arange(8)).ravel()
    return with_busy(pod, busy), job(tp=8, dp=8, ep=32), gpus[busy].astype(np.int32)


def contention() -> ContentionModel | None:
    """The model of the log, where it is at hand."""
    stick = load_scores("nvlink_stick")
    if stick is None or not (DATA / "nvlink" / "contention_log.npz").exists():
        return None
    log = stick.layouts("train")
    bound, took = (np.array([layout[name] for layout in log]) for name in ("bound_s", "time_s"))
    return ContentionModel.fit(layout_rows(log), took / bound > np.median(took / bound))
