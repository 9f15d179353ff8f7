"""Where a Java Kafka comes from: a Java, Maven's jars and a formatted data folder, cached by version."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from qstream.errors import ConfigError

# Newest first. 4.4.0 is the newest that runs on Java 17; the others are for a mirror that does not serve it.
VERSIONS: Final = ("4.4.0", "4.3.1", "4.2.2", "4.1.2", "4.0.2", "3.9.2")
OLDEST_JAVA: Final = 17
CACHE_SETTING: Final = "QSTREAM_KAFKA_CACHE"

# Small and quick to start rather than fast under load: 160 MB resident, a third of the default's start time.
JVM_FLAGS: Final = (
    *("-Xms96m", "-Xmx256m", "-Xss512k", "-XX:MaxMetaspaceSize=128m", "-XX:ReservedCodeCacheSize=48m"),
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
)

_MAVEN_S: Final = 600.0
_FORMAT_S: Final = 180.0
_FORMAT_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:9093
log.dirs={data}
"""


@dataclass(frozen=True, slots=True)
class KafkaHome:
    """A Kafka that can be started: ``java`` is a program, ``folder`` holds ``libs/`` and ``template/``."""

    java: str
    java_id: str
    folder: Path

    @property
    def class_path(self) -> str:
        """All jars, in a fixed order, as a class archive is valid for one order only."""
        return ":".join(str(jar) for jar in sorted((self.folder / "libs").glob("*.jar")))

    @property
    def template(self) -> Path:
        """A formatted data folder; its ``meta.properties`` must be written again for each node."""
        return self.folder / "template"

    @property
    def archive(self) -> Path:
        """Where this Java's class archive (AppCDS) is kept; an empty file says that it cannot make one."""
        return self.folder / f"broker-{self.java_id}.jsa"


def java_available() -> str | None:
    """Say why no Java Kafka can run here (no Java, one older than 17, neither Maven nor cached jars), or None."""
    java = _java()
    if java is None:
        return f"no java under JAVA_HOME or on PATH: Kafka needs Java {OLDEST_JAVA} or newer"
    major = re.search(r'version "(\d+)', _version_text(java))
    if major is None or int(major[1]) < OLDEST_JAVA:
        found = major[1] if major else "of unknown version"
        return f"{java} is Java {found}: Kafka needs Java {OLDEST_JAVA} or newer"
    if _cached() is None and shutil.which("mvn") is None:
        return f"no Kafka jars in {_cache()} and no mvn on PATH to fetch them"
    return None


def kafka_home() -> KafkaHome:
    """Find the newest cached Kafka, or fetch the newest that Maven serves; two runs may race.

    Raises
    ------
    ConfigError
        ``java_available()`` gives a reason, or Maven served none of the versions.
    """
    java = _java()
    if (reason := java_available()) is not None or java is None:
        raise ConfigError(f"no Java Kafka: {reason}")
    java_id = hashlib.sha256(_version_text(java).encode()).hexdigest()[:12]
    if (folder := _cached()) is None:
        _cache().mkdir(parents=True, exist_ok=True)
        with alone_in(_cache()):
            folder = _cached() or _fetch(java)
    return KafkaHome(java, java_id, folder)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder, so that of several one makes what is missing and the others find it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def resource_text(name: str) -> str:
    """Read a file that is shipped next to this module."""
    return (resources.files(__package__) / name).read_text("utf-8")


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")


@functools.cache
def _version_text(java: str) -> str:
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr


def _cache() -> Path:
    return Path(os.environ.get(CACHE_SETTING) or "~/.cache/qstream/kafka").expanduser().absolute()


def _cached() -> Path | None:
    return next((folder for version in VERSIONS if (folder := _cache() / version).is_dir()), None)


def _fetch(java: str) -> Path:
    """Build a version's folder under another name and rename it, so that it is there in full or not at all."""
    refusals = []
    for version in VERSIONS:
        with tempfile.TemporaryDirectory(prefix=f".{version}-", dir=_cache(), ignore_cleanup_errors=True) as part:
            home = KafkaHome(java, "", Path(part) / version)
            if (refusal := _copy_jars(home.folder / "libs", version)) is not None:
                refusals.append(f"{version}: {refusal}")
                continue
            _format(home)
            target = _cache() / version
            home.folder.rename(target)
            return target
    raise ConfigError("no Java Kafka: Maven served none of the versions\n" + "\n".join(refusals))


def _copy_jars(target: Path, version: str) -> str | None:
    """Let Maven fill ``target``; return the end of its output if it could not."""
    target.mkdir(parents=True)
    pom = target.parent / "pom.xml"
    pom.write_text(resource_text("kafka-pom.xml"))
    command = ["mvn", "-q", "-B", "-f", str(pom), f"-Dkafka.version={version}", "-DincludeScope=runtime"]
    command += [f"-DoutputDirectory={target}", "dependency:copy-dependencies"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAVEN_S)
    except subprocess.TimeoutExpired:
        return f"no answer in {_MAVEN_S:.0f} s"
    return (run.stdout + run.stderr).strip()[-500:] if run.returncode else None


def _format(home: KafkaHome) -> None:
    properties = home.folder / "format.properties"
    properties.write_text(_FORMAT_PROPERTIES.format(data=home.template))
    command = [home.java, *JVM_FLAGS, "-cp", home.class_path, "kafka.tools.StorageTool"]
    command += ["format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(properties)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FORMAT_S)
    if run.returncode:
        raise ConfigError(f"no Java Kafka: formatting a data folder failed\n{(run.stdout + run.stderr)[-2000:]}")
