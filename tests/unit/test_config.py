"""Settings: defaults < file < environment < command line; every fault names the setting, the value and what is allowed."""

from __future__ import annotations

import json
import os
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from qstream.config import OTHER_VARIABLES, PREFIX, SECRET_SETTINGS, Settings, load_settings
from qstream.errors import ConfigError
from qstream.state.connection import Connection
from qstream.stream.membership import consumer_config
from qstream.stream.producers import producer_config

ROOT = Path(__file__).parents[2]
secrets = st.text("ABCDEFGHabcdefgh0123456789#/@:?[]%$&=+ ", min_size=8, max_size=20).filter(lambda text: len(set(text)) > 5)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_the_default_needs_no_server():
    settings = load_settings()
    servers = (settings.bootstrap_servers, settings.redis_url.get_secret_value())
    assert (*servers, settings.delivery) == ("embedded", "embedded", "at_least_once")


def test_a_file_beats_defaults_the_environment_beats_the_file_and_arguments_beat_all(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text('port = 1\ngroup_prefix = "file"\ndrain_s = 3.0\n[kafka]\n"security.protocol" = "SSL"\n')
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    monkeypatch.setenv("QSTREAM_PORT", "2")
    monkeypatch.setenv("QSTREAM_GROUP_PREFIX", "environment")
    settings = load_settings(port=3)
    assert (settings.port, settings.group_prefix, settings.drain_s) == (3, "environment", 3.0)
    assert settings.kafka_properties() == {"security.protocol": "SSL"}


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
    assert load_settings().kafka_properties() == {"sasl.mechanism": "PLAIN"}


def test_tables_of_all_sources_are_joined_name_by_name(tmp_path, monkeypatch):
    file = tmp_path / "qstream.toml"
    file.write_text('[kafka]\n"security.protocol" = "SSL"\n"linger.ms" = "1"\n')
    monkeypatch.setenv("QSTREAM_CONFIG", str(file))
    monkeypatch.setenv("QSTREAM_KAFKA", '{"linger.ms": "2", "client.rack": "a"}')
    kafka = load_settings(kafka={"client.rack": "b"}).kafka_properties()
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


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        *((name, "promises") for name in ("acks", "request.required.acks", "enable.auto.commit", "isolation.level")),
        *((name, "promises") for name in ("enable.idempotence", "partitioner", "auto.offset.reset", "enable.auto.offset.store")),
        *((name, "promises") for name in ("enable.partition.eof", "delivery.report.only.error", "plugin.library.paths", "")),
        ("group.id", "set group_prefix instead"),
        ("bootstrap.servers", "set bootstrap_servers instead"),
        ("transactional.id", "set delivery instead"),
    ],
)
def test_a_property_on_which_promises_rest_is_refused_by_name_with_what_may_be_set(name, instead, monkeypatch):
    monkeypatch.setenv("QSTREAM_KAFKA", json.dumps({"sasl.password": "S3cret", name: "S3cret"}))
    with pytest.raises(ConfigError) as failure:
        load_settings()
    said = str(failure.value)
    assert said.startswith(f"kafka.{name} cannot be set: ")
    assert instead in said
    assert "sasl.*, ssl.*" in said
    assert "S3cret" not in said


def test_nothing_that_may_be_set_changes_what_workers_decide():
    settings = Settings(worker_id="w", static_membership=True)
    for config in (consumer_config(settings, "g"), producer_config(settings)):
        decided = [name for name in config if not name.startswith(("fetch.", "queued.", "reconnect.", "topic.metadata."))]
        decided = [name for name in decided if name not in ("linger.ms", "compression.type", "message.max.bytes")]
        assert len(decided) > 5
        for name in decided:
            with pytest.raises(ConfigError, match=f"kafka.{name} cannot be set"):
                load_settings(kafka={name: "1"})


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


def test_the_settings_that_are_never_shown_are_those_with_a_secret_type():
    assert {
        name for name, field in Settings.model_fields.items() if SecretStr.__name__ in str(field.annotation)
    } == SECRET_SETTINGS


def everything_told(**given):
    """All that a caller could print of settings, or of their refusal."""
    try:
        settings = load_settings(**given)
    except ConfigError as exc:
        return "".join(traceback.format_exception(exc))
    return f"{settings!r}{settings!s}{settings.kafka}{settings.model_dump()}{settings.model_dump_json()}"


@given(secret=secrets)
@example(secret="S3cret#x")
def test_no_message_repr_or_dump_of_settings_holds_a_secret(secret):
    shapes = [{"sasl.password": secret}, {"sasl.pasword": [secret]}, {"a": {"b": secret}}, [["sasl.password", secret]], secret]
    for kafka in shapes:
        assert secret not in everything_told(kafka=kafka)
    for url in (f"redis://:{secret}@host/0", secret, [secret], {"url": secret}):
        assert secret not in everything_told(redis_url=url)


@given(secret=secrets)
@example(secret="90210778341")
def test_no_message_about_the_environment_or_the_file_holds_a_secret(secret, tmp_path_factory):
    texts = [
        json.dumps({"sasl.password": secret}),
        json.dumps(secret),
        json.dumps([secret]),
        f'{{"sasl.password": "{secret}"',
        secret,
    ]
    texts += [f'{{"sasl.password": {secret}}}']
    file = tmp_path_factory.mktemp("settings") / "qstream.toml"
    file.write_text(f"kafka = {{\"sasl.password\" = '{secret}'\n")
    sources = [("QSTREAM_KAFKA", text) for text in texts]
    sources += [("QSTREAM_KAFAK", secret), ("QSTREAM_SASL_PASSWORD", secret), ("QSTREAM_CONFIG", str(file))]
    for variable, text in sources:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, text)
            assert secret not in everything_told()


def redis_told(url):
    """What a wrong URL is answered with."""
    try:
        Connection(url, "m", 100)
    except ConfigError as exc:
        return "".join(traceback.format_exception(exc))
    return ""


@given(secret=secrets)
@example(secret="S3cret[x")
def test_no_message_about_a_redis_url_holds_a_secret(secret):
    for form in ("redis://:{}@h/0", "redis://a:{}@h:1x/0", "http://a:{}@h/0", "redis://a:{}@h/0?nope=1", "redis://h:{}/0", "{}"):
        assert secret not in redis_told(form.format(secret))


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("QSTREAM_BOOTSTRAP_SERVER", "; the nearest is QSTREAM_BOOTSTRAP_SERVERS"),
        ("QSTREAM_REDIS", "; the nearest is QSTREAM_REDIS_URL"),
        ("QSTREAM_Z", ""),
    ],
)
def test_a_variable_that_nothing_reads_is_refused_with_the_nearest_one(variable, nearest, monkeypatch):
    monkeypatch.setenv(variable, "value")
    with pytest.raises(ConfigError, match=f"^{variable} is not a variable of qstream{nearest}$"):
        load_settings()


@pytest.mark.parametrize("variable", ["QSTREAM_ROUTING_SERVICE_HOST", "QSTREAM_ROUTING_PORT", "QSTREAM_UI_PORT_80_TCP_ADDR"])
def test_what_kubernetes_says_of_a_service_is_no_misspelt_setting(variable, monkeypatch):
    monkeypatch.setenv(variable, "tcp://10.0.0.1:80")
    assert load_settings() == load_settings()


def test_every_variable_that_the_project_names_is_known():
    texts = [path.read_text() for folder in ("qstream", "agents", "schemas") for path in (ROOT / folder).rglob("*.py")]
    texts += [path.read_text() for path in (ROOT / "docs/pages").rglob("*.md")]
    known = OTHER_VARIABLES | {PREFIX + name.upper() for name in Settings.model_fields}
    said = re.sub(r"QSTREAM_\w+ is not a variable of qstream", "", "".join(texts))  # a message that a page explains
    assert set(re.findall(r"\bQSTREAM_[A-Z_]+[A-Z]\b", said)) <= known
