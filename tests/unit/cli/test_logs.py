"""Decisions from files: each format gives the same log, and damage is counted or named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qstream.cli.learn.logs import read_log, write_log
from qstream.cli.learn.models import read_model
from qstream.errors import ConfigError, LearnError
from qstream.learn.logged import Logged, join
from qstream.learn.model import Model, to_bytes
from schemas.frame import JSON, FrameError
from schemas.learning import Decisions

FRAME = Decisions.example()


@pytest.fixture
def log() -> Logged:
    return join([FRAME, FRAME.model_copy(update={"decision_id": ('a "quoted",\nname',), "reward": np.array([1e-3], np.float32)})])


@pytest.mark.parametrize("to", ["dsjson", "csv", "parquet"])
def test_what_was_written_is_read_back(log: Logged, to: str, tmp_path: Path):
    file = tmp_path / f"log.{to}"
    write_log(log, to, file)
    found = read_log(str(file), "", None)
    assert (found.id, found.arm.tolist(), found.reward.tolist()) == (log.id, log.arm.tolist(), log.reward.tolist())
    assert np.array_equal(found.propensity, log.propensity)
    with pytest.raises(ConfigError, match="--learner must be left out for a"):
        read_log(str(file), "meter", None)


def test_damaged_lines_of_frames_are_counted_and_of_learners_one_must_be_named(tmp_path: Path):
    file, other = tmp_path / "log.jsonl", FRAME.model_copy(update={"learner": "other"})
    file.write_bytes(b"\n".join([FRAME.encode(JSON), b"torn {", FRAME.encode(JSON)[:-9], other.encode(JSON)]))
    found = read_log(str(file), "meter/other", None)
    assert (len(found.id), found.damaged) == (1, 2)
    assert "not JSON" in found.fault
    for given in ("", "meter", "meter/none"):
        with pytest.raises(ConfigError, match=r"--learner must be one of meter/choice\.bandit, meter/other, got"):
            read_log(str(file), given, None)
    file.write_bytes(b"torn {")
    with pytest.raises(FrameError, match="not JSON"):
        read_log(str(file), "", None)


def test_rows_of_a_csv_file_with_other_cells_than_its_header_are_counted(log: Logged, tmp_path: Path):
    file = tmp_path / "log.csv"
    write_log(log, "csv", file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"torn,1\r\n\r\n")
    found = read_log(str(file), "", None)
    assert (len(found.id), found.damaged, found.fault) == (2, 1, "row 4 must be of 9 cells, got 2")


@pytest.mark.parametrize(
    ("name", "body", "error", "named"),
    [
        ("a.txt", b"", ConfigError, "FILE must be a file that ends in .safetensors, .dsjson, .csv, .parquet or .jsonl"),
        ("a.csv", b"", ConfigError, "FILE must be a CSV file with a header"),
        ("a.csv", b"arm,reward\r\n", LearnError, "table must be with a column propensity_<arm>"),
        ("a.csv", b"\x00\xff\r\n", LearnError, "table must be with a column propensity_<arm>"),
        ("a.parquet", b"torn", ConfigError, "FILE must be a Parquet file that can be read"),
        ("a.safetensors", b"torn", FrameError, "not a safetensors file"),
        ("a.dsjson", b"", LearnError, "log must be of one decision or more"),
        ("a.jsonl", b"\n", LearnError, "log must be of one decision or more"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, body: bytes, error: type[Exception], named: str, tmp_path):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(error, match=named):
        read_log(str(tmp_path / name), "", None)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow: pip install 'qstream-optimizer\[parquet\]'"):
        read_log(str(tmp_path / "a.parquet"), "", None)


def test_a_model_comes_from_its_file_and_of_the_version_that_is_asked_for(tmp_path: Path):
    file, arrays = tmp_path / "m.safetensors", {"weight": np.ones((2, 1)), "bias": np.zeros(2)}
    file.write_bytes(to_bytes(Model(module="m", name="n", version=7, kind="ridge", arrays=arrays, feature_names=("one",))))
    assert read_model(str(file), None).version == read_model(f"{file}@7", None).version == 7
    for name, named in (
        (f"{file}@8", "version must be that of"),
        ("n", "model must be NAME@VERSION"),
        ("n@x", "model must be NAME"),
    ):
        with pytest.raises(ConfigError, match=named):
            read_model(name, None)
