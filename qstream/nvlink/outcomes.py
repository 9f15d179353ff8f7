"""Outcomes: how long layouts took, over their analytic bound, kept by the agent, and read from a log to be learnt from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from qstream.errors import LearnError, ProblemError
from qstream.nvlink.layouts import FEATURES, Layout, bound_s, layout_features
from schemas.columns import require_both
from schemas.frame import Axes, Count, Frame, require
from schemas.wording import Shown, must_be

KEPT: Final = 4096
MAX_LOG_BYTES: Final = 256 << 20  # of a log, unpacked
PORT_GB_S: Final = 400.0  # of a node, where a log does not say


class Outcomes(Frame):
    """The newest outcomes, `FEATURES` and slowdown of each; once there are `KEPT`, a new one takes the place of the oldest.

    `seen` is how many there were.
    """

    seen: Count = 0
    feature: Annotated[NDArray[np.float32], Axes("outcomes", "features")]
    slowdown: Annotated[NDArray[np.float32], Axes("outcomes")]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_both(self, "feature", "slowdown")
        if self.feature.shape[1] != len(FEATURES):
            raise ValueError(must_be("feature", f"rows of {len(FEATURES)} numbers", self.feature.shape[1]))
        require(self, "slowdown", 0)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(seen=1, feature=np.zeros((1, len(FEATURES)), np.float32), slowdown=np.ones(1, np.float32))


def with_outcome(known: Outcomes | None, layout: Layout, comm_us: float) -> Outcomes | None:
    """The outcomes with another one; the same where the layout sends nothing between blocks."""
    bound_us = bound_s(layout) * 1e6
    if not 0 < bound_us < np.inf:
        return known
    row = layout_features(*layout).astype(np.float32)[None]
    took = np.array([min(comm_us / bound_us, 1e9)], np.float32)
    if known is None:
        return Outcomes(seen=1, feature=row, slowdown=took)
    feature, slowdown = known.feature, known.slowdown
    if len(slowdown) < KEPT:
        feature, slowdown = np.concatenate([feature, row]), np.concatenate([slowdown, took])
    else:
        at = known.seen % KEPT
        feature, slowdown = feature.copy(), slowdown.copy()
        feature[at], slowdown[at] = row[0], took[0]
    return Outcomes(seen=known.seen + 1, feature=feature, slowdown=slowdown)


def read_log(path: Path) -> list[Frame]:
    """The outcomes in a log of layouts: an ``.npz`` of the arrays below, also with ``train:`` before each name.

    ``first_flow`` [n + 1] says where the flows of a layout begin in ``src``, ``dst`` and ``nbytes``; ``up_gb_s`` [n, L, S] and
    ``down_gb_s`` [n, S, L] are its capacities, ``bound_s`` and ``time_s`` [n] its bound and what it took. Without
    ``leaf_of_node`` nodes are below leaves in their order, as many below each; without ``port_gb_s`` a node sends 400 GB/s.

    Raises
    ------
    LearnError
        The file is no such log, or larger than 256 MB unpacked; field, value and rule are named.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            if (size := sum(entry.file_size for entry in packed.infolist())) > MAX_LOG_BYTES:
                raise LearnError(must_be(path.name, f"at most {MAX_LOG_BYTES} bytes unpacked", size))
        with np.load(path, allow_pickle=False) as log:
            columns = {name.removeprefix("train:"): log[name] for name in log.files if not name.startswith("choose:")}
        return [_outcomes(columns)]
    except KeyError as exc:
        raise LearnError(must_be(path.name, f"with an array {exc.args[0]}", Shown("none"))) from exc
    except (OSError, ValueError, IndexError, zipfile.BadZipFile, ProblemError) as exc:
        raise LearnError(must_be(path.name, "a log of layouts in an .npz file", Shown(f"{type(exc).__name__}: {exc}"))) from exc


def _outcomes(columns: dict[str, NDArray[Any]]) -> Outcomes:
    first, took = columns["first_flow"], columns["time_s"].astype(np.float64)
    src, dst = columns["src"].astype(np.int64), columns["dst"].astype(np.int64)
    leaves = columns["up_gb_s"].shape[1]
    below = -(-int(max(src.max(), dst.max()) + 1) // leaves)
    leaf = columns.get("leaf_of_node", np.arange(below * leaves) // below)
    port = float(columns.get("port_gb_s", np.array(PORT_GB_S)))
    rows, slowdown = [], []
    for at in range(len(took)):
        flows = slice(int(first[at]), int(first[at + 1]))
        ups, downs = columns["up_gb_s"][at], columns["down_gb_s"][at]
        rows.append(layout_features(src[flows], dst[flows], columns["nbytes"][flows], leaf, port, ups, downs))
        slowdown.append(took[at] / float(columns["bound_s"][at]))
    return Outcomes(seen=len(rows), feature=np.array(rows, np.float32), slowdown=np.array(slowdown, np.float32))
