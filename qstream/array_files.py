"""Untrusted files as plain arrays: JSON, npy, npz, safetensors and pt, bounded before anything is allocated, no pickle."""

from __future__ import annotations

import importlib
import lzma
import math
import pickle
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors
from numpy.typing import NDArray

from qstream.errors import ConfigError, ProblemError
from qstream.install import install_hint
from schemas.parse import read_json
from schemas.wording import Shown, must_be

MAX_JSON_BYTES: Final = 256 << 20
MAX_JSON_VALUES: Final = 1 << 24  # each a Python object of up to 64 bytes with its place in a list
MAX_FILE_BYTES: Final = 1 << 30
MAX_MAPPED_BYTES: Final = 1 << 36  # of a file whose arrays stay on disk until they are read, in pieces
MAX_PICKLE_BYTES: Final = 64 << 20  # of a .pt file, without its tensors: a byte of it may become tens
MAX_ENTRIES: Final = 1 << 27
MAX_ARRAYS: Final = 1 << 18
MAX_COUNT: Final = 2**53  # up to which float64 holds every integer
FORMATS: Final = ".json, .npy, .npz, .safetensors or .pt"
# What readers raise for a broken file. None defines its own error: each passes on those of its parts.
_BROKEN: Final = (
    ValueError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    OSError,
    struct.error,
)
_NOT_AN_NPY: Final = (*_BROKEN, SyntaxError, tokenize.TokenError)
_NOT_AN_NPZ: Final = (*_BROKEN, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_NOT_A_PT: Final = (*_BROKEN, pickle.UnpicklingError, AttributeError, AssertionError, zlib.error)
Tree = Mapping[str, Any]


def read_tree(path: Path) -> Tree:
    """The named values of a file: lists of JSON as they are, else arrays; the single array of an npy file is named ``array``.

    Arrays of a file of more than 1 GiB, and all of a .pt file, are not read yet: they are mapped, and `pieces` reads them.

    Raises
    ------
    ConfigError
        There is no such file, its ending is unknown, or torch is needed and absent.
    ProblemError
        The file is too large, broken, or holds something other than arrays of numbers.
    """
    if not path.is_file():
        raise ConfigError(must_be("FILE", f"an existing file: {FORMATS}", str(path)))
    most = {".json": MAX_JSON_BYTES, ".npz": MAX_FILE_BYTES}.get(path.suffix, MAX_MAPPED_BYTES)
    size = path.stat().st_size
    if size > most:
        raise ProblemError(must_be(path.name, f"at most {most} bytes", size))
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return {"array": _map_npy(path, file) if size > MAX_FILE_BYTES else read_npy(path.name, file)}
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pt":
        return _read_pt(path)
    raise ConfigError(must_be(f"the ending of {path.name}", FORMATS, path.suffix))


def numbers(field: str, value: Any, axes: int | tuple[int, ...], *, least: int = 0) -> NDArray[np.int64]:
    """Whole numbers from `least` to 2**53 as int64, of that many axes.

    Takes nested lists, arrays and tensors; floats that are whole, since some tools store counts so. The size is checked
    before anything is copied: a small file may describe a huge view.

    Raises
    ------
    ProblemError
        Names the field, what it holds and what is allowed.
    """
    allowed = (axes,) if isinstance(axes, int) else axes
    given = as_array(field, value)
    if given.ndim not in allowed:
        axes_text = " or ".join(map(str, allowed))
        raise ProblemError(must_be(field, f"of {axes_text} axes", Shown(f"{given.ndim} axes, shape {list(given.shape)}")))
    if given.size == 0:
        raise ProblemError(must_be(field, "without an empty axis", Shown(f"shape {list(given.shape)}")))
    low, high = given.min(), given.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= least and high <= MAX_COUNT):
        raise ProblemError(must_be(field, f"{least} to 2**53", Shown(f"values from {low} to {high}")))
    whole: NDArray[np.int64] = given.astype(np.int64)
    if given.dtype.kind == "f" and (whole != given).any():
        raise ProblemError(must_be(field, "whole numbers", Shown(f"{given[whole != given][0]}")))
    return whole


def as_array(field: str, value: Any) -> NDArray[Any]:
    """A list, tensor or array as an array of at most 2**27 numbers."""
    if isinstance(value, list | tuple):
        return _from_list(field, value)
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ProblemError(must_be(field, "an array of numbers", Shown(type(value).__name__)))
    check_size(field, tuple(shape))
    try:
        given = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError) as exc:  # bfloat16, sparse, quantised
        found = Shown(f"a tensor of {value.dtype}")
        raise ProblemError(must_be(field, "a dense tensor of a dtype that NumPy has", found)) from exc
    if given.dtype.kind not in "iuf":
        raise ProblemError(must_be(field, "numbers", Shown(f"dtype {given.dtype}")))
    return given


def check_size(field: str, shape: Sequence[int]) -> None:
    """`ProblemError` if an array of that shape has more entries than are allowed."""
    if math.prod(shape) > MAX_ENTRIES:
        raise ProblemError(must_be(field, f"at most {MAX_ENTRIES} entries", Shown(f"shape {list(shape)[:8]}")))


def bounded(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a file; `ProblemError` if there are more."""
    with path.open("rb") as file:
        body = file.read(most + 1)
    if len(body) > most:
        raise ProblemError(must_be(path.name, f"at most {most} bytes", Shown("more")))
    return body


def _from_list(field: str, value: Sequence[Any]) -> NDArray[Any]:
    try:
        given = np.array(value)
        if given.dtype.kind == "O":  # None becomes NaN, an integer of more than 64 bits a float: both are out of range
            given = given.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ProblemError(
            must_be(field, "nested lists of numbers", Shown("a ragged list or a value that is not a number"))
        ) from exc
    if given.dtype.kind not in "iuf":
        raise ProblemError(must_be(field, "numbers", Shown(f"{given.dtype.type.__name__.rstrip('_')} values")))
    return given


def _read_json(path: Path) -> Tree:
    body = bounded(path)
    # Marks within text count too, and UTF-16 has the same bytes.
    if (values := sum(body.count(mark) for mark in (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise ProblemError(must_be(path.name, f"at most {MAX_JSON_VALUES} values as JSON, or an .npz file", values))
    try:
        value = read_json(body, allow_inf_nan=True)  # an unused field may hold NaN, as Python writes it
    except ValueError as exc:
        raise ProblemError(f"{path.name}: not JSON: {str(exc)[:200]}") from exc
    if isinstance(value, list):
        return {"array": value}
    if not isinstance(value, dict):
        raise ProblemError(must_be(path.name, "an object or a list", Shown(type(value).__name__)))
    return value


def read_npy(where: str, file: IO[bytes]) -> NDArray[Any]:
    """The array of an npy file, whose size is checked before it is read; `where` names it in errors."""
    shape, fortran, dtype = _npy_header(where, file)
    check_size(where, shape)
    size = math.prod(shape) * dtype.itemsize
    body = file.read(size)
    if len(body) != size:
        raise ProblemError(must_be(where, f"{size} bytes of data, as in its header", len(body)))
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _map_npy(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """As `read_npy`, without reading the data."""
    shape, fortran, dtype = _npy_header(path.name, file)
    size, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
    if held < size or not size:
        raise ProblemError(must_be(path.name, f"{size} bytes of data, as in its header", held))
    return np.memmap(path, dtype, "r", file.tell(), tuple(shape), "F" if fortran else "C")


def _npy_header(where: str, file: IO[bytes]) -> tuple[Sequence[int], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except _NOT_AN_NPY as exc:
        raise ProblemError(f"{where}: not an npy file: {str(exc)[:200]}") from exc
    if dtype.kind not in "iuf":
        raise ProblemError(must_be(where, "numbers", Shown(f"dtype {dtype}")))
    return shape, fortran, dtype


def _read_npz(path: Path) -> Tree:
    """Members are read one by one; what they say to hold is added up before the first is inflated."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            size = sum(info.file_size for info in members)
            if len(members) > MAX_ARRAYS or size > MAX_FILE_BYTES:
                allowed = f"at most {MAX_ARRAYS} arrays of {MAX_FILE_BYTES} bytes in total"
                raise ProblemError(must_be(path.name, allowed, Shown(f"{len(members)} arrays of {size} bytes")))
            arrays = {}
            for info in members:
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = read_npy(f"{path.name}, {info.filename[:80]!a}", file)
            return arrays
    except ProblemError:
        raise
    except _NOT_AN_NPZ as exc:
        raise ProblemError(f"{path.name}: not an npz file: {str(exc)[:200]}") from exc


def _read_safetensors(path: Path) -> Tree:
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            names = list(opened.keys())
            if len(names) > MAX_ARRAYS:
                raise ProblemError(must_be(path.name, f"at most {MAX_ARRAYS} arrays", len(names)))
            if path.stat().st_size > MAX_FILE_BYTES:
                return _map_safetensors(path, {name: _of_numpy(opened.get_slice(name)[:0]).dtype for name in names})
            return {name: _of_numpy(opened.get_tensor(name)) for name in names}
    except (safetensors.SafetensorError, TypeError) as exc:  # TypeError: a dtype that NumPy does not have
        raise ProblemError(f"{path.name}: not a safetensors file of numbers: {str(exc)[:200]}") from exc


def _map_safetensors(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> Tree:
    """Its arrays without reading them; `path` has been opened before, so that its header is known to be right."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = read_json(file.read(length))
    return {
        name: np.memmap(path, dtype, "r", 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"]))
        for name, dtype in dtypes.items()
    }


def _of_numpy(array: NDArray[Any]) -> NDArray[Any]:
    """`TypeError` for bfloat16 and the like, which NumPy has only once another package has brought them."""
    if array.dtype.isbuiltin != 1:
        raise TypeError(f"dtype {array.dtype.name}")
    return array


def _read_pt(path: Path) -> Tree:
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{path.name}: a .pt file needs torch, or save it as .npz: {install_hint('demo')}") from exc
    stored = _check_pt(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=stored)
    except _NOT_A_PT as exc:
        # torch goes on to advise readers to trust the file: the first sentence says what is wrong with it.
        text = str(exc).partition("WeightsUnpickler error:")[2] or str(exc)
        reason = re.split(r"\. |\n", text.strip(), maxsplit=1)[0][:200]
        raise ProblemError(f"{path.name}: not a .pt file of tensors and plain values: {reason}") from exc
    if isinstance(value, torch.Tensor):
        return {"array": value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ProblemError(must_be(path.name, "a tensor or a dict of names", Shown(type(value).__name__)))
    return value


def _check_pt(path: Path) -> bool:
    """Whether its members are stored as they are, as torch writes them, so that they can be mapped; else torch inflates them.

    `ProblemError` if the file holds more than its size allows.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _NOT_AN_NPZ as exc:
        reason = "not a zip archive, as PyTorch writes since 1.6"
        raise ProblemError(f"{path.name}: not a .pt file of tensors and plain values: {reason}") from exc
    size = sum(info.file_size for info in members)
    pickled = sum(info.file_size for info in members if info.filename.endswith(".pkl"))
    stored = all(info.compress_type == zipfile.ZIP_STORED for info in members)
    most = MAX_MAPPED_BYTES if stored else MAX_FILE_BYTES
    if size > most or len(members) > MAX_ARRAYS:
        allowed = f"at most {MAX_ARRAYS} members of {most} bytes in total"
        raise ProblemError(must_be(path.name, allowed, Shown(f"{len(members)} members of {size} bytes")))
    if pickled > MAX_PICKLE_BYTES:
        raise ProblemError(must_be(path.name, f"at most {MAX_PICKLE_BYTES} bytes without its tensors", pickled))
    return stored
