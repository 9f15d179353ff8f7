"""Frames of tensors: which values a block has, and what contradicts itself."""

import re

import pytest

from qstream.cli.compression.lines import line
from qstream.compression.dtypes import DTYPES
from qstream.compression.header import Mode, Promise
from qstream.compression.options import BoundKind
from schemas import CompressedBlock, FrameError, RestoredBlock, TensorBlock, TensorCodebook, TensorManifest
from schemas.tensors import ITEM_BYTES, TensorBoundKind, TensorMode, TensorPart, TensorPromise


def part(**fields: object) -> TensorPart:
    return TensorPart.build(**(TensorBlock.example().part | fields))


def test_types_modes_and_promises_are_those_of_the_codec():
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ITEM_BYTES
    assert set(TensorMode.__args__) == set(Mode.__args__)
    assert set(TensorBoundKind.__args__) == set(BoundKind.__args__)
    assert set(TensorPromise.__args__) == set(Promise.__args__)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"shape": (2, 3, 4), "start": 0, "count": 24}, (2, 3, 4)),
        ({"shape": (2, 3, 4), "start": 4, "count": 8}, (2, 4)),
        ({"shape": (2, 9), "start": 9, "count": 5}, (5,)),
        ({"shape": (9,), "start": 3, "count": 4}, (4,)),
        ({"shape": (), "start": 0, "count": 1}, ()),
        ({"shape": (0, 3), "start": 0, "count": 0}, (0, 3)),
    ],
)
def test_a_block_is_the_whole_tensor_or_rows_or_a_part_of_one_row(fields, shape):
    assert part(**fields).block_shape == shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": 2}, "block must be below blocks, 2, got 2"),
        ({"start": 9}, "start + count must be at most 12, the values of the tensor, got 15"),
        ({"count": 0}, "count must be at least 1 of 12 values, got 0"),
        ({"start": 2, "count": 3}, "a block must be whole rows of 3, or within one row, got values 2 to 5"),
        ({"shape": (1,) * 9}, "at most 8 items"),
        ({"shape": (1 << 31, 1 << 31)}, f"bytes of the tensor must be at most {1 << 50}, got shape"),
        ({"dtype": "float128"}, "must be 'bool'"),
    ],
)
def test_values_that_no_block_can_have_are_refused(fields, message):
    with pytest.raises(FrameError, match=re.escape(message)):
        part(**fields)


@pytest.mark.parametrize(
    ("frame", "fields", "message"),
    [
        (TensorBlock, {"count": 3}, "length of data must be 6, the bytes of 3 bfloat16, got 12"),
        (TensorBlock, {"influence": [1.0]}, "length of influence must be 3"),
        (CompressedBlock, {"base_step": 3}, "of an anchor must be absent"),
        (RestoredBlock, {"skip_reason": "no_base"}, "one with either data or a skip_reason"),
        (RestoredBlock, {"data": None}, "one with either data or a skip_reason"),
        (TensorManifest, {"format": "blocks"}, "claim must be given for a file and absent for blocks"),
        (TensorManifest, {"tensors": ("a", "a")}, "tensors must be distinct names"),
        (TensorManifest, {"anchor_step": 1201}, "anchor_step must be at most step, 1200, got 1201"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(frame, fields, message):
    with pytest.raises(FrameError, match=re.escape(message)):
        frame.build(**(dict(frame.example()) | fields))


def test_each_frame_is_one_line_that_says_what_matters():
    block = "my-moe/layers.3.mlp.up  step 1200  weight  bfloat16 4 x 3  block 2 of 2"
    assert line(TensorBlock.example()) == f"{block}  12 bytes  delta"
    assert line(CompressedBlock.example()) == f"{block}  anchor  9.33 bits  1.714 times smaller  exact"
    assert line(RestoredBlock.example()) == f"{block}  exact  verified"
    waits = RestoredBlock.build(**(dict(RestoredBlock.example()) | {"data": None, "skip_reason": "no_base"}))
    assert line(waits) == f"{block}  not restored: no_base"
    assert line(TensorCodebook.example()) == "my-moe/layers.3.mlp.up  basis  5ace6a511c10894b  16 bytes"
    assert line(TensorManifest.example()).startswith("my-moe  step 1200  2 tensors  file:///blobs/")
