"""Paths: files that a command reads or writes, looked at before it begins, so that one line names what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qstream.errors import ConfigError
from schemas.wording import must_be


def require_readable(name: str, *paths: Path | None) -> None:
    """`ConfigError` that names the argument and the path, unless each file that is given can be read."""
    for path in filter(None, paths):
        try:
            path.open("rb").close()
        except OSError as exc:
            raise ConfigError(must_be(name, f"a file that can be read ({exc.strerror})", str(path))) from exc


def require_folder_of(name: str, path: Path | None) -> None:
    """`ConfigError` that names the argument and the path, unless the folder is there that the file is to be written into."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(must_be(name, "a file in a folder that exists", str(path)))


def require_outputs(outputs: Sequence[Path | None], inputs: Sequence[Path]) -> None:
    """No output overwrites an input or another output."""
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise ConfigError(must_be("an output", "a file of its own, neither an input nor another output", str(path)))
        taken.add(path.resolve())
