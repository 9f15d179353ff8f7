"""Counts by label: what the tokens of each label ask of the experts of one layer."""

from __future__ import annotations

from typing import Any

from qstream.routing.kernels import compiled


@compiled
def count_labels(topk_ids: Any, label: Any, row: Any, counts: Any) -> None:
    """Add gate choices [T, K] to int32 [rows, E]: those of a token with label i, int32 [T], to row[i]; label -1 to none."""
    for t in range(len(topk_ids)):
        if label[t] >= 0:
            r = row[label[t]]
            for e in topk_ids[t]:
                counts[r, e] += 1
