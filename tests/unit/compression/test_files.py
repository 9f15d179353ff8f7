"""Files: packed and given back byte for byte, or within the promise, from safetensors, npy and npz."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from qstream.compression import (
    BlockError,
    CompressionOptions,
    compress_file,
    compress_tensors,
    restore_file,
    restore_tensors,
)
from qstream.compression.dtypes import canonical
from qstream.compression.files import file_of, tensors_of
from qstream.compression.formats import safetensors as st
from qstream.compression.formats.deflated import deflated
from qstream.compression.formats.read import read_layout
from qstream.compression.steps import FILE
from tests.unit.compression.values import drawn, stepped


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "layer.0.weight": drawn(rng, "normal", "bfloat16", (64, 96)),
        "layer.0.bias": rng.standard_normal(96).astype(np.float32),
        "layer.1.weight": rng.standard_normal((48, 64)).astype(np.float16),
        "steps": np.array(7),
        "nothing": np.zeros((0, 4), np.float32),
        "mask": rng.random((8, 8)) < 0.5,
    }


def written(folder: Path, kind: str) -> Path:
    """A file of the tensors, of a kind."""
    path, given = folder / f"file.{kind.split('-')[0]}", tensors()
    if kind == "safetensors":
        path.write_bytes(st.written(given, {"format": "pt"}))
    elif kind == "npy":
        np.save(path, given["layer.1.weight"])
    elif kind == "npy-fortran":
        np.save(path, np.asfortranarray(given["layer.1.weight"].astype(">f4")))
    else:
        plain = {name: array for name, array in given.items() if array.dtype != ml_dtypes.bfloat16}
        (np.savez if kind == "npz" else np.savez_compressed)(path, **plain)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npy", "npy-fortran", "npz", "npz-deflated"])
def test_a_file_comes_back_byte_for_byte(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    packed = compress_file(path)
    assert packed.path == path.with_name(path.name + ".qsz")
    if kind == "safetensors":
        assert packed.archive_bytes < 0.9 * packed.file_bytes
    back = restore_file(packed.path, out=tmp_path / "back")
    assert back.verified
    assert hashlib.sha256(back.path.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("mode", ["lossless", "int8"])
def test_a_deflated_file_of_which_the_tensors_would_take_more_is_packed_as_one(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file.npz"
    np.savez_compressed(path, **{f"layer.{n}.step": np.array(n) for n in range(100)})
    packed = compress_file(path, CompressionOptions(mode=mode))
    assert packed.archive_bytes < packed.file_bytes
    assert packed.as_one
    back = restore_file(packed.path, out=tmp_path / "back.npz")
    assert back.verified
    assert back.path.read_bytes() == path.read_bytes()


def test_deflated_members_are_packed_as_tensors_and_deflated_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "file.npz"
    np.savez_compressed(path, w=rng.standard_normal((256, 128)).astype(np.float32), n=np.arange(50))
    packed = compress_file(path)
    assert packed.archive_bytes < 0.97 * packed.file_bytes
    assert [each.header.name for each in packed.tensors] == ["w", "n"]
    back = restore_file(packed.path, out=tmp_path / "back.npz")
    assert back.verified
    assert back.path.read_bytes() == path.read_bytes()
    # Where another zlib deflates in another way, the arrays come back, and the report says that the file is another one.
    layout = read_layout(path)
    data = layout.data.copy()
    other = dataclasses.replace(layout, deflated=tuple((start, size, 1) for start, size, _ in layout.deflated))
    given = file_of({span.name: layout.array(span) for span in layout.spans}, tensors_of(other)[FILE])
    assert not given[1]
    (tmp_path / "other.npz").write_bytes(given[0])
    assert np.array_equal(loaded(tmp_path / "other.npz")["w"], loaded(path)["w"])
    for wrong in ((len(data), 1, 6), (0, 4, 7)):
        with pytest.raises(BlockError, match="bad_frame: deflated members"):
            deflated(data, [wrong])


@pytest.mark.parametrize("kind", ["safetensors", "npy", "npy-fortran", "npz", "npz-deflated"])
def test_a_lossy_file_keeps_its_bounds_and_can_be_read(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    packed = compress_file(path, CompressionOptions(mode="bounded", bound_kind="abs", bound=0.01))
    back = restore_file(packed.path, out=tmp_path / f"back{path.suffix}").path
    before, after = (loaded(each) for each in (path, back))
    assert before.keys() == after.keys()
    for name, x in before.items():
        y = after[name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if x.ndim > 1 and x.dtype.kind not in "bi":
            assert np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0) <= 0.01
        else:
            assert np.array_equal(x, y)


def loaded(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    found = np.load(path)
    return {"array": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found}


def test_a_delta_of_files_is_exact_and_new_tensors_travel_whole(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    before = tensors()
    after = before | {"layer.2.weight": before["layer.1.weight"] + 1}
    bits = before["layer.0.weight"].view(np.uint16)
    after["layer.0.weight"] = stepped(np.random.default_rng(2), bits, 0.02).view(ml_dtypes.bfloat16)
    old.write_bytes(st.written(before))
    new.write_bytes(st.written(after))
    packed = compress_file(new, CompressionOptions(mode="delta"), base=old)
    reasons = {each.header.name: each.header.fallback_reason for each in packed.tensors}
    assert {name for name, reason in reasons.items() if reason} == {"layer.2.weight"}
    back = restore_file(packed.path, base=old, out=tmp_path / "back")
    assert back.path.read_bytes() == new.read_bytes()
    with pytest.raises(BlockError, match=r"^base_mismatch"):
        restore_file(packed.path, base=new, out=tmp_path / "other")


def test_an_archive_of_many_tensors_is_small_and_exact() -> None:
    rng = np.random.default_rng(3)
    base = {f"encoder.layer.{n}.weight": drawn(rng, "normal", "bfloat16", (128, 256)) for n in range(12)}
    new = {name: stepped(rng, x.view(np.uint16), 0.01).view(ml_dtypes.bfloat16) for name, x in base.items()}
    data = compress_tensors(new, CompressionOptions(mode="delta"), base=base)
    back = restore_tensors(data, base=base)
    assert list(back) == list(new)
    assert all(back[name].tobytes() == x.tobytes() for name, x in new.items())
    assert len(data) < sum(x.nbytes for x in new.values()) / 40


def test_an_archive_can_be_read_by_any_reader_of_safetensors() -> None:
    found = safetensors.numpy.load(compress_tensors(tensors()))
    assert [x.dtype for x in found.values()] == [np.uint8]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(BlockError, match="dtype: file must be safetensors, npy or npz"):
        compress_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    with pytest.raises(BlockError, match="dtype: file must be safetensors, npy or npz"):
        compress_file(path)
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(BlockError, match="numbers: objects would be unpickled"):
        compress_file(tmp_path / "objects.npy")


def test_damaged_files_and_archives_give_an_error_with_a_code(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for kind in ("safetensors", "npy", "npz", "npz-deflated"):
        path = written(tmp_path, kind)
        archive = compress_file(path).path
        for source in (path, archive):
            data, bad = source.read_bytes(), tmp_path / f"bad{source.suffix}"
            for _ in range(25):
                changed = bytearray(data)
                changed[rng.integers(min(len(data), 2000))] = rng.integers(256)
                bad.write_bytes(changed[: rng.integers(1, len(data)) if rng.random() < 0.5 else None])
                assert outcome(bad, tmp_path / "out") in (
                    "fine",
                    "bad_frame",
                    "checksum",
                    "limit",
                    "unknown_op",
                    "dtype",
                    "shape",
                )


def outcome(path: Path, out: Path) -> str:
    try:
        (restore_file if path.suffix == ".qsz" else compress_file)(path, out=out)
    except BlockError as exc:
        return exc.code
    return "fine"


@pytest.mark.parametrize("kind", ["safetensors", "npy", "npy-fortran", "npz", "npz-deflated"])
def test_a_file_is_made_again_of_its_tensors_in_native_order_and_of_what_else_it_held(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    sent = {name: canonical(array).array for name, array in tensors_of(read_layout(path, stored=True)).items()}
    described = sent.pop(FILE)
    data, identical = file_of(sent, described)
    assert identical
    if kind != "npz-deflated":  # which is stored on its way
        assert bytes(data) == path.read_bytes()
    changed = {
        name: array if array.size == 0 or array.dtype == bool else array + array.dtype.type(1) for name, array in sent.items()
    }
    data, identical = file_of(changed, described)
    assert not identical
    again = tmp_path / f"again{path.suffix}"
    again.write_bytes(data)
    layout = read_layout(again)
    assert {span.name: canonical(layout.array(span)).array.tobytes() for span in layout.spans} == {
        name: array.tobytes() for name, array in changed.items()
    }


def test_tensors_without_a_file_make_the_same_safetensors_file_each_time_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    data, identical = file_of(tensors(), None)
    assert (bytes(data), identical) == (st.written(tensors()), False)
    described = tensors_of(read_layout(written(tmp_path, "npy")))[FILE]
    with pytest.raises(BlockError, match="tensors of the file must be"):
        file_of(tensors(), described)
    with pytest.raises(BlockError, match="bytes of tensor 'array' must be"):
        file_of({"array": np.zeros(3)}, described)
