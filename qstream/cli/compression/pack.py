"""`qstream compression pack`: a file of tensors in, a smaller archive out, and a row for each tensor."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from qstream.cli.compression.codebooks import opened
from qstream.cli.compression.export import exported
from qstream.cli.compression.rows import print_rows, rows_of
from qstream.cli.options import AsJson, require_unused
from qstream.cli.output import print_json, print_table
from qstream.cli.paths import require_folder_of, require_readable
from qstream.errors import ConfigError
from schemas.wording import must_be

BOUND: Final = re.compile(r"^\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*(rms|abs|range|point|l2)\s*$")
NOT_OF_EXPORTS: Final = (
    *("--mode", "--bound", "--bits", "--level", "--transform", "--qae", "--dropout", "--codebook", "--denoiser"),
    *("--side-file", "--compare"),
)


def pack(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors, npy or npz file.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The archive; else FILE.qsz.")] = None,
    mode: Annotated[str, typer.Option(help="lossless, delta, bounded, rate, gradient or int8.")] = "lossless",
    bound: Annotated[
        str | None, typer.Option(metavar="BOUND", help="Of bounded: 0.05rms, 1e-3abs, 1e-3range, 0.01point or 0.03l2.")
    ] = None,
    bits: Annotated[float | None, typer.Option(help="Of rate and gradient: bits a value.")] = None,
    base: Annotated[Path | None, typer.Option(metavar="FILE", help="Of delta: the file that the reader holds.")] = None,
    level: Annotated[str, typer.Option(help="fast, balanced or small.")] = "balanced",
    transform: Annotated[str, typer.Option(help="auto, none, klt or fourier.")] = "auto",
    qae: Annotated[bool, typer.Option("--qae", help="Of rate, gradient and l2: find a basis by a simulated circuit.")] = False,
    dropout: Annotated[
        bool,
        typer.Option("--dropout", help="Of rate, gradient and l2: leave columns out that the others tell, and wires of --qae."),
    ] = False,
    codebook: Annotated[Path | None, typer.Option(metavar="FILE", help="Bases that train has learnt.")] = None,
    denoiser: Annotated[
        bool, typer.Option("--denoiser", help="Of rate, gradient and int8: nets of the codebook correct.")
    ] = False,
    side_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Where each tensor's chain goes, as JSON.")] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Write a file for engines: vllm-patch or compressed-tensors.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also show int8, Q8_0, Q4_0, NF4 and zstd.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack the tensors of a file.

    In modes lossless and delta, unpack gives the same file back, byte for byte. In the others, small vectors and whole numbers
    stay exact.

    \b
    Example:
      qstream compression pack model.safetensors
      qstream compression pack model.safetensors --mode bounded --bound 0.05rms --compare
      qstream compression pack new.safetensors --mode delta --base old.safetensors
      qstream compression pack new.safetensors --export vllm-patch --base old.safetensors
    """
    require_readable("FILE", file)
    require_readable("--base", base)
    require_readable("--codebook", codebook)
    require_folder_of("--out", out)
    require_folder_of("--side-file", side_file)
    if export is not None:
        require_unused(context, NOT_OF_EXPORTS, "absent with --export, which does not use it")
        exported(file, export, out, base, as_json=as_json)
        return
    from qstream.compression import CompressionOptions, compress_file  # noqa: PLC0415 - numpy and kernels, not for help
    from qstream.compression.warm import warm  # noqa: PLC0415 - as above

    given: dict[str, object] = {"level": level, "transform": transform, "qae": qae, "dropout": dropout, "denoiser": denoiser}
    given |= promised(mode, bound, bits)
    if (mode == "delta") != (base is not None):
        raise ConfigError(must_be("--base", "given with --mode delta, and only then", None if base is None else str(base)))
    options = CompressionOptions().changed(given)
    if codebook is not None and not options.uses("codebook"):
        raise ConfigError(must_be("--mode", "rate, gradient, int8, or bounded with l2, where --codebook is given", mode))
    warm()
    report = compress_file(file, options, out=out, base=base, codebook=opened(codebook), clock=time.perf_counter)
    if side_file is not None:
        chains = [{"name": each.header.name, "ops": [op.model_dump() for op in each.header.ops]} for each in report.tensors]
        side_file.write_text(json.dumps(chains, indent=1) + "\n")
    peers = _compared(file) if compare else {}
    if as_json:
        print_json({**rows_of(report), **({"compared": peers} if compare else {})})
        return
    print_rows(report)
    if compare:
        print_table(("tensor", "format", "bits", "rel L2"), _peer_rows(peers))
    typer.echo(f"written: {report.path}")


def promised(mode: str, bound: str | None, bits: float | None) -> dict[str, object]:
    """The options of --mode, --bound and --bits; `ConfigError` for a bound that is none, or what the mode does not use."""
    fields: dict[str, object] = {"mode": mode}
    if bound is not None:
        fields["bound"], fields["bound_kind"] = bound_of(bound)
        if mode != "bounded":
            raise ConfigError(must_be("--mode", "bounded with --bound", mode))
    if bits is not None:
        fields["target_bits"] = bits
        if mode not in ("rate", "gradient"):
            raise ConfigError(must_be("--mode", "rate or gradient with --bits", mode))
    return fields


def bound_of(text: str) -> tuple[float, str]:
    """A bound such as 0.05rms as number and kind; `ConfigError` if it is none."""
    found = BOUND.match(text)
    try:
        bound, kind = (float(found[1]), found[2]) if found else (0.0, "")
    except ValueError:
        bound, kind = 0.0, ""
    if not 0 < bound < math.inf:
        raise ConfigError(must_be("--bound", "a number above 0 and one of rms, abs, range, point and l2, such as 0.05rms", text))
    return bound, kind


def _compared(file: Path) -> dict[str, Any]:
    from qstream.compression.formats.read import read_layout  # noqa: PLC0415 - as above
    from qstream.compression.peers import compared  # noqa: PLC0415 - as above

    layout = read_layout(file, stored=True)
    return {
        span.name: {name: peer._asdict() for name, peer in compared(layout.array(span)).items()}
        for span in layout.spans
        if span.nbytes
    }


def _peer_rows(peers: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name if first == 0 else "",
            peer,
            f"{figures['bits']:.2f}",
            f"{figures['rel_l2']:.4f}" if figures["rel_l2"] else "identical",
        )
        for name, found in peers.items()
        for first, (peer, figures) in enumerate(found.items())
    ]
