"""Part: several fields of a frame's header that belong together, such as a score."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Fields of a header as one object: as strict as a frame, and open to fields of newer producers, which are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)
