"""`qstream compression train`: files of tensors in, a codebook of bases out; and codebooks as options of other commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.options import AsJson, BootstrapServers, client_settings, require_unused
from qstream.cli.output import counted, print_json, print_table
from qstream.cli.paths import require_folder_of, require_readable
from qstream.errors import ConfigError
from qstream.stream.client import Publisher
from schemas.topics import TENSOR_CODEBOOK
from schemas.wording import must_be

if TYPE_CHECKING:
    from qstream.compression import Codebook

KINDS: Final = {"basis": "klt", "qae": "qae", "denoiser": "denoiser", "lstm": "lstm", "table": "table"}


def train(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="safetensors, npy or npz files of past tensors.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The codebook.")],
    what: Annotated[str, typer.Option(help="basis; qae, one by a simulated circuit; denoiser or lstm, nets; table.")] = "basis",
    role: Annotated[str, typer.Option(help="What the tensors are, such as kv_cache.")] = "other",
    bits: Annotated[float, typer.Option(help="Of denoiser, lstm and table: bits of rate mode.")] = 4.4,
    int8: Annotated[bool, typer.Option("--int8", help="Of denoiser and lstm: for mode int8, a scale for each row.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    publish: Annotated[bool, typer.Option("--publish", help="Also send it to the agents, which use it from then on.")] = False,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Of --publish: the model that the tensors are of.")] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Learn a basis, net or table for each tensor from those of the same name in all files.

    A packed file names what it was coded with, and unpack needs the codebook. A net that corrects no better than a table is
    left out. Agents take what is published under the ids of the tensors, MODEL/NAME: the last of each counts.

    \b
    Example:
      qstream compression train monday.npz tuesday.npz --role kv_cache --out keys.safetensors
      qstream compression pack wednesday.npz --mode bounded --bound 0.03l2 --codebook keys.safetensors
      qstream compression train monday.npz --what table --bits 2 --out tables.safetensors --publish --model my-moe
    """
    from qstream.compression import codebook_bytes, train_codebook  # noqa: PLC0415 - numpy, which help does not need
    from qstream.compression.books import rows_of_topic  # noqa: PLC0415 - as above
    from qstream.compression.formats.read import read_layout  # noqa: PLC0415 - as above

    if what not in KINDS:
        raise ConfigError(must_be("--what", f"one of {', '.join(KINDS)}", what))
    if what in ("basis", "qae"):
        require_unused(context, ("--bits", "--int8"), f"absent with --what {what}, which does not use it")
    if publish != (model is not None):
        raise ConfigError(must_be("--model", "given with --publish, and only then", model))
    require_readable("FILES", *files)
    require_folder_of("--out", out)
    settings = client_settings(bootstrap_servers)
    if publish:
        require_topics(reach(settings), [TENSOR_CODEBOOK])
    layouts = [read_layout(file, stored=True) for file in files]
    tensors = ((span.name, layout.array(span)) for layout in layouts for span in layout.spans)
    codebook = train_codebook(tensors, kind=KINDS[what], role=role, bits=None if int8 else bits, seed=seed)  # type: ignore[arg-type]
    out.write_bytes(codebook_bytes(codebook))
    rows = [] if model is None else rows_of_topic(codebook, model, time.time_ns())
    if rows:
        with Publisher(settings.bootstrap_servers, "qstream/compression train", settings) as publisher:
            for row in rows:
                publisher.publish(TENSOR_CODEBOOK, row)
    trained: dict[str, Any] = {**codebook.bases, **codebook.nets}
    records: dict[str, dict[str, Any]] = {name: each.record for name, each in trained.items()}
    left_out = list(dict.fromkeys(span.name for layout in layouts for span in layout.spans if span.name not in trained))
    if as_json:
        said = {"path": str(out), "role": role, "trained": records, "left_out": left_out}
        print_json(said | {"published": [row.tensor_id for row in rows]})
        return
    print_table(("tensor", "kind", "trained on", "note"), [_texts(name, each) for name, each in trained.items()])
    typer.echo(f"{counted(len(records), 'tensor')}\nwritten: {out}")
    if left_out:
        why = "fewer than 2 rows a column" if what in ("basis", "qae") else "no gain over a table"
        typer.echo(f"left out: {', '.join(left_out)}: {why}, or no matrix of finite floats")
    if rows:
        typer.echo(f"published: {', '.join(row.tensor_id for row in rows)}")


def opened(path: Path | None) -> Codebook | None:
    """The codebook of an option."""
    if path is None:
        return None
    from qstream.compression import read_codebook  # noqa: PLC0415 - numpy, which help does not need

    return read_codebook(path.read_bytes())


def _texts(name: str, trained: Any) -> tuple[str, ...]:
    record = trained.record
    if "left" in record:
        note = f"leaves {record['left']:.2f} of the squared error, a table of each tensor's own {record['peer']:.2f}"
        return name, trained.kind, f"{record['steps']} steps" if record["steps"] else f"{record['rows']} rows", note
    return name, trained.kind, f"{record['rows']} rows", record.get("fallback_reason", "")
