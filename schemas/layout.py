"""The arrays of a safetensors body as its writers lay them out: views of the bytes, without a copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

METADATA = "__metadata__"
Read = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def usual_layout(data: bytes, dtypes: Mapping[str, np.dtype[Any]], codes: Mapping[str, Collection[str]]) -> Read | None:
    """Header and arrays of a body whose arrays follow each other from its header to its end, aligned, in the header's order.

    Parameters
    ----------
    data
        The body.
    dtypes
        The declared dtype of each array by its name. A body with another array is not usual.
    codes
        The safetensors codes that each array may have.

    Returns
    -------
    None where anything is not usual: the safetensors library then reads the body, or says what is wrong with it.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = from_json(data[8:start], allow_inf_nan=False)
    except ValueError:
        return None
    if type(header) is not dict or type(header.get(METADATA)) is not dict:
        return None
    for value in header[METADATA].values():
        if type(value) is not str:
            return None
    arrays: dict[str, NDArray[Any]] = {}
    position = start
    for name, entry in header.items():
        if name == METADATA:
            continue
        dtype = dtypes.get(name)
        try:
            if dtype is None or entry["dtype"] not in codes[name] or position % dtype.itemsize:
                return None
            begin, end = entry["data_offsets"]
            array: NDArray[Any] = np.ndarray(entry["shape"], dtype, data, position)
            if begin != position - start or end != begin + array.nbytes:
                return None
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        arrays[name] = array
        position = start + end
    return (header, arrays) if position == len(data) else None
