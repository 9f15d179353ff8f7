"""Compression: tensors that travel small and come back as promised: exact, within a bound, or at a rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.compression.archive import compress_tensors as compress_tensors
    from qstream.compression.archive import restore_tensors as restore_tensors
    from qstream.compression.assembler import Incomplete as Incomplete
    from qstream.compression.assembler import TensorAssembler as TensorAssembler
    from qstream.compression.assembler import TensorPart as TensorPart
    from qstream.compression.assembler import Whole as Whole
    from qstream.compression.basis import Basis as Basis
    from qstream.compression.basis import learn_basis as learn_basis
    from qstream.compression.codebook import Codebook as Codebook
    from qstream.compression.codebook import codebook_bytes as codebook_bytes
    from qstream.compression.codebook import read_codebook as read_codebook
    from qstream.compression.decode import Restored as Restored
    from qstream.compression.decode import restore as restore
    from qstream.compression.encode import Compressed as Compressed
    from qstream.compression.encode import compress as compress
    from qstream.compression.feedback import Feedback as Feedback
    from qstream.compression.files import FileReport as FileReport
    from qstream.compression.files import compress_file as compress_file
    from qstream.compression.files import restore_file as restore_file
    from qstream.compression.influence import influence_by_dropout as influence_by_dropout
    from qstream.compression.options import CompressionOptions as CompressionOptions
    from qstream.compression.options import RestoreOptions as RestoreOptions
    from qstream.compression.patch import SparsePatch as SparsePatch
    from qstream.compression.patch import sparse_patch as sparse_patch
    from qstream.compression.training import train_codebook as train_codebook
    from qstream.errors import BlockError as BlockError

__all__ = [
    "Basis",
    "BlockError",
    "Codebook",
    "Compressed",
    "CompressionOptions",
    "Feedback",
    "FileReport",
    "Incomplete",
    "RestoreOptions",
    "Restored",
    "SparsePatch",
    "TensorAssembler",
    "TensorPart",
    "Whole",
    "codebook_bytes",
    "compress",
    "compress_file",
    "compress_tensors",
    "influence_by_dropout",
    "learn_basis",
    "read_codebook",
    "restore",
    "restore_file",
    "restore_tensors",
    "sparse_patch",
    "train_codebook",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Basis": ".basis",
        "BlockError": "qstream.errors",
        "Codebook": ".codebook",
        "Compressed": ".encode",
        "CompressionOptions": ".options",
        "Feedback": ".feedback",
        "FileReport": ".files",
        "Incomplete": ".assembler",
        "RestoreOptions": ".options",
        "Restored": ".decode",
        "SparsePatch": ".patch",
        "TensorAssembler": ".assembler",
        "TensorPart": ".assembler",
        "Whole": ".assembler",
        "codebook_bytes": ".codebook",
        "compress": ".encode",
        "compress_file": ".files",
        "compress_tensors": ".archive",
        "influence_by_dropout": ".influence",
        "learn_basis": ".basis",
        "read_codebook": ".codebook",
        "restore": ".decode",
        "restore_file": ".files",
        "restore_tensors": ".archive",
        "sparse_patch": ".patch",
        "train_codebook": ".training",
    },
)
