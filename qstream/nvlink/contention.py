"""Contention: how likely the jobs of a layout will collide, learnt from a log of layouts; scikit-learn trains, numpy answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.learn import policy
from qstream.learn.model import Model, from_bytes, to_bytes
from qstream.nvlink.layouts import FEATURES
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
MODEL: Final = "contention"
PENALTY, WIDTH = 10.0, 0.01  # C and gamma of the support vector machine, on standardised features
FOLDS: Final = 5


@dataclass(frozen=True, eq=False)
class ContentionModel:
    """A support vector machine with radial basis functions over `FEATURES`, and a logistic curve of its decision."""

    model: Model

    @classmethod
    def fit(cls, features: ArrayLike, contended: ArrayLike, *, seed: int = 0, version: int = 0) -> Self:
        """Learn from layouts: `features` float64 [n, F], and whether each took longer than usual for its bound, bool [n].

        The curve is fitted to decisions on held-out folds (Platt, "Probabilistic outputs for support vector machines", 1999).

        Raises
        ------
        LearnError
            Other shapes, values that are not finite, or fewer than two layouts a fold of either kind.
        """
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 needed to train alone
        from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: PLC0415 needed to train alone
        from sklearn.svm import SVC  # noqa: PLC0415 needed to train alone

        x, y = _log(features, contended)
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1.0), scale, 1.0)
        standard = (x - mean) / scale
        machine = SVC(C=PENALTY, gamma=WIDTH)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        held_out = cross_val_predict(machine, standard, y, cv=folds, method="decision_function")
        curve = LogisticRegression(C=1e6).fit(held_out[:, None], y)
        machine.fit(standard, y)
        slope = float(curve.coef_[0, 0])
        arrays = {
            "mean": mean,
            "scale": scale,
            "support": machine.support_vectors_,
            "weight": machine.dual_coef_ * slope,
            "bias": machine.intercept_ * slope + curve.intercept_,
        }
        kept = {name: np.ascontiguousarray(value, np.float64) for name, value in arrays.items()}
        return cls(Model("nvlink", MODEL, version, "svm", kept, FEATURES, config={"gamma": WIDTH}))

    def probability(self, features: ArrayLike) -> Floats:
        """Probability of contention of each layout, float64 [n], from features [n, F]."""
        odds = policy.svm(self.model, features)[:, 0]
        return np.asarray(0.5 * (1 + np.tanh(odds / 2)))

    def save(self, path: str | Path) -> None:
        """Write the model as a safetensors file."""
        Path(path).write_bytes(to_bytes(self.model))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; `LearnError` if the file is of another model."""
        model = from_bytes(Path(path).read_bytes())
        if (model.module, model.name, model.kind) != ("nvlink", MODEL, "svm") or model.feature_names != FEATURES:
            raise LearnError(must_be("the model", f"{MODEL} of nvlink", Shown(f"{model.name} of {model.module}")))
        return cls(model)


def rank_layouts(model: ContentionModel, features: ArrayLike, bound_s: ArrayLike) -> Floats:
    """Return a score in seconds for each layout, lower is better: the bound times 1 + half the probability of contention.

    The probability is relative to the bound, so that alone it would prefer slow layouts that cannot become slower.
    """
    return np.asarray(np.asarray(bound_s, np.float64) * (1 + 0.5 * model.probability(features)))


def _log(features: ArrayLike, contended: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    x, y = np.asarray(features, np.float64), np.asarray(contended)
    if x.ndim != 2 or x.shape[1] != len(FEATURES) or not np.isfinite(x).all():
        raise LearnError(must_be("features", f"finite numbers of shape [n, {len(FEATURES)}]", Shown(f"shape {x.shape}")))
    if y.shape != (len(x),) or y.dtype != np.bool_:
        raise LearnError(must_be("contended", f"{len(x)} booleans", Shown(f"{y.dtype} of shape {y.shape}")))
    if min(int(y.sum()), int((~y).sum())) < 2 * FOLDS:
        raise LearnError(must_be("contended", f"true and false at least {2 * FOLDS} times", Shown(f"true {int(y.sum())} times")))
    return x, y
