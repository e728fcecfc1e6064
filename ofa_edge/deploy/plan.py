"""What a deployment will do, decided before it does anything.

In: the state of a device (what the agent's op `state` told, its facts, which blobs it lacks) and the manifest
of a bundle. Out: a Plan, a verdict with its reason and the steps in order; pure, no IO, so `--dry-run` shows
exactly what a deployment executes. The rules, first match wins:

1. A device whose `current` or journal we cannot read needs hands.
2. A living holder of the lock is never disturbed; a dead one's lock is taken over.
3. The release that is current, whole and committed stays: nothing to do.
4. A release whose trials failed three times is refused (the loop guard). An interrupted trial counts.
5. The device must have the runtime, and the conditions the latency was predicted under must hold; with
   --accept-stale they may differ, and the measurement decides.
6. There must be room for the transfer, the blobs and the release.
7. What was left half done is put right first; then: begin, upload, stage, try, switch, verify, commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from device_agents import wire
from ofa_edge.deploy.manifest import NAME, Manifest
from ofa_edge.errors import ProtocolError, UsageError
from ofa_edge.latency.conditions import Conditions, conditions, mismatches

MAX_TRIALS = 3
SPARE_BYTES = 8 << 20  # left free on the device, for its journal and for others
_MAX_RELEASES = 10_000


class Step(StrEnum):
    """The steps, in the order in which they are executed."""

    LOCK = "lock"
    RECOVER = "recover"
    BEGIN = "begin"
    UPLOAD = "upload"
    STAGE = "stage"
    SHARE = "share"
    OUTPUTS = "check outputs"
    LATENCY = "check latency"
    SWITCH = "switch"
    VERIFY = "verify"
    COMMIT = "commit"
    PRUNE = "prune"
    UNLOCK = "unlock"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step and what it is about, for people."""

    step: Step
    detail: str = ""


class Verdict(StrEnum):
    DEPLOY = "deploy"
    UNCHANGED = "unchanged"
    LOCKED = "locked"
    REFUSED = "refused"
    STALE = "stale"
    NEEDS_HANDS = "needs-hands"


@dataclass(frozen=True, slots=True)
class Plan:
    """`reason` says why, where the verdict is not to deploy; `hint` what to do then."""

    verdict: Verdict
    steps: tuple[Planned, ...] = ()
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock; `age_s` is None for a process that has ended."""

    name: str
    age_s: float | None
    alive: bool
    mine: bool


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A deployment that was begun and not ended; `origin` was current before it, `step` is the last recorded."""

    release: str
    origin: str | None
    step: str


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What plans are made from.

    Attributes:
        current: the release the device runs; `problem` is what is wrong with its files, '' for nothing.
        previous: the one before it, by the journal.
        needs_hands: why nothing can be decided, '' where all is well.
        committed: the journal's record of the last commit, with the figures of its trial in `facts`.
        trials: trials of each release since its last commit.
        missing: those blobs of the bundle that the device lacks.
        facts: what the device is.
    """

    current: str | None
    problem: str
    previous: str | None
    needs_hands: str
    releases: tuple[str, ...]
    unfinished: Unfinished | None
    committed: Mapping[str, Any]
    trials: Mapping[str, int]
    lock: Holder | None
    free_bytes: int
    facts: wire.Facts
    missing: frozenset[str] = frozenset()


def parse_state(reply: Mapping[str, Any], facts: wire.Facts, missing: frozenset[str] = frozenset()) -> DeviceState:
    """Read a reply to the op `state`.

    Raises:
        ProtocolError: it is none.
    """
    try:
        f = wire.Fields("state", reply)
        names = f.items("releases", _MAX_RELEASES)
        trials = f.take("trials")
        counts = wire.Fields("trials", trials)
        return DeviceState(
            current=f.text("current", NAME) if f.maybe("current") else None,
            problem=f.text("problem"),
            previous=f.text("previous", NAME) if f.maybe("previous") else None,
            needs_hands=f.text("needs_hands"),
            releases=tuple(wire.Fields("release", {"name": name}).text("name", NAME) for name in names),
            unfinished=_unfinished(f.take("unfinished")) if f.maybe("unfinished") else None,
            committed=_record(f.take("committed")) if f.maybe("committed") else {},
            trials={name: counts.whole(name, 0, 1 << 31) for name in trials},
            lock=_holder(f.take("lock")) if f.maybe("lock") else None,
            free_bytes=f.whole("free_bytes"),
            facts=facts,
            missing=missing,
        )
    except wire.WireError as error:
        raise ProtocolError(f"the device's answer to 'state' is none: {error}") from error


def plan(state: DeviceState, manifest: Manifest, *, accept_stale: bool = False) -> Plan:
    """Decide by the rules above. See DeviceState for `missing`, which is about this manifest's files."""
    if state.needs_hands:
        return Plan(
            Verdict.NEEDS_HANDS,
            reason=state.needs_hands,
            hint="put it right on the device; nothing was changed, what runs there still runs",
        )
    if state.lock and state.lock.alive and not state.lock.mine:
        return Plan(
            Verdict.LOCKED,
            reason=f"{state.lock.name} has been deploying for {state.lock.age_s or 0:.0f} s",
            hint="wait for it; a lock whose holder died is taken over",
        )
    release = manifest.release
    settled = _after_recovery(state)
    if settled.current == release and not settled.problem:
        if state.unfinished is None:
            return Plan(Verdict.UNCHANGED, reason=f"release {release} is already current")
        return Plan(Verdict.DEPLOY, (*_first_steps(state, settled), Planned(Step.UNLOCK)))
    if (failed := state.trials.get(release, 0)) >= MAX_TRIALS:
        return Plan(
            Verdict.REFUSED,
            reason=f"release {release} failed its trial {failed} times on this device",
            hint="profile the device again, or choose another budget or arch: that makes another release",
        )
    return _unfit(state, manifest, accept_stale) or Plan(Verdict.DEPLOY, tuple(_steps(state, settled, manifest)))


def plan_rollback(state: DeviceState, manifest: Manifest) -> Plan:
    """Back to the release of `manifest`, which was before the current one; it is tried first, as a new one is,
    but its latency is not measured again."""
    release = manifest.release
    steps = (
        Planned(Step.BEGIN, f"{state.current or 'nothing'} -> {release}"),
        Planned(Step.SHARE, f"its files, for the check of {release}"),
        Planned(Step.OUTPUTS, f"golden outputs to {manifest.default.golden.tolerance:g}"),
        Planned(Step.SWITCH, f"current -> {release}"),
        Planned(Step.VERIFY),
        Planned(Step.COMMIT),
    )
    return Plan(Verdict.DEPLOY, steps)


def _after_recovery(state: DeviceState) -> DeviceState:
    """The state once the op `recover` has put back what was half done."""
    if state.unfinished is None or state.unfinished.origin == state.current:
        return state
    return replace(state, current=state.unfinished.origin, problem="")


def _unfit(state: DeviceState, manifest: Manifest, accept_stale: bool) -> Plan | None:
    """Rules 5 and 6; None where the device will do."""
    try:
        here = conditions(state.facts, manifest.default.runs.runs_on())
    except UsageError as error:
        return Plan(Verdict.REFUSED, reason=error.message, hint=error.hint)
    if not accept_stale and (differing := stale(manifest.default.conditions, here)):
        return Plan(
            Verdict.STALE,
            reason=f"the latency was predicted under other conditions (bundle, device): {differing}",
            hint="profile the device again, or pass --accept-stale and let the measurement decide",
        )
    need, free = _need_bytes(state, manifest), state.free_bytes
    if free < need:
        return Plan(
            Verdict.REFUSED,
            reason=f"the device has {_size(free)} free, this release needs {_size(need)}",
            hint="make room there, or keep releases elsewhere with --root",
        )
    return None


def stale(predicted: Conditions | None, here: Conditions) -> str:
    """The conditions that differ, with both values, '' for none; a bundle without conditions fits anywhere."""
    return "; ".join(map(str, mismatches(predicted, here))) if predicted else ""


def upload_bytes(state: DeviceState, manifest: Manifest) -> int:
    """Size of the bundle's files that the device lacks (its small manifest not counted)."""
    return sum(entry.size for entry in manifest.files if entry.sha256 in state.missing)


def _need_bytes(state: DeviceState, manifest: Manifest) -> int:
    """The transfer and the blobs that come out of it, both for a moment, then the release, and something spare."""
    return 2 * upload_bytes(state, manifest) + sum(entry.size for entry in manifest.files) + SPARE_BYTES


def _steps(state: DeviceState, settled: DeviceState, manifest: Manifest) -> list[Planned]:
    release, budget = manifest.release, manifest.default.budget.latency_ms
    steps = []
    if state.lock is None or not state.lock.mine:
        steps.append(Planned(Step.LOCK, f"take over from {state.lock.name}, which ended" if state.lock else ""))
    if state.unfinished:
        back = settled.current or "no release"
        steps.append(
            Planned(Step.RECOVER, f"end the interrupted deployment of {state.unfinished.release}, back to {back}")
        )
    steps.append(Planned(Step.BEGIN, f"{settled.current or 'nothing'} -> {release}"))
    if state.missing:
        steps.append(Planned(Step.UPLOAD, _size(upload_bytes(state, manifest))))
    repair = release == settled.current
    return [
        *steps,
        Planned(Step.STAGE, f"repair {release}" if repair else release),
        Planned(Step.OUTPUTS, f"golden outputs to {manifest.default.golden.tolerance:g}"),
        Planned(Step.LATENCY, _promise(state, budget)),
        Planned(Step.SWITCH, f"current -> {release}"),
        Planned(Step.VERIFY),
        Planned(Step.COMMIT),
        Planned(Step.PRUNE, f"keep {release}" + (f" and {settled.current}" if settled.current and not repair else "")),
        Planned(Step.UNLOCK),
    ]


def _first_steps(state: DeviceState, settled: DeviceState) -> list[Planned]:
    """Lock, and end what was left half done; both need to be done once."""
    steps = []
    if state.lock is None or not state.lock.mine:
        steps.append(Planned(Step.LOCK, f"take over from {state.lock.name}, which ended" if state.lock else ""))
    if state.unfinished:
        back = f"back to {settled.current or 'no release'}"
        steps.append(Planned(Step.RECOVER, f"the deployment of {state.unfinished.release} was interrupted: {back}"))
    return steps


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _promise(state: DeviceState, budget: float | None) -> str:
    if budget is None:
        return "measured, nothing was promised"
    note = ", not checkable on an emulated device" if state.facts.emulated else ""
    return f"at most {budget:g} ms{note}"


def _unfinished(value: Any) -> Unfinished:
    f = wire.Fields("unfinished", value)
    return Unfinished(
        f.text("release", NAME), f.text("from", NAME) if f.maybe("from") else None, f.text("step", limit=40)
    )


def _holder(value: Any) -> Holder:
    f = wire.Fields("lock", value)
    age = f.number("age_s") if f.maybe("age_s") else None
    return Holder(f.text("holder", limit=200), age, f.flag("alive"), f.flag("mine"))


def _record(value: Any) -> Mapping[str, Any]:
    wire.Fields("record", value)
    return dict(value)
