"""Traffic of fabrics on the measuring stick: rails between servers, and the order of transfers; all of it modelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix
from threadpoolctl import threadpool_limits

from qstream.nvlink import balance_rails, schedule_transfers
from qstream.nvlink.schedule import matchings_us, rotation_us
from tests.benchmarks.stick import load_scores

Row = tuple[str, float, str, str]
SEEDS: Final = (1, 2)
SKEWED: Final = ("zipf", "moe", "sparse", "hot")
STARTUPS_US: Final = (0.0, 2.0, 20.0)


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("nvlink_stick")
    if stick is None:
        return []
    with threadpool_limits(1):
        return [*rails(stick), *schedules(stick)]


def rails(stick: ModuleType) -> list[Row]:
    """Fullest NIC over bound, relayed bytes over the fewest, pieces a message and CPU; the worst of two seeds."""
    balance_rails(stick.rail_traffic(2, "sparse", np.random.default_rng(0)), 50.0, 450.0)  # loads the kernels
    found: list[Row] = []
    for servers in (4, 8):
        slowest = 0.0
        for kind in SKEWED:
            worst = {"nic": 0.0, "relayed": 0.0, "pieces": 0.0, "least": 0.0, "pxn": 0.0}
            for seed in SEEDS:
                t = stick.rail_traffic(servers, kind, np.random.default_rng(seed))
                made, seconds = _timed(lambda t=t: balance_rails(t, 50.0, 450.0))
                scores = stick.rail_scores(t, made.src, made.dst, made.rail, made.nbytes)
                scores["least"] = scores["relayed"] / _least_relayed(t)
                scores["pxn"] = stick.rail_scores(t, *stick.rail_peers(t)["pxn"])["nic"]
                worst = {name: max(value, scores[name]) for name, value in worst.items()}
                slowest = max(slowest, seconds)
            name = f"rails, {servers} servers, {kind}"
            found += [
                (f"{name}, fullest NIC over bound", worst["nic"], "", "<= 1.002"),
                (f"{name}, the same by the receiver's rail", worst["pxn"], "", "-"),
                (f"{name}, relayed bytes over the fewest", worst["least"], "", "<= 1.02"),
                (f"{name}, pieces a message", worst["pieces"], "", "<= 1.2"),
            ]
        found.append((f"rails, {servers} servers, the slowest", slowest * 1e3, "ms CPU", "<= 100" if servers == 8 else "-"))
    return found


def schedules(stick: ModuleType) -> list[Row]:
    """Span over bound of every order of transfers, the worst of two seeds, and the CPU of it; with barriers beside the peers."""
    for barriers in (False, True):
        schedule_transfers(stick.traffic(8, "sparse", np.random.default_rng(0)), 50.0, barriers=barriers)  # loads the kernels
    found: list[Row] = []
    for n in (16, 32, 72):
        worst = dict.fromkeys(("free", "rotation", "barriers", "matchings", "ms", "over matchings", "barriers ms"), 0.0)
        for kind in ("uniform", *SKEWED):
            cases = [(seed, startup_us) for seed in SEEDS for startup_us in STARTUPS_US]
            for seed, startup_us in cases:
                t = stick.traffic(n, kind, np.random.default_rng(seed))
                scores = _schedule_scores(stick, t, startup_us)
                worst = {name: max(value, scores[name]) for name, value in worst.items()}
        name = f"schedule, {n} ports"
        found += [
            (f"{name}, span over bound", worst["free"], "", "<= 1.005"),
            (f"{name}, the same by rotation", worst["rotation"], "", "-"),
            (f"{name}, with barriers", worst["barriers"], "", "-"),
            (f"{name}, the same by matchings", worst["matchings"], "", "-"),
            (f"{name}, with barriers over matchings", worst["over matchings"], "", "<= 1.000"),
            (f"{name}, the slowest", worst["ms"], "ms CPU", "<= 100" if n == 72 else "-"),
            (f"{name}, the slowest with barriers", worst["barriers ms"], "ms CPU", "-"),
        ]
    return found


def _schedule_scores(stick: ModuleType, t: Any, startup_us: float) -> dict[str, float]:
    bound = stick.schedule_bound_us(t, 50.0, startup_us)
    found: dict[str, float] = {}
    for name, barriers in (("free", False), ("barriers", True)):
        made, seconds = _timed(lambda barriers=barriers: schedule_transfers(t, 50.0, startup_us, barriers=barriers))
        found[name] = stick.schedule_ratio(t, 50.0, startup_us, made.src, made.dst, made.nbytes, made.start_us)
        found["barriers ms" if barriers else "ms"] = seconds * 1e3
    found["rotation"], found["matchings"] = (peer(t, 50.0, startup_us) / bound for peer in (rotation_us, matchings_us))
    return found | {"over matchings": round(found["barriers"] / found["matchings"], 9)}


def _least_relayed(t: Any) -> float:
    """Relayed bytes a byte with no NIC above the bound, by HiGHS."""
    (servers, g), flat = t.shape[:2], t.reshape(t.shape[0] * t.shape[1], -1)
    src, dst = np.nonzero(flat)
    m, r = np.repeat(np.arange(len(src)), g), np.tile(np.arange(g), len(src))
    var = np.arange(len(m))
    unit = max(t.sum((1, 3)).sum(axis).max() for axis in (0, 1)) / g
    nic = np.concatenate([src[m] // g * g + r, servers * g + dst[m] // g * g + r])
    over = coo_matrix((np.ones(2 * len(m)), (nic, np.tile(var, 2))), (2 * servers * g, len(m))).tocsr()
    whole = coo_matrix((np.ones(len(m)), (m, var))).tocsr()
    relays = (src[m] % g != r) * 1.0 + (dst[m] % g != r)
    size = flat[src, dst] / unit
    return float(linprog(relays, over, np.ones(2 * servers * g), whole, size, method="highs").fun / size.sum())


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    value = call()
    return value, time.process_time() - began
