"""What workers are called: stable over a restart, and never two the same on one machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from qstream.cli.hpo.names import held_name
from qstream.errors import ConfigError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_worker_that_starts_again_has_its_name_again_and_others_have_another():
    with ExitStack() as first:
        assert first.enter_context(held_name("s", None, "host")) == "host"
        with held_name("s", None, "host") as second, held_name("s", None, "host") as third, held_name("t", None, "host") as other:
            assert (second, third, other) == ("host.2", "host.3", "host")
        first.close()
        with held_name("s", None, "host") as again:
            assert again == "host"


def test_a_name_that_another_worker_has_is_refused():
    with held_name("s", "gpu-0", "host"), pytest.raises(ConfigError, match="--name must be of one worker of s"):
        held_name("s", "gpu-0", "host").__enter__()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 181])
def test_a_name_that_no_record_could_hold_is_refused(name: str):
    with pytest.raises(ConfigError, match="--name must be 1 to 180"):
        held_name("s", name, "host").__enter__()
