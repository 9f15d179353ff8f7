"""Train splits: the policy of shares, by gradient through the fluid model of leaves and spines, on recorded demand; torch trains.

Its twin is the mix of shares without it, on the same windows.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from qstream.learn.fit import one_thread
from qstream.learn.model import Model
from qstream.learn.report import HELD_OUT, Report, report
from qstream.nvlink.leaves import LeafSpine, leaf_spine
from qstream.nvlink.links import fullest, wcmp
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.split_policy import CLIP, FEATURES, KEEP, NAME, UNITS
from qstream.nvlink.splits import plan_splits
from qstream.nvlink.telemetry import window_of
from schemas.fabric import FabricTopology, LinkTelemetry
from schemas.frame import Frame
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
EPISODES: Final = 250
LENGTH: Final = 12  # windows of an episode
LEAST: Final = 40  # windows of a fabric
SHARPNESS: Final = 40.0
STAY: Final = 0.005
SLOW: Final = 0.15  # of links in an episode, which then have half or a quarter of their speed
_RATE: Final = 3e-3
_BLOCK: Final = 8
_SMALL: Final = 1e-9


class Lesson(NamedTuple):
    """Demands [T, L, L] of windows in a row in GB/s, and the capacities of the fabric."""

    demands: Floats
    up_gb_s: Floats
    down_gb_s: Floats


def train_splits(
    frames: Iterable[Frame],
    *,
    seed: int,
    deadline_s: float,
    episodes: int = EPISODES,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Model, Report]:
    """Train on recorded topologies and telemetry of pairs of leaves; a loss is the fullest link over WCMP's, a window later.

    Raises
    ------
    LearnError
        No fabric has 40 windows of telemetry or more in which leaves offered something.
    """
    lessons = lessons_of(frames)
    if not lessons:
        raise LearnError(must_be("telemetry", f"{LEAST} or more windows of pairs of leaves of one topology", Shown("fewer")))
    older = [lesson._replace(demands=lesson.demands[: _split(lesson)]) for lesson in lessons]
    arrays = _fit(older, seed, episodes, clock() + deadline_s, clock)
    config = {"activation": "tanh"}
    model = Model(module="nvlink", name=NAME, version=0, kind="mlp", arrays=arrays, feature_names=FEATURES, config=config)
    own, twin = (np.concatenate([_losses(lesson, each) for lesson in lessons]) for each in (model, None))
    compared = report("fullest link over WCMP's in the window served", "the mix without it", own, twin, block=_BLOCK)
    return replace(model, metrics=compared.metrics), compared


def lessons_of(frames: Iterable[Frame], window_ms: float = NvlinkOptions().window_ms) -> list[Lesson]:
    """The demand of each topology, windows in the order of time; without those in which nothing was offered."""
    leaves: dict[str, tuple[FabricTopology, LeafSpine]] = {}
    told: dict[str, dict[tuple[str, int], LinkTelemetry]] = defaultdict(dict)
    for frame in frames:
        if isinstance(frame, FabricTopology) and (found := leaf_spine(frame)) is not None:
            leaves[frame.digest()] = frame, found
        elif isinstance(frame, LinkTelemetry) and frame.pair_src is not None:
            told[frame.topology_digest][frame.source, frame.window_id] = frame
    lessons = []
    for digest, (topology, part) in sorted(leaves.items()):
        windows = _windows(told[digest].values(), topology, part, window_ms)
        if len(windows) >= LEAST:
            lessons.append(Lesson(np.array([windows[at] for at in sorted(windows)]), part.up_gb_s, part.down_gb_s))
    return lessons


def _windows(told: Iterable[LinkTelemetry], topology: FabricTopology, part: LeafSpine, window_ms: float) -> dict[int, Floats]:
    place = np.full(len(topology.node_type), -1)
    place[part.leaf] = np.arange(len(part.leaf))
    found: dict[int, Floats] = {}
    for each in told:
        if each.pair_src is None or each.pair_dst is None or each.pair_bytes is None:
            continue
        if max(each.pair_src.max(), each.pair_dst.max()) >= len(place):
            continue
        a, b = place[each.pair_src], place[each.pair_dst]
        on = (a >= 0) & (b >= 0) & (a != b)
        demand = found.setdefault(window_of(each, window_ms), np.zeros((len(part.leaf), len(part.leaf))))
        np.add.at(demand, (a[on], b[on]), each.pair_bytes[on] / (window_ms * 1e6))
    return {at: demand for at, demand in found.items() if demand.any()}


def _split(lesson: Lesson) -> int:
    return int(len(lesson.demands) * (1 - HELD_OUT))


def _losses(lesson: Lesson, model: Model | None) -> Floats:
    """Of the newest windows: the fullest link of the mix, planned from the windows before, over WCMP's."""
    up, down = lesson.up_gb_s, lesson.down_gb_s
    base, options = wcmp(up, down), NvlinkOptions(rl=model is not None)
    share, state, found = base, None, []
    for at, demand in enumerate(lesson.demands):
        if at >= _split(lesson):
            found.append(fullest(share, demand, up, down) / fullest(base, demand, up, down))
        share, state = plan_splits(demand, up, down, state=state, options=options, model=model)
    return np.array(found)


def _fit(
    lessons: list[Lesson], seed: int, episodes: int, ends: float, clock: Callable[[], float]
) -> dict[str, NDArray[np.float32]]:
    import torch  # noqa: PLC0415 - no worker needs it

    rng = np.random.default_rng(seed)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (len(FEATURES), UNITS, UNITS, 1)
        layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        with torch.no_grad():  # begins as WCMP
            layers[-1].weight.mul_(0.01)
            layers[-1].bias.zero_()
        net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
        optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
        for episode in range(episodes):
            if clock() > ends:
                break
            optimizer.param_groups[0]["lr"] = _RATE * (0.5 + 0.5 * float(np.cos(np.pi * episode / episodes))) + 1e-5
            loss = _episode(net, _drawn(lessons[int(rng.integers(len(lessons)))], rng))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return {
        f"{at}.{name}": getattr(layer, name).detach().numpy() for at, layer in enumerate(layers) for name in ("weight", "bias")
    }


def _drawn(lesson: Lesson, rng: np.random.Generator) -> Lesson:
    """An episode: some windows in a row, leaves and spines in another order, and some links slow."""
    length = min(LENGTH, len(lesson.demands))
    begin = int(rng.integers(len(lesson.demands) - length + 1))
    leaf, spine = (rng.permutation(count) for count in lesson.up_gb_s.shape)
    up, down = lesson.up_gb_s[np.ix_(leaf, spine)].copy(), lesson.down_gb_s[np.ix_(spine, leaf)].copy()
    for speed in (up, down):
        speed *= np.where(rng.random(speed.shape) < SLOW, rng.choice([0.25, 0.5], speed.shape), 1.0)
    return Lesson(lesson.demands[begin : begin + length][:, leaf][:, :, leaf], up, down)


def _episode(net: Any, lesson: Lesson) -> Any:
    """The mean over windows of the smooth maximum of utilisation over WCMP's own, under shares planned a window before."""
    import torch  # noqa: PLC0415 - as above

    base_np = wcmp(lesson.up_gb_s, lesson.down_gb_s)
    base, up, down = (torch.tensor(each, dtype=torch.float32) for each in (base_np, lesson.up_gb_s, lesson.down_gb_s))
    alive = base > 0
    narrow = torch.minimum(up[:, None, :], down.T[None])
    speeds = (up[:, None, :].expand_as(base), down.T[None].expand_as(base), narrow)
    capacity = [each / each.mean().clamp_min(_SMALL) for each in speeds]
    share, theta, losses = base, torch.zeros_like(base), []
    for now, after in itertools.pairwise(lesson.demands):
        demand = torch.tensor(now, dtype=torch.float32)
        on_up, on_down = _used(share, demand, up, down)
        a, b = on_up[:, None, :].expand_as(base), on_down.T[None].expand_as(base)
        scale = torch.maximum(a, b).mean().clamp_min(_SMALL)
        loads = [(each / scale).clamp(0, 4) for each in (a, b, torch.maximum(a, b))]
        less = [each - each.mean(2, keepdim=True) for each in loads]
        wanted = (demand / demand.mean().clamp_min(_SMALL)).clamp_max(20)[:, :, None].expand_as(base)
        centred = theta - theta.mean(2, keepdim=True)
        moved = net(torch.stack([*less, *capacity, centred, wanted, loads[2]], -1))[..., 0]
        theta = (KEEP * centred + moved).clamp(-CLIP, CLIP)
        share = torch.softmax(torch.where(alive, base.clamp_min(_SMALL).log() + theta, torch.tensor(-1e9)), 2)
        peer = fullest(base_np, after, lesson.up_gb_s, lesson.down_gb_s)
        if 0 < peer < np.inf:
            used = torch.cat([each.flatten() for each in _used(share, torch.tensor(after, dtype=torch.float32), up, down)]) / peer
            apart = (share * (share.clamp_min(_SMALL) / base.clamp_min(_SMALL)).log()).sum(2).mean()
            losses.append(torch.logsumexp(SHARPNESS * used, 0) / SHARPNESS + STAY * apart)
    return torch.stack(losses).mean()


def _used(share: Any, demand: Any, up: Any, down: Any) -> tuple[Any, Any]:
    flow = share * demand[:, :, None]
    return flow.sum(1) / up.clamp_min(_SMALL), flow.sum(0).T / down.clamp_min(_SMALL)
