"""`qstream demo`: a module's main job on real input, in half a minute."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from agents.registry import faults_named, scenes
from qstream.cli.options import new_app
from qstream.errors import ConfigError
from qstream.install import install_hint
from schemas.wording import must_be

app = new_app()
DEFAULT: Final = "routing"
STDOUT: Final = "-"


class JsonAnywhere(TyperCommand):
    """A command whose ``--json`` may stand without a file: then it is given ``-``, which typer itself cannot do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for at, word in enumerate(args):
            after = args[at + 1 : at + 2]
            if word == "--json" and (not after or after[0].startswith("--") or after[0] in scenes()):
                args = [*args[: at + 1], STDOUT, *args[at + 1 :]]
                break
        return super().parse_args(ctx, args)


def scene_completion(start: str) -> list[str]:
    """Scenes for the shell's completion."""
    return [name for name in scenes() if name.startswith(start)]


@app.command(cls=JsonAnywhere)
def demo(
    scene: Annotated[
        str | None, typer.Argument(metavar="[SCENE]", autocompletion=scene_completion, help="What to show; else routing.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Of the scene energy: nvml, this machine's GPUs in a dry run; else a modelled rack."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long to stream, at least; else 30, and 18 in the scene hpo.")
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="[FILE]", dir_okay=False, allow_dash=True, help="Figures as JSON, to a file or stdout."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene.")] = 0,
    switch: Annotated[
        bool, typer.Option("--switch/--no-switch", help="Change an option of the agent half-way, as an operator would.")
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Run a module on real input, with its own servers, and show what its plans gain.

    The scene `routing` trains a small mixture-of-experts language model, streams which experts its tokens go to, and places
    the experts; half-way it also starts to save traffic between nodes. The scene `learn` forecasts this machine's CPU use
    while a model trains, and kills the worker that learns. The scene `energy` plays an hour of real requests to a modelled
    rack of 16 GPUs, whose clocks and power limits the agent sets: caps are probed, the budget falls, a node is cut off. A
    modelled second is over only when the agent has answered it: a slow machine takes longer than asked, and measures the same.
    The scene `compression` trains the same kind of model by two workers: weights, gradients and activations travel through two
    agents, and what returns is compared with what was sent. The scene `hpo` tunes a small language model by two studies, one
    with the defaults and one by Sobol points; half-way a worker is killed, and its trial goes out again. The scene `nvlink`
    plans what the model's routing sends between 16 modelled GPUs: ranks, rails and spines; an uplink gets slow without a word,
    and a server leaves.
    With --json and no FILE, stdout has the figures alone, and the rest is on stderr.

    \b
    Example:
      qstream demo
      qstream demo routing --seconds 30 --json demo.json
      qstream demo learn
      qstream demo energy --json > energy.json
      qstream demo energy --source nvml
    """
    known = scenes()
    name = scene or DEFAULT
    if name not in known:
        raise ConfigError(must_be("SCENE", f"one of {', '.join(known)}", name))
    if json_path is not None and str(json_path) != STDOUT:
        _require_writable(json_path.resolve())
    with faults_named(f"the scene {name!r}"):
        made = _of_source(name, _load(name, known[name]), source)(seed)
    stage: Any = importlib.import_module("qstream.demo.stage")
    raise typer.Exit(stage.run_scene(made, seconds or made.streams_s, json_path, seed, plain, switch))


def _load(name: str, path: str) -> Any:
    """The class of a scene, which may import what no other command needs."""
    try:
        return pkgutil.resolve_name(path)
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        raise ConfigError(f"the scene {name} trains a real model and needs PyTorch: {install_hint('demo')}") from exc


def _of_source(name: str, scene: Any, source: str | None) -> Any:
    """The class of the scene, or the one that has its input from that source."""
    if source is None:
        return scene
    sources: Mapping[str, str] = getattr(scene, "sources", {})
    if source not in sources:
        rule = f"one of {', '.join(sources)} for the scene {name}" if sources else f"absent for the scene {name}"
        raise ConfigError(must_be("--source", rule, source))
    return _load(name, sources[source])


def _require_writable(path: Path) -> None:
    """`ConfigError` if figures could not be written there; said before the run, which would be lost, and no file is left."""
    try:
        absent = not path.exists()
        with path.open("a"):
            pass
    except OSError as exc:
        raise ConfigError(must_be("--json", f"a file that can be written ({exc.strerror})", str(path))) from exc
    if absent:
        path.unlink()
