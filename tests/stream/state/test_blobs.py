"""Blobs in a folder and in a real Redis: what was put comes back whole, and all else is an error that says what is wrong."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from pydantic import ValidationError

from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import BlockError, ConfigError, StoreUnavailable
from qstream.state.blobs import MAX_STRING_BYTES, BlobStore
from schemas.tensors import TensorClaim
from tests.stream.state.conftest import HASTE_MS

DATA = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(DATA).hexdigest()


def claim_of(uri: str = "file:///elsewhere", nbytes: int = len(DATA)) -> TensorClaim:
    return TensorClaim(uri=uri, sha256=DIGEST, nbytes=nbytes)


def replace_in_folder(folder: Path, raw: redis.Redis, data: bytes) -> None:
    (folder / DIGEST).write_bytes(data)


def replace_in_redis(folder: Path, raw: redis.Redis, data: bytes) -> None:
    raw.set(f"qstream:blob:{DIGEST}", data)


Replace = Callable[[Path, redis.Redis, bytes], None]
KINDS = pytest.mark.parametrize(("kind", "replaced"), [("file", replace_in_folder), ("redis", replace_in_redis)])


def url_of(kind: str, folder: Path, server: EmbeddedRedis) -> str:
    return folder.as_uri() if kind == "file" else server.url


@KINDS
@pytest.mark.parametrize("data", [b"", b"x", DATA, bytearray(DATA), memoryview(DATA)[7:-7]], ids=lambda data: str(len(data)))
def test_what_was_put_comes_back(kind: str, replaced: Replace, data: bytes, tmp_path: Path, redis_at: EmbeddedRedis) -> None:
    with BlobStore(url_of(kind, tmp_path, redis_at)) as blobs:
        claim = blobs.put(data)
        assert blobs.put(bytes(data)) == claim  # the same bytes are one blob
        assert claim.sha256 == hashlib.sha256(data).hexdigest()
        assert claim.nbytes == len(data)
        assert claim.sha256 in claim.uri
        assert blobs.get(claim) == data
    with BlobStore(url_of(kind, tmp_path, redis_at)) as another:
        assert another.get(claim) == data


@KINDS
@pytest.mark.parametrize("wrong", [DATA[:-1], DATA + b"x", b"y" + DATA[1:], b""], ids=["short", "long", "other", "empty"])
def test_a_blob_that_is_not_what_its_claim_says_is_never_returned(
    kind: str, replaced: Replace, wrong: bytes, tmp_path: Path, redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    with BlobStore(url_of(kind, tmp_path, redis_at)) as blobs:
        claim = blobs.put(DATA)
        replaced(tmp_path, raw, wrong)
        with pytest.raises(BlockError, match=rf"^checksum: blob .*{DIGEST} must be ") as failure:
            blobs.get(claim)
        assert failure.value.code == "checksum"
        blobs.put(DATA)  # heals it
        assert blobs.get(claim) == DATA


@KINDS
def test_a_blob_that_is_not_there_and_one_that_is_too_large_are_told_apart(
    kind: str, replaced: Replace, tmp_path: Path, redis_at: EmbeddedRedis
) -> None:
    with BlobStore(url_of(kind, tmp_path, redis_at), max_bytes=len(DATA)) as blobs:
        with pytest.raises(BlockError, match=r"^missing: blob "):
            blobs.get(claim_of())
        with pytest.raises(BlockError, match=rf"^limit: blob must be at most {len(DATA)} bytes, got {len(DATA) + 1} bytes"):
            blobs.put(DATA + b"x")
        with pytest.raises(BlockError, match=r"^limit: "):
            blobs.get(claim_of(nbytes=len(DATA) + 1))


@pytest.mark.parametrize("sha256", ["../secret", DIGEST[:-1], DIGEST.upper(), DIGEST + "\n", ""])
def test_a_claim_never_leads_out_of_the_folder(sha256: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        TensorClaim(uri=(tmp_path / "secret").as_uri(), sha256=sha256, nbytes=1)
    (tmp_path / "secret").write_bytes(DATA)
    (tmp_path / "blobs").mkdir()
    with BlobStore((tmp_path / "blobs").as_uri()) as blobs, pytest.raises(BlockError, match=r"^missing: "):
        blobs.get(claim_of(uri=(tmp_path / "secret").as_uri()))


def test_a_file_appears_whole_with_the_rights_of_any_new_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with BlobStore(tmp_path.as_uri()) as blobs:
        blobs.put(DATA)
    (tmp_path / "any").touch()
    assert {path.name for path in tmp_path.iterdir()} == {DIGEST, "any"}
    assert stat.S_IMODE((tmp_path / DIGEST).stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_a_write_that_fails_leaves_the_blob_as_it_was_and_no_part_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(at: int) -> None:
        raise OSError(28, "No space left on device")

    with BlobStore(tmp_path.as_uri()) as blobs:
        claim = blobs.put(DATA)
        monkeypatch.setattr(os, "fsync", full)
        for data in (DATA, b"another"):
            with pytest.raises(StoreUnavailable, match=r"blobs at file:///.*: OSError: .*No space left"):
                blobs.put(data)
        assert [path.name for path in tmp_path.iterdir()] == [DIGEST]
        assert blobs.get(claim) == DATA


def test_a_folder_that_went_away_is_unavailable(tmp_path: Path) -> None:
    (folder := tmp_path / "share").mkdir()
    with BlobStore(folder.as_uri()) as blobs:
        folder.rmdir()
        with pytest.raises(StoreUnavailable, match=r"blobs at file:///"):
            blobs.put(DATA)


@pytest.mark.parametrize(
    "url", ["", "blobs", "/blobs", "file:blobs", "file://host/blobs", "file:///not/there", "s3://bucket", "file:///tmp?a=b"]
)
def test_a_url_that_cannot_be_used_is_an_error_that_names_those_that_can(url: str) -> None:
    with pytest.raises(ConfigError, match=r"blobs must be file:///folder, or a URL of Redis such as redis://host:6379/0"):
        BlobStore(url)


def test_a_password_is_not_shown(redis_at: EmbeddedRedis) -> None:
    with pytest.raises(ConfigError) as failure:
        BlobStore("s3://user:hunter2@bucket")
    assert "hunter2" not in str(failure.value)
    with BlobStore(redis_at.url.replace("//", "//:hunter2@")) as blobs, pytest.raises(StoreUnavailable) as refused:
        blobs.put(DATA)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "argument", [{"max_bytes": 0}, {"max_bytes": MAX_STRING_BYTES + 1}, {"ttl_s": 0.0}, {"ttl_s": float("nan")}]
)
def test_an_argument_that_cannot_be_used_is_named(argument: dict[str, float], redis_at: EmbeddedRedis) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(argument))} must be "):
        BlobStore(redis_at.url, **argument)  # type: ignore[arg-type]


def test_strings_in_redis_end_by_themselves(redis_at: EmbeddedRedis, raw: redis.Redis) -> None:
    with BlobStore(redis_at.url) as blobs, BlobStore(redis_at.url, ttl_s=None) as forever:
        name = f"qstream:blob:{blobs.put(DATA).sha256}"
        assert 86_000_000 < raw.pttl(name) <= 86_400_000
        forever.put(DATA)
        assert raw.pttl(name) == -1


def test_a_paused_redis_is_unavailable_and_then_serves_again(redis_at: EmbeddedRedis) -> None:
    with BlobStore(redis_at.url, timeout_ms=HASTE_MS) as blobs:
        claim = blobs.put(DATA)
        redis_at.pause()
        with pytest.raises(StoreUnavailable, match=r"redis at redis://"):
            blobs.get(claim)
        redis_at.resume()
        assert blobs.get(claim) == DATA
