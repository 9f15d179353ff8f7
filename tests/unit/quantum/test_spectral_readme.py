"""The tutorial of the spectral methods tells the truth: its examples run and print what it shows."""

from __future__ import annotations

import doctest
from pathlib import Path

README = Path(__file__).parents[3] / "qstream/quantum/spectral/README.md"


def test_every_example_prints_what_is_written():
    text = README.read_text().replace("```", "")
    example = doctest.DocTestParser().get_doctest(text, {}, README.name, str(README), 0)
    assert len(example.examples) > 20
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert outcome.failed == 0


def test_every_file_is_in_the_table():
    table = README.read_text()
    files = [file.name for file in README.parent.glob("*.py") if file.name != "__init__.py"]
    assert [name for name in files if f"`{name}`" not in table] == []
