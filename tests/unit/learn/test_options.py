"""Options of what learns: the switch, exploration, versions of models, and the recommended configurations."""

from pathlib import Path
from typing import ClassVar

import pytest

from qstream.errors import OptionError
from qstream.learn import bandit
from qstream.learn.options import RECOMMENDED
from qstream.module.options import ExploreOptions, LearnOptions, ModelChoice, PortfolioOptions

README = Path(__file__).parents[3] / "qstream" / "learn" / "README.md"


class MeterOptions(PortfolioOptions, ExploreOptions):
    module: ClassVar[str] = "meter"
    model_forecast: ModelChoice = "auto"


def test_a_module_learns_and_explores_little_unless_its_options_say_otherwise():
    options = MeterOptions()
    assert (options.learn, options.explore, options.model_forecast) == ("on", 0.02, "auto")
    assert "explore" not in LearnOptions.model_fields  # a module that draws nothing has no option that would do nothing


@pytest.mark.parametrize("version", ["auto", "none", 0, 1_700_000_000_000])
def test_a_model_is_chosen_by_the_guard_by_version_or_not_at_all(version: str | int):
    assert MeterOptions().changed({"model_forecast": version}).model_forecast == version


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learn": "maybe"}, r"^option learn must be 'off', 'shadow' or 'on', got 'maybe'$"),
        ({"learn": False}, r"^option learn must be a number or text, not a boolean, got False$"),
        ({"explore": 1.5}, r"^option explore must be less than or equal to 1, got 1.5$"),
        ({"model_forecast": -1}, r"^option model_forecast"),
        ({"model_forecast": "newest"}, r"^option model_forecast"),
        ({"model_other": "auto"}, r"^an option of meter must be one of .*, got 'model_other'$"),
    ],
    ids=str,
)
def test_an_option_that_is_wrong_is_refused_by_name(given: dict[str, object], said: str):
    with pytest.raises(OptionError, match=said):
        MeterOptions().changed(given)


@pytest.mark.parametrize("row", RECOMMENDED, ids=lambda row: row.situation)
def test_a_recommended_configuration_is_one_that_options_and_learners_take(row: object):
    assert row in RECOMMENDED
    _, learner, rule, options = row  # type: ignore[misc]
    changed = MeterOptions().changed(options)
    assert {name: getattr(changed, name) for name in options} == options
    assert (rule is None) == (learner != "bandit")
    if rule is not None:
        assert bandit.start(2, 1, rule=rule, floor=changed.explore).floor == options["explore"]


def test_the_recommended_configurations_are_in_the_readme():
    text = README.read_text()
    for row in RECOMMENDED:
        said = ", ".join(f"`{name}={value}`" for name, value in row.options.items())
        chosen = "any" if row.learner is None else f"`{row.learner}`" + (f" (`{row.rule}`)" if row.rule else "")
        assert f"| {row.situation} | {chosen} | {said} |" in text
