"""What the tools of users write and read: descriptions of fabrics and jobs, and plans for schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.nvlink.formats.export import EXPORTERS as EXPORTERS
    from qstream.nvlink.formats.jobs import read_job as read_job
    from qstream.nvlink.formats.read import read_topology as read_topology

__all__ = ["EXPORTERS", "read_job", "read_topology"]

__getattr__, __dir__ = lazy_names(__name__, {"EXPORTERS": ".export", "read_job": ".jobs", "read_topology": ".read"})
