"""`qstream nvlink rails`: matrices and jobs, next to what NCCL does; pieces as CSV; and what wrong input gets."""

from __future__ import annotations

import csv

import numpy as np
import pytest


@pytest.fixture
def matrix():
    """Skewed bytes between 32 ranks."""
    sent = np.random.default_rng(0).lognormal(0, 1.5, (32, 32)) * 1e6
    np.fill_diagonal(sent, 0)
    return np.rint(sent)


def test_ours_is_at_the_bound_where_the_receivers_rail_is_far_above(printed, tmp_path, matrix):
    np.save(tmp_path / "m.npy", matrix)
    data = printed("rails", tmp_path / "m.npy")
    found = {row["name"]: row for row in data["rails"]}
    assert data["modelled"]
    assert found["qstream"]["over_bound"] <= 1.0011
    assert found["PXN, the receiver's"]["over_bound"] > 1.5
    assert found["even split"]["over_bound"] == pytest.approx(1)
    assert found["even split"]["relayed_bytes"] > 1.5 * found["qstream"]["relayed_bytes"]
    within = sum(matrix[at : at + 8, at : at + 8].sum() for at in range(0, 32, 8))
    assert data["bytes_within_servers"] == pytest.approx(within)
    assert sum(piece["bytes"] for piece in data["pieces"]) == pytest.approx(matrix.sum() - within)


def test_a_matrix_is_the_same_as_npy_npz_csv_and_pairs(printed, tmp_path, matrix):
    np.save(tmp_path / "m.npy", matrix)
    np.savez(tmp_path / "m.npz", bytes=matrix.reshape(4, 8, 4, 8))
    np.savetxt(tmp_path / "m.csv", matrix, delimiter=",", fmt="%.0f")
    pairs = "\n".join(f"{a},{b},{matrix[a, b]:.0f}" for a, b in zip(*np.nonzero(matrix), strict=True))
    (tmp_path / "pairs.csv").write_text(f"src,dst,bytes\n{pairs}\n")
    found = [printed("rails", tmp_path / name)["rails"] for name in ("m.npy", "m.npz", "m.csv", "pairs.csv")]
    assert all(other == found[0] for other in found)


def test_pieces_go_to_a_file(invoke, tmp_path, matrix):
    np.save(tmp_path / "m.npy", matrix)
    result = invoke("rails", tmp_path / "m.npy", "--out", tmp_path / "pieces.csv")
    assert result.exit_code == 0, result.output
    assert "PXN" in result.stdout
    assert "modelled" in result.stdout
    rows = list(csv.DictReader((tmp_path / "pieces.csv").read_text().splitlines()))
    assert rows[0].keys() == {"src", "dst", "rail", "bytes"}
    assert {row["src"][:2] for row in rows} == {"h0", "h1", "h2", "h3"}


def test_a_job_on_a_fabric_has_its_speeds_and_names(printed):
    data = printed("rails", "--tp", 4, "--dp", 8, "--ep", 32, "--topology", "hgx-h100:4")
    assert (data["servers"], data["gpus_per_server"]) == (4, 8)
    assert data["nic_gb_s"] == pytest.approx(50)
    assert data["pieces"][0]["src"].startswith("r0h")
    assert data["rails"][0]["over_bound"] <= 1.0011


def test_one_box_has_nothing_to_balance_and_says_why(invoke, printed):
    assert printed("rails", "--tp", 8, "--topology", "hgx-h100")["skip_reason"] == "single tier, nothing blocks"
    result = invoke("rails", "--tp", 8)
    assert result.exit_code == 0
    assert "nothing goes between servers" in result.stdout


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("1,2\n3,x\n", (), "rows"),
        ("1,2,3\n4,5,6\n", (), "square"),
        ("0,-1\n1,0\n", ("--gpus-per-host", 1), "at least 0"),
        ("0,1,1\n1,0,1\n1,1,0\n", ("--gpus-per-host", 2), "--gpus-per-host"),
    ],
)
def test_wrong_matrices_are_named(invoke, tmp_path, text, words, message):
    (tmp_path / "m.csv").write_text(text)
    result = invoke("rails", tmp_path / "m.csv", *words)
    assert result.exit_code != 0
    assert message in result.output


def test_an_output_does_not_overwrite_its_input(invoke, tmp_path, matrix):
    np.save(tmp_path / "m.npy", matrix)
    assert invoke("rails", tmp_path / "m.npy", "--out", tmp_path / "m.npy").exit_code != 0
    assert np.load(tmp_path / "m.npy").shape == (32, 32)
