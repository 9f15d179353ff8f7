"""Error feedback: what a gradient lost on its way is added to the next one (Seide et al. 2014; Karimireddy et al. 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.compression.decode import restore
from qstream.compression.dtypes import as_floats, canonical, from_floats
from qstream.compression.encode import Compressed, compress
from qstream.compression.options import CompressionOptions
from qstream.errors import BlockError
from schemas.wording import Shown, must_be


class Feedback:
    """The sender of one tensor's gradients: it holds what the reader has not been given yet.

    >>> rng = np.random.default_rng(0)
    >>> feedback, sent = Feedback(), np.zeros((64, 64))
    >>> gradients = [rng.standard_normal((64, 64)) for _ in range(50)]
    >>> for gradient in gradients:
    ...     sent += restore(feedback.code(gradient)).array
    >>> bool(np.linalg.norm(sum(gradients) - sent) < 0.2 * np.linalg.norm(sum(gradients)))
    True
    """

    def __init__(self, options: CompressionOptions | None = None, *, name: str = "gradient") -> None:
        self.options = options or CompressionOptions(mode="gradient")
        self.name = name
        self.steps = 0
        self._residual: NDArray[Any] | None = None

    @property
    def residual(self) -> NDArray[Any] | None:
        """What is still to be sent, as float32 or float64; None before the first gradient."""
        return self._residual

    def code(self, gradient: ArrayLike, *, dtype: str | None = None) -> Compressed:
        """Code a gradient with what the ones before lost; `BlockError` if it has another shape than those."""
        form = canonical(gradient, dtype)
        values = as_floats(form.array, form.dtype)
        if self._residual is not None and self._residual.shape != values.shape:
            raise BlockError("shape", must_be("gradient", f"of shape {self._residual.shape}", Shown(f"shape {values.shape}")))
        wanted = values if self._residual is None else values + self._residual
        given = np.ascontiguousarray(from_floats(wanted, form.dtype)).reshape(values.shape)
        done = compress(given, self.options, name=self.name, step=self.steps)
        got = as_floats(canonical(restore(done).array).array, form.dtype)
        with np.errstate(invalid="ignore"):
            lost = wanted - got
        # A gradient that is not finite was sent as it is: nothing of it is owed.
        self._residual = np.where(np.isfinite(lost), lost, 0).astype(values.dtype)
        self.steps += 1
        return done
