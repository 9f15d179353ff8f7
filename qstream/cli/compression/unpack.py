"""`qstream compression unpack`: an archive in, the file that it was made of out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from qstream.cli.compression.codebooks import opened
from qstream.cli.compression.rows import print_rows, rows_of
from qstream.cli.options import AsJson
from qstream.cli.output import print_json
from qstream.cli.paths import require_folder_of, require_readable


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that pack has written.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The file; else FILE without .qsz.")] = None,
    base: Annotated[Path | None, typer.Option(metavar="FILE", help="The file that deltas are steps on.")] = None,
    codebook: Annotated[Path | None, typer.Option(metavar="FILE", help="The codebook that the file was packed with.")] = None,
    spectral: Annotated[bool, typer.Option("--spectral/--no-spectral", help="Apply the approved spectral refiners.")] = True,
    qsvt: Annotated[bool, typer.Option("--qsvt", help="Check spectral refiners by a simulated circuit.")] = False,
    qft: Annotated[bool, typer.Option("--qft", help="Check cosine transforms by a simulated circuit.")] = False,
    hhl: Annotated[bool, typer.Option("--hhl", help="Check what predicts pruned columns by a simulated circuit.")] = False,
    lstm: Annotated[bool, typer.Option("--lstm", help="Apply approved LSTMs of the codebook; takes long.")] = False,
    max_tensor_bytes: Annotated[int, typer.Option(help="Largest tensor that is restored.")] = 2**30,
    as_json: AsJson = False,
) -> None:
    """Give back the file that an archive was made of.

    A file whose tensors are all exact comes back byte for byte, which its sha256 proves.

    \b
    Example:
      qstream compression unpack model.safetensors.qsz --out model.safetensors
      qstream compression unpack new.safetensors.qsz --base old.safetensors --out new.safetensors
    """
    require_readable("FILE", file)
    require_readable("--base", base)
    require_readable("--codebook", codebook)
    require_folder_of("--out", out)
    from qstream.compression import RestoreOptions, restore_file  # noqa: PLC0415 - numpy and kernels, which help does not need

    given = {"spectral": spectral, "qsvt": qsvt, "qft": qft, "hhl": hhl, "lstm": lstm, "max_tensor_bytes": max_tensor_bytes}
    options = RestoreOptions().changed(given)
    report = restore_file(file, options, out=out, base=base, codebook=opened(codebook), clock=time.perf_counter)
    if as_json:
        print_json(rows_of(report))
        return
    print_rows(report)
    typer.echo(f"written: {report.path}{', identical to the file that was packed' if report.verified else ''}")
