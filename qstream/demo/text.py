"""Real text whose mix drifts: the sources of Python's own standard library, grouped by package."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ConfigError

LOOSE = "modules"  # the domain of the files that lie directly in the library's folder
SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "distutils"})
MIN_DOMAIN_BYTES = 32 * 1024  # a smaller package would be learnt by heart


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Bytes of text in which each domain is one contiguous span.

    Attributes
    ----------
    text : uint8 [N]
        The files of all domains, one after the other.
    domains : tuple of str [D]
        Top-level packages, sorted: "asyncio", "email", ...
    bounds : int64 [D + 1]
        Domain d is ``text[bounds[d]:bounds[d + 1]]``.
    """

    text: NDArray[np.uint8]
    domains: tuple[str, ...]
    bounds: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """Sequences of one step: inputs and targets [B, S], domain [B] (an index into domain_names), request_id [B]."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    domain: NDArray[np.int32]
    domain_names: tuple[str, ...]
    request_id: NDArray[np.uint64]


def load_corpus(max_bytes: int = 4 << 20, root: Path | None = None) -> Corpus:
    """Read the Python files under `root` (default: the running interpreter's standard library), in sorted order.

    Each domain gives at most an equal share of `max_bytes`, so that no package drowns the others. Equal Python versions
    give equal text.

    Raises
    ------
    ConfigError
        Fewer than two packages have enough sources: nothing could drift.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    packages = sorted(path for path in root.glob("*/") if path.name not in SKIPPED)
    files = {LOOSE: sorted(root.glob("*.py"))} | {package.name: sorted(package.rglob("*.py")) for package in packages}
    texts = {
        domain: b"".join(path.read_bytes() for path in paths if SKIPPED.isdisjoint(path.relative_to(root).parts))
        for domain, paths in files.items()
    }
    texts = {domain: text for domain, text in sorted(texts.items()) if len(text) >= MIN_DOMAIN_BYTES}
    if len(texts) < 2:
        raise ConfigError(
            f"root={str(root)!r} holds {len(texts)} packages with {MIN_DOMAIN_BYTES} bytes of Python sources or more; "
            "at least 2 are needed (is the standard library installed without its sources?)"
        )
    share = max(max_bytes // len(texts), MIN_DOMAIN_BYTES)
    spans = [text[:share] for text in texts.values()]
    bounds = np.cumsum([0, *map(len, spans)], dtype=np.int64)
    return Corpus(np.frombuffer(b"".join(spans), dtype=np.uint8), tuple(texts), bounds)


def batches(
    corpus: Corpus,
    batch: int,
    context: int,
    rng: np.random.Generator,
    *,
    dominance: float = 0.8,
    regime_steps: float = 40.0,
) -> Iterator[TextBatch]:
    """Endless batches whose domain mix drifts as a Markov regime.

    One domain rules: each sequence comes from it with probability `dominance`, else from any domain. The rule passes to
    a domain drawn at random every `regime_steps` steps on average (geometric). Guarantee: equal `rng`, equal batches.
    """
    ruler = 0
    for step in count():
        if step == 0 or rng.random() < 1.0 / regime_steps:
            ruler = int(rng.integers(len(corpus.domains)))
        guests = rng.integers(len(corpus.domains), size=batch)
        domain = np.where(rng.random(batch) < dominance, ruler, guests)
        yield _drawn(corpus, domain, context, rng, step)


def shards(corpus: Corpus, domain: NDArray[np.integer], context: int, rng: np.random.Generator) -> Iterator[TextBatch]:
    """Endless batches whose sequence s always comes from ``domain[s]``, as where each worker reads a part of the data.

    Guarantee: equal `rng`, equal batches.
    """
    for step in count():
        yield _drawn(corpus, domain, context, rng, step)


def _drawn(corpus: Corpus, domain: NDArray[np.integer], context: int, rng: np.random.Generator, step: int) -> TextBatch:
    """A sequence from anywhere in each of these domains."""
    batch = len(domain)
    start = rng.integers(corpus.bounds[domain], corpus.bounds[domain + 1] - context)
    rows = corpus.text[start[:, None] + np.arange(context + 1)].astype(np.int64)
    request_id = np.arange(step * batch, (step + 1) * batch, dtype=np.uint64)
    return TextBatch(rows[:, :-1], rows[:, 1:], domain.astype(np.int32), corpus.domains, request_id)
