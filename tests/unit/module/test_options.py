"""Options of any module: changed by name, refused by name, recommended by the first line of a table that fits."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from qstream.errors import OptionError
from qstream.module.options import ModuleOptions, PortfolioOptions, Range, Row


class CoolingOptions(ModuleOptions):
    module: ClassVar[str] = "cooling"
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {"gpus": Range(1), "goal": ("quiet", "cold")}
    recommendations: ClassVar[tuple[Row, ...]] = (
        Row({"goal": "quiet", "gpus": Range(1, 9)}, {"fans": 1}),
        Row({"goal": "quiet"}, {"fans": 2}),
        Row({}, {"fans": 8}),
    )

    fans: int = Field(default=4, ge=0, le=8)
    mode: str | None = Field(default=None, pattern="^[a-z]+$")
    pumps: bool = True
    flow: float = 0.5
    version: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"


def test_options_change_by_name_and_the_old_ones_stay_as_they_were():
    old = CoolingOptions()
    new = old.changed({"fans": "2", "mode": "auto", "pumps": "false"})
    assert (new.fans, new.mode, new.pumps) == (2, "auto", False)
    assert old == CoolingOptions()
    assert new.changed({"mode": "none"}).mode is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fan": 2}, r"^an option of cooling must be one of fans, mode, pumps, flow, version, got 'fan'$"),
        ({"version": -1}, r"^option version must be 'auto', or greater than or equal to 0, got -1$"),
        ({"fans": 9}, r"^option fans must be less than or equal to 8, got 9$"),
        ({"fans": True}, r"^option fans must be a number or text, not a boolean, got True$"),
        ({"fans": "none"}, r"^option fans must be a valid integer, .*, got 'none'$"),
        ({"flow": float("nan")}, r"^option flow must be a finite number, got nan$"),
        ({"fans": 1e308}, r"^option fans must be a smaller integer, got 1e\+308$"),
        ({"mode": "A"}, r"^option mode must be text that matches '\^\[a-z\]\+\$', got 'A'$"),
        ({"pumps": "perhaps"}, r"^option pumps must be a valid boolean, .*, got 'perhaps'$"),
    ],
    ids=str,
)
def test_what_an_option_must_not_be_is_said_by_name(given: dict[str, Any], said: str):
    with pytest.raises(OptionError, match=said):
        CoolingOptions().changed(given)
    with pytest.raises(OptionError, match=said):
        CoolingOptions(**given)


@pytest.mark.parametrize(
    ("gpus", "goal", "fans"), [(1, "quiet", 1), (8, "quiet", 1), (9, "quiet", 2), (1, "cold", 8), (10**6, "cold", 8)]
)
def test_the_first_line_that_fits_is_recommended(gpus: int, goal: str, fans: int):
    assert CoolingOptions.recommended(gpus=gpus, goal=goal).fans == fans


def test_a_situation_that_is_not_in_the_table_is_refused_by_name():
    with pytest.raises(OptionError, match=r"^gpus must be 1 or more, got 0$"):
        CoolingOptions.recommended(gpus=0, goal="cold")
    with pytest.raises(OptionError, match=r"^goal must be one of quiet, cold, got 'dry'$"):
        CoolingOptions.recommended(gpus=1, goal="dry")

    with pytest.raises(OptionError, match=r"^gpus must be 1 or more, got None$"):
        CoolingOptions.recommended(goal="cold")
    with pytest.raises(OptionError, match=r"^a situation of cooling must be one of gpus, goal, got 'fans'$"):
        CoolingOptions.recommended(gpus=1, fans=2)


def test_a_word_that_a_situation_leaves_out_is_the_first_one_allowed():
    assert CoolingOptions.recommended(gpus=1) == CoolingOptions.recommended(gpus=1, goal="quiet")


def test_a_portfolio_without_any_solver_is_refused():
    with pytest.raises(OptionError, match=r"^option deterministic must be true while qaoa and hqc are off"):
        PortfolioOptions(deterministic=False)
    with pytest.raises(OptionError, match=r"^option device must be none while qaoa is off"):
        PortfolioOptions(device="lightning.qubit")
    assert PortfolioOptions(deterministic=False, hqc=True).hqc


class DearOptions(CoolingOptions):
    """Cooling whose options cost."""

    rounds: int = Field(default=10, ge=1, le=1000, description="rounds of a plan")
    depth: int = Field(default=10, ge=1, le=1000, description="depth of a round")

    def work_ms(self) -> dict[str, float]:
        return {"rounds": 2.0 * self.rounds, "depth": float(self.rounds * self.depth)}


def test_options_that_together_cost_too_much_are_refused_by_the_one_that_most_of_it_comes_from():
    options = DearOptions(rounds=1000, depth=3)
    with pytest.raises(
        OptionError,
        match=r"option depth must be lower: a plan may take 5000 ms of a core, by estimate, got 4, which takes 4000 ms",
    ):
        options.changed({"depth": 4})
