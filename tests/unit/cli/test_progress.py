"""Progress: one line for a person who looks at it, and nothing in a file."""

from __future__ import annotations

import io

import pytest

from qstream.cli.progress import Progress


class Terminal(io.StringIO):
    """What is shown to a person."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (("sent", 2_000_000), "sent 1.0 MB of 2.0 MB"),
        (("suggestion", 3_000_000, "{:,}".format), "suggestion 1,000,000 of 3,000,000"),
    ],
)
def test_a_line_says_how_far_it_is_and_goes_at_the_end(progress: tuple, line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    found = Progress(*progress)
    found.add(1_000_000)
    assert shown.getvalue() == f"\r\x1b[K{line}"
    found.end()
    assert shown.getvalue().endswith("\r\x1b[K")


def test_nothing_is_written_where_nobody_looks(capsys: pytest.CaptureFixture[str]):
    found = Progress("sent")
    found.add(5)
    found.end()
    assert capsys.readouterr().err == ""
