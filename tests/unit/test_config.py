"""Settings: defaults < file < environment < command line; every fault names the setting, the value and what is allowed."""

from __future__ import annotations

import pytest

from qstream.config import load_settings
from qstream.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("QSTREAM_CONFIG", "QSTREAM_PORT", "QSTREAM_KAFKA", "QSTREAM_OPTIONS", "QSTREAM_GROUP_PREFIX", "QSTREAM_DRAIN_S"):
        monkeypatch.delenv(name, raising=False)


def test_the_default_needs_no_server():
    settings = load_settings()
    assert (settings.bootstrap_servers, settings.redis_url, settings.delivery) == ("embedded", "embedded", "at_least_once")


def test_a_file_beats_defaults_the_environment_beats_the_file_and_arguments_beat_all(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text('port = 1\ngroup_prefix = "file"\ndrain_s = 3.0\n[kafka]\n"security.protocol" = "SSL"\n')
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    monkeypatch.setenv("QSTREAM_PORT", "2")
    monkeypatch.setenv("QSTREAM_GROUP_PREFIX", "environment")
    settings = load_settings(port=3)
    assert (settings.port, settings.group_prefix, settings.drain_s) == (3, "environment", 3.0)
    assert settings.kafka == {"security.protocol": "SSL"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch, encoding):
    (tmp_path / "qstream.toml").write_text("port = 1\n", encoding)
    monkeypatch.setenv("QSTREAM_CONFIG", str(tmp_path / "qstream.toml"))
    assert load_settings().port == 1


def test_an_argument_of_none_does_not_count(monkeypatch):
    monkeypatch.setenv("QSTREAM_PORT", "7000")
    assert load_settings(port=None).port == 7000


def test_nested_values_in_the_environment_are_json(monkeypatch):
    monkeypatch.setenv("QSTREAM_KAFKA", '{"sasl.mechanism": "PLAIN"}')
    assert load_settings().kafka == {"sasl.mechanism": "PLAIN"}


def test_tables_of_all_sources_are_joined_name_by_name(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text('[kafka]\n"security.protocol" = "SSL"\n"linger.ms" = "1"\n')
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    monkeypatch.setenv("QSTREAM_KAFKA", '{"linger.ms": "2", "client.rack": "a"}')
    kafka = load_settings(kafka={"client.rack": "b"}).kafka
    assert kafka == {"security.protocol": "SSL", "linger.ms": "2", "client.rack": "b"}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", 70_000, "65535"),
        ("delivery", "maybe", "exactly_once"),
        ("worker_id", "a b", "pattern"),
        ("max_batch_records", 0, "1"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name, value, allowed):
    with pytest.raises(ConfigError, match=rf"{name} must .*{allowed}.*, got {value!r}"):
        load_settings(**{name: value})


def test_an_unknown_setting_in_a_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text("prot = 6066\n")
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    with pytest.raises(ConfigError, match="prot is not a setting"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("QSTREAM_KAFKA", "{broken"), ("QSTREAM_OPTIONS", "placement=off"), ("QSTREAM_CONFIG", "/nowhere/qstream.toml")],
)
def test_unreadable_sources_are_refused_by_name(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} must be "):
        load_settings()


def test_a_file_that_is_no_toml_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text("port: 1\n")
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    with pytest.raises(ConfigError, match="QSTREAM_CONFIG must be the path of a TOML file, got"):
        load_settings()
