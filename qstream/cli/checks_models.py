"""Checks of the model topic: which versions no worker can use."""

from __future__ import annotations

from qstream.cli.checks import Check
from qstream.cli.learn.models import fault_of, known_parts
from qstream.config import EMBEDDED, Settings
from qstream.errors import Transient
from schemas.topics import MODELS


def check_models(settings: Settings) -> list[Check]:
    """Models on the model topic of which parts are missing or spoilt; nothing on an embedded broker or without the topic."""
    if settings.bootstrap_servers == EMBEDDED:
        return []
    try:
        found = known_parts(settings)
    except Transient as exc:
        return [Check("warn", "models", f"{MODELS.name} cannot be read: {exc}", "qstream topics apply")]
    faults = [(f"{module}/{name}/{version}", fault_of(parts)) for (module, name, version), parts in sorted(found.items())]
    torn = [f"{name}: {fault}" for name, fault in faults if fault]
    if torn:
        return [Check("warn", "models", f"not used: {'; '.join(torn)}", "publish the missing parts again, or retire the version")]
    used = sum(not any(part.retired for part in parts) for parts in found.values())
    return [Check("ok", "models", f"{used} in use, {len(found) - used} retired")]
