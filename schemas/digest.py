"""Digests: 16 hex digits that name what a frame says, so that others can say which one they mean."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import StringConstraints

from schemas.frame import Frame

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


def digest(frame: Frame, *fields: str) -> str:
    """Digest of the arrays by name, and of these header fields: blake2b of 8 bytes."""
    found = hashlib.blake2b(repr([getattr(frame, field) for field in fields]).encode() if fields else b"", digest_size=8)
    for name in frame.arrays:
        array = getattr(frame, name)
        if array is not None:
            found.update(f"{name}:{array.shape}".encode())
            found.update(array)
    return found.hexdigest()
