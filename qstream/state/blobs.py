"""BlobStore: large tensors next to the topics, as files of a folder or strings in Redis, named by their sha256."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from qstream.errors import BlockError, ConfigError, StoreUnavailable
from qstream.state.address import without_secrets
from qstream.state.connection import Connection
from schemas.tensors import TensorClaim
from schemas.wording import Shown, must_be

MAX_FILE_BYTES: Final = 1 << 34
MAX_STRING_BYTES: Final = 64 << 20  # Redis serves nobody else while it sends one
_READ_BYTES: Final = 1 << 20
_REDIS: Final = re.compile(r"(rediss?|unix)(\+(cluster|sentinel))?://")
_ALLOWED: Final = "file:///folder, or a URL of Redis such as redis://host:6379/0"
Bytes = bytes | bytearray | memoryview


class BlobStore:
    """Blobs by the sha256 of their bytes: the same bytes are one blob, and what is read is what was put, or an error.

    A blob is there whole or not at all: a file is written under another name, synced and renamed. Files stay until they are
    deleted; strings in Redis end by themselves.

    Parameters
    ----------
    url
        ``file:///folder``, a folder that exists; or any URL of Redis that `StateStore` takes.
    max_bytes
        The largest blob that is put or read; None: 16 GiB in files, 64 MiB in Redis, which takes no larger ones.
    ttl_s
        Seconds after which Redis deletes a blob, None for never.
    timeout_ms
        For connecting to Redis, and for each answer.

    Raises
    ------
    ConfigError
        The URL or an argument cannot be used; passwords are not shown.
    StoreUnavailable
        From every call: the folder or Redis cannot be read or written now. `StoreRefused`, one of these: Redis refuses.
    """

    def __init__(self, url: str, *, max_bytes: int | None = None, ttl_s: float | None = 86_400.0, timeout_ms: int = 5000) -> None:
        if ttl_s is not None and not ttl_s > 0:
            raise ConfigError(must_be("ttl_s", "above 0, or None", ttl_s))
        room: _Folder | _Strings
        if _REDIS.match(url):
            room, most = _Strings(url, ttl_s, timeout_ms), MAX_STRING_BYTES
        else:
            room, most = _Folder(_folder(url)), MAX_FILE_BYTES
        if max_bytes is not None and not 1 <= max_bytes <= most:
            raise ConfigError(must_be("max_bytes", f"1 to {most}, or None", max_bytes))
        self.max_bytes = max_bytes or most
        self._room: _Room = room

    def put(self, data: Bytes) -> TensorClaim:
        """Store the bytes, and return what gets them back; `BlockError` with the code limit if they are too many."""
        view = memoryview(data).cast("B")
        self._bounded(view.nbytes)
        digest = hashlib.sha256(view).hexdigest()
        self._room.write(digest, view)
        return TensorClaim(uri=self._room.uri(digest), sha256=digest, nbytes=view.nbytes)

    def get(self, claim: TensorClaim) -> bytearray:
        """The bytes of a blob, read from this store wherever the claim says that it was put.

        The size is compared before anything is read.

        Raises
        ------
        BlockError
            `missing`: there is no such blob. `limit`: it would be larger than `max_bytes`. `checksum`: it has another size or
            other bytes.
        """
        self._bounded(claim.nbytes)
        found = self._room.read(claim.sha256, claim.nbytes)
        if (digest := hashlib.sha256(found).hexdigest()) != claim.sha256:
            raise BlockError("checksum", must_be(f"blob {self._room.uri(claim.sha256)}", "of this sha256", Shown(digest)))
        return found

    def _bounded(self, nbytes: int) -> None:
        if nbytes > self.max_bytes:
            raise BlockError("limit", must_be("blob", f"at most {self.max_bytes} bytes", Shown(f"{nbytes} bytes")))

    def close(self) -> None:
        """Close the connections; may be called twice."""
        self._room.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Room(Protocol):
    def uri(self, digest: str) -> str: ...
    def write(self, digest: str, data: memoryview) -> None: ...
    def read(self, digest: str, nbytes: int) -> bytearray: ...
    def close(self) -> None: ...


class _Folder:
    """Blobs as files of one folder, each named by its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def uri(self, digest: str) -> str:
        return (self._folder / digest).as_uri()

    def write(self, digest: str, data: memoryview) -> None:
        part = self._folder / f".{digest}.{uuid.uuid4().hex}"
        try:
            try:
                with part.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self._folder / digest)
                _sync(self._folder)  # the name as well, or a claim may outlive its blob
            finally:
                part.unlink(missing_ok=True)
        except OSError as exc:
            raise _away(self._folder, exc) from exc

    def read(self, digest: str, nbytes: int) -> bytearray:
        try:
            with (self._folder / digest).open("rb") as file:
                _same_size(self.uri(digest), os.fstat(file.fileno()).st_size, nbytes)
                found = bytearray(nbytes)
                view, at = memoryview(found), 0
                while at < nbytes and (count := file.readinto(view[at : at + _READ_BYTES])):
                    at += count
        except FileNotFoundError as exc:
            raise _missing(self.uri(digest)) from exc
        except OSError as exc:
            raise _away(self._folder, exc) from exc
        return found

    def close(self) -> None:
        pass


class _Strings:
    """Blobs as strings in Redis, each under the key ``qstream:blob:<digest>``."""

    def __init__(self, url: str, ttl_s: float | None, timeout_ms: int) -> None:
        self._where = without_secrets(url)
        self._ends: tuple[str | int, ...] = () if ttl_s is None else ("PX", max(1, round(ttl_s * 1000)))
        self._redis = Connection(url, "blob", timeout_ms)

    def uri(self, digest: str) -> str:
        return f"{self._where}#{digest}"

    def write(self, digest: str, data: memoryview) -> None:
        self._redis.ask([("SET", _key(digest), bytes(data), *self._ends)])

    def read(self, digest: str, nbytes: int) -> bytearray:
        size, there = self._redis.ask([("STRLEN", _key(digest)), ("EXISTS", _key(digest))])
        if not there:
            raise _missing(self.uri(digest))
        _same_size(self.uri(digest), size, nbytes)
        (found,) = self._redis.ask([("GET", _key(digest))])
        if found is None:  # its end came meanwhile
            raise _missing(self.uri(digest))
        return bytearray(found)

    def close(self) -> None:
        self._redis.close()


def _key(digest: str) -> str:
    return f"qstream:blob:{digest}"


def _folder(url: str) -> Path:
    """The folder of a ``file://`` URL."""
    parts = urlsplit(url)
    shown = Shown(repr(without_secrets(url)))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ConfigError(must_be("blobs", _ALLOWED, shown))
    folder = Path(unquote(parts.path))
    if not folder.is_absolute() or not folder.is_dir():  # not created: an unmounted share would fill the local disk
        raise ConfigError(must_be("blobs", f"{_ALLOWED}, where the folder exists", shown))
    return folder


def _sync(folder: Path) -> None:
    with suppress(PermissionError):  # of a folder that one may write to and not list
        at = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(at)
        finally:
            os.close(at)


def _same_size(uri: str, found: int, nbytes: int) -> None:
    if found != nbytes:
        raise BlockError("checksum", must_be(f"blob {uri}", f"{nbytes} bytes, as its claim says", Shown(f"{found} bytes")))


def _missing(uri: str) -> BlockError:
    return BlockError("missing", f"blob {uri} is not there: it was deleted, has ended, or was put into another store")


def _away(folder: Path, exc: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"blobs at {folder.as_uri()}: {type(exc).__name__}: {exc}")
