"""What qstream is tested with, shipped so that users can test their own modules the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.testing.agents import check_agent as check_agent
    from qstream.testing.checks import check_frame as check_frame
    from qstream.testing.checks import check_processor as check_processor
    from qstream.testing.feed import Feed as Feed

__all__ = ["Feed", "check_agent", "check_frame", "check_processor"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"Feed": ".feed", "check_agent": ".agents", "check_frame": ".checks", "check_processor": ".checks"},
)
