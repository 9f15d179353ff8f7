"""deploy/compose: services name what exists, agents get settings that exist, and memory, ports and images are bounded."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from agents.names import files
from qstream.config import Settings
from tests.unit.deploy.folder import COMPOSE, DEPLOY, PROMETHEUS, ROOT, load


def docker_compose_works() -> bool:
    """Whether the docker command has the compose plugin; its `config` needs no engine."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0


def test_compose_publishes_on_the_loopback_address_only() -> None:
    services = load(COMPOSE)["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_bounds_the_memory_and_pins_the_image_of_every_service() -> None:
    for name, service in load(COMPOSE)["services"].items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])
        assert not image.endswith(":latest"), name
        assert ":" in image, name


def test_compose_refers_to_files_volumes_and_services_that_exist() -> None:
    document = load(COMPOSE)
    for service in document["services"].values():
        if build := service.get("build"):
            context = (COMPOSE.parent / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]).is_file()
        sources = [volume.split(":")[0] for volume in service.get("volumes", [])]
        for source in sources:
            assert source in document["volumes"] or (COMPOSE.parent / source).is_dir(), source
        assert service.get("depends_on", {}).keys() <= document["services"].keys()


def agent_services() -> dict[str, dict[str, Any]]:
    """The services that run agents, by the agent's name."""
    services = load(COMPOSE)["services"].values()
    return {service["command"][1]: service for service in services if service.get("command", [""])[0] == "run"}


def test_compose_runs_every_agent_and_creates_the_topics() -> None:
    missing = set(files()) - agent_services().keys()
    assert not missing, f"deploy/compose/compose.yaml lacks a service for {missing}"
    assert agent_services().keys() <= set(files())
    commands = [service["command"] for service in load(COMPOSE)["services"].values() if "build" in service]
    assert ["topics", "apply"] in [command[:2] for command in commands]
    assert all(len(command) == 2 or command[:2] == ["topics", "apply"] for command in commands)


def test_agents_get_settings_that_exist() -> None:
    for service in agent_services().values():
        names = {name.removeprefix("QSTREAM_").lower() for name in service["environment"]}
        assert names <= Settings.model_fields.keys()


def test_compose_bounds_the_states_of_agents_below_what_redis_and_their_containers_hold() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    agents = [services[name]["environment"] for name in files()]
    command = services["redis"]["command"]
    room = int(command[command.index("--maxmemory") + 1].removesuffix("mb")) << 20
    assert sum(int(agent["QSTREAM_MAX_STATE_BYTES"]) for agent in agents) <= room / 2
    assert all(int(agent["QSTREAM_MAX_CACHED_BYTES"]) <= (1 << 30) / 4 for agent in agents)
    assert all(services[name]["mem_limit"] == "1g" for name in files())


def test_prometheus_scrapes_every_agent_at_the_port_that_it_serves() -> None:
    job = next(job for job in load(PROMETHEUS / "prometheus.yml")["scrape_configs"] if job["job_name"] == "qstream")
    (scraped,) = job["dns_sd_configs"]
    for name, service in agent_services().items():
        assert set(scraped["names"]) <= set(service["networks"]["default"]["aliases"]), name
        port = int(service["environment"]["QSTREAM_PORT"])
        assert scraped["port"] == port
        assert f":{port}/healthz" in " ".join(service["healthcheck"]["test"])
        (published,) = service["ports"]
        assert re.fullmatch(rf"127\.0\.0\.1:\$\{{{name.upper()}_PORT:-\d+\}}:{port}", published), published


def test_the_example_of_env_shows_every_variable_with_its_default() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    lines = (COMPOSE.parent / ".env.example").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) == defaults
    shown = {line.removeprefix("# ").split("=")[0] for line in lines if "=" in line}
    passed_on = {name for service in agent_services().values() for name, value in service["environment"].items() if value is None}
    assert passed_on
    assert passed_on <= shown


def test_the_image_copies_only_what_the_build_context_holds() -> None:
    copied = [
        source
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.skipif(not docker_compose_works(), reason="docker compose is not installed")
def test_docker_compose_accepts_the_file() -> None:
    done = subprocess.run(["docker", "compose", "--file", COMPOSE, "config", "--quiet"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
