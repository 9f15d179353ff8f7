"""The record of a circuit that helped to code a block, and of its classical twin, as plans have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.solver import CLASSICAL, SolverRecord


def solver_record(record: Mapping[str, Any]) -> SolverRecord | None:
    """Of a basis' record; None where no circuit was asked for. The objective is in bits a value."""
    if "twin_bits" not in record:
        return None
    answered = record.get("fallback_reason") is None
    return SolverRecord(
        solver="qae" if answered else "klt",
        execution=record["execution"] if answered else CLASSICAL,
        asked=("qae",),
        n=record["n"],
        depth=record["layers"],
        shots=record["shots"],
        seed=record["seed"],
        objective=record["bits" if answered else "twin_bits"],
        twin=record["twin_bits"],
    )
