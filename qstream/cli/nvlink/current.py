"""Which GPU each rank has now: from a plan, from what `place --export` writes, or from a list; and which GPUs are free."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.cli.paths import require_readable
from qstream.errors import ConfigError, ProblemError
from qstream.nvlink.formats.hostlist import expand
from schemas.fabric import GPU, FabricPlan, FabricTopology
from schemas.frame import JSON, SAFETENSORS, FrameError
from schemas.parse import read_json
from schemas.wording import Shown, must_be

MAX_BYTES: Final = 64_000_000
_RANK: Final = re.compile(r"^\s*rank\s+(\d{1,7})\s*=\s*(\S+)\s+slots?\s*=\s*(\d{1,5})\s*$")


def read_current(path: Path, topology: FabricTopology) -> NDArray[np.int32]:
    """The GPU of each rank, int32 [ranks], as nodes of the topology.

    A `FabricPlan`; a CSV with columns rank and gpu, as ``--export csv`` writes it; a rank file of Open MPI; or a JSON list with
    the name or node of the GPU of each rank.

    Raises
    ------
    ConfigError
        The file cannot be read.
    ProblemError
        It is none of these, or names what the topology does not have: file, field, value and rule.
    """
    require_readable("--current", path)
    with path.open("rb") as file:
        body = file.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ProblemError(must_be(f"size of {path}", f"at most {MAX_BYTES} bytes", Shown("more")))
    try:
        gpus = _read(body, topology)
    except (ProblemError, FrameError) as exc:
        raise ProblemError(f"{path}: {exc}") from exc
    return gpus


def _read(body: bytes, topology: FabricTopology) -> NDArray[np.int32]:
    is_json = body.lstrip()[:1] == b"{"
    if is_json or body[8:9] == b"{":
        plan = FabricPlan.decode(body, JSON if is_json else SAFETENSORS)
        if plan.topology_digest != topology.digest():
            raise ProblemError(must_be("topology_digest", f"that of the topology, {topology.digest()}", plan.topology_digest))
        if plan.gpu_of_rank is None:
            raise ProblemError(must_be("gpu_of_rank", "given in the plan", Shown(f"nothing: {plan.skip_reason}")))
        return plan.gpu_of_rank
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ProblemError(must_be("a placement", "a plan, CSV, a rank file or a list", Shown("bytes that are no text"))) from exc
    if text.lstrip()[:1] == "[":
        return _of_list(text, topology)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and _RANK.match(lines[0]):
        return _of_rankfile(lines, topology)
    return _of_table(text, topology)


def _of_list(text: str, topology: FabricTopology) -> NDArray[np.int32]:
    try:
        found = read_json(text.encode())
    except ValueError as exc:
        raise ProblemError(must_be("a placement", f"JSON ({str(exc)[:100]})", Shown("other text"))) from exc
    names = _gpu_names(topology)
    nodes = set(names.values())
    gpus = []
    for rank, value in enumerate(found):
        at = names.get(value) if isinstance(value, str) else value if type(value) is int and value in nodes else None
        if at is None:
            raise ProblemError(must_be(f"GPU of rank {rank}", "a GPU of the topology, by name or node", value))
        gpus.append(at)
    return np.array(gpus, np.int32)


def _of_table(text: str, topology: FabricTopology) -> NDArray[np.int32]:
    rows = csv.reader(io.StringIO(text))
    head = [name.strip().lower() for name in next(rows, [])]
    if not {"rank", "gpu"} <= set(head):
        raise ProblemError(must_be("columns of a placement", "rank and gpu", Shown(",".join(head)[:80])))
    names, at = _gpu_names(topology), (head.index("rank"), head.index("gpu"))
    found: dict[int, int] = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) <= max(at) or not row[at[0]].strip().isdecimal():
            raise ProblemError(must_be(f"line {number} of a placement", "a rank and a GPU", ",".join(row)[:80]))
        _add(found, int(row[at[0]]), names.get(row[at[1]].strip()), row[at[1]], number)
    return _in_order(found)


def _of_rankfile(lines: Sequence[str], topology: FabricTopology) -> NDArray[np.int32]:
    """Slots are indices of GPUs in their hosts, as the export counts them."""
    slots: dict[str, list[int]] = {}
    for gpu in np.flatnonzero(topology.node_type == GPU).tolist():
        host = int(topology.node_host[gpu])
        if host >= 0:
            slots.setdefault(topology.node_name[host], []).append(gpu)
    found: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        row = _RANK.match(line)
        if row is None:
            raise ProblemError(must_be(f"line {number} of a rank file", "rank N=HOST slot=M", line[:80]))
        inside = slots.get(row[2], [])
        _add(found, int(row[1]), inside[int(row[3])] if int(row[3]) < len(inside) else None, f"{row[2]} slot {row[3]}", number)
    return _in_order(found)


def _add(found: dict[int, int], rank: int, gpu: int | None, shown: str, number: int) -> None:
    if gpu is None:
        raise ProblemError(must_be(f"GPU of line {number}", "a GPU of the topology", shown))
    if rank in found:
        raise ProblemError(must_be(f"rank of line {number}", "given once", rank))
    found[rank] = gpu


def _in_order(found: Mapping[int, int]) -> NDArray[np.int32]:
    if sorted(found) != list(range(len(found))) or not found:
        missing = next((rank for rank in range(len(found) + 1) if rank not in found), 0)
        raise ProblemError(must_be("ranks of a placement", "0 to the last one, all given", Shown(f"no rank {missing}")))
    return np.array([found[rank] for rank in range(len(found))], np.int32)


def _gpu_names(topology: FabricTopology) -> dict[Any, int]:
    return {topology.node_name[gpu]: gpu for gpu in np.flatnonzero(topology.node_type == GPU).tolist()}


def with_free(topology: FabricTopology, text: str) -> FabricTopology:
    """The fabric on which nothing but the GPUs of a list is free: names of GPUs, hosts or domains, as ``r0h[0-3],r1h0g2``.

    `ConfigError` names what the fabric does not have.
    """
    try:
        names = expand(text)
    except ProblemError as exc:
        raise ConfigError(must_be("--free", f"names of GPUs, hosts or domains ({exc})", text)) from exc
    groups: dict[str, list[int]] = {}
    for gpu in np.flatnonzero(topology.node_type == GPU).tolist():
        host, domain = int(topology.node_host[gpu]), int(topology.node_domain[gpu])
        groups.setdefault(topology.node_name[gpu], []).append(gpu)
        if host >= 0:
            groups.setdefault(topology.node_name[host], []).append(gpu)
        if domain >= 0:
            groups.setdefault(topology.domain_name[domain], []).append(gpu)
    free = topology.node_free & (topology.node_type != GPU)
    for name in names:
        if name not in groups:
            known = ", ".join(list(groups)[:4])
            raise ConfigError(must_be("--free", f"names of GPUs, hosts or domains, such as {known}", name))
        free[groups[name]] = True
    if not names:
        raise ConfigError(must_be("--free", "at least one name of a GPU, host or domain", text))
    return FabricTopology.build(**(dict(topology) | {"node_free": free}))
