"""Files: a file of tensors packed into an archive, and given back, byte for byte where every tensor is exact."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qstream.compression.archive import coded_one, one_of, require_arguments
from qstream.compression.codebook import Codebook
from qstream.compression.decode import Refined
from qstream.compression.dtypes import canonical
from qstream.compression.encode import coded
from qstream.compression.formats import safetensors
from qstream.compression.formats.deflated import deflated
from qstream.compression.formats.layout import Format, Layout
from qstream.compression.formats.numpy_files import npz_of
from qstream.compression.formats.read import mapped, read_layout
from qstream.compression.header import Contents, Header, read, write
from qstream.compression.options import CompressionOptions, RestoreOptions
from qstream.compression.steps import FILE
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

REST: Final = "qstream.rest"  # the name under which all bytes of the file are kept that are of no tensor
SUFFIX: Final = ".qsz"
MAX_REST_BYTES: Final = 1 << 30


class FileRecord(BaseModel):
    """What an archive says about the file that it was made of: `spans` are start and size of each tensor among its bytes.

    `nbytes` are those without deflate; `file_nbytes` those of the file itself, where these are others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Format
    nbytes: int = Field(ge=0)
    file_nbytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    spans: tuple[tuple[int, int], ...]
    members: tuple[tuple[str, int, int], ...] = ()
    deflated: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor that was packed or unpacked."""

    header: Header
    nbytes: int
    payload_bytes: int
    seconds: float
    refined: tuple[Refined, ...] = ()


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file that was packed or unpacked: where the result is, its tensors, sizes of the file and of the archive.

    `verified`: the bytes of the file have the sha256 of the one that was packed. `as_one`: an npz file that is smaller than what
    codes its tensors is packed without looking into it.
    """

    path: Path
    tensors: tuple[Packed, ...]
    file_bytes: int
    archive_bytes: int
    verified: bool = False
    as_one: bool = False


class _Archive(NamedTuple):
    """An archive, the tensors in it, and whether it gives the same file back."""

    data: bytes
    tensors: tuple[Packed, ...]
    exact: bool


def compress_file(
    path: str | os.PathLike[str],
    options: CompressionOptions | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    codebook: Codebook | None = None,
    step: int = 0,
    clock: Callable[[], float] | None = None,
) -> FileReport:
    """Pack a safetensors, npy or npz file into an archive.

    Parameters
    ----------
    out
        The archive; else the file's name with ``.qsz``.
    base
        For mode delta: the file whose tensors the reader holds.
    codebook
        Where bases for tensors of these names are; the reader needs it as well.
    clock
        Seconds, to time each tensor by; none: their times are 0.

    Raises
    ------
    BlockError
        The file is of no known format or damaged.
    ProblemError
        `base` or `codebook` is not used by the mode, or `base` is missing.
    OSError
        It cannot be read, or the archive cannot be written.
    """
    source, chosen, now = Path(path), options or CompressionOptions(), clock or (lambda: 0.0)
    require_arguments(chosen, base, codebook)
    layout = read_layout(source, stored=chosen.mode not in ("lossless", "delta"))
    held = None if base is None else _by_name(read_layout(Path(base)))
    size = source.stat().st_size
    made = _archive(layout, size, chosen, held, codebook, step, now)
    as_one = False
    if layout.format == "npz" and len(made.data) > size:
        whole = _archive(Layout("npz", mapped(source), ()), size, chosen, None, None, step, now)
        made, as_one = (whole, True) if len(whole.data) < len(made.data) else (made, False)
    target = Path(out) if out is not None else source.with_name(source.name + SUFFIX)
    write_whole(target, made.data)
    return FileReport(target, made.tensors, size, len(made.data), made.exact, as_one)


def _archive(
    layout: Layout,
    size: int,
    options: CompressionOptions,
    held: Mapping[str, Callable[[], NDArray[Any]]] | None,
    codebook: Codebook | None,
    step: int,
    now: Callable[[], float],
) -> _Archive:
    """The archive of a file of `size` bytes."""
    headers, pieces, packed = [], [], []
    for span in layout.spans:
        begin = now()
        given = held.get(span.name) if held else None
        form = canonical(layout.array(span))
        header, found = coded_one(span.name, form, None if given is None else canonical(given()), options, step, codebook)
        headers.append(header)
        pieces += [piece.data for piece in found]
        packed.append(Packed(header, span.nbytes, sum(len(piece.data) for piece in found), now() - begin))
    header, found = coded(canonical(layout.rest()), CompressionOptions(), name=REST)
    exact = all(each.promise == "exact" for each in headers)
    record = FileRecord(
        format=layout.format,
        nbytes=len(layout.data),
        file_nbytes=size if size != len(layout.data) else None,
        sha256=layout.sha256 if exact else None,
        spans=tuple((span.start, span.nbytes) for span in layout.spans),
        members=layout.members if not exact or layout.deflated else (),
        deflated=layout.deflated,
    )
    data = write([*headers, header], [*pieces, *(piece.data for piece in found)], {"file": record.model_dump(mode="json")})
    return _Archive(data, tuple(packed), exact)


def restore_file(
    path: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    codebook: Codebook | None = None,
    clock: Callable[[], float] | None = None,
) -> FileReport:
    """Give back the file that an archive was made of.

    `out` is the file; else the archive's name without ``.qsz``.

    Raises
    ------
    BlockError
        The archive is damaged, was not made of a file, or needs another base.
    OSError
        It cannot be read, or the file cannot be written.
    """
    source, chosen, now = Path(path), options or RestoreOptions(), clock or (lambda: 0.0)
    target = Path(out) if out is not None else _without_suffix(source)
    contents, record = open_archive(source, chosen)
    if base is not None and Path(base).resolve() == target.resolve():
        raise BlockError("base_mismatch", must_be("base", "another file than the one that is written", Shown(str(base))))
    held = None if base is None else _by_name(read_layout(Path(base)))
    rest = one_of(contents, len(record.spans), chosen, None).array
    unpacked: list[Packed] = []

    def arrays() -> Iterator[tuple[str, NDArray[Any]]]:
        for n, (_, nbytes) in enumerate(record.spans):
            header, begin = contents.headers[n], now()
            given = held.get(header.name) if held else None
            found = one_of(contents, n, chosen, None if given is None else given(), codebook)
            yield header.name, found.array
            unpacked.append(Packed(header, nbytes, len(contents.payload(n)), now() - begin, found.refined))

    whole = _joined(record, rest, arrays())
    data, same = _made(record, whole)
    if record.sha256 is not None and chosen.verify and not same and not record.deflated:
        raise BlockError("checksum", must_be("the file", f"of sha256 {record.sha256}", Shown("another")))
    write_whole(target, data)
    return FileReport(target, tuple(unpacked), len(data), len(contents.data), same and chosen.verify)


def open_archive(path: Path, options: RestoreOptions) -> tuple[Contents, FileRecord]:
    """The headers of an archive, and what it says about the file that it was made of."""
    contents = read(mapped(path).data, options.max_tensor_bytes)
    record = _record(contents, f"archive {path.name}")
    names = [header.name for header in contents.headers]
    if len(names) != len(record.spans) + 1 or names[-1] != REST:
        raise BlockError("bad_frame", must_be("tensors of the archive", f"{len(record.spans)} and {REST!r}", len(names)))
    if record.nbytes != sum(size for _, size in record.spans) + contents.headers[-1].shape[0]:
        raise BlockError("limit", must_be("size of the file", "that of its tensors and the rest", record.nbytes))
    return contents, record


def tensors_of(layout: Layout) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name, and as `FILE` what else it takes to make the same file of them again."""
    found = {span.name: layout.array(span) for span in layout.spans}
    if len(found) < len(layout.spans) or FILE in found:
        raise BlockError("bad_frame", must_be("names of the tensors", f"distinct, and none {FILE}", Shown("others")))
    record = FileRecord(
        format=layout.format,
        nbytes=len(layout.data),
        sha256=layout.sha256,
        spans=tuple((span.start, span.nbytes) for span in layout.spans),
        members=layout.members,
        deflated=layout.deflated,
    )
    header, pieces = coded(canonical(layout.rest()), CompressionOptions(), name=REST)
    big = [span.name for span in layout.spans if span.dtype.byteorder == ">"]
    more = {"file": record.model_dump(mode="json"), "names": [*found], "big_endian": big}
    return found | {FILE: np.frombuffer(write([header], [piece.data for piece in pieces], more), np.uint8)}


def file_of(tensors: Mapping[str, NDArray[Any]], file: NDArray[np.uint8] | None) -> tuple[bytes | memoryview, bool]:
    """A file of tensors, and whether it is the one that `tensors_of` was given, byte for byte.

    Without `file`, what that function gives as `FILE`, it is a safetensors file of the tensors in their order.
    """
    if file is None:
        return safetensors.written(tensors), False
    contents = read(file, MAX_REST_BYTES)
    record = _record(contents, FILE)
    names, big = contents.more.get("names"), contents.more.get("big_endian")
    if not isinstance(names, list) or not isinstance(big, list) or names != [*tensors]:
        raise BlockError("bad_frame", must_be("tensors of the file", f"{names}", Shown(f"{[*tensors]}")))
    rest = one_of(contents, 0, RestoreOptions(), None).array
    arrays = ((name, array.astype(array.dtype.newbyteorder(">")) if name in big else array) for name, array in tensors.items())
    return _made(record, _joined(record, rest, arrays))


def _made(record: FileRecord, whole: NDArray[np.uint8]) -> tuple[bytes | memoryview, bool]:
    """The file, and whether it has the sha256 of the one that was packed.

    An npz file of other bytes is written without deflate: its arrays changed, or another zlib deflates in another way.
    """
    data = deflated(whole, record.deflated) if record.deflated else whole.data
    if record.sha256 is not None and hashlib.sha256(data).hexdigest() == record.sha256:
        return data, True
    return npz_of(whole, record.members) if record.members else whole.data, False


def _joined(record: FileRecord, rest: NDArray[np.uint8], arrays: Iterable[tuple[str, NDArray[Any]]]) -> NDArray[np.uint8]:
    """The bytes of a file: those of its tensors, each in its place, and the rest around them."""
    whole = np.empty(record.nbytes, np.uint8)
    end, taken = 0, 0
    for (start, nbytes), (name, array) in zip(record.spans, arrays, strict=True):
        if array.nbytes != nbytes or start < end or start + nbytes > record.nbytes or taken + start - end > len(rest):
            raise BlockError("bad_frame", must_be(f"bytes of tensor {name!r}", f"{nbytes} behind {end}", Shown("others")))
        whole[end:start] = rest[taken : taken + start - end]
        whole[start : start + nbytes] = array.reshape(-1).view(np.uint8)
        taken, end = taken + start - end, start + nbytes
    if record.nbytes - end != len(rest) - taken:
        raise BlockError("bad_frame", must_be("bytes of no tensor", f"{record.nbytes - end}", len(rest) - taken))
    whole[end:] = rest[taken:]
    return whole


def _by_name(layout: Layout) -> dict[str, Callable[[], NDArray[Any]]]:
    return {span.name: lambda span=span: layout.array(span) for span in layout.spans}  # type: ignore[misc]


def _record(contents: Contents, what: str) -> FileRecord:
    try:
        return FileRecord.model_validate(contents.more.get("file"))
    except ValidationError as exc:
        allowed = "made of a file, with a record of it"
        raise BlockError("bad_frame", must_be(what, allowed, Shown("another record"))) from exc


def _without_suffix(path: Path) -> Path:
    if path.suffix != SUFFIX:
        raise BlockError("bad_frame", must_be("name of the archive", f"one that ends in {SUFFIX}, or out given", path.name))
    return path.with_suffix("")


def write_whole(path: Path, data: Any) -> None:
    """The whole file, or none: it is written under another name and then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as exc:  # under the name that its user knows
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
    finally:
        beside.unlink(missing_ok=True)
