"""Fabrics: which GPU holds which rank, which link carries which bytes, and when; all of it modelled."""

from __future__ import annotations

from schemas.lazy import lazy_names

__all__: list[str] = []

__getattr__, __dir__ = lazy_names(__name__, {})
