"""Counts by label: what the tokens of each label ask of the experts of one layer."""

from __future__ import annotations

from typing import Any

from qstream.kernels import compiled


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
