"""`qstream publish`: frames from a file to their topics, all of them valid or none sent; or the tensors of a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.compression.send import Sending, send
from qstream.cli.names import find_topic
from qstream.cli.options import AsJson, BootstrapServers, client_settings, new_app
from qstream.cli.output import print_json
from qstream.cli.sources import BatchHeader, publishable, read_items
from qstream.errors import ConfigError
from qstream.stream.client import Publisher, time_of
from schemas.wording import must_be

app = new_app()


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".json, .jsonl, .csv, .safetensors, or - for stdin.")],
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="Topic, or a part: tokens, graph, experts.load; else as the frame says.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model of a table or list of tokens.")] = "default",
    layer: Annotated[int | None, typer.Option(min=0, max=4095, help="Layer of their gate choices.")] = None,
    batch_id: Annotated[str | None, typer.Option(help="Name of their batch; else the file's.")] = None,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Give each record the time of its frame (ts_ns, t1_ns) instead of now.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Send the tensors of a safetensors, npy or npz file.")] = False,
    step: Annotated[int | None, typer.Option(min=0, help="Of --tensors: their step, higher than the one before.")] = None,
    role: Annotated[
        str, typer.Option(help="Of --tensors: weight, gradient, activation, kv_cache, optimizer, embedding or other.")
    ] = "weight",
    worker: Annotated[str | None, typer.Option(help="Of --tensors: which of several workers they are of.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="Of --tensors: lossless, delta, bounded, rate, gradient or int8; else the agent's.")
    ] = None,
    bound: Annotated[str | None, typer.Option(metavar="BOUND", help="Of mode bounded: 0.05rms, 1e-3abs, 0.03l2 ...")] = None,
    bits: Annotated[float | None, typer.Option(help="Of modes rate and gradient: bits a value.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Code tensors here, and not by the agent.")] = False,
    blobs: Annotated[
        str | None, typer.Option(metavar="URL", help="Store for large steps: file:///folder or a URL of Redis.")
    ] = None,
    claim_over: Annotated[
        int | None, typer.Option(min=0, metavar="BYTES", help="With --blobs: steps above go there; 64 MiB by default.")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Publish frames, tokens or tensors from a file, or frames and tokens from JSON lines on stdin.

    A .json file holds a frame or a list of frames, .jsonl one a line, .safetensors one: frames of any topic of any module,
    those of installed packages included, but no dead letters. The field "frame" says which, else its fields or --topic.

    A graph as networkx writes it, {"nodes", "edges"} with GPUs, switches and links, is the topology of a fabric, called as
    graph.fabric says, else as the file; for other descriptions: qstream nvlink convert FILE --to frame.

    Tokens are {"id", "metadata", "complexity"} in a .json list or .jsonl lines, or a .csv file with a column id and optional
    request_id, position, cost, src_rank, label, topk_id_0, topk_weight_0 and so on. Ids are numbers if all of the file
    are, else text. They are sent in batches of at most 8192. Everything is validated before anything is sent.

    A recording that is replayed with --keep-times is processed in its own time. A cluster deletes records that are older
    than their topic keeps them, and readers pass over plans that have expired.

    With --tensors, a file of tensors is one step of a model: blocks that the agent compression codes, and decompression
    restores. qstream compression collect makes the same file of them.

    \b
    Example:
      qstream publish topology.json
      qstream publish tokens.csv --model demo-moe --layer 0
      qstream publish weights.safetensors --tensors --model my-moe --step 1200
      qstream watch experts.load --json --full | qstream publish - -b other:9092
    """
    about = {"--step": step, "--worker": worker, "--mode": mode, "--bound": bound, "--bits": bits, "--blobs": blobs}
    if tensors:
        if step is None:
            raise ConfigError(must_be("--step", "given with --tensors", None))
        others = {"--topic": topic, "--layer": layer, "--batch-id": batch_id, "--keep-times": keep_times or None}
        _require_none(others, "absent with --tensors")
        send(
            file,
            Sending(model, step, role, worker, mode, bound, bits, local, blobs, claim_over),
            bootstrap_servers,
            as_json=as_json,
        )
        return
    _require_none(about | {"--claim-over": claim_over, "--local": local or None}, "absent without --tensors")
    now_ns = time.time_ns()
    name = batch_id or f"{'stdin' if file == Path('-') else file.stem}-{now_ns}"
    chosen = None if topic is None else find_topic(topic, publishable())
    items = read_items(file, chosen, BatchHeader(model, layer, name, now_ns))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [item.topic for item in items])
    with Publisher(settings.bootstrap_servers, "qstream/publish", settings) as publisher:
        for item in items:
            publisher.publish(item.topic, item.frame, timestamp_ms=time_of(item.frame) if keep_times else None)
    counts = Counter(item.topic.name for item in items)
    if as_json:
        print_json({"published": len(items), "topics": counts})
    else:
        of_model = f", of model {model!r}" if any(item.headed for item in items) else ""
        typer.echo(f"published {len(items)}: " + ", ".join(f"{count} on {at}" for at, count in counts.items()) + of_model)


def _require_none(options: Mapping[str, object], rule: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(must_be(name, rule, value))
