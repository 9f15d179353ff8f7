"""DCGM: readings from the page of a DCGM exporter."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from qstream.energy.formats.dcgm import dcgm_frames
from qstream.energy.formats.recording import Recording
from qstream.errors import ProblemError
from qstream.node.fetch import NoAnswer, fetch
from qstream.node.telemetry import Source, SourceFault
from qstream.node.trouble import Troubles
from schemas.power import GpuTelemetry


def dcgm_source(url: str, domain: str, node: str | None, troubles: Troubles) -> Source:
    """Reads the exporter's page under either naming of its fields: a frame for each node that it names.

    `node` names the node of a page that is of one node only; several nodes keep their names. Damaged lines are left out and
    counted. The page, ``/metrics`` unless the URL names one, has no times: a node whose energy counters all stand still since the
    last reading has no new one, and is left out and counted.
    """
    seq, page = 0, "" if urlsplit(url).path.strip("/") else "/metrics"
    before: dict[str, list[int]] = {}

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        nonlocal seq
        try:
            text = fetch(url, page).decode(errors="replace")
            found = Recording.of(dcgm_frames(text.splitlines(), domain=domain, node=node))
        except (NoAnswer, ProblemError) as exc:
            raise SourceFault(f"the DCGM exporter cannot be read: {exc}") from exc
        if found.skipped:
            troubles.note("damaged", f"{url}: {found.skipped} damaged lines are left out", found.skipped)
        seq += 1
        frames = {frame.node: frame for frame in found.frames}
        new = [frame for frame in frames.values() if not _repeats(frame, before)]
        if len(new) < len(frames):
            said = f"{url} repeats its values: it must collect as often as it is read (dcgm-exporter -c)"
            troubles.note("repeated", said, len(frames) - len(new))
        one = {"node": node} if node is not None and len(frames) == 1 else {}
        return [frame.model_copy(update={"ts_ns": now_ns, "seq": seq, **one}) for frame in new]

    return read


def _repeats(frame: GpuTelemetry, before: dict[str, list[int]]) -> bool:
    """Whether no energy counter of the node has moved since the last reading, which is kept."""
    if frame.count is None or "energy_mj" not in frame.counter:
        return False
    energy_mj: list[int] = frame.count[frame.counter.index("energy_mj")].tolist()
    same = before.get(frame.node) == energy_mj
    before[frame.node] = energy_mj
    return same
