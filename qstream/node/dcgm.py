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
    counted. The page, ``/metrics`` unless the URL names one, has no times: an exporter that collects less often than it is asked
    repeats its values.
    """
    seq, page = 0, "" if urlsplit(url).path.strip("/") else "/metrics"

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
        one = {"node": node} if node is not None and len(frames) == 1 else {}
        return [frame.model_copy(update={"ts_ns": now_ns, "seq": seq, **one}) for frame in frames.values()]

    return read
