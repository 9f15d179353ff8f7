"""Ablation of energy's toggles for tasks: qaoa, gnn and meta on against off, five seeds each. CPU times of one thread."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qstream.energy import arms, features, unseen
from qstream.energy.foresight import FORESEEN, plan_foreseen
from qstream.energy.graphs import GraphPlan, GraphProblem, alone, category_of, plan_graph, window_of
from qstream.energy.options import EnergyOptions
from qstream.energy.train_gnn import train_gnn
from qstream.learn.version import Used
from schemas.tasks import TaskGraph
from tests.benchmarks.bench_learn import Row
from tests.unit.energy.graphs import graph
from tests.unit.energy.pipelines import pair

SEEDS = range(5)
GRAPHS, WINDOWS, PLAYED = 160, 20, 200
NODES = 6


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    return [*circuits(), *predictions(), *sweeps(), *chosen()]


def circuits() -> list[Row]:
    """Peaks of graphs of 20 and 40 tasks with two modes, with circuits against without."""
    found: list[Row] = []
    for tasks, slots in ((12, 20), (40, 20)):
        gain: dict[str, list[float]] = defaultdict(list)
        cost: dict[str, list[float]] = defaultdict(list)
        for seed in range(5 * len(SEEDS)):
            problem = alone(graph(seed, tasks, slots))
            peak = {}
            for name in ("off", "qaoa", "hqc"):
                options = EnergyOptions(**({name: True} if name != "off" else {}))
                plan_graph(problem, options) if seed == 0 else None
                began = time.thread_time()
                peak[name] = plan_graph(problem, options).plan.peak_w
                cost[name].append(1e3 * (time.thread_time() - began))
            for name in ("qaoa", "hqc"):
                gain[name].append(100 * (1 - peak[name] / peak["off"]))
        for name in ("qaoa", "hqc"):
            found += [
                (f"{name}, {tasks} tasks in {slots} slots: peak below that without, mean", float(np.mean(gain[name])), "%", "-"),
                ("  least of a graph", min(gain[name]), "%", ">= 0"),
                ("  CPU more than without, mean", float(np.mean(cost[name]) - np.mean(cost["off"])), "ms", "-"),
            ]
    return found


def predictions() -> list[Row]:
    """Schedules with predictions against without, and as they run: peak, nodes, tasks that end late; windows of little slack."""
    found: list[Row] = []
    for linked, name in ((True, "pipelines"), (False, "tasks without links")):
        own, twin, answers, gap = [], [], 0, defaultdict(list)
        for seed in SEEDS:
            model, report = train_gnn(
                [pair(1000 * seed + n, measured=1.0, linked=linked, slots=16)[0] for n in range(GRAPHS)],
                seed=seed,
                deadline_s=600,
            )
            own.append(report.loss.value)
            twin.append(report.loss_twin.value)
            answers += unseen.answers(model) == "network"
            for n in range(WINDOWS):
                declared, came = pair(50_000 + 100 * seed + n, linked=linked, slots=16)
                predicted = unseen.with_predictions(declared, model)
                for label, given, seen in (("off", declared, None), ("on", declared, predicted), ("known", came, None)):
                    plan = plan_foreseen(on_nodes(given), seen, EnergyOptions())
                    peak, late = run(plan, came)
                    gap[f"certain {label}"].append(plan.plan.peak_w)
                    gap[f"peak {label}"].append(peak)
                    gap[f"nodes {label}"].append(len(np.unique(plan.node_of_task)))
                    gap[f"late {label}"].append(late)
                    gap[f"taken {label}"].append(plan.plan.solver.variant == FORESEEN)
        mean = {label: float(np.mean(values)) for label, values in gap.items()}
        certain = np.array(gap["certain on"]) / np.array(gap["certain off"]) - 1
        worse = np.array(gap["peak on"]) > np.array(gap["peak off"]) * (1 + 1e-9)
        found += [
            (f"gnn, {name}: error of unmeasured tasks, mean of 5", float(np.mean(own)), "", "-"),
            ("  its twin, boosted trees", float(np.mean(twin)), "", "-"),
            ("  seeds of 5 in which the network answers", float(answers), "", "-"),
            ("  schedules that predictions changed", 100 * mean["taken on"], "%", "-"),
            ("  certain peak over that without, most of a graph", 100 * float(certain.max()), "%", "<= 0"),
            ("  peak as it runs, over that without, mean", 100 * (mean["peak on"] / mean["peak off"] - 1), "%", "-"),
            ("    had all been measured", 100 * (mean["peak known"] / mean["peak off"] - 1), "%", "-"),
            ("  graphs whose peak as it runs is higher", 100 * float(worse.mean()), "%", "-"),
            ("  nodes without", mean["nodes off"], "", "-"),
            ("  nodes with", mean["nodes on"], "", "-"),
            ("    had all been measured", mean["nodes known"], "", "-"),
            ("  tasks that end after the window", 100 * mean["late on"], "%", "-"),
        ]
    return found


def on_nodes(given: TaskGraph) -> GraphProblem:
    """A graph on nodes of four GPUs."""
    room, idle = np.full((NODES, given.slots), 4), np.full(NODES, 100.0)
    return replace(alone(given), node=tuple(f"node-{n}" for n in range(NODES)), room=room, idle_w=idle)


def run(found: GraphPlan, came: TaskGraph) -> tuple[float, float]:
    """What a schedule comes to: its peak, and the part of tasks that end after the window.

    A task starts when it is to and its predecessors are over; it takes and draws what `came`.
    """
    plan, true = found.plan, window_of(alone(came))
    each = np.arange(len(plan.start))
    long, watts = true.duration[each, plan.mode], true.power_w[each, plan.mode]
    start = plan.start.copy()
    for task in np.argsort(start, kind="stable").tolist():
        for before in true.edges[true.edges[:, 1] == task, 0].tolist():
            start[task] = max(start[task], start[before] + long[before])
    load = np.zeros(4 * true.slots)
    for task in each.tolist():
        load[start[task] : start[task] + long[task]] += watts[task]
    return float(load.max()), float((start + long > true.slots).mean())


def sweeps() -> list[Row]:
    """Real curves: graphs drawn from measured jobs, a quarter of the networks kept apart."""
    folder = Path(os.environ.get("QSTREAM_DATA", "")) / "energy"
    if not (folder / "summary_power_v100.csv").is_file():
        return []
    jobs = measured_jobs(folder)
    own, twin, answers = [], [], 0
    for seed in SEEDS:
        model, report = train_gnn(drawn(jobs, seed), seed=seed, deadline_s=600)
        own.append(report.loss.value)
        twin.append(report.loss_twin.value)
        answers += unseen.answers(model) == "network"
    return [
        ("gnn, 164 measured jobs, networks kept apart: error, median of 5", float(np.median(own)), "", "-"),
        ("  its twin, boosted trees", float(np.median(twin)), "", "-"),
        ("  seeds of 5 in which the network answers", float(answers), "", "-"),
    ]


def measured_jobs(folder: Path) -> list[dict[str, Any]]:
    """Jobs with six power limits or more; four of them, the highest first, are modes."""
    found = []
    for number, gpu in enumerate(("p100", "v100", "rtx6000")):
        points: dict[tuple[str, ...], dict[float, tuple[float, float]]] = defaultdict(dict)
        for row in csv.DictReader((folder / f"summary_power_{gpu}.csv").read_text().splitlines()):
            time_s, power_w = float(row["time_per_epoch"] or "nan"), float(row["average_power"] or "nan")
            if np.isfinite(time_s * power_w):
                key = (row["dataset"], row["network"], row["batch_size"], row["optimizer"])
                points[key].setdefault(float(row["power_limit"]), (time_s, power_w))
        for key, known in sorted(points.items()):
            if len(known) >= 6:
                levels = np.array(sorted(known))
                at = levels[np.linspace(len(levels) - 1, 0, features.MODES).round().astype(int)]
                curve = np.array([known[level] for level in at])
                feature = [np.log(float(key[2])), *np.eye(3)[number], levels[-1] / 100]
                found.append({"group": "/".join(key[:2]), "feature": feature, "time_s": curve[:, 0], "power_w": curve[:, 1]})
    return found


def drawn(jobs: list[dict[str, Any]], seed: int) -> list[TaskGraph]:
    """Graphs of two chains of jobs of one network each; the newest quarter has other networks than the rest."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(sorted({job["group"] for job in jobs})).tolist()
    apart = set(groups[: max(1, len(groups) // 4)])
    found = []
    for n in range(GRAPHS):
        pool = [group for group in groups if (group in apart) == (n >= GRAPHS * 3 // 4)]
        tasks: list[dict[str, Any]] = []
        edges: list[list[int]] = []
        for group in rng.choice(pool, 2).tolist():
            own = [job for job in jobs if job["group"] == group]
            for at, index in enumerate(rng.choice(len(own), min(5, len(own)), replace=False).tolist()):
                edges += [[len(tasks) - 1, len(tasks)]] if at else []
                tasks.append(own[index])
        found.append(
            TaskGraph.build(
                domain="d",
                ts_ns=n,
                graph_id=f"g-{n}",
                slot_s=10.0,
                slots=10_000,
                task=tuple(map(str, range(len(tasks)))),
                duration=np.maximum(1, np.round([job["time_s"] / 10 for job in tasks])).astype(np.int32),
                power_w=np.array([job["power_w"] for job in tasks], np.float32),
                feature=np.array([job["feature"] for job in tasks], np.float32),
                edges=np.array(edges, np.int32),
            )
        )
    return found


def chosen() -> list[Row]:
    """Arms of 200 windows a seed: where they went after 100, what they came to, and what always asking circuits costs."""
    never: list[float] = []
    cost: dict[str, list[float]] = defaultdict(list)
    worst, won = 0.0, 0
    for seed in SEEDS:
        state, used = arms.start(), []
        for n in range(PLAYED):
            size = (6, 12, 24)[n % 3]
            problem = alone(graph(1000 * seed + n, size, max(12, size)))
            name = f"graph/0/{n}/0"
            state, arm, _ = arms.chosen(
                state, category_of(problem.graph), name, n, learn="on", explore=EnergyOptions().explore, seed=seed
            )
            peak = {}
            for each in ("list", "qaoa") if n >= PLAYED // 2 else {"list", arm}:
                began = time.thread_time()
                plan = plan_graph(problem, EnergyOptions(), arm=each).plan
                peak[each] = plan
                cost[each].append(1e3 * (time.thread_time() - began))
            if arm not in peak:
                peak[arm] = plan_graph(problem, EnergyOptions(), arm=arm).plan
            plan, classical = peak[arm], peak["list"].peak_w
            came = arms.Came(plan.peak_w, plan.bound_w, classical, 0 if arm == "list" else plan.solver.tried or 0)
            state, _ = arms.learnt(state, arm, name, came, n, Used(None, False), mode=lambda learner: "on")
            if n >= PLAYED // 2:
                used.append(arm)
                won += peak["qaoa"].peak_w < classical * (1 - 1e-9)
            worst = max(worst, plan.peak_w / classical - 1)
        share = Counter(used)
        never.append(100 * (share["qaoa"] + share["hqc"]) / len(used))
    return [
        ("meta: windows after 100 that went to circuits, most of 5 seeds", max(never), "%", "<= 5"),
        ("  mean", float(np.mean(never)), "%", "-"),
        ("  windows of 500 whose peak a circuit lowered at all", float(won), "", "-"),
        ("  peak over that without, most of a window", 100 * worst, "%", "<= 0"),
        ("  CPU of a window, classical", float(np.mean(cost["list"])), "ms", "-"),
        ("  with a circuit each", float(np.mean(cost["qaoa"])), "ms", "-"),
    ]
