"""`qstream learn models|publish|retire`: the trained models on the model topic."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, print_table
from qstream.config import Settings
from qstream.errors import ConfigError, LearnError
from qstream.learn.model import Model, assemble, from_bytes, parts
from qstream.stream.client import Publisher
from qstream.stream.read import frame_of, read_all
from schemas.frame import FrameError
from schemas.model import ModelPart
from schemas.topics import MODELS
from schemas.wording import Shown, must_be

Parts = dict[tuple[str, str, int], list[ModelPart]]


def models(
    module: Annotated[str | None, typer.Argument(metavar="[MODULE]", help="Only models of this module.")] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """List the trained models, the newest first.

    The loss of each stands next to that of its twin.

    \b
    Example:
      qstream learn models
      qstream learn models meter --json
    """
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [MODELS])
    found = known_parts(settings)
    facts = [_facts(key, found[key]) for key in sorted(found, key=lambda key: (key[0], key[1], -key[2]))]
    shown = [fact for fact in facts if module in (None, fact["module"])]
    if as_json:
        print_json(shown)
        return
    if not shown:
        typer.echo(f"no models on {MODELS.name}" + (f" of {module}" if module else ""))
        return
    columns = ("module", "name", "version", "state", "kind", "bytes", "loss", "loss_twin", "trained_on")
    print_table(columns, [[fact[column] for column in columns] for fact in shown])


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model that qstream learn train has written.")],
    force: Annotated[bool, typer.Option("--force", help="Also one that does not beat its twin.")] = False,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Publish a model to all workers of its module.

    Each key of the module watches it before it lets it answer.

    \b
    Example:
      qstream learn publish forecast.safetensors
    """
    model = model_of_file(file)
    require_gain(model, force)
    send(client_settings(bootstrap_servers), model)


def retire(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model, with its module: meter/forecast.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")],
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Retire a version of a model for all keys.

    The incumbent answers, and the newest version that is left is watched.

    \b
    Example:
      qstream learn retire meter/forecast 1700000000000
    """
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [MODELS])
    found = known_parts(settings)
    key = _one_of(found, name, version)
    if all(part.retired for part in found[key]):
        typer.echo(f"{'/'.join(key[:2])} {version} is retired already")
        return
    with Publisher(settings.bootstrap_servers, "qstream/learn", settings) as publisher:
        for part in found[key]:
            fields = {field: getattr(part, field) for field in ModelPart.model_fields}
            publisher.publish(MODELS, ModelPart.build(**fields | {"retired": True, "data": np.zeros(0, np.uint8)}))
    typer.echo(f"retired {'/'.join(key[:2])} {version}")


def read_model(name: str, bootstrap_servers: str | None) -> Model:
    """The model that NAME@VERSION names on the model topic, or a file that `learn train` has written, with or without a version.

    Raises
    ------
    ConfigError
        There is none, or it is retired or not whole.
    """
    known, _, number = name.rpartition("@") if "@" in name else (name, "", "")
    if known.endswith(".safetensors"):
        model = model_of_file(Path(known))
        if number and number != str(model.version):
            raise ConfigError(must_be("version", f"that of {known}, {model.version}", number))
        return model
    if not number.isdecimal():
        raise ConfigError(must_be("model", "NAME@VERSION or a .safetensors file", name))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [MODELS])
    found = known_parts(settings)
    try:
        return assemble(found[_one_of(found, known, int(number))])
    except LearnError as exc:
        raise ConfigError(f"model {name}: {exc}") from exc


def model_of_file(file: Path, argument: str = "FILE") -> Model:
    """The model in a file; `ConfigError` names the argument, the file, and what is wrong with it."""
    try:
        return from_bytes(file.read_bytes())
    except OSError as exc:
        raise ConfigError(must_be(argument, f"a file that can be read ({exc.strerror})", str(file))) from exc
    except LearnError as exc:
        raise ConfigError(must_be(argument, f"what qstream learn train has written ({exc})", str(file))) from exc


def _one_of(found: Parts, name: str, version: int) -> tuple[str, str, int]:
    """The key of a version whose name is given with or without its module."""
    wanted = [key for key in found if key[2] == version and name in (key[1], f"{key[0]}/{key[1]}")]
    if len(wanted) != 1:
        known = ", ".join(f"{module}/{known} {number}" for module, known, number in sorted(found)) or "there are none"
        raise ConfigError(must_be("NAME VERSION", f"one of the models ({known})", Shown(f"{name} {version}")))
    return wanted[0]


def require_gain(model: Model, force: bool) -> None:
    """`ConfigError` unless the model beats its twin on held-out data, or that was forced."""
    gain = model.metrics.get("gain_low")
    if not force and not (gain is not None and gain > 0):
        shown = "unknown" if gain is None else f"{gain:.3g}"
        raise ConfigError(
            must_be(
                "the gain over the twin, at the low end of its 95 % interval,", "above 0 (--force publishes anyway)", Shown(shown)
            )
        )


def send(settings: Settings, model: Model) -> None:
    """Publish a new version; `ConfigError` if that version has been published, which never changes."""
    require_topics(reach(settings), [MODELS])
    if (model.module, model.name, model.version) in known_parts(settings):
        raise ConfigError(must_be("version", f"a new one of {model.module}/{model.name}", model.version))
    made = parts(model)
    with Publisher(settings.bootstrap_servers, "qstream/learn", settings) as publisher:
        for part in made:
            publisher.publish(MODELS, part)
    typer.echo(f"published {model.module}/{model.name} {model.version}, {counted(len(made), 'part')}")


def known_parts(settings: Settings) -> Parts:
    """The newest row of each part on the model topic, by module, name and version; unreadable records are passed over."""
    rows: dict[str, ModelPart] = {}
    for message in read_all(settings, MODELS.name):
        if message.value() is None:
            rows.pop((message.key() or b"").decode(errors="replace"), None)
            continue
        try:
            part = frame_of(message, ModelPart)
        except FrameError:
            continue
        rows[part.part_key] = part
    found: Parts = defaultdict(list)
    for part in rows.values():
        found[part.module, part.name, part.version].append(part)
    return dict(found)


def fault_of(found: list[ModelPart]) -> str:
    """Why these parts are no model, empty if they are one; retired ones have no fault."""
    if any(part.retired for part in found):
        return ""
    try:
        assemble(found)
    except LearnError as exc:
        return str(exc)
    return ""


def _facts(key: tuple[str, str, int], found: list[ModelPart]) -> dict[str, object]:
    first, fault = found[0], fault_of(found)
    state = "retired" if any(part.retired for part in found) else "not whole" if fault else "published"
    shown = {"module": key[0], "name": key[1], "version": key[2], "state": state, "kind": first.kind, "bytes": first.nbytes}
    metrics = {name: _rounded(first.metrics.get(name)) for name in ("loss", "loss_twin")}
    return shown | metrics | {"trained_on": ", ".join(first.trained_on), "fault": fault}


def _rounded(value: float | None) -> object:
    return "-" if value is None else float(f"{value:.4g}")
