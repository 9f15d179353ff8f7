"""`read_job`: what a job sends, from workloads of SimAI, lists of pairs, and sizes that trainers are started with."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from qstream.errors import ProblemError
from qstream.nvlink.formats.safe_yaml import read_yaml
from qstream.nvlink.formats.source import frame_of, load, text_of
from qstream.nvlink.profile import DEFAULT_VOLUMES, Volumes, job_profile, parallel_of
from schemas.fabric import MAX_RANKS, JobProfile, ParallelSizes
from schemas.frame import FrameError
from schemas.wording import Shown, must_be

JobFormat = Literal["auto", "sizes", "simai", "csv", "frame"]
JOB_FORMATS: Final[tuple[str, ...]] = get_args(JobFormat)
MAX_BYTES: Final = 64_000_000
# Columns of a line of SimAI's text where a collective stands, its bytes after it; the last is of the weights' gradients.
SIMAI_COLUMNS: Final = (3, 6, 9)
SIMAI_KINDS: Final = {
    "ALLREDUCE": "allreduce",
    "ALLGATHER": "allgather",
    "REDUCESCATTER": "reducescatter",
    "ALLTOALL": "alltoall",
    "BROADCAST": "p2p",  # passed on from each rank to the next
}
WHOLE_MODEL: Final = ("grad_norm", "layernorm")  # lines whose bytes are the gradients or weights of all layers


def read_job(
    source: str | bytes | Path | Mapping[str, Any],
    *,
    format: JobFormat = "auto",  # noqa: A002 the word users know
    fabric: str = "fabric",
    job: str | None = None,
    parallel: Mapping[str, int] | None = None,
    volumes: Volumes | None = None,
    order: str = "tp-cp-ep-dp-pp",
) -> JobProfile:
    """A job from a file, its text, or a mapping of sizes.

    Parameters
    ----------
    source
        A path; text or bytes; or sizes as `qstream.nvlink.profile.parallel_of` takes them.
    format
        ``sizes`` (JSON or YAML), ``simai`` (the text form of SimAI and ASTRA-sim), ``csv`` (``src,dst,bytes`` with a header),
        ``frame`` (a `JobProfile`), or found out.
    job
        Its name; by default that of the file.
    parallel
        Sizes that the file does not have, such as dp, which a SimAI workload leaves to the simulator.
    volumes
        Bytes as in `job_profile`, where sizes are all that is known; by default in the proportions of a mixture-of-experts job.

    Raises
    ------
    ProblemError
        The source cannot be read, is of no such format, or breaks a rule: the message names field, value and rule.
    """
    if format not in JOB_FORMATS:
        raise ProblemError(must_be("format of a job", f"one of {', '.join(JOB_FORMATS)}", format))
    name, data = "job", b""
    if not isinstance(source, Mapping):
        data, name = load(source, "job", what="a job", sources="a path, text or sizes", max_bytes=MAX_BYTES)
        frame = frame_of(data, JobProfile, format)
        if frame is not None:
            return frame
    name = job or name
    more = dict(parallel or {})
    if isinstance(source, Mapping):
        found: ParallelSizes | Mapping[str, int] = parallel_of({**source, **more})
        return job_profile(found, volumes=volumes or DEFAULT_VOLUMES, order=order, fabric=fabric, job=name)
    text = text_of(data, "a job")
    kind = _guess(text) if format == "auto" else format
    if kind == "simai":
        sizes, sent = read_simai(text, more)
        return job_profile(sizes, volumes=volumes or sent, order=order, fabric=fabric, job=name)
    if kind == "csv":
        return _pairs(text, fabric, name)
    given = _mapping(text)
    found = parallel_of({**given, **more})
    return job_profile(found, volumes=volumes or DEFAULT_VOLUMES, order=order, fabric=fabric, job=name)


def read_simai(text: str, more: Mapping[str, int]) -> tuple[ParallelSizes, dict[str, dict[str, float]]]:
    """Sizes and bytes of a workload of SimAI: a head, the number of layers, then a layer a line.

    Collectives of the forward pass and of the gradients of inputs are of the tensor-parallel group, those of the gradients of
    weights, and of lines that are about the whole model, of the data-parallel one; a name that ends in ``_EP`` is of the experts.
    """
    lines = text.splitlines()
    head = dict(re.findall(r"(\w+):\s*(\d{1,9})", lines[0] if lines else ""))
    ranks = {"tp": int(head.get("model_parallel_NPU_group", 1)), "ep": int(head.get("ep", 1)), "pp": int(head.get("pp", 1))}
    if "all_gpus" in head:
        ranks["dp"] = max(1, int(head["all_gpus"]) // max(1, ranks["tp"] * ranks["pp"]))
    sizes = parallel_of(ranks | dict(more))
    count = lines[1].strip() if len(lines) > 1 else ""
    if not count.isdecimal():
        raise ProblemError(must_be("line 2 of a SimAI workload", "the number of layers", count[:40]))
    sent: dict[str, dict[str, float]] = {}
    rows = [line.split() for line in lines[2:] if line.strip()]
    if len(rows) != int(count):
        raise ProblemError(must_be("layers of a SimAI workload", f"{count}, as line 2 says", len(rows)))
    for number, row in enumerate(rows, 3):
        if len(row) < 12:
            raise ProblemError(must_be(f"line {number} of a SimAI workload", "12 columns", Shown(f"{len(row)}")))
        for column in SIMAI_COLUMNS:
            word, nbytes = row[column].upper(), row[column + 1]
            if word == "NONE":
                continue
            base = word.split("_")[0]
            if base not in SIMAI_KINDS or not nbytes.isdecimal() or len(nbytes) > 18:
                rule = f"NONE or one of {', '.join(SIMAI_KINDS)}, and bytes"
                raise ProblemError(must_be(f"collective of line {number}", rule, f"{word} {nbytes}"[:60]))
            whole = column == SIMAI_COLUMNS[-1] or row[0] in WHOLE_MODEL or "DP" in word.split("_")
            division = "ep" if word.split("_")[-1] == "EP" and "DP" not in word.split("_") else "dp" if whole else "tp"
            kinds = sent.setdefault(division, {})
            kinds[SIMAI_KINDS[base]] = kinds.get(SIMAI_KINDS[base], 0.0) + int(nbytes)
    return sizes, sent


def _pairs(text: str, fabric: str, job: str) -> JobProfile:
    """Rows of ``src,dst,bytes`` in any order of columns; equal pairs add up."""
    reader = csv.reader(io.StringIO(text))
    head = [name.strip().lower() for name in next(reader, [])]
    if not {"src", "dst", "bytes"} <= set(head):
        raise ProblemError(must_be("columns of a list of pairs", "src, dst and bytes", Shown(",".join(head)[:80])))
    at = [head.index(name) for name in ("src", "dst", "bytes")]
    values: list[tuple[int, int, int]] = []
    for number, row in enumerate(reader, 2):
        if not row:
            continue
        try:
            src, dst, size = (float(row[column]) for column in at)
        except (ValueError, IndexError) as exc:
            raise ProblemError(must_be(f"line {number} of a list of pairs", "three numbers", ",".join(row)[:80])) from exc
        for name, value, most in (("src", src, MAX_RANKS), ("dst", dst, MAX_RANKS), ("bytes", size, 2**62)):
            if not 0 <= value < most or (name != "bytes" and value != int(value)):
                raise ProblemError(must_be(f"{name} of line {number}", f"0 to {most}", row[head.index(name)]))
        values.append((int(src), int(dst), round(size)))
    if not values:
        raise ProblemError(must_be("a list of pairs", "one with rows", Shown("none")))
    src_dst_bytes = np.array(values, np.int64)
    try:
        return JobProfile.build(
            fabric=fabric,
            job=job,
            num_ranks=int(src_dst_bytes[:, :2].max()) + 1,
            traffic_src=src_dst_bytes[:, 0].astype(np.int32),
            traffic_dst=src_dst_bytes[:, 1].astype(np.int32),
            traffic_bytes=src_dst_bytes[:, 2].copy(),
        )
    except FrameError as exc:
        raise ProblemError(str(exc)) from exc


def _guess(text: str) -> JobFormat:
    first = text.split("\n", 1)[0]
    if "NPU_group" in first or re.match(r"^(HYBRID|DATA|MODEL|MICRO|DLRM|TRANSFORMER)", first):
        return "simai"
    words = {word.strip().lower() for word in first.split(",")}
    return "csv" if {"src", "dst", "bytes"} <= words else "sizes"


def _mapping(text: str) -> Mapping[str, Any]:
    if text.lstrip()[:1] == "{":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ProblemError(must_be("sizes of a job", f"JSON ({str(exc)[:100]})", Shown("other text"))) from exc
    else:
        found = read_yaml(text)
    if not isinstance(found, Mapping):
        raise ProblemError(
            must_be("a job", f"of one of the formats {', '.join(JOB_FORMATS[1:])}", Shown(f"{text.strip()[:60]!r}"))
        )
    return found
