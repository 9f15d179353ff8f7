"""`qstream compression`: files in and out, tables and JSON, and what wrong usage gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qstream.cli.compression.pack import bound_of
from qstream.cli.main import app
from qstream.errors import ConfigError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two weights and a bias."""
    rng, path = np.random.default_rng(1), tmp_path / "model.npz"
    np.savez(path, w0=rng.standard_normal((64, 128)).astype(np.float32), w1=rng.standard_normal((64, 64)), b=np.ones(64))
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["compression", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_file_is_packed_inspected_and_given_back(model: Path, tmp_path: Path) -> None:
    said = run("pack", model, "--level", "small", "--side-file", tmp_path / "ops.json")
    assert "identical" in said
    assert "3 tensors: file" in said
    assert json.loads((tmp_path / "ops.json").read_text())[0]["ops"][0]["op"] == "split_float"
    assert "split_float" in run("inspect", f"{model}.qsz")
    assert "identical to the file that was packed" in run("unpack", f"{model}.qsz", "--out", tmp_path / "back.npz")
    assert (tmp_path / "back.npz").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("mode", ["lossless", "int8"])
def test_the_size_of_a_deflated_file_is_its_own(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deflated.npz"
    np.savez_compressed(path, w=np.random.default_rng(4).standard_normal((64, 128)).astype(np.float32))
    run("pack", path, "--mode", mode)
    said = run("inspect", f"{path}.qsz")
    assert f"1 tensor of a file (npz) of {path.stat().st_size:,} bytes, 33,0" in said
    assert "bytes without deflate" in said


def test_bounded_packing_is_compared_with_its_peers(model: Path) -> None:
    found = json.loads(run("pack", model, "--mode", "bounded", "--bound", "0.05rms", "--compare", "--json"))
    weight = next(row for row in found["tensors"] if row["name"] == "w0")
    assert weight["error_over_bound"] <= 1
    assert weight["bits"] < found["compared"]["w0"]["int8 row"]["bits"]
    assert found["ratio"] == pytest.approx(found["file_bytes"] / found["archive_bytes"])
    assert json.loads(run("inspect", f"{model}.qsz", "--json"))["file"]["format"] == "npz"


def test_a_delta_names_its_base(model: Path, tmp_path: Path) -> None:
    run("pack", model, "--mode", "delta", "--base", model, "-o", tmp_path / "d.qsz")
    assert "identical to" in run("unpack", tmp_path / "d.qsz", "--base", model, "-o", tmp_path / "same.npz")


def test_a_codebook_of_past_tensors_packs_later_ones_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    mixing = rng.standard_normal((32, 32)) * 0.7 ** np.arange(32)[:, None]
    days = [(rng.standard_normal((500, 32)) @ mixing).astype(np.float32) for _ in range(3)]
    for n, rows in enumerate(days):
        np.savez(tmp_path / f"{n}.npz", keys=rows)
    run("train", tmp_path / "0.npz", tmp_path / "1.npz", "--role", "kv_cache", "-o", tmp_path / "book")
    np.savez(tmp_path / "more.npz", keys=days[0], bias=np.ones(9))
    assert "left out: bias: fewer than 2 rows a column" in run("train", tmp_path / "more.npz", "-o", tmp_path / "more")
    small = ("pack", tmp_path / "2.npz", "--mode", "bounded", "--bound", "0.03l2", "--json")
    alone = json.loads(run(*small))
    found = json.loads(run(*small, "--codebook", tmp_path / "book"))
    assert found["archive_bytes"] < 0.8 * alone["archive_bytes"]
    run("unpack", tmp_path / "2.npz.qsz", "--codebook", tmp_path / "book", "-o", tmp_path / "back.npz")
    back = np.load(tmp_path / "back.npz")["keys"]
    assert np.linalg.norm(back - days[2]) <= 0.03 * np.linalg.norm(days[2])
    done = CliRunner().invoke(app, ["compression", "unpack", str(tmp_path / "2.npz.qsz"), "-o", str(tmp_path / "x")])
    assert (done.exit_code, "must be given by itself or in a codebook, of digest" in done.output) == (1, True), done.output


def test_circuits_check_what_is_restored(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    np.save(tmp_path / "g.npy", (rng.standard_normal((64, 3)) @ rng.standard_normal((3, 64))).astype(np.float32))
    run("pack", tmp_path / "g.npy", "--mode", "gradient")
    said = run("unpack", tmp_path / "g.npy.qsz", "--qsvt", "--qft", "-o", tmp_path / "back.npy")
    assert "qsvt within" in said
    assert "(simulated-gates), qft not_needed" in said


def test_exports_are_files_for_engines(model: Path, tmp_path: Path) -> None:
    found = json.loads(run("pack", model, "--export", "vllm-patch", "--base", model, "-o", tmp_path / "p", "--json"))
    assert found["changed"] == 0
    np.savez(tmp_path / "named.npz", **{"up.weight": np.load(model)["w0"]})
    said = run("pack", tmp_path / "named.npz", "--export", "compressed-tensors", "-o", tmp_path / "q")
    assert "1 matrix as int8" in said
    assert "quantization_config" in said
    done = CliRunner().invoke(
        app, ["compression", "pack", str(model), "--export", "compressed-tensors", "-o", str(tmp_path / "x")]
    )
    assert (done.exit_code, "names end in .weight" in done.output) == (2, True), done.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "delta"], "--base must be given with --mode delta"),
        (["--export", "gguf"], "--export must be one of vllm-patch"),
        (["--export", "vllm-patch"], "--base must be given"),
        (["--bound", "5"], "--bound must be a number above 0 and one of rms"),
        (["--mode", "rate", "--bound", "0.1rms"], "--mode must be bounded with --bound, got 'rate'"),
        (["--bits", "3"], "--mode must be rate or gradient with --bits, got 'lossless'"),
        (["--mode", "tiny"], "option mode must be 'lossless'"),
        *(
            (
                ["--mode", "bounded", "--bound", bound],
                f"--bound must be a number above 0 and one of rms, abs, range, point and l2, such as 0.05rms, got '{bound}'",
            )
            for bound in ("0", "0abs", "nan", "nanrms", "-1rms", "infl2", "1e999rms")
        ),
        (
            ["--mode", "bounded", "--bound", "0.1rms", "--codebook", __file__],
            "--mode must be rate, gradient, int8, or bounded with l2",
        ),
        (["--export", "compressed-tensors", "--level", "small"], "--level must be absent with --export, which does not use it"),
        (["--export", "compressed-tensors", "--compare"], "--compare must be absent with --export, which does not use it"),
    ],
)
def test_wrong_usage_ends_with_two_and_one_line(model: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["compression", "pack", str(model), *arguments])
    assert (done.exit_code, said in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    "words",
    [
        "compression pack {none}",
        "compression pack {none} --export compressed-tensors",
        "compression pack {here} --mode delta --base {none}",
        "compression pack {here} --mode rate --codebook {none}",
        "compression pack {here} --out {none}/x",
        "compression unpack {none}",
        "compression unpack {here} --base {none}",
        "compression unpack {here} --codebook {none}",
        "compression inspect {none}",
        "compression train {here} {none} --out x",
        "compression collect m --out x --base {none}",
        "publish {none} --tensors --model m --step 1",
    ],
)
def test_a_path_that_does_not_lead_to_a_file_is_named(model: Path, tmp_path: Path, words: str) -> None:
    none = str(tmp_path / "none")
    done = CliRunner().invoke(app, words.format(none=none, here=model).split())
    assert (done.exit_code, "Errno" in done.output) == (2, False), done.output
    assert "must be a file" in done.output
    assert f"got '{none}" in done.output


def test_a_file_that_cannot_be_written_is_named_as_its_user_knows_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(app, ["compression", "pack", str(model), "--out", str(tmp_path / "folder")])
    assert (done.exit_code, f"'{tmp_path / 'folder'}'" in done.output) == (1, True), done.output


def test_what_training_does_not_use_is_refused(model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compression", "train", str(model), "--out", str(tmp_path / "b"), "--bits", "2"])
    assert (done.exit_code, "--bits must be absent with --what basis" in done.output) == (2, True), done.output


def test_bounds_are_numbers_with_a_kind() -> None:
    assert bound_of("1e-3range") == (0.001, "range")
    with pytest.raises(ConfigError, match="--bound must be"):
        bound_of("1.2.3rms")
