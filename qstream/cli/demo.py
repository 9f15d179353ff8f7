"""`qstream demo`: the main job on real input, in half a minute."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from qstream.cli.options import new_app
from qstream.errors import ConfigError
from qstream.install import install_hint

app = new_app()


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long to train.")] = 30.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the figures to a file.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the model and of the text.")] = 0,
    colocate: Annotated[
        bool, typer.Option("--colocate/--no-colocate", help="Plan for traffic between nodes too in the second half.")
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Train a small mixture-of-experts model, stream its routing, and show what the plans gain.

    \b
    Example:
      qstream demo --seconds 30 --json demo.json
    """
    if json_path is not None:
        _require_writable(json_path.resolve())
    try:
        run = importlib.import_module("qstream.demo.run")  # which imports torch: not needed by any other command
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        raise ConfigError(f"the demo trains a real model and needs PyTorch: {install_hint('demo')}") from exc
    raise typer.Exit(run.main(seconds, json_path, seed, plain, colocate))


def _require_writable(path: Path) -> None:
    """`ConfigError` if figures could not be written there; said before the run, which would be lost, and no file is left."""
    try:
        absent = not path.exists()
        with path.open("a"):
            pass
    except OSError as exc:
        raise ConfigError(f"--json is {str(path)!r}, allowed is a file that can be written: {exc.strerror}") from exc
    if absent:
        path.unlink()
