"""Read the layout of a file of tensors, whichever format it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.formats import numpy_files, safetensors
from qstream.compression.formats.deflated import ZIP
from qstream.compression.formats.layout import Layout
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_layout(path: Path, *, stored: bool = False) -> Layout:
    """The layout of a safetensors, npy or npz file, which is mapped into memory.

    Raises
    ------
    BlockError
        The file is none of these, or damaged; pickles are refused.
    OSError
        It cannot be read.
    """
    return layout_of(mapped(path), stored=stored)


def mapped(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file."""
    if path.stat().st_size == 0:
        raise BlockError("bad_frame", must_be(f"file {path.name}", "a file of tensors", Shown("nothing")))
    return np.asarray(np.memmap(path, np.uint8, "r"))


def layout_of(data: NDArray[np.uint8], *, stored: bool = False) -> Layout:
    """The layout of the bytes of a file; with `stored` a deflated npz file is rewritten."""
    head = data[:8].tobytes()
    if head.startswith(numpy_files.MAGIC):
        return numpy_files.npy_layout(data)
    if head.startswith(ZIP):
        return numpy_files.npz_layout(data, stored=stored)
    if head.startswith(_PICKLES):
        raise BlockError("dtype", must_be("file", "safetensors, npy or npz: save its tensors by safetensors", Shown("a pickle")))
    return safetensors.layout(data)
