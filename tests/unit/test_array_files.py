"""Untrusted files: what they hold comes back unchanged, and what is broken, huge or code is refused by name."""

from __future__ import annotations

import importlib
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from qstream import array_files
from qstream.array_files import numbers, read_tree
from qstream.errors import ConfigError, ProblemError

COUNTS = np.arange(24).reshape(2, 3, 4)


def save_torch(tensors, path) -> None:
    importlib.import_module("safetensors.torch").save_file(tensors, path)


def npy_header(shape: tuple[int, ...], descr: str = "<i8") -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">i8", "<u2", "<f4"])
def test_an_array_comes_back_whatever_its_order_and_dtype(tmp_path, order, dtype):
    np.save(tmp_path / "a.npy", np.asarray(COUNTS, dtype, order=order))
    found = numbers("array", read_tree(tmp_path / "a.npy")["array"], 3)
    assert found.dtype == np.int64
    assert found.tolist() == COUNTS.tolist()


def test_an_npz_a_safetensors_and_a_json_file_give_the_same_numbers(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=COUNTS)
    save_file({"x": COUNTS}, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"x": COUNTS.tolist()}))
    for name in ("a.npz", "a.safetensors", "a.json"):
        assert numbers("x", read_tree(tmp_path / name)["x"], 3).tolist() == COUNTS.tolist()


def test_a_pt_file_is_read_and_one_with_code_is_not(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.from_numpy(COUNTS)}, tmp_path / "a.pt")
    assert numbers("x", read_tree(tmp_path / "a.pt")["x"], 3).tolist() == COUNTS.tolist()

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ProblemError, match=r"evil\.pt: not a \.pt file of tensors") as raised:
        read_tree(tmp_path / "evil.pt")
    assert "weights_only" not in str(raised.value)  # torch's own advice is to run the code
    assert "\n" not in str(raised.value)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ProblemError, match=r"plain\.pt: not a \.pt file of tensors"):
        read_tree(tmp_path / "plain.pt")


@pytest.mark.parametrize(
    ("limit", "said"),
    [("MAX_FILE_BYTES", "at most 262144 members of 1000 bytes"), ("MAX_PICKLE_BYTES", "at most 1000 bytes without its tensors")],
)
def test_a_pt_file_that_grows_is_refused_before_it_is_loaded(limit, said, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.zeros(1000), "names": [f"name {n}" for n in range(200)]}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    assert (tmp_path / "b.pt").stat().st_size < (tmp_path / "a.pt").stat().st_size / 2
    assert len(read_tree(tmp_path / "b.pt")["x"]) == 1000
    monkeypatch.setattr(array_files, limit, 1000)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ProblemError, match=said):
        array_files._check_pt(tmp_path / "b.pt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_of_more_values_than_memory_should_hold_is_refused_before_it_is_parsed(encoding, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(("[" + ",".join(["[]"] * 60) + "]").encode(encoding))
    monkeypatch.setattr(array_files, "MAX_JSON_VALUES", 121)
    assert len(read_tree(tmp_path / "a.json")["array"]) == 60
    monkeypatch.setattr(array_files, "MAX_JSON_VALUES", 119)
    monkeypatch.setattr(array_files, "read_json", None)
    with pytest.raises(ProblemError, match=r"a\.json must be at most 119 values as JSON, or an \.npz file, got 120"):
        read_tree(tmp_path / "a.json")


def test_a_view_that_is_larger_than_its_storage_is_refused_before_it_is_copied():
    torch = pytest.importorskip("torch")
    with pytest.raises(ProblemError, match=r"must be at most \d+ entries, got shape"):
        numbers("x", torch.zeros(1).expand(1 << 20, 1 << 20), 2)


def test_a_dtype_that_numpy_does_not_have_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, dtype=torch.bfloat16)
    with pytest.raises(ProblemError, match=r"x must be a dense tensor .*, got a tensor of torch\.bfloat16"):
        numbers("x", tensor, 2)
    save_torch({"x": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(ProblemError, match=r"a\.safetensors: not a safetensors file of numbers: .*bfloat16"):
        read_tree(tmp_path / "a.safetensors")
    pytest.importorskip("ml_dtypes")  # with which NumPy has it
    with pytest.raises(ProblemError, match=r"a\.safetensors: not a safetensors file of numbers: .*bfloat16"):
        read_tree(tmp_path / "a.safetensors")


def test_objects_in_an_array_are_refused_and_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ProblemError, match="must be numbers, got dtype object"):
        read_tree(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(ProblemError, match="not an npy file"):
        read_tree(tmp_path / "b.npy")


def test_a_header_that_asks_for_terabytes_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header((1 << 20, 1 << 20)))
    with pytest.raises(ProblemError, match=r"must be at most \d+ entries, got shape"):
        read_tree(tmp_path / "a.npy")


def test_an_archive_that_inflates_to_more_than_is_allowed_is_not_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100_000, np.int64))
    monkeypatch.setattr(array_files, "MAX_FILE_BYTES", 100_000)
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(ProblemError, match="got 1 arrays of 8001"):
        read_tree(tmp_path / "a.npz")


def test_a_member_that_is_shorter_than_its_header_says_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy_header((4,)) + b"\0" * 8)
    with pytest.raises(ProblemError, match="must be 32 bytes of data, as in its header, got 8"):
        read_tree(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".json", ".pt"])
@pytest.mark.parametrize("body", [b"", b"\x00" * 64, b"PK\x03\x04" + b"\xff" * 100, b"[[[[[[1", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_rubbish_is_a_problem_of_the_file_whatever_its_ending(tmp_path, suffix, body):
    if suffix == ".pt":
        pytest.importorskip("torch")
    (tmp_path / f"a{suffix}").write_bytes(body)
    with pytest.raises(ProblemError, match=r"a\.|array"):
        read_tree(tmp_path / f"a{suffix}")


def test_a_file_that_is_too_large_missing_or_of_an_unknown_kind_is_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="FILE must be an existing file"):
        read_tree(tmp_path / "none.npz")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(ConfigError, match=r"the ending of .* must be \.json, .*, got '\.pkl'"):
        read_tree(tmp_path / "a.pkl")
    (tmp_path / "a.json").write_text("[" + "1," * 100 + "1]")
    monkeypatch.setattr(array_files, "MAX_JSON_BYTES", 100)
    with pytest.raises(ProblemError, match="must be at most 100 bytes, got 203"):
        read_tree(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], "ragged"),
        ([[1, "x"]], "must be numbers, got str values"),
        ([["1", "2"]], "must be numbers, got str values"),
        ([[True, False]], "must be numbers, got bool values"),
        ([[None, "2"]], "must be 0 to"),
        ([[1, None]], "must be 0 to"),
        ([[1.5, 2]], "must be whole numbers, got 1.5"),
        ([[-1, 2]], "got values from -1"),
        ([[2**60, 2]], "must be 0 to 2"),
        ([[10**400, 2]], "not a number"),
        ([[]], "without an empty axis"),
        ([1, 2], "got 1 axes"),
        ({"a": 1}, "must be an array of numbers, got dict"),
        (np.array([["a"]]), "dtype <U1"),
        (np.array([[True]]), "dtype bool"),
        (np.array([[np.nan]]), "must be 0 to"),
    ],
)
def test_numbers_names_the_field_and_what_is_wrong(value, message):
    with pytest.raises(ProblemError, match="field") as raised:
        numbers("field", value, 2)
    assert message in str(raised.value)


def written(folder, name):
    """A small recording in that format."""
    counts = np.arange(2 * 2 * 8).reshape(2, 2, 8)
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, counts)
    elif path.suffix == ".npz":
        np.savez_compressed(path, history=counts)
    elif path.suffix == ".safetensors":
        save_file({"0_0": counts[0, 0], "0_1": counts[0, 1]}, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"logical_count": counts.tolist()}))
    else:
        torch = pytest.importorskip("torch")
        tree = {"logical_count": torch.from_numpy(counts), "rank": 0}
        torch.save(tree, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a.json", "a.pt", "legacy.pt"])
def test_whatever_bytes_are_wrong_or_missing_a_file_is_read_or_told(tmp_path, name):
    path = written(tmp_path, name)
    body, rng = path.read_bytes(), np.random.default_rng(7)
    message = 0
    for number in range(300):
        broken = bytearray(body[: rng.integers(len(body))] if number % 4 == 0 else body)
        for at in rng.integers(max(len(broken), 1), size=rng.integers(1, 6)) if broken else ():
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_tree(path)
        except ProblemError:
            message += 1
    assert message > 50


@pytest.mark.parametrize("header", ["{'descr': ('<i8'", "{'shape': (" + "(" * 500, "-" * 9000])
def test_an_npy_header_that_is_no_python_is_told(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(ProblemError, match="not an npy file"):
        read_tree(tmp_path / "a.npy")
