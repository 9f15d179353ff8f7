"""compression train --publish: a codebook on its topic, as the agents take it."""

from __future__ import annotations

import numpy as np

from qstream.compression.books import codebook_of, read_books
from qstream.config import load_settings
from qstream.stream.read import frame_of, read_all
from schemas.tensors import TensorCodebook
from schemas.topics import TENSOR_CODEBOOK


def test_a_trained_basis_is_published_under_the_ids_of_the_model_s_tensors(cluster, invoke, tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "day.npz", keys=rng.standard_normal((64, 8)).astype(np.float32))
    words = ("compression", "train", tmp_path / "day.npz", "--out", tmp_path / "book", "--publish", "-b", cluster)
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "--model must be given with --publish" in refused.output
    done = invoke(*words, "--model", "my-moe")
    assert done.exit_code == 0, done.output
    assert "published: my-moe/keys" in done.output
    found = {}
    for message in read_all(load_settings(bootstrap_servers=cluster), TENSOR_CODEBOOK.name):
        row = frame_of(message, TensorCodebook)
        found[row.tensor_id] = row
    assert found["my-moe/keys"].kind == "basis"
    book = codebook_of(read_books(found, {}), "my-moe/keys")
    assert book is not None
    basis = book.for_tensor("my-moe/keys", 8)
    assert basis is not None
    assert basis.digest == found["my-moe/keys"].digest
