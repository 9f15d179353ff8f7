"""Exports: files that inference engines read, made of a file of tensors: sparse patches for vLLM, int8 as compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import LOSSY, as_floats, canonical
from qstream.compression.formats import safetensors
from qstream.compression.integers import quantise
from qstream.compression.patch import patch_of
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

# What `config.json` of the model must say next to the exported file. vLLM has no scheme of this format for weights alone: it
# quantises inputs to 8 bits by token as it computes.
INT8_CONFIG: Final[Mapping[str, Any]] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
        }
    },
    "ignore": ["lm_head"],
}
_WHOLE: Final = ("embed", "lm_head", "norm")  # parts of names of matrices that engines keep as they are


def vllm_patch(new: Mapping[str, NDArray[Any]], base: Mapping[str, NDArray[Any]]) -> tuple[bytes, int]:
    """(safetensors file, changed values): ``NAME.indices`` int32 and ``NAME.values`` of each tensor that has changed.

    Shapes of the whole tensors are in the file's metadata, as JSON under ``full_shape``. `BlockError` if a tensor has no base
    of its type and shape.
    """
    tensors: dict[str, NDArray[Any]] = {}
    shapes: dict[str, list[int]] = {}
    changed = 0
    for name, array in new.items():
        if name not in base:
            raise BlockError("base_mismatch", must_be(f"base of {name!r}", "in the base file", Shown("missing")))
        patch = patch_of(name, array, base[name])
        if len(patch.indices):
            tensors[f"{name}.indices"], tensors[f"{name}.values"] = patch.indices, patch.values
            shapes[name] = list(patch.full_shape)
            changed += len(patch.indices)
    return safetensors.written(tensors, {"full_shape": json.dumps(shapes)}), changed


def compressed_tensors_int8(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """(safetensors file, quantised matrices): int8 weights [out, in] with ``NAME_scale`` [out, 1]; other tensors as they are."""
    written: dict[str, NDArray[Any]] = {}
    count = 0
    for name, array in tensors.items():
        form = canonical(array)
        matrix = name.endswith(".weight") and form.array.ndim == 2 and form.dtype in LOSSY
        if not matrix or any(part in name for part in _WHOLE):
            written[name] = array
            continue
        x = as_floats(form.array, form.dtype)
        if not np.isfinite(x).all():
            raise BlockError("dtype", must_be(f"tensor {name!r}", "finite", Shown("NaN or infinity")))
        written[name], written[f"{name}_scale"] = quantise(x, "row")
        count += 1
    return safetensors.written(written, metadata), count
