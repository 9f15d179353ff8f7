"""Windows: a ring of the counts of closed windows, and counts by label in a bounded number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.kernels import compiled

OTHER: Final = "other"
COUNT_MAX: Final = np.iinfo(np.int32).max
QUEUED_MAX: Final = 1 << 53  # tokens of a label that wait, at which their count stops: int64 holds the sum of labels


def past_windows(ring: NDArray[np.int32], closed: int) -> list[NDArray[np.int32]]:
    """The closed windows that a ring [W, ...] still holds, oldest first; window w stands in row ``w % W``."""
    rows = len(ring)
    return [ring[window % rows] for window in range(max(0, closed - rows), closed)]


def with_window(ring: NDArray[np.int32], closed: int, counts: NDArray[np.int64], windows: int) -> NDArray[np.int32]:
    """The ring after `counts` [...] closed as window number `closed`: int32 [windows, ...], counts beyond int32 saturate."""
    history = [*past_windows(ring, closed), np.minimum(counts, COUNT_MAX)][-windows:]
    new = np.zeros((windows, *counts.shape), np.int32)
    for age, window in enumerate(reversed(history)):
        new[(closed - age) % windows] = window
    return new


@lru_cache(maxsize=1024)
def rows_of(names: tuple[str, ...], known: tuple[str, ...], most: int) -> NDArray[np.int64]:
    """The row of each name among the `known` labels: int64 [names], at least one long, read-only.

    Without a row of its own a name has that of ``other`` if all of the `most` rows are given out, else -1.

    >>> rows_of(("b", "x"), ("a", "b"), 4).tolist(), rows_of(("b", "x"), ("a", "b", "other"), 3).tolist()
    ([1, -1], [1, 2])
    """
    row = {name: index for index, name in enumerate(known)}
    unknown = row.get(OTHER, -1) if len(known) >= most - 1 else -1
    rows = np.array([row.get(name, unknown) for name in names] or [-1], np.int64)
    rows.flags.writeable = False
    return rows


def with_labels(known: tuple[str, ...], names: Iterable[str], most: int) -> tuple[str, ...]:
    """The known labels and those new ones that still get a row: `most` rows in all, the last of them for ``other``.

    >>> with_labels(("a",), ["b", "c", "a", "d"], 3)
    ('a', 'b', 'other')
    """
    for name in names:
        if name not in known:
            name = name if len(known) < most - 1 else OTHER
            known = known if name in known else (*known, name)
    return known


def known_labels(
    label: NDArray[np.int32], names: tuple[str, ...], known: tuple[str, ...], most: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The known labels with those that occur in `label`, int32 [T] indices of `names`, and the row of each name (`rows_of`)."""
    rows = rows_of(names, known, most)
    present = np.unique(label[label >= 0])
    if len(present) and rows[present].min() < 0:
        known = with_labels(known, (names[index] for index in present.tolist()), most)
        rows = rows_of(names, known, most)
    return known, rows


def with_rows(count: NDArray[np.int32], rows: int) -> NDArray[np.int32]:
    """Counts [L, rows, E] with empty rows at their end for labels that came; the same array if none came."""
    if count.shape[1] == rows:
        return count
    new = np.zeros((count.shape[0], rows, count.shape[2]), np.int32)
    new[:, : count.shape[1]] = count
    return new


def merged_labels(count: NDArray[np.int32], known: tuple[str, ...], most: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Counts [L, rows, E] and labels, where the labels beyond the first ones share a row if there are more than `most`."""
    wide = count.astype(np.int64)
    if len(known) <= most:
        return wide, known
    named = [row for row, name in enumerate(known) if name != OTHER][: most - 1]
    rest = [row for row in range(len(known)) if row not in named]
    return np.concatenate([wide[:, named], wide[:, rest].sum(1, keepdims=True)], axis=1), (*(known[row] for row in named), OTHER)


def faded(count: NDArray[np.int64], most: int) -> NDArray[np.int32]:
    """Counts [L, rows, E], halved as often as it takes until a row [L, rows] has at most `most` in all: old ones fade."""
    excess = np.maximum(count.sum(2, keepdims=True) / most, 1.0)
    halved: NDArray[np.int32] = (count >> np.ceil(np.log2(excess)).astype(np.int64)).astype(np.int32)
    return halved


def longest_queues(queued: Mapping[str, int], known: tuple[str, ...], most: int) -> dict[str, int] | None:
    """The tokens that wait, by label: known labels and long queues by name, at most `most` of them, the rest as ``other``."""
    ranked = sorted(queued.items(), key=lambda item: (item[0] not in known, -item[1], item[0]))
    kept = dict(ranked[:most])
    if rest := sum(tokens for _, tokens in ranked[most:]):
        kept[OTHER] = kept.get(OTHER, 0) + rest
    return {name: min(tokens, QUEUED_MAX) for name, tokens in kept.items()} or None


def demand(
    count: NDArray[np.int32], known: tuple[str, ...], queued: Mapping[str, int] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Counts by label [K, L, E] of `count` [L, rows, E], and the tokens that wait [K], 0 where that is not known.

    A last row of `count`, without a token, is added for labels that nothing is known of.
    """
    labels = np.concatenate([count, np.zeros_like(count[:, :1])], axis=1).transpose(1, 0, 2)
    rows = {name: row for row, name in enumerate(known)}
    unknown = rows.get(OTHER, len(rows))
    waits = np.zeros(len(labels), np.int64)
    for name, tokens in (queued or {}).items():
        waits[rows.get(name, unknown)] += tokens
    return labels, waits


@compiled
def count_labels(topk_ids: Any, label: Any, row: Any, counts: Any) -> bool:
    """Add gate choices [T, K] to int32 [rows, E]: those of a token with label i, int32 [T], to row[i]; label -1 to none.

    False, and nothing is added, if a label has no row yet: row[i] is -1.
    """
    for i in label:
        if i >= 0 and row[i] < 0:
            return False
    for t in range(len(topk_ids)):
        if label[t] >= 0:
            r = row[label[t]]
            for k in range(topk_ids.shape[1]):
                counts[r, topk_ids[t, k]] += 1
    return True
