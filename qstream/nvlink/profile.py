"""Jobs as groups of ranks that do collectives, from the sizes by which they are divided, and the bytes between pairs of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from qstream.errors import ProblemError
from schemas.fabric import GROUP_KINDS, PARALLEL, JobProfile, ParallelSizes
from schemas.frame import FrameError
from schemas.wording import Shown, must_be

ALLREDUCE, ALLGATHER, REDUCESCATTER, ALLTOALL, P2P = range(len(GROUP_KINDS))
# Which collective each division of a job does, where only its bytes are given.
USUAL: Final = {"tp": "allreduce", "cp": "allgather", "ep": "alltoall", "dp": "allreduce", "pp": "p2p"}
# Bytes of a step where nothing is known: in the proportions of a mixture-of-experts training job.
DEFAULT_VOLUMES: Final = {"tp": 4e9, "cp": 1e9, "ep": 2e9, "dp": 1e9, "pp": 0.25e9}
MAX_ENTRIES: Final = 20_000_000
MAX_BYTES: Final = 2.0**62

Volumes = Mapping[str, float | Mapping[str, float]]
Ints = NDArray[np.int32]


def job_profile(
    parallel: ParallelSizes | Mapping[str, int],
    *,
    volumes: Volumes,
    order: str = "tp-cp-ep-dp-pp",
    fabric: str = "fabric",
    job: str = "job",
    ts_ns: int = 0,
    priority: int = 0,
    period_us: float | None = None,
    max_slices: int | None = None,
    balanced: bool = False,
    atomic: Iterable[Sequence[int]] = (),
    pins: Mapping[int, int] | None = None,
    gpu_of_rank: NDArray[np.integer] | None = None,
) -> JobProfile:
    """The profile of a job from how its ranks divide the model.

    Parameters
    ----------
    parallel
        Sizes: ``tp``, ``cp``, ``ep``, ``dp``, ``pp``, 1 where absent. There are tp * cp * dp * pp ranks.
    volumes
        Bytes of a rank in a period by division: ``{"tp": 4e9}``, or by collective too: ``{"tp": {"allgather": 2e9,
        "reducescatter": 2e9}}``. A bare number is an all-reduce for tp and dp, an all-gather for cp, an all-to-all for ep, and
        for pp what each stage sends to the next, and the next sends back.
    order
        In which order ranks are counted, fastest first. Experts are shared by consecutive ranks of a stage where ep comes before
        dp, else by ranks as far apart as possible.
    atomic, pins, gpu_of_rank
        Sets of ranks that must share a domain; the GPU, a node of the topology, of ranks that must not move; where the ranks run.

    Raises
    ------
    ProblemError
        Sizes or bytes that break a rule, by field, value and rule.
    """
    sizes = _sizes(parallel)
    kinds: list[int] = []
    nbytes: list[int] = []
    groups: list[Ints] = []
    for division, kind, size in _volumes(volumes):
        for group in _groups(sizes, order, division):
            ways = [group, group[::-1]] if kind == P2P and division == "pp" else [group]
            for ranks in ways if len(group) > 1 else ():
                kinds.append(kind)
                nbytes.append(size)
                groups.append(ranks)
    sets = [np.asarray(ranks, np.int32) for ranks in atomic]
    known = dict(sorted((pins or {}).items()))
    try:
        return JobProfile.build(
            fabric=fabric,
            job=job,
            ts_ns=ts_ns,
            num_ranks=sizes.ranks,
            priority=priority,
            parallel=sizes,
            order=order,
            period_us=period_us,
            max_slices=max_slices,
            balanced=balanced,
            group_kind=np.array(kinds, np.uint8),
            group_bytes=np.array(nbytes, np.int64),
            group_first=_starts(groups),
            group_rank=np.concatenate([*groups, np.zeros(0, np.int32)]).astype(np.int32),
            atomic_first=_starts(sets) if sets else None,
            atomic_rank=np.concatenate(sets) if sets else None,
            pin_rank=np.array(list(known), np.int32) if known else None,
            pin_gpu=np.array(list(known.values()), np.int32) if known else None,
            gpu_of_rank=None if gpu_of_rank is None else np.asarray(gpu_of_rank, np.int32),
        )
    except FrameError as exc:
        raise ProblemError(str(exc)) from exc


def job_traffic(profile: JobProfile) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Bytes between pairs of ranks in a period.

    A ring all-reduce of S bytes over m ranks sends 2 (m - 1) / m S from each to the next, an all-gather and a reduce-scatter
    (m - 1) / m S, an all-to-all S / m from each to each other, p2p S from each to the next but not from the last to the first.

    Returns
    -------
    src, dst : int32 [entries]
        Ranks, sorted by both; each pair once, none with itself.
    nbytes : float64 [entries]
        Bytes, above 0.

    Raises
    ------
    ProblemError
        Groups so large that their pairs are more than 20 million.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    if profile.traffic_src is not None and profile.traffic_dst is not None and profile.traffic_bytes is not None:
        parts.append(
            (profile.traffic_src.astype(np.int64), profile.traffic_dst.astype(np.int64), profile.traffic_bytes.astype(np.float64))
        )
    if profile.group_kind is not None:
        parts += _expanded(profile)
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    src, dst, nbytes = (np.concatenate(column) for column in zip(*parts, strict=True))
    real = (src != dst) & (nbytes > 0)
    pairs, column = np.unique(src[real] * profile.num_ranks + dst[real], return_inverse=True)
    total = np.bincount(column, nbytes[real], len(pairs)).astype(np.float64)
    return (pairs // profile.num_ranks).astype(np.int32), (pairs % profile.num_ranks).astype(np.int32), total


def _expanded(profile: JobProfile) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """The pairs of all groups: those of one kind and size at a time."""
    kind, nbytes, first, rank = profile.group_kind, profile.group_bytes, profile.group_first, profile.group_rank
    assert kind is not None
    assert nbytes is not None
    assert first is not None
    assert rank is not None
    size = np.diff(first).astype(np.int64)
    entries = np.where(kind == ALLTOALL, size * size, size).sum()
    if entries > MAX_ENTRIES:
        raise ProblemError(must_be("pairs of ranks in groups", f"at most {MAX_ENTRIES}", int(entries)))
    parts = []
    for which, members in sorted(set(zip(kind.tolist(), size.tolist(), strict=True))):
        if members < 2:
            continue
        chosen = np.flatnonzero((kind == which) & (size == members))
        ranks = rank[first[chosen][:, None] + np.arange(members)].astype(np.int64)
        if which == ALLTOALL:
            src, dst = np.repeat(ranks, members, axis=1), np.tile(ranks, members)
            share = 1 / members
        elif which == P2P:
            src, dst, share = ranks[:, :-1], ranks[:, 1:], 1.0
        else:
            src, dst = ranks, np.roll(ranks, -1, axis=1)
            share = (2 if which == ALLREDUCE else 1) * (members - 1) / members
        parts.append((src.ravel(), dst.ravel(), np.repeat(nbytes[chosen] * share, src.shape[1])))
    return parts


def _sizes(parallel: ParallelSizes | Mapping[str, int]) -> ParallelSizes:
    if isinstance(parallel, ParallelSizes):
        return parallel
    if unknown := [name for name in parallel if name not in PARALLEL]:
        raise ProblemError(must_be("a size of parallel", f"one of {', '.join(PARALLEL)}", unknown[0]))
    try:
        return ParallelSizes(**parallel)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        text = f"{where} {message}, got {fault['input']!r}" if where and not message.startswith(where) else message
        raise ProblemError(text) from exc


def _volumes(volumes: Volumes) -> list[tuple[str, int, int]]:
    """Division, kind and whole bytes of each collective that moves any."""
    found = []
    for division, given in volumes.items():
        if division not in PARALLEL:
            raise ProblemError(must_be("a division of volumes", f"one of {', '.join(PARALLEL)}", division))
        kinds = given if isinstance(given, Mapping) else {USUAL[division]: given}
        for kind, nbytes in kinds.items():
            if kind not in GROUP_KINDS:
                raise ProblemError(must_be(f"a collective of volumes of {division}", f"one of {', '.join(GROUP_KINDS)}", kind))
            if isinstance(nbytes, bool) or not isinstance(nbytes, int | float) or not 0 <= nbytes < MAX_BYTES:
                raise ProblemError(must_be(f"bytes of {kind} of {division}", "0 to 2**62", nbytes))
            if nbytes:
                found.append((division, GROUP_KINDS.index(kind), math.ceil(nbytes)))
    return found


def _groups(sizes: ParallelSizes, order: str, division: str) -> list[Ints]:
    """The ranks of each group of a division, in the order in which they pass bytes on."""
    names = order.split("-")
    if sorted(names) != sorted(PARALLEL):
        raise ProblemError(must_be("order", f"{', '.join(PARALLEL)} in any order, joined by -", order))
    axes = [name for name in names if name != "ep"]  # experts are shared among the ranks of the others
    ranks = np.arange(sizes.ranks, dtype=np.int32).reshape([getattr(sizes, name) for name in reversed(axes)])
    where = {name: len(axes) - 1 - at for at, name in enumerate(axes)}
    if division != "ep":
        return list(np.moveaxis(ranks, where[division], -1).reshape(-1, getattr(sizes, division)))
    stages = np.moveaxis(ranks, where["pp"], 0).reshape(sizes.pp, -1)
    if names.index("ep") < names.index("dp"):
        return list(stages.reshape(-1, sizes.ep))
    return list(np.moveaxis(stages.reshape(sizes.pp, sizes.ep, -1), 1, 2).reshape(-1, sizes.ep))


def _starts(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32) if parts else np.zeros(1, np.int32)


def parallel_of(given: Mapping[str, object]) -> ParallelSizes:
    """Sizes by the names of any trainer: ``tp``, ``tensor_parallel_size`` (DLRover, vLLM), ``tensor_model_parallel_size``
    (Megatron), with dashes too; other names are passed over.

    Raises
    ------
    ProblemError
        No size at all, two names for one, or a size that is no whole number.
    """
    words = {"tensor": "tp", "context": "cp", "expert": "ep", "data": "dp", "pipeline": "pp"}
    names = {short: short for short in PARALLEL}
    for word, short in words.items():
        names |= {f"{word}_parallel_size": short, f"{word}_model_parallel_size": short, f"{word}_parallel": short}
    found: dict[str, int] = {}
    for key, value in given.items():
        short = names.get(str(key).lower().replace("-", "_"), "")
        if not short:
            continue
        if short in found:
            raise ProblemError(must_be(f"size of {short}", "given once", Shown(f"{key!r} too")))
        if isinstance(value, bool) or not isinstance(value, int):
            raise ProblemError(must_be(str(key), "a whole number", value))
        found[short] = value
    if not found:
        raise ProblemError(must_be("sizes of a job", f"one of {', '.join(PARALLEL)} at least", Shown(str(list(given)[:8]))))
    return _sizes(found)
