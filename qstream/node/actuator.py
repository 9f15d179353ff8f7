"""Actuator: takes plans on one node, sets what is safe, and puts the defaults back when a plan is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np

from qstream.energy.formats.recording import MAX_NAME, is_name
from qstream.energy.guard import Fault, decreases_first, is_newer, target_faults
from qstream.errors import ConfigError
from qstream.node.device import CLOCK, LIMIT, Device, DeviceDenied, DeviceLost, Knob
from qstream.node.lease import Lease, LeaseUnreadable, read_lease, write_lease
from schemas.energy import RELEASED, AckResult, EnergyAck, EnergyPlan
from schemas.wording import must_be

MODES: Final = ("dry_run", "apply")
RETRY_NS: Final = (1_000_000_000, 60_000_000_000)  # first and longest time until what could not be put back is tried again
BACKWARDS_NS: Final = 2_000_000_000  # a clock that goes back by more cannot tell when a plan is over
SAME: Final = 0.5  # W or MHz between what was asked for and what is read back
WHOLE_W: Final = 1.0  # a driver may round a limit down to whole watts
CLOCK_STEP_MHZ: Final = 15.0  # a clock cap may snap down by so much
RESULT_OF: Final[dict[int, AckResult]] = {Fault.UNKNOWN_LIMITS: "unsupported"}
NO_CAP: Final = -1.0
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Target:
    """What one GPU is to have, and what became of it; -1 in `clock_mhz` means no cap."""

    limit_w: float
    clock_mhz: float
    result: AckResult = "ok"
    applied_limit_w: float = -1.0
    applied_clock_mhz: float = -1.0


@dataclass(slots=True)
class _Work:
    """Targets of one call by uuid, and which knobs of each to set."""

    targets: dict[str, _Target] = field(default_factory=dict)
    knobs: dict[str, tuple[Knob, ...]] = field(default_factory=dict)

    def named(self, uuids: Iterable[str]) -> dict[str, _Target]:
        """The targets of these GPUs, as far as they are on the node."""
        return {uuid: self.targets[uuid] for uuid in uuids if uuid in self.targets}


class Actuator:
    """The authority over the GPUs of one node: a plan is a proposal, which it may refuse.

    Nothing is set unless the actuator *and* the plan are in mode ``apply``; only GPUs of `allow` ever are. The state file is
    written first, then targets that go down, each read back, then those that go up: if one that goes down fails, none goes up.
    What a plan does not name goes back to its default if it was set here. Defaults come back when the plan is over (`tick`), at
    `close`, and when an actuator starts again on a state file with GPUs that were set. An unreadable state file means that
    nothing is touched; `fault` and each acknowledgement say so.

    Parameters
    ----------
    device
        The GPUs, such as `FakeNvml`.
    mode
        ``dry_run``, or ``apply``.
    allow
        Uuids that may be set; none by default.
    state_path
        The state file. Without one a killed actuator leaves what it has set.
    verify_s
        Seconds after which what was set is read back once more. What has changed since, by whatever else sets GPUs, is
        acknowledged as it is, and left to the next plan.

    Raises
    ------
    ConfigError
        The mode is unknown, `domain` or `node` names nothing, `allow` is one text, or `verify_s` is not above 0.
    """

    def __init__(
        self,
        device: Device,
        *,
        domain: str,
        node: str,
        mode: Literal["dry_run", "apply"] = "dry_run",
        allow: Iterable[str] = (),
        state_path: Path | str | None = None,
        verify_s: float = 30.0,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(must_be("mode", " or ".join(MODES), mode))
        for name, text in (("domain", domain), ("node", node)):
            if not is_name(text):
                raise ConfigError(must_be(name, f"1 to {MAX_NAME} printable characters", text))
        if isinstance(allow, str):
            raise ConfigError(must_be("allow", "several uuids, such as a list of them", allow))
        if not verify_s > 0:
            raise ConfigError(must_be("verify_s", "above 0", verify_s))
        self.device, self.domain, self.node, self.mode = device, domain, node, mode
        self.allow = frozenset(allow)
        self.fault: str | None = None
        self.restored: EnergyAck | None = None
        self._path = None if state_path is None else Path(state_path)
        self._seen_ns, self._closed = 0, False
        self._wait_ns, self._retry_ns = 0, 0  # until defaults that could not be put back are tried again, and when
        self._verified_ns, self._verify_ns = 0, int(verify_s * 1e9)
        self._in_force: dict[str, _Target] = {}
        self._lease = Lease(domain=domain, node=node)
        try:
            self._lease = read_lease(self._path, domain, node)
        except LeaseUnreadable as unreadable:
            self.fault = str(unreadable)
        if self._lease.touched and mode == "apply":
            self._lease = self._lease.model_copy(update={"until_ns": 0})  # what could not be put back is tried again at once
            self.restored = self._put_back(0)

    @property
    def touched(self) -> tuple[str, ...]:
        """The GPUs that have something else than their defaults because of a plan."""
        return self._lease.touched

    def take(self, plan: EnergyPlan, now_ns: int) -> EnergyAck:
        """Set what the plan asks of this node, as far as it is safe; the answer says what is enforced now."""
        mine = [row for row, uuid in enumerate(plan.uuid) if uuid in self.device.uuids]
        overdue = self._overdue(now_ns)
        self._seen_ns = now_ns
        refused = self._refusal(plan, now_ns)
        if overdue and (refused is not None or plan.mode != "apply"):
            self._release(self._lease.touched)
        if refused is not None:
            result, detail = refused
            return self._ack(plan.plan_id, now_ns, {plan.uuid[row]: _Target(-1, NO_CAP, result) for row in mine}, detail)
        work = self._work(plan, mine)
        if self.mode != "apply" or plan.mode != "apply":
            return self._ack(plan.plan_id, now_ns, work.named(plan.uuid), "", dry_run=True)
        detail = self._carry_out(plan, work, now_ns)
        return self._ack(plan.plan_id, now_ns, work.named(plan.uuid), detail)

    def tick(self, now_ns: int) -> EnergyAck | None:
        """Put the defaults back if the plan in force is over, and read back from time to time what it has set.

        Returns
        -------
        EnergyAck or None
            What was put back, or what is not as it was set any more; None if there is nothing new. Defaults that could not be
            put back are tried again after a second, then twice as long each time, up to a minute.
        """
        overdue = self._overdue(now_ns)
        self._seen_ns = now_ns
        return self._put_back(now_ns) if overdue else self._verify(now_ns)

    def close(self, now_ns: int = 0) -> EnergyAck | None:
        """Put the defaults back, as after SIGTERM; from then on every plan is refused."""
        self._closed = True
        return self._put_back(now_ns) if self.mode == "apply" and self._lease.touched else None

    def _put_back(self, now_ns: int) -> EnergyAck:
        """Put the defaults of all GPUs back that were set, and acknowledge the plan that had set them."""
        ack = self._ack(self._lease.plan_id or "unknown", now_ns, self._release(self._lease.touched), "")
        first_ns, longest_ns = RETRY_NS
        self._wait_ns = min(max(first_ns, 2 * self._wait_ns), longest_ns) if self._lease.touched else 0
        self._retry_ns = now_ns + self._wait_ns
        self._in_force = {}
        return ack

    def _verify(self, now_ns: int) -> EnergyAck | None:
        """Read back what is in force, if it is time to; what has become of it where that differs from the last time."""
        if not self._in_force or now_ns < self._verified_ns + self._verify_ns:
            return None
        self._verified_ns = now_ns
        found = {uuid: self._read_back(uuid, target) for uuid, target in self._in_force.items()}
        changed = [uuid for uuid, target in self._in_force.items() if target.result != found[uuid]]
        for uuid in changed:
            self._in_force[uuid].result = found[uuid]
        detail = "read back: not all is as it was set" if {*found.values()} != {"ok"} else "read back: all is as it was set"
        return self._ack(self._lease.plan_id, now_ns, self._in_force, detail) if changed else None

    def _read_back(self, uuid: str, target: _Target) -> AckResult:
        """Whether what was set of a GPU is enforced now."""
        limit, cap = self._current(uuid, LIMIT), self._current(uuid, CLOCK)
        if limit < 0:
            return "lost"
        same = target.applied_limit_w < 0 or _same(LIMIT, target.applied_limit_w, limit)
        return "ok" if same and (target.applied_clock_mhz < 0 or _same(CLOCK, target.applied_clock_mhz, cap)) else "clamped"

    def _carry_out(self, plan: EnergyPlan, work: _Work, now_ns: int) -> str:
        """Write the lease, then set the targets; what is wrong, if nothing could be set."""
        until_ns = min(plan.ts_ns, now_ns) + int(plan.ttl_s * 1e9)
        touched = tuple(sorted({*self._lease.touched, *work.knobs}))
        taken = {"fence": plan.fence, "version": plan.version, "plan_id": plan.plan_id, "until_ns": until_ns, "touched": touched}
        lease = self._lease.model_copy(update=taken)
        try:
            write_lease(self._path, lease)
        except LeaseUnreadable as unreadable:
            for target in work.targets.values():
                target.result = "refused"
            return str(unreadable)
        self._lease, self._wait_ns, self._retry_ns = lease, 0, 0
        self._apply(work)
        failed = {uuid for uuid in work.knobs if work.targets[uuid].result != "ok"}  # what was denied may come late
        self._shorten(tuple(uuid for uuid in touched if uuid in failed or not self._is_default(uuid)))
        self._in_force = {uuid: work.targets[uuid] for uuid in work.knobs if uuid not in failed}
        self._verified_ns = now_ns
        return ""

    def _overdue(self, now_ns: int) -> bool:
        """Whether GPUs must go back to their defaults: the plan is over, or the clock cannot say."""
        if self.mode != "apply" or not self._lease.touched:
            return False
        if now_ns < self._seen_ns - BACKWARDS_NS:
            return True
        return now_ns > self._lease.until_ns and now_ns >= self._retry_ns

    def _refusal(self, plan: EnergyPlan, now_ns: int) -> tuple[AckResult, str] | None:
        """Why no target of the plan may be set."""
        if self.fault is not None:
            return "refused", self.fault
        if self._closed:
            return "refused", "the actuator is closed"
        if plan.domain != self.domain:
            return "refused", must_be("domain", repr(self.domain), plan.domain)
        if plan.expired(now_ns):
            return "expired", ""
        if plan.skip_reason is not None:
            return "refused", must_be("skip_reason", "none in a plan to be set", str(plan.skip_reason))
        if not is_newer(plan.fence, plan.version, self._lease.order):
            rule = f"above {self._lease.order}, the newest plan's"
            return "refused", must_be("(fence, version)", rule, (plan.fence, plan.version))
        return None

    def _work(self, plan: EnergyPlan, mine: list[int]) -> _Work:
        """The targets of this node with what forbids them, and those that an earlier plan set and this one leaves."""
        uuids = [plan.uuid[row] for row in mine]
        limit, clock = plan.power_limit_w[mine].astype(np.float64), plan.sm_clock_mhz[mine].astype(np.float64)
        if plan.state is not None:
            released = plan.state[mine] == RELEASED
            limit[released], clock[released] = -1, NO_CAP
        least, most, lowest, highest = np.array([self._bounds(uuid) for uuid in uuids]).reshape(-1, 4).T
        allowed = [uuid in self.allow for uuid in uuids]
        faults = target_faults(limit, clock, least, most, lowest, highest, allowed)
        work = _Work()
        for row, uuid in enumerate(uuids):
            work.targets[uuid] = _Target(float(limit[row]), float(clock[row]))
            if faults[row]:
                work.targets[uuid].result = RESULT_OF.get(int(faults[row]), "refused")
            else:
                work.knobs[uuid] = tuple(knob for knob, set_ in ((LIMIT, limit[row]), (CLOCK, clock[row])) if set_ != -1)
        for uuid in self._lease.touched:
            if uuid in self.device.uuids:
                self._leave(work, uuid)
        work.knobs = {uuid: knobs for uuid, knobs in work.knobs.items() if knobs}
        return work

    def _leave(self, work: _Work, uuid: str) -> None:
        """A knob that was set before, and that this plan does not set, goes back to its default."""
        target = work.targets.setdefault(uuid, _Target(-1, NO_CAP))
        knobs = work.knobs.get(uuid, ())
        if target.result != "ok":
            target.limit_w, target.clock_mhz = -1, NO_CAP
        if LIMIT not in knobs:
            target.limit_w = self._bounds_default(uuid)
        work.knobs[uuid] = (LIMIT, CLOCK) if target.limit_w > 0 else (CLOCK,)

    def _apply(self, work: _Work) -> None:
        """Set what goes down and read it back, then what goes up."""
        jobs = [(uuid, knob) for uuid, knobs in work.knobs.items() for knob in knobs]
        wanted = np.array([self._wanted(work.targets[uuid], knob) for uuid, knob in jobs])
        current = np.array([self._current(uuid, knob) for uuid, knob in jobs])
        unknown = np.isnan(current)  # may be anything: a cap counts as one that goes down, and none as one that goes up
        current[unknown] = np.where(wanted[unknown] == NO_CAP, 0.0, np.inf)
        down, up = decreases_first(wanted, current)
        for row in range(len(jobs)):
            if row not in down and row not in up:
                self._note(work.targets[jobs[row][0]], jobs[row][1], "ok")
        done = [self._set(work.targets[jobs[row][0]], *jobs[row]) for row in down]
        for row in up:
            target, (uuid, knob) = work.targets[jobs[row][0]], jobs[row]
            if all(done):
                self._set(target, uuid, knob)
            else:
                target.result = "refused" if target.result == "ok" else target.result

    def _release(self, uuids: Iterable[str]) -> dict[str, _Target]:
        """Put the defaults of GPUs back, each by itself; those that could not be put back stay in the lease."""
        found: dict[str, _Target] = {}
        for uuid in uuids:
            target = found[uuid] = _Target(-1, NO_CAP)
            if uuid not in self.device.uuids:
                target.result = "lost"
                continue
            target.limit_w = self._bounds_default(uuid)
            done = [self._set(target, uuid, knob) for knob in (LIMIT, CLOCK) if knob == CLOCK or target.limit_w > 0]
            target.result = "expired" if all(done) else target.result
        self._shorten(tuple(uuid for uuid, target in found.items() if target.result != "expired"))
        return found

    def _set(self, target: _Target, uuid: str, knob: Knob) -> bool:
        """Set one knob and read it back; whether it is what was asked for."""
        wanted = self._wanted(target, knob)
        before = self._current(uuid, knob)
        if _same(knob, wanted, before):
            return self._note(target, knob, "ok")
        try:
            if knob == LIMIT:
                self.device.set_power_limit_w(uuid, wanted)
            else:
                self.device.set_sm_clock_cap_mhz(uuid, None if wanted == NO_CAP else wanted)
        except DeviceDenied:
            return self._note(target, knob, "denied")
        except DeviceLost:
            return self._note(target, knob, "lost")
        now = self._current(uuid, knob)
        if _same(knob, wanted, now):
            return self._note(target, knob, "ok")
        return self._note(target, knob, "denied" if _same(knob, before, now) else "clamped")

    def _note(self, target: _Target, knob: Knob, result: AckResult) -> bool:
        if result in ("ok", "clamped"):
            if knob == LIMIT:
                target.applied_limit_w = target.limit_w
            else:
                target.applied_clock_mhz = target.clock_mhz
        if target.result == "ok":
            target.result = result
        return result == "ok"

    def _wanted(self, target: _Target, knob: Knob) -> float:
        return target.limit_w if knob == LIMIT else target.clock_mhz

    def _current(self, uuid: str, knob: Knob) -> float:
        """What is enforced; -1 means no cap, or a limit that is not known, NaN a cap that cannot be read."""
        if knob == LIMIT:
            return self._ask(lambda: self.device.power_limit_w(uuid), -1.0)
        cap = self._ask(lambda: self.device.sm_clock_cap_mhz(uuid), None)
        return NO_CAP if cap is None else cap

    def _bounds(self, uuid: str) -> tuple[float, float, float, float]:
        unknown = -1.0, -1.0, -1.0
        least, most, _ = self._ask(lambda: self.device.limits_w(uuid), unknown)
        lowest, highest = self._ask(lambda: self.device.clocks_mhz(uuid), unknown[:2])
        return least, most, lowest, highest

    def _bounds_default(self, uuid: str) -> float:
        return self._ask(lambda: self.device.limits_w(uuid), (-1.0, -1.0, -1.0))[2]

    def _is_default(self, uuid: str) -> bool:
        if uuid not in self.device.uuids:
            return False
        limit, cap = self._current(uuid, LIMIT), self._current(uuid, CLOCK)
        return cap == NO_CAP and limit > 0 and abs(limit - self._bounds_default(uuid)) <= SAME

    def _ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        try:
            return question()
        except DeviceLost:
            return otherwise

    def _shorten(self, touched: tuple[str, ...]) -> None:
        """Keep only these GPUs to be put back. If the file cannot be written, it has the longer list, which does no harm."""
        self._lease = self._lease.model_copy(update={"touched": touched})
        with suppress(LeaseUnreadable):
            write_lease(self._path, self._lease)

    def _ack(self, plan_id: str, now_ns: int, targets: dict[str, _Target], detail: str, *, dry_run: bool = False) -> EnergyAck:
        enforced = [self._current(uuid, LIMIT) if uuid in self.device.uuids else -1.0 for uuid in targets]
        return EnergyAck(
            domain=self.domain,
            ts_ns=now_ns,
            node=self.node,
            plan_id=plan_id,
            dry_run=dry_run or self.mode != "apply",
            detail=detail[:500],
            uuid=tuple(targets),
            result=tuple(target.result for target in targets.values()),
            applied_limit_w=np.array([target.applied_limit_w for target in targets.values()], np.float32),
            enforced_limit_w=np.array(enforced, np.float32),
            applied_clock_mhz=np.array([target.applied_clock_mhz for target in targets.values()], np.float32),
        )


def _same(knob: Knob, wanted: float, found: float) -> bool:
    """Whether what is read back is what was asked for: limits are rounded down, and clocks snap down to supported ones."""
    if NO_CAP in (wanted, found):
        return wanted == found
    return -SAME <= wanted - found < (WHOLE_W if knob == LIMIT else CLOCK_STEP_MHZ)
