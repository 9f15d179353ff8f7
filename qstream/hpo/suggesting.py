"""Suggesting: the configuration of a new trial, with kernel parameters that were fitted ahead, or are fitted here and now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from qstream.ahead import Ahead
from qstream.errors import NotYet
from qstream.hpo import memory, plan
from qstream.hpo.axis import Array
from qstream.hpo.fitting import Fit, digest
from qstream.hpo.memory import Memory
from qstream.hpo.metrics import FITS
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Suggestion
from qstream.hpo.problem import Problem

if TYPE_CHECKING:
    from qstream.quantum.runtime import QuantumRuntime

LATE_KEPT: Final = 1000  # fits that were waited for, so that each is counted once


class Fits:
    """Kernel parameters of studies, fitted next to the records; counts how many were ready when they were needed."""

    def __init__(self, ahead: Ahead[Array]) -> None:
        self._ahead = ahead
        self._late: dict[str, None] = {}

    def start(self, study: str, fit: Fit) -> None:
        """Begin with a fit that is needed soon."""
        self._ahead.start(study, fit.key, lambda: fit.compute)

    def theta(self, study: str, fit: Fit) -> Array:
        """The parameters; `NotYet` while they are being fitted."""
        try:
            theta = self._ahead.result(study, fit.key, lambda: fit.compute)
        except NotYet:
            self._late[fit.key] = None
            if len(self._late) > LATE_KEPT:
                del self._late[next(iter(self._late))]
            raise
        FITS.labels("late" if fit.key in self._late else "ready").inc()
        return theta


def options_of(draft: Memory, options: HpoOptions) -> HpoOptions:
    """The options that hold for a study: its own before those of the module."""
    return options.changed(draft.now.spec.options)


def suggest(
    draft: Memory,
    trial: int,
    *,
    options: HpoOptions,
    fits: Fits | None = None,
    runtime: Callable[[], QuantumRuntime] | None = None,
) -> Suggestion:
    """The suggestion of a trial's number: a function of the study's results, running trials, options and seed alone.

    Kernel parameters are those that the study remembers, if they are of the same trials; else `fits` has them, or they are
    fitted here. All three give the same bytes.

    `runtime` gives the one where a device is found, if the options name one.

    Raises
    ------
    NotYet
        `fits` has not got them yet.
    Exhausted
        No configuration is left.
    """
    chosen = options_of(draft, options)
    problem = _problem(draft, trial, chosen)
    fit = plan.fit_due(problem, chosen)
    if fit is None:
        return plan.suggest_from(problem, chosen, runtime=runtime)
    if draft.now.theta_of != fit.key:
        theta = fit.compute() if fits is None else fits.theta(draft.now.spec.study, fit)
        draft.set(theta=theta, theta_of=fit.key)
    return plan.suggest_from(problem, chosen, theta=draft.now.theta)


def basis(draft: Memory, trial: int, *, options: HpoOptions) -> str:
    """The digest of all that `suggest` would compute from, without computing it."""
    chosen = options_of(draft, options)
    return digest(_problem(draft, trial, chosen), chosen)


def look_ahead(draft: Memory, options: HpoOptions, fits: Fits) -> None:
    """Start the fit that the next suggestions will need, as soon as its trials are settled."""
    if draft.now.ended:
        return
    chosen = options_of(draft, options)
    problem = _problem(draft, draft.now.trials, chosen)
    due = plan.fit_due(problem, chosen)
    if due is None or due.key == draft.now.theta_of:
        due = plan.fit_next(problem, chosen)
    if due is not None and due.key != draft.now.theta_of:
        fits.start(draft.now.spec.study, due)


def _problem(draft: Memory, trial: int, options: HpoOptions) -> Problem:
    """The seed is the study's, or the module's for a study that has none."""
    return memory.problem(draft.now, trial, draft.now.spec.seed or options.seed)
