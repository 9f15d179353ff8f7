"""`qstream publish --tensors`: a file of tensors as blocks on their topic, or as an archive in a store of blobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.compression.pack import promised
from qstream.cli.options import client_settings
from qstream.cli.output import counted, print_json
from qstream.cli.paths import require_readable
from qstream.cli.progress import Progress, megabytes
from qstream.errors import ConfigError
from qstream.state.blobs import BlobStore
from schemas.tensors import TensorPolicy
from schemas.topics import TENSOR_BLOCK, TENSOR_COMPRESSED, TENSOR_MANIFEST
from schemas.wording import must_be

EMBEDDED_BYTES: Final = 5 << 20
EMBEDDED_BLOCK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Sending:
    """The options of the command that are about tensors."""

    model: str
    step: int
    role: str
    worker: str | None
    mode: str | None
    bound: str | None
    bits: float | None
    local: bool
    blobs: str | None
    claim_over: int | None


def send(file: Path, given: Sending, bootstrap_servers: str | None, *, as_json: bool) -> None:
    """Publish the tensors of a file as one step, with what it takes to make the same file of them again."""
    from qstream.compression.files import tensors_of  # noqa: PLC0415 - numpy and the codec, which help does not need
    from qstream.compression.formats.read import read_layout  # noqa: PLC0415 - as above
    from qstream.stream.tensors import BLOCK_BYTES, CLAIM_OVER, TensorPublisher  # noqa: PLC0415 - as above

    require_readable("FILE", file)
    policy = _policy(given)
    layout = read_layout(file, stored=True)
    tensors = tensors_of(layout)
    settings = client_settings(bootstrap_servers)
    cluster = reach(settings)
    require_topics(cluster, [TENSOR_COMPRESSED if given.local else TENSOR_BLOCK, TENSOR_MANIFEST])
    blobs = None if given.blobs is None else BlobStore(given.blobs)
    if cluster.embedded and len(layout.data) > EMBEDDED_BYTES:
        typer.echo("warning: an embedded broker keeps 5 MiB of a partition: blocks that are not read in time are lost", err=True)
    progress = Progress("sent", sum(array.nbytes for array in tensors.values()))
    blocks = 0

    def count(nbytes: int) -> None:
        nonlocal blocks
        blocks += 1
        progress.add(nbytes)

    try:
        with TensorPublisher(
            settings.bootstrap_servers,
            encode="local" if given.local else "agent",
            block_bytes=EMBEDDED_BLOCK_BYTES if cluster.embedded else BLOCK_BYTES,
            blobs=blobs,
            claim_over=CLAIM_OVER if given.claim_over is None else given.claim_over,
            settings=settings,
        ) as publisher:
            manifest = publisher.publish(
                tensors,
                model=given.model,
                step=given.step,
                role=given.role,  # type: ignore[arg-type]  # the manifest checks it
                worker=given.worker,
                policy=policy,
                on_block=lambda block: count(block.nbytes),
            )
    finally:
        progress.end()
        if blobs is not None:
            blobs.close()
    claim = manifest.claim
    if as_json:
        where = None if claim is None else claim.model_dump()
        found = {"series": manifest.series, "step": manifest.step, "tensors": len(layout.spans), "blocks": blocks}
        print_json(found | {"bytes": len(layout.data), "claim": where})
        return
    how = counted(blocks, "block") if claim is None else f"a blob of {megabytes(claim.nbytes)}, {claim.uri}"
    typer.echo(
        f"published step {manifest.step} of {manifest.series}: {counted(len(layout.spans), 'tensor')},"
        f" {megabytes(len(layout.data))}, in {how}"
    )


def _policy(given: Sending) -> TensorPolicy | None:
    """How the blocks are coded; None leaves that to the agent."""
    if given.mode is None:
        if given.bound is not None or given.bits is not None:
            raise ConfigError(must_be("--mode", "given with --bound or --bits", None))
        return None
    from qstream.compression.options import CompressionOptions  # noqa: PLC0415 - as above

    fields = promised(given.mode, given.bound, given.bits)
    CompressionOptions().changed(fields)  # here, and not when the agent refuses each block
    return TensorPolicy.model_validate(fields)
