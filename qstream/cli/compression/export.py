"""Exports of `qstream compression pack`: files that inference engines read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import typer

from qstream.cli.output import counted, print_json
from qstream.errors import ConfigError
from schemas.wording import must_be

FORMATS: Final = ("vllm-patch", "compressed-tensors")


def exported(file: Path, export: str, out: Path | None, base: Path | None, *, as_json: bool) -> None:
    """Write the export of a file; `ConfigError` for an unknown format, or a base where none is used."""
    from qstream.compression.formats.export import INT8_CONFIG, compressed_tensors_int8, vllm_patch  # noqa: PLC0415 - not for help
    from qstream.compression.formats.read import read_layout  # noqa: PLC0415 - as above

    if export not in FORMATS:
        raise ConfigError(must_be("--export", f"one of {', '.join(FORMATS)}", export))
    if (export == "vllm-patch") != (base is not None):
        raise ConfigError(must_be("--base", "given with --export vllm-patch, and only then", None if base is None else str(base)))
    layout = read_layout(file)
    tensors = {span.name: layout.array(span) for span in layout.spans}
    target = out or file.with_name(f"{file.name}.{export}.safetensors")
    if base is not None:
        old = read_layout(base)
        data, count = vllm_patch(tensors, {span.name: old.array(span) for span in old.spans})
        said = {"path": str(target), "changed": count, "bytes": len(data)}
        line = f"{counted(count, 'changed value')}, {len(data):,} bytes"
    else:
        data, count = compressed_tensors_int8(tensors, layout.metadata)
        if not count:
            raise ConfigError(must_be("FILE", "one with matrices of floats whose names end in .weight", str(file)))
        said = {"path": str(target), "matrices": count, "bytes": len(data), "quantization_config": INT8_CONFIG}
        line = (
            f"{counted(count, 'matrix') if count == 1 else f'{count} matrices'} as int8, {len(data):,} bytes; config.json needs\n"
        )
        line += json.dumps({"quantization_config": INT8_CONFIG}, indent=1)
    target.write_bytes(data)
    if as_json:
        print_json(said)
        return
    typer.echo(f"{line}\nwritten: {target}")
