"""`qstream compression collect`: the tensors of one step of a model, as they came back, in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.options import AsJson, BootstrapServers, client_settings, seconds
from qstream.cli.output import counted, print_json
from qstream.cli.paths import require_folder_of, require_readable
from qstream.cli.progress import Progress, megabytes
from qstream.config import Settings
from qstream.errors import Transient
from schemas.frame import FrameError
from schemas.tensors import RestoredBlock, TensorManifest, TensorPart
from schemas.topics import TENSOR_COMPRESSED, TENSOR_MANIFEST, TENSOR_RESTORED

if TYPE_CHECKING:
    from qstream.compression.steps import TensorStep

MOST_NAMED = 5  # tensors that an error names


def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that the step is of.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file.")],
    step: Annotated[int | None, typer.Option(min=0, help="The step; else the newest.")] = None,
    role: Annotated[str, typer.Option(help="What the tensors are to the model.")] = "weight",
    worker: Annotated[str | None, typer.Option(help="Which of several workers they are of.")] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Restore coded blocks here, deltas on the tensors of this file.")
    ] = None,
    blobs: Annotated[str | None, typer.Option(metavar="URL", help="The store of large steps that publish was given.")] = None,
    max_bytes: Annotated[int, typer.Option(min=1, metavar="BYTES", help="Largest step.")] = 1 << 33,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="End when no block has come for so long.")] = "30s",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Write the tensors of one step of a model into a file, once all of its blocks have come back.

    A step that was published from a file becomes the same file, byte for byte if its tensors are exact; one of a trainer
    becomes a safetensors file. A block that does not come is named, and nothing is written then.

    \b
    Example:
      qstream publish weights.safetensors --tensors --model my-moe --step 1200
      qstream compression collect my-moe --out same.safetensors
    """
    from qstream.compression.cutting import series_of  # noqa: PLC0415 - numpy, which help does not need
    from qstream.compression.files import file_of, write_whole  # noqa: PLC0415 - as above

    require_readable("--base", base)
    require_folder_of("--out", out)
    patience_s = seconds(timeout, "--timeout")
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [TENSOR_RESTORED if base is None else TENSOR_COMPRESSED, TENSOR_MANIFEST])
    series = series_of(model, role, worker)  # type: ignore[arg-type]
    wanted = _newest(settings, series) if step is None else step
    found = _awaited(settings, Wanted(series, model, role, wanted), base, blobs, max_bytes, patience_s)
    data, identical = file_of(found.tensors, found.file)
    write_whole(out, data)
    digest = hashlib.sha256(data).hexdigest()
    if as_json:
        tensors = [{"name": name, "dtype": str(a.dtype), "shape": list(a.shape)} for name, a in found.tensors.items()]
        what: dict[str, Any] = {"path": str(out), "series": series, "step": found.step, "bytes": len(data), "sha256": digest}
        print_json(what | {"identical": identical, "tensors": tensors})
        return
    same = ", identical to the file that was published" if identical else ""
    typer.echo(f"step {found.step} of {series}: {counted(len(found.tensors), 'tensor')}, {megabytes(len(data))}{same}")
    typer.echo(f"written: {out}")


class Wanted:
    """Which blocks and manifests count; those that come are shown as progress."""

    def __init__(self, series: str, model: str, role: str, step: int | None) -> None:
        self.series, self.model, self.role, self.step = series, model, role, step
        self.progress = Progress("received")

    def __call__(self, frame: TensorManifest | TensorPart) -> bool:
        """Whether it is of the step."""
        mine = frame.series == self.series if isinstance(frame, TensorManifest) else frame.tensor_id.startswith(f"{self.series}/")
        if not mine or frame.role != self.role or self.step not in (None, frame.step):
            return False
        if isinstance(frame, RestoredBlock):
            self.progress.add(frame.nbytes)
        return True


def _newest(settings: Settings, series: str) -> int | None:
    """The newest step whose manifest is there by now."""
    from qstream.stream.read import frame_of, read_all  # noqa: PLC0415 - as above

    newest = None
    for message in read_all(settings, TENSOR_MANIFEST.name):
        with suppress(FrameError):  # passed over, as every reader does
            frame = frame_of(message, TensorManifest)
            if frame.series == series and frame.step >= (newest or 0):
                newest = frame.step
    return newest


def _awaited(
    settings: Settings, wanted: Wanted, base: Path | None, blobs: str | None, max_bytes: int, patience_s: float
) -> TensorStep:
    from qstream.compression.formats.read import read_layout  # noqa: PLC0415 - as above
    from qstream.state.blobs import BlobStore  # noqa: PLC0415 - as above
    from qstream.stream.tensors import TensorSubscriber  # noqa: PLC0415 - as above

    layout = None if base is None else read_layout(base, stored=True)
    with ExitStack() as opened:
        opened.callback(wanted.progress.end)
        subscriber = opened.enter_context(
            TensorSubscriber(
                settings.bootstrap_servers,
                bases=None if layout is None else {span.name: layout.array(span) for span in layout.spans},
                blobs=None if blobs is None else opened.enter_context(BlobStore(blobs)),
                max_bytes=max_bytes,
                max_open=4096,
                timeout_s=patience_s,
                model=wanted.model,
                wanted=wanted,
                from_start=True,
                settings=settings,
            )
        )
        for found in subscriber.steps(patience_s):
            if found.complete:
                return found
            raise Transient(_lacking(found, subscriber.skipped))
    which = "no step" if wanted.step is None else f"no step {wanted.step}"
    raise Transient(
        f"{which} of {wanted.series} came in {patience_s:g} s; it is published by: qstream publish FILE --tensors --model"
        f" {wanted.model} --step N, and comes back where the agents compression and decompression run"
    )


def _lacking(step: TensorStep, skipped: Mapping[str, int]) -> str:
    """What of a step has not come."""
    lost = [f"{name} ({_blocks(blocks)})" for name, blocks in step.missing.items()]
    named = ", ".join(lost[:MOST_NAMED]) + (f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else "")
    total = len(step.manifest.tensors)
    text = f"step {step.step} of {step.manifest.series} is incomplete: {len(lost)} of {total} tensors have not come back: {named}"
    if skipped:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        text += f"; blocks that could not be restored: {why}"
    return f"{text}; see qstream dlq list, and whether both agents run"


def _blocks(blocks: tuple[int, ...]) -> str:
    if not blocks:
        return "no block"
    shown = ", ".join(map(str, blocks[:MOST_NAMED]))
    return f"block {shown}" if len(blocks) == 1 else f"blocks {shown}{', ...' if len(blocks) > MOST_NAMED else ''}"
