"""What readers are given: a path, a text or bytes, with a name for it; and the frame or the text that its bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from qstream.errors import ProblemError
from schemas.frame import JSON, SAFETENSORS, Frame, FrameError
from schemas.wording import Shown, must_be

F = TypeVar("F", bound=Frame)


def load(source: Any, name: str, *, what: str, sources: str, max_bytes: int) -> tuple[bytes, str]:
    """The bytes of a source, and the name of its file without endings, or `name`.

    A string that has lines, or begins with a brace or ``<``, is the text itself; any other is a path.

    Raises
    ------
    ProblemError
        More than `max_bytes`, a file that cannot be read, or none of `sources`.
    """
    if isinstance(source, str) and ("\n" in source or source.lstrip()[:1] in ("{", "<")):
        source = source.encode(errors="surrogatepass")
    if isinstance(source, bytes):
        _bounded(f"size of {what}", len(source), max_bytes)
        return source, name
    if not isinstance(source, str | Path):
        raise ProblemError(must_be("source", sources, Shown(type(source).__name__)))
    path = Path(source)
    try:
        _bounded(f"size of {path.name}", path.stat().st_size, max_bytes)
        with path.open("rb") as file:
            body = file.read(max_bytes + 1)  # a device or pipe says nothing of its size, and may have no end
        _bounded(f"size of {path.name}", len(body), max_bytes)
        return body, path.name.split(".")[0][:200] or name
    except ProblemError:
        raise
    except (OSError, ValueError) as exc:
        raise ProblemError(must_be("source", f"a file that can be read ({exc})", str(source))) from exc


def frame_of(data: bytes, kind: type[F], format: str) -> F | None:  # noqa: A002 the word of the readers
    """The frame that the bytes are, for the formats ``auto`` and ``frame``; None where they are something else.

    Raises
    ------
    ProblemError
        A frame that breaks a rule, or no frame where the format asks for one.
    """
    if format not in ("auto", "frame"):
        return None
    is_json = data[:4096].lstrip().startswith(b"{") and kind.tag().encode() in data
    if is_json or (len(data) > 8 and data[8:9] == b"{" and b"__metadata__" in data[:65536]):
        try:
            return kind.decode(data, JSON if is_json else SAFETENSORS)
        except FrameError as exc:
            raise ProblemError(str(exc)) from exc
    if format == "frame":
        raise ProblemError(must_be("a file of format frame", f"a {kind.tag()}", Shown("another")))
    return None


def text_of(data: bytes, what: str) -> str:
    """The text, in UTF-8 with or without a mark; `ProblemError` for other bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ProblemError(must_be(what, f"text in UTF-8 ({exc.reason})", Shown(f"{len(data)} bytes"))) from exc


def _bounded(what: str, size: int, most: int) -> None:
    if size > most:
        raise ProblemError(must_be(what, f"at most {most} bytes", size))
