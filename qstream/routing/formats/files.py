"""Files of strangers as plain arrays: JSON, npy, npz, safetensors and pt, bounded before anything is allocated, no pickle."""

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
from pydantic_core import from_json

from qstream.errors import ConfigError, ProblemError
from qstream.install import install_hint

MAX_JSON_BYTES: Final = 256 << 20
MAX_FILE_BYTES: Final = 1 << 30
MAX_ENTRIES: Final = 1 << 27
MAX_ARRAYS: Final = 1 << 18
MAX_COUNT: Final = 2**53  # up to which float64 holds every integer
FORMATS: Final = ".json, .npy, .npz, .safetensors or .pt"
# What readers raise for a file that is broken. None has an error of its own: each passes on those of its parts.
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

    Raises
    ------
    ConfigError
        There is no such file, its ending is unknown, or torch is needed and absent.
    ProblemError
        The file is too large, broken, or holds what is no array of numbers.
    """
    if not path.is_file():
        raise ConfigError(f"FILE is {str(path)!r}, allowed is a file: {FORMATS}")
    most = MAX_JSON_BYTES if path.suffix == ".json" else MAX_FILE_BYTES
    size = path.stat().st_size
    if size > most:
        raise ProblemError(f"{path.name} has {size} bytes, allowed are at most {most}")
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return {"array": _read_npy(path.name, file)}
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".pt":
        return _read_pt(path)
    raise ConfigError(f"{path.name} has the ending {path.suffix!r}, allowed are {FORMATS}")


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
    told = " or ".join(map(str, allowed))
    given = as_array(field, value)
    if given.ndim not in allowed:
        raise ProblemError(f"{field} has {given.ndim} axes, shape {list(given.shape)}, allowed are {told}")
    if given.size == 0:
        raise ProblemError(f"{field} has shape {list(given.shape)}, allowed is no empty axis")
    low, high = given.min(), given.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= least and high <= MAX_COUNT):
        raise ProblemError(f"{field} has values from {low} to {high}, allowed are {least} to 2**53")
    whole: NDArray[np.int64] = given.astype(np.int64)
    if given.dtype.kind == "f" and (whole != given).any():
        raise ProblemError(f"{field} has {given[whole != given][0]}, allowed are whole numbers")
    return whole


def as_array(field: str, value: Any) -> NDArray[Any]:
    """A list, tensor or array as an array of at most 2**27 numbers."""
    if isinstance(value, list | tuple):
        return _from_list(field, value)
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ProblemError(f"{field} is a {type(value).__name__}, allowed is an array of numbers")
    check_size(field, tuple(shape))
    try:
        given = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError) as exc:  # bfloat16, sparse, quantised
        raise ProblemError(f"{field} is a tensor of {value.dtype}, allowed are dense ones of a dtype that NumPy has") from exc
    if given.dtype.kind not in "iuf":
        raise ProblemError(f"{field} has dtype {given.dtype}, allowed are numbers")
    return given


def check_size(field: str, shape: Sequence[int]) -> None:
    """`ProblemError` if an array of that shape has more entries than are allowed."""
    if math.prod(shape) > MAX_ENTRIES:
        raise ProblemError(f"{field} has shape {list(shape)[:8]}, allowed are at most {MAX_ENTRIES} entries")


def bounded(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a file; `ProblemError` if there are more."""
    with path.open("rb") as file:
        body = file.read(most + 1)
    if len(body) > most:
        raise ProblemError(f"{path.name} has more than {most} bytes, which are allowed")
    return body


def _from_list(field: str, value: Sequence[Any]) -> NDArray[Any]:
    try:
        given = np.array(value)
        if given.dtype.kind == "O":  # None becomes NaN, an integer of more than 64 bits a float: both are out of range
            given = given.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ProblemError(f"{field} is ragged or holds what is no number, allowed are nested lists of numbers") from exc
    if given.dtype.kind not in "iuf":
        raise ProblemError(f"{field} holds {given.dtype.type.__name__.rstrip('_')} values, allowed are numbers")
    return given


def _read_json(path: Path) -> Tree:
    try:
        value = from_json(bounded(path))
    except ValueError as exc:
        raise ProblemError(f"{path.name}: not JSON: {str(exc)[:200]}") from exc
    if isinstance(value, list):
        return {"array": value}
    if not isinstance(value, dict):
        raise ProblemError(f"{path.name} holds a {type(value).__name__}, allowed is an object or a list")
    return value


def _read_npy(where: str, file: IO[bytes]) -> NDArray[Any]:
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except _NOT_AN_NPY as exc:
        raise ProblemError(f"{where}: not an npy file: {str(exc)[:200]}") from exc
    if dtype.kind not in "iuf":
        raise ProblemError(f"{where} has dtype {dtype}, allowed are numbers")
    check_size(where, shape)
    size = math.prod(shape) * dtype.itemsize
    body = file.read(size)
    if len(body) != size:
        raise ProblemError(f"{where} ends after {len(body)} bytes of data, allowed are {size} by its header")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _read_npz(path: Path) -> Tree:
    """Members are read one by one; what they say to hold is added up before the first is inflated."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            size = sum(info.file_size for info in members)
            if len(members) > MAX_ARRAYS or size > MAX_FILE_BYTES:
                raise ProblemError(
                    f"{path.name} has {len(members)} arrays of {size} bytes, allowed are {MAX_ARRAYS} of {MAX_FILE_BYTES}"
                )
            arrays = {}
            for info in members:
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = _read_npy(f"{path.name}, {info.filename[:80]!a}", file)
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
                raise ProblemError(f"{path.name} has {len(names)} arrays, allowed are at most {MAX_ARRAYS}")
            return {name: opened.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, TypeError) as exc:  # TypeError: a dtype that NumPy does not have
        raise ProblemError(f"{path.name}: not a safetensors file of numbers: {str(exc)[:200]}") from exc


def _read_pt(path: Path) -> Tree:
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{path.name}: a .pt file needs torch, or save it as .npz: {install_hint('demo')}") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_A_PT as exc:
        # torch goes on to advise readers to trust the file: what is wrong with it stands in one sentence.
        told = str(exc).partition("WeightsUnpickler error:")[2] or str(exc)
        reason = re.split(r"\. |\n", told.strip(), maxsplit=1)[0][:200]
        raise ProblemError(f"{path.name}: no .pt file of tensors and plain values: {reason}") from exc
    if isinstance(value, torch.Tensor):
        return {"array": value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ProblemError(f"{path.name} holds a {type(value).__name__}, allowed is a tensor or a dict of names")
    return value
