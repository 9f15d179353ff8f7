"""`qstream compression inspect`: the chain of every tensor of an archive, its promise and its checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table
from qstream.cli.paths import require_readable


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that pack has written.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what an archive says of each tensor, without restoring any.

    \b
    Example:
      qstream compression inspect model.safetensors.qsz
    """
    require_readable("FILE", file)
    from qstream.compression.files import REST, open_archive  # noqa: PLC0415 - numpy and kernels, which help does not need
    from qstream.compression.options import RestoreOptions  # noqa: PLC0415 - as above

    contents, record = open_archive(file, RestoreOptions(max_tensor_bytes=2**50))
    headers = [header for header in contents.headers if header.name != REST]
    if as_json:
        print_json({"file": record.model_dump(mode="json"), "tensors": [header.model_dump(mode="json") for header in headers]})
        return
    print_table(
        ("tensor", "dtype", "shape", "chain", "parts", "promise", "checks", "note"), [_texts(header) for header in headers]
    )
    kept = "byte for byte" if record.sha256 else "with its promises"
    size = f"{record.nbytes:,} bytes"
    if record.file_nbytes is not None:
        size = f"{record.file_nbytes:,} bytes, {size} without deflate"
    typer.echo(f"{counted(len(headers), 'tensor')} of a file ({record.format}) of {size}, given back {kept}")


def _texts(header: Any) -> tuple[str, ...]:
    parts = ", ".join(f"{part.name} {part.codec} {part.nbytes:,}" for part in header.parts)
    bound = header.quality.bound
    promise = header.promise if bound is None else f"{header.promise} {bound:.3g}"
    checks = [f"xxh3 {header.digest}" if header.digest else "parts only"]
    if header.base_digest:
        checks.append(f"base {header.base_digest}")
    if header.basis_digest:
        checks.append(f"basis {header.basis_digest}")
    chain = " > ".join(op.op for op in header.ops)
    shape = "x".join(map(str, header.shape)) or "scalar"
    return header.name, header.dtype, shape, chain, parts, promise, ", ".join(checks), header.fallback_reason or ""
