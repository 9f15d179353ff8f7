"""Every error of qstream, each a fact with its fields.

QstreamError
├── ConfigError            a setting is wrong: names the setting, what it must be and its value
│   └── OptionError        a toggle of a module is wrong or contradicts another
├── ProblemError           the input of a solver breaks a rule (shape, sign, capacity)
│   └── BlockError         a tensor cannot be coded, or coded data cannot be restored: its code says why
├── LearnError             an argument of a learner breaks a rule (shape, range, not finite)
├── Poison                 one record can never be processed: dead letter
├── StateLimit             a state would outgrow what a setting allows: dead letter
├── Transient              try again later; nothing is lost meanwhile
│   ├── Unreachable        no broker answers, or none lets this client in
│   ├── DeliveryFailed     the broker did not confirm some records in time
│   │   └── NotAllowed     the Kafka user lacks the right to write them
│   ├── NotYet             what is computed next to the records is not ready: asked again soon, and never given up
│   └── StoreUnavailable   the state store does not answer
│       └── StoreRefused   the state store answers, and refuses what the agent needs
├── Fatal                  stop without commit, exit code 70
│   └── Fenced             another worker owns these partitions or this transactional id
└── StoreConflict          the stored state has changed since it was read: load it and process again
    └── StaleEpoch         a newer owner has written: this writer must stop

``schemas.FrameError`` (a ValueError) is defined next to the frames, which know nothing of qstream.
"""

from __future__ import annotations

EXIT_FATAL = 70


class QstreamError(Exception):
    """Root of all errors that qstream raises on purpose."""


class ConfigError(QstreamError):
    """A setting is wrong: the message names it, what it must be and its value."""


class OptionError(ConfigError):
    """A toggle of a module is unknown, out of range, or contradicts another."""


class ProblemError(QstreamError, ValueError):
    """The input of a solver breaks a rule of shape, sign or capacity."""


class BlockError(ProblemError):
    """A tensor cannot be coded, or coded data cannot be restored.

    `code` is one of bad_frame, checksum, limit, unknown_op, base_mismatch, basis_mismatch, dtype, shape, library_missing, and of
    a `BlobStore` missing.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class LearnError(QstreamError, ValueError):
    """An argument of a learner breaks a rule of shape or range, or is not finite; the learner's state is as it was."""


class Poison(QstreamError):
    """One record can never be processed; it becomes a dead letter and the others go on."""

    def __init__(self, record: object, reason: str) -> None:
        super().__init__(reason)
        self.record = record
        self.reason = reason


class StateLimit(QstreamError):
    """A key more, or a larger state, than a setting allows: the record that asks for it becomes a dead letter."""


class Transient(QstreamError):
    """A record cannot be processed now: it waits with those that follow it under its key, and is tried again."""


class Unreachable(Transient):
    """No broker answers, or none lets this client in: the message says why, `fix` what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}; {fix}" if fix else message)
        self.reason = message
        self.fix = fix


class DeliveryFailed(Transient):
    """The broker refused or did not confirm some of the produced records."""


class NotAllowed(DeliveryFailed):
    """The broker refused records because the Kafka user lacks a right: `right` names it and what it is on."""

    def __init__(self, message: str, right: str) -> None:
        super().__init__(f"{message}: {right}")
        self.right = right


class NotYet(Transient):
    """A result that is computed next to the records is not ready.

    Only the records of this key wait for it. They are tried again every few milliseconds, and however long it takes they
    never become dead letters: nothing is wrong with them.
    """


class StoreUnavailable(Transient):
    """The state store does not answer."""


class StoreRefused(StoreUnavailable):
    """The state store answers and refuses what the agent needs: somebody has to change it, or what the agent may do there.

    `demand` is what must be so, without what differs from one refusal to the next.
    """

    def __init__(self, message: str, demand: str = "") -> None:
        super().__init__(message)
        self.demand = demand


class Fatal(QstreamError):
    """The worker must stop without committing; its supervisor starts another."""


class Fenced(Fatal):
    """Another worker owns these partitions or this transactional id."""


class StoreConflict(QstreamError):
    """The stored state has changed since this writer read it: load it and process the batch again."""


class StaleEpoch(StoreConflict):
    """A newer owner of the partition has written: this writer must not write any more."""
