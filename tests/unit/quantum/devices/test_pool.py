"""The pool's configuration names what is wrong; the breaker opens, waits and lets one probe decide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qstream.errors import ConfigError
from qstream.quantum.devices.breaker import Breaker
from qstream.quantum.devices.pool import DEFAULT_POOL, DeviceSpec, load_pool
from qstream.quantum.record import Refused
from schemas.solver import Reason


def test_a_pool_is_read_from_a_file_as_from_a_mapping(tmp_path: Path):
    data = {"devices": [{"name": "qpu", "pennylane": "vendor.qpu", "mode": "late", "breaker": {"failures": 5}}]}
    (tmp_path / "pool.json").write_text(json.dumps(data))
    pool = load_pool(tmp_path / "pool.json")
    assert pool == load_pool(data)
    assert pool.device("qpu").breaker.failures == 5


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (
            {"devices": [{"name": "a", "pennylane": "x", "slotz": 1}]},
            r"^pool: devices\.0\.slotz must be the name of a field, got 'slotz'$",
        ),
        (
            {"devices": [{"name": "a", "pennylane": "x", "slots": 0}]},
            r"^pool: devices\.0\.slots must be greater than or equal to 1, got 0$",
        ),
        ({"devices": [{"name": "a b", "pennylane": "x"}]}, r"^pool: devices\.0\.name must be text that matches .*, got 'a b'$"),
        (
            {"devices": [{"name": "a", "pennylane": "x", "mode": "fast"}]},
            r"^pool: devices\.0\.mode must be 'inline', 'slot' or 'late', got 'fast'$",
        ),
        (
            {"devices": [{"name": "a", "pennylane": "x", "kwargs": {"wires": 3}}]},
            r"^pool: devices\.0: kwargs must be without wires, shots and seed, which each circuit brings itself, got 'wires'$",
        ),
        ({"devices": [{"name": "a", "pennylane": "x", "breaker": {"failures": 0}}]}, "devices.0.breaker.failures"),
        ({"devices": [{"name": "a"}]}, r"^pool: devices\.0\.pennylane must be given, got nothing$"),
        ({"devices": [{"name": "a", "pennylane": "x"}] * 2}, r"^pool: names of devices must be distinct, got 'a' twice$"),
    ],
)
def test_a_wrong_field_is_named(data: dict[str, object], named: str):
    with pytest.raises(ConfigError, match=named):
        load_pool(data)


@pytest.mark.parametrize(("name", "text"), [("pool.json", "{"), ("pool.json", None), ("pool.toml", "[[devices]")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str | None):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"devices must be the path of a TOML or JSON file, got .*{name}"):
        load_pool(path)


def test_toml_and_json_make_the_same_pool(tmp_path: Path):
    (tmp_path / "pool.toml").write_text('[[devices]]\nname = "lab"\npennylane = "lightning.qubit"\n')
    (tmp_path / "pool.json").write_text('{"devices": [{"name": "lab", "pennylane": "lightning.qubit"}]}', "utf-8-sig")
    assert load_pool(tmp_path / "pool.toml") == load_pool(tmp_path / "pool.json")


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(Refused, match=r"lightning\.qubit") as refused:
        DEFAULT_POOL.device("nobody")
    assert refused.value.reason is Reason.UNAVAILABLE


@pytest.mark.parametrize(
    ("name", "simulator", "noise", "execution"),
    [
        ("lightning.qubit", None, None, "simulated-statevector"),
        ("default.mixed", None, 0.01, "simulated-noisy"),
        ("vendor.qpu", None, None, "device:x"),
        ("vendor.simulator", True, None, "simulated-statevector"),
    ],
)
def test_a_simulator_is_never_called_a_device(name: str, simulator: bool | None, noise: float | None, execution: str):
    assert DeviceSpec(name="x", pennylane=name, simulator=simulator).execution(noise) == execution


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_outside_the_window_do_not_open_it():
    clock = Clock()
    breaker = Breaker(failures=2, window_s=10, cooldown_s=5, clock=clock)
    breaker.failed()
    clock.now += 11
    breaker.failed()
    assert breaker.state == "closed"
    clock.now += 9
    breaker.failed()
    assert breaker.state == "open"


def test_one_probe_after_the_cooldown_decides():
    clock = Clock()
    breaker = Breaker(failures=1, window_s=10, cooldown_s=5, clock=clock)
    breaker.failed()
    clock.now += 4.9
    assert not breaker.take_probe()
    clock.now += 0.1
    assert [breaker.take_probe(), breaker.take_probe()] == [True, False]
    breaker.failed()
    assert (breaker.state, breaker.probe_at()) == ("open", clock.now + 5)
    clock.now += 5
    assert breaker.take_probe()
    breaker.succeeded()
    assert breaker.state == "closed"


def test_old_failures_are_forgotten_when_it_closes():
    clock = Clock()
    breaker = Breaker(failures=2, window_s=100, cooldown_s=1, clock=clock)
    breaker.failed()
    breaker.failed()
    clock.now += 1
    breaker.take_probe()
    breaker.succeeded()
    breaker.failed()
    assert breaker.state == "closed"
