"""What commands about a job ask for: the job, by a file or by sizes, and the fabric it runs on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from qstream.cli.nvlink.files import JOB_HELP, SOURCE_HELP, GpusPerHost, read_fabric, read_work, required_topology

if TYPE_CHECKING:
    from schemas.fabric import FabricTopology, JobProfile

SIZES: Final = ("tp", "cp", "ep", "dp", "pp")


@dataclass(frozen=True, slots=True)
class Work:
    """The arguments that `of_work` gives a command, by the names of their options."""

    job: Annotated[Path | None, typer.Argument(metavar="[JOB]", help=JOB_HELP)] = None
    topology: Annotated[str | None, typer.Option("--topology", metavar="FILE", help=SOURCE_HELP)] = None
    tp: Annotated[int | None, typer.Option("--tp", min=1, help="Ranks that share each layer's tensors.")] = None
    cp: Annotated[int | None, typer.Option("--cp", min=1, help="Ranks that share each sequence.")] = None
    ep: Annotated[int | None, typer.Option("--ep", min=1, help="Ranks that share the experts of a layer.")] = None
    dp: Annotated[int | None, typer.Option("--dp", min=1, help="Copies of the model.")] = None
    pp: Annotated[int | None, typer.Option("--pp", min=1, help="Stages of layers.")] = None
    volumes: Annotated[
        list[str] | None,
        typer.Option("--bytes", metavar="DIVISION=BYTES", help="What a rank sends in a step, as tp=4e9; may be repeated."),
    ] = None
    order: Annotated[str, typer.Option("--order", help="In which order ranks are counted, fastest first.")] = "tp-cp-ep-dp-pp"
    gpus_per_host: GpusPerHost = 8

    def fabric(self) -> FabricTopology:
        """The fabric; `ConfigError` if none was given."""
        return read_fabric(required_topology(self.topology), gpus_per_host=self.gpus_per_host, name="--topology")

    def profile(self, fabric: FabricTopology | None = None) -> JobProfile:
        """The job, on that fabric if it is given; errors as those of `read_work`."""
        sizes = {name: size for name in SIZES if (size := getattr(self, name)) is not None}
        named = {} if fabric is None else {"fabric": fabric.fabric}
        return read_work(self.job, sizes, self.volumes, order=self.order, **named)

    def inputs(self) -> list[Path]:
        """The files that are read, which no output may overwrite."""
        return [path for path in (self.job, None if self.topology is None else Path(self.topology)) if path is not None]


def of_work(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is what `Work` asks for: typer sees its fields as parameters, before the command's own."""
    hints = get_type_hints(Work, include_extras=True)
    asked = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if each.name == "job" else inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=hints[each.name],
        )
        for each in fields(Work)
    ]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def run(**given: Any) -> None:
        command(Work(**{each.name: given.pop(each.name) for each in asked}), **given)

    run.__signature__ = inspect.Signature([*asked, *own])  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {each.name: each.annotation for each in (*asked, *own)}
    return run
