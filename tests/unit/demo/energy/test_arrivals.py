"""The bundled arrivals: real requests by second, of which the load of the modelled GPUs is made."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from qstream.demo.energy.arrivals import FILE, SERVED_S, Arrivals, bundled
from qstream.demo.energy.arrivals.make import by_second


def test_the_bundled_hour_has_all_requests_of_its_source_and_says_whose_they_are() -> None:
    arrivals = bundled()
    assert (arrivals.requests.sum(), arrivals.seconds) == (19_366, 3502)
    assert "CC BY 4.0" in FILE.with_name("README.md").read_text()


def test_load_is_what_is_served_over_the_highest() -> None:
    tokens = np.zeros(40, np.int64)
    tokens[[0, 20, 21]] = 10, 20, 20
    load = Arrivals(tokens, tokens).load()
    assert load[:SERVED_S] == pytest.approx(0.25)
    assert load[SERVED_S:20] == pytest.approx(0)
    assert load[21 : 20 + SERVED_S] == pytest.approx(1)


def test_requests_are_counted_by_the_second_from_the_first_one(tmp_path) -> None:
    file = tmp_path / "arrivals.csv.gz"
    rows = [("46.6805900", 44), ("47.6805800", 6), ("47.6806000", 5), ("49.9", 1)]
    lines = [f"2023-11-16 18:15:{second},374,{tokens}" for second, tokens in rows]
    file.write_bytes(gzip.compress("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]).encode()))
    requests, tokens = by_second(file)
    assert requests.tolist() == [2, 1, 0, 1]
    assert tokens.tolist() == [50, 5, 0, 1]
