"""The public face: what a user imports exists, and importing a package loads nothing that its user may not need."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = (
    "qstream",
    "qstream.energy",
    "qstream.energy.formats",
    "qstream.node",
    "qstream.quantum",
    "qstream.routing",
    "qstream.testing",
    "schemas",
)
TAUGHT = {
    "qstream": {"Exchange", "Publisher", "PlanSubscriber", "solve"},
    "qstream.energy": {
        "EnergyOptions",
        "Sweep",
        "TaskWindow",
        "allocate",
        "best_cap",
        "default_prior",
        "fit_prior",
        "forecast_series",
        "next_cap",
        "plan_active",
        "plan_energy",
        "schedule",
        "select_nodes",
    },
    "qstream.energy.formats": {"read_telemetry"},
    "qstream.node": {"Actuator", "FakeNvml"},
    "qstream.routing": {
        "PlaceOptions",
        "PrefixRouter",
        "RoutingOptions",
        "dispatch_shares",
        "place",
        "rebalance_experts",
        "route_requests",
        "route_tokens",
    },
    "qstream.testing": {"Feed", "check_agent", "check_frame", "check_processor"},
}
HEAVY = {"agents", "confluent_kafka", "faust", "numba", "numpy", "pandas", "pydantic", "redis", "scipy", "torch"}
_LOADED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_the_names_that_it_lists(package):
    module = importlib.import_module(package)
    assert {name for name in module.__all__ if getattr(module, name) is None} == set()
    assert set(module.__all__) <= set(dir(module))
    assert [name for name in module.__all__ if name.startswith("_")] == []


@pytest.mark.parametrize(("package", "names"), TAUGHT.items())
def test_a_package_lists_the_names_that_are_taught(package, names):
    assert names <= set(importlib.import_module(package).__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_a_module_next_to_it(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if importlib.util.find_spec(f"{package}.{name}")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error_that_names_it(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_library(package):
    done = subprocess.run([sys.executable, "-c", _LOADED, package], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in json.loads(done.stdout)} & HEAVY == set()


def test_the_client_loads_what_producers_have_and_nothing_of_the_agents():
    code = _LOADED.replace("; print", "; import qstream; qstream.Publisher; qstream.PlanSubscriber; qstream.Exchange; print")
    done = subprocess.run([sys.executable, "-c", code, "schemas.topics"], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert {"confluent_kafka", "numpy", "pydantic", "safetensors"} <= loaded
    assert loaded & (HEAVY | {"prometheus_client", "pydantic_settings"}) == {"confluent_kafka", "numpy", "pydantic"}


def test_no_module_imports_a_private_name_of_another():
    root = Path(__file__).parents[2]
    private = re.compile(r"^\s*from (?:agents|qstream|schemas)[\w.]* import .*\b_[a-z]\w*", re.MULTILINE)
    sources = [path for folder in ("agents", "qstream", "schemas") for path in (root / folder).rglob("*.py")]
    assert {path: found for path in sources if (found := private.findall(path.read_text()))} == {}


def test_a_public_function_stays_a_function_after_its_module_was_imported():
    importlib.import_module("qstream.routing.placement")
    routing = importlib.import_module("qstream.routing")
    assert callable(routing.place)
    assert routing.place is importlib.import_module("qstream.routing.placement").place
