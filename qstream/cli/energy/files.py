"""Files that commands of energy read: one frame as JSON, or one trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qstream.cli.output import say_unknown
from qstream.errors import ConfigError, LearnError
from schemas.frame import JSON, Frame, FrameError
from schemas.parse import read_json
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from qstream.learn.model import Model

F = TypeVar("F", bound=Frame)


def read_frame(kind: type[F], path: Path, name: str) -> F:
    """The frame in a file; `ConfigError` names the option or argument, the file, and what is wrong with its fields."""
    try:
        body = path.read_bytes()
        found = kind.decode(body, JSON)
    except OSError as exc:
        raise ConfigError(must_be(name, "a file that can be read", Shown(f"{path}: {exc.strerror}"))) from exc
    except FrameError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    say_unknown(str(path), kind, read_json(body))
    return found


def read_model(path: Path) -> Model:
    """The model in a file that predicts tasks; `ConfigError` says what is wrong with it."""
    from qstream.cli.learn.models import model_of_file  # noqa: PLC0415 - kernels, not for help
    from qstream.energy.unseen import WANT  # noqa: PLC0415 - as above
    from qstream.learn.registry import fitting  # noqa: PLC0415 - as above

    model = model_of_file(path, "--model")
    try:
        return fitting(model, WANT)
    except LearnError as exc:
        raise ConfigError(must_be("--model", f"what learn train energy gnn has written ({exc})", str(path))) from exc
