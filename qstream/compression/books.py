"""Books: the codebooks of a topic by the tensor that each was trained for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from qstream.compression.codebook import Codebook, codebook_bytes, read_codebook
from qstream.errors import BlockError
from schemas.frame import Frame
from schemas.tensors import TensorCodebook

log = logging.getLogger(__name__)


class Book(NamedTuple):
    """A row of the topic, and what it holds under the name of its tensor."""

    row: TensorCodebook
    codebook: Codebook


Books = Mapping[str, Book]
NO_BOOKS: Final[Books] = MappingProxyType({})


def read_books(rows: Mapping[str, Frame], before: Books) -> Books:
    """The codebooks of the rows; one of `before` is not read again, and one that cannot be read is logged and left out."""
    found: dict[str, Book] = {}
    for tensor_id, row in rows.items():
        held = before.get(tensor_id)
        if held is not None and held.row is row:
            found[tensor_id] = held
        elif isinstance(row, TensorCodebook):
            try:
                found[tensor_id] = Book(row, _of_one(tensor_id, read_codebook(row.data)))
            except BlockError as exc:
                log.warning("the codebook of %r is not used: %s", tensor_id, exc)
    return found


def codebook_of(books: Books, tensor_id: str) -> Codebook | None:
    """The codebook of a tensor."""
    found = books.get(tensor_id)
    return None if found is None else found.codebook


def rows_of_topic(codebook: Codebook, model: str, ts_ns: int) -> list[TensorCodebook]:
    """What agents take: a row for each tensor, under the id that blocks of `model` have."""
    bases = [(name, "basis", basis.digest, Codebook({name: basis}, codebook.role)) for name, basis in codebook.bases.items()]
    nets = [(name, net.kind, net.digest, Codebook({}, codebook.role, {name: net})) for name, net in codebook.nets.items()]
    return [
        TensorCodebook.build(
            tensor_id=f"{model}/{name}",
            model=model,
            ts_ns=ts_ns,
            kind=kind,
            digest=digest,
            data=np.frombuffer(codebook_bytes(book), np.uint8),
        )
        for name, kind, digest, book in (*bases, *nets)
    ]


def _of_one(tensor_id: str, book: Codebook) -> Codebook:
    """The same book, its only basis and net under the name of the tensor, whatever their names were when they were trained."""
    bases = {tensor_id: next(iter(book.bases.values()))} if len(book.bases) == 1 else book.bases
    nets = {tensor_id: next(iter(book.nets.values()))} if len(book.nets) == 1 else book.nets
    return Codebook(bases, book.role, nets)
