"""`qstream nvlink convert`: a fabric in any format in, one that networkx, qstream or Slurm reads out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qstream.arguments import named
from qstream.cli.nvlink.files import FormatOption, GpusPerHost, Source, read_fabric
from qstream.cli.options import AsJson
from qstream.cli.output import print_json, printable, write_files
from qstream.cli.paths import require_outputs
from qstream.errors import ConfigError
from schemas.frame import JSON, SAFETENSORS
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from schemas.fabric import FabricTopology


def _networkx(topology: FabricTopology, _: Path | None) -> bytes:
    import networkx as nx  # noqa: PLC0415 - takes longer to import than help may take

    from qstream.nvlink.graph import to_networkx  # noqa: PLC0415 - as above

    return json.dumps(nx.node_link_data(to_networkx(topology), edges="edges")).encode() + b"\n"


def _frame(topology: FabricTopology, out: Path | None) -> bytes:
    if out is not None and out.suffix == ".safetensors":
        return topology.encode(SAFETENSORS)
    return topology.encode(JSON) + b"\n"


def _slurm(topology: FabricTopology, _: Path | None) -> bytes:
    from qstream.nvlink.formats.schedulers import slurm_topology  # noqa: PLC0415 - as above

    return slurm_topology(topology).encode()


Writer = Callable[["FabricTopology", Path | None], bytes]
WRITERS: Final[Mapping[str, Writer]] = {"networkx": _networkx, "frame": _frame, "slurm": _slurm}


def convert(
    file: Source,
    *,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"One of {', '.join(WRITERS)}.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where it goes; else to stdout.")] = None,
    format: FormatOption = "auto",  # noqa: A002 the word users know
    gpus_per_host: GpusPerHost = 8,
    as_json: AsJson = False,
) -> None:
    """Write a fabric as node-link JSON of networkx, as a FabricTopology frame, or as Slurm's topology.yaml in blocks.

    A frame is what qstream publish sends to the agent: JSON, or safetensors where FILE ends so. Warnings go to stderr.
    With --json, which needs --out, what was written is said as JSON.

    \b
    Example:
      qstream nvlink convert topo.xml --to frame --out fabric.json
      qstream nvlink convert gb200-nvl72:8 --to networkx > fabric.json
      qstream nvlink convert fabric.json --to slurm --out topology.yaml
    """
    write = named("--to", WRITERS, to)
    if as_json and out is None:
        raise ConfigError(must_be("--out", "given with --json", Shown("nothing")))
    require_outputs([out], [Path(file)])
    topology = read_fabric(file, format=format, gpus_per_host=gpus_per_host)
    body = write(topology, out)
    if not as_json:
        for text in topology.warnings:
            typer.echo(printable(f"warning: {text}"), err=True)
    if out is None:
        typer.echo(body.decode(), nl=False)
        return
    (written,) = write_files([(out, body)])
    if as_json:
        fields = {"fabric": topology.fabric, "digest": topology.digest(), "warnings": list(topology.warnings)}
        print_json(fields | {"written": [written], "bytes": len(body)})
    else:
        typer.echo(f"written: {written}")
