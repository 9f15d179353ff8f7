"""Files that commands of energy read: one frame as JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from qstream.errors import ConfigError
from schemas.frame import JSON, Frame, FrameError
from schemas.wording import Shown, must_be

F = TypeVar("F", bound=Frame)


def read_frame(kind: type[F], path: Path, name: str) -> F:
    """The frame in a file; `ConfigError` names the option or argument, the file, and what is wrong with its fields."""
    try:
        return kind.decode(path.read_bytes(), JSON)
    except OSError as exc:
        raise ConfigError(must_be(name, "a file that can be read", Shown(f"{path}: {exc.strerror}"))) from exc
    except FrameError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
