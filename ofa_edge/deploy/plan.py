"""What a deployment will do, decided before it does anything.

In: the state of a device (device_state.py), the manifest of a bundle and what a person wishes. Out: a Plan, a verdict
with its reason and the steps in order; pure, no IO, so `--dry-run` shows exactly what a deployment executes. The rules,
first match wins:

1. A device whose `current` or journal we cannot read needs hands.
2. A living holder of the lock is never disturbed; a dead one's lock is taken over.
3. The release that is current, whole and committed stays; where it lacks the bundle's signature, or has another one,
   that is brought and nothing else.
4. A release whose trials failed three times is refused (the loop guard). An interrupted trial counts.
5. A release with a lower counter than the current one's is a downgrade: refused without --allow-downgrade.
6. The device must be of the kind that the bundle was made for and have each mode's runtime, new enough; and the
   conditions that latencies were predicted under must hold: with --accept-stale they may differ, and the measurement
   decides.
7. There must be room for the transfer, the blobs and the release.
8. What was left half done is put right first; then: begin, upload, stage, try each mode, switch, post-switch, verify,
   health, commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from device_agents import wire
from ofa_edge.deploy.device_state import DeviceState
from ofa_edge.deploy.fitting import fits
from ofa_edge.deploy.hooks import Hooks, Kind
from ofa_edge.deploy.manifest import Manifest, Mode
from ofa_edge.errors import UsageError
from ofa_edge.latency.conditions import Conditions, RunsOn, conditions, mismatches

MAX_TRIALS = 3
SPARE_BYTES = 8 << 20  # left free on the device, for its journal and for others


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
    POST_SWITCH = "post-switch"
    VERIFY = "verify"
    HEALTH = "health"
    COMMIT = "commit"
    PRUNE = "prune"
    SIGN = "sign"
    UNLOCK = "unlock"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step and what it is about, for people; `mode` is the one that a check is of."""

    step: Step
    detail: str = ""
    mode: str | None = None


class Verdict(StrEnum):
    DEPLOY = "deploy"
    UNCHANGED = "unchanged"
    SIGN = "sign"
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
class Wishes:
    """What a person asks of a deployment besides its bundle; see the rules above."""

    accept_stale: bool = False
    allow_downgrade: bool = False
    hooks: Hooks = field(default_factory=Hooks)


def plan(state: DeviceState, manifest: Manifest, wishes: Wishes = Wishes(), signature: str | None = None) -> Plan:
    """Decide by the rules above. See DeviceState for `missing`, which is about this manifest's files.

    Args:
        signature: sha256 of the bundle's signature; None where it has none.
    """
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
    settled = state.settled
    if settled.current == release and not settled.problem:
        reason = f"release {release} is already current"
        if signature not in (None, state.signature):
            sign = Planned(Step.SIGN, "another signature" if state.signature else "it has no signature there")
            steps = (*_first_steps(state, settled), sign, Planned(Step.UNLOCK))
            return Plan(Verdict.SIGN, steps, f"{reason}; its signature was brought")
        if state.unfinished is None:
            return Plan(Verdict.UNCHANGED, reason=reason)
        return Plan(Verdict.DEPLOY, (*_first_steps(state, settled), Planned(Step.UNLOCK)))
    return (
        _guarded(settled, manifest, wishes)
        or _unfit(state, manifest, wishes)
        or _cramped(state, manifest)
        or Plan(Verdict.DEPLOY, tuple(_steps(state, settled, manifest, wishes.hooks)))
    )


def plan_rollback(state: DeviceState, manifest: Manifest, *, hooks: Hooks | None = None, measure: bool = False) -> Plan:
    """Back to the release of `manifest`, which was before the current one; it is tried first, as a new one is, but its
    latency is measured again only if that is asked for."""
    release = manifest.release
    steps = (
        Planned(Step.BEGIN, f"{state.current or 'nothing'} -> {release}"),
        Planned(Step.SHARE, f"its files, for the check of {release}"),
        *_outputs(manifest.modes),
        *(_latencies(state, manifest.modes) if measure else ()),
        *_switch(release, hooks or Hooks()),
    )
    return Plan(Verdict.DEPLOY, steps)


def _guarded(settled: DeviceState, manifest: Manifest, wishes: Wishes) -> Plan | None:
    """Rules 4 and 5."""
    release = manifest.release
    if (failed := settled.trials.get(release, 0)) >= MAX_TRIALS:
        return Plan(
            Verdict.REFUSED,
            reason=f"release {release} failed its trial {failed} times on this device",
            hint="profile the device again, or choose another budget or arch: that makes another release",
        )
    if manifest.counter < settled.counter and not wishes.allow_downgrade:
        return Plan(
            Verdict.REFUSED,
            reason=f"release {release} has the counter {manifest.counter}, the current one {settled.counter}: "
            "a downgrade",
            hint=f"deploy a bundle whose counter is {settled.counter} or more, pass --allow-downgrade, or go back with "
            "`ofa-edge rollback`",
        )
    return None


def _unfit(state: DeviceState, manifest: Manifest, wishes: Wishes) -> Plan | None:
    """Rule 6; None where the device will do."""
    facts = state.facts
    runs = [mode.runs.measured_as() for mode in manifest.modes]
    try:
        here = [as_it_is(facts, one) for one in runs]
    except UsageError as error:
        return Plan(Verdict.REFUSED, reason=error.message, hint=error.hint)
    if reason := fits(manifest, facts):
        return Plan(
            Verdict.REFUSED,
            reason=reason,
            hint="bring what it needs there with `ofa-edge devices setup HOST`, or build the bundle for this device",
        )
    differing = [stale(mode.conditions, now) for mode, now in zip(manifest.modes, here, strict=True)]
    if any(differing) and not wishes.accept_stale:
        return Plan(
            Verdict.STALE,
            reason="the latency was predicted under other conditions (bundle, device): "
            + "; ".join(dict.fromkeys(filter(None, differing))),
            hint="profile the device again, or pass --accept-stale and let the measurement decide",
        )
    try:
        for one in runs:
            conditions(facts, one)
    except UsageError as error:  # cores that it does not have
        return Plan(Verdict.REFUSED, reason=error.message, hint=error.hint)
    return None


def as_it_is(facts: wire.Facts, runs_on: RunsOn) -> Conditions:
    """The conditions of a model on a device, whether it lets the agent use those cores or not.

    Raises:
        UsageError: it has no such runtime.
    """
    found = conditions(facts, replace(runs_on, cores=None))
    return found if runs_on.cores is None else found.model_copy(update={"cores": sorted(set(runs_on.cores))})


def _cramped(state: DeviceState, manifest: Manifest) -> Plan | None:
    """Rule 7."""
    need, free = _need_bytes(state, manifest), state.free_bytes
    if free >= need:
        return None
    return Plan(
        Verdict.REFUSED,
        reason=f"the device has {_size(free)} free, this release needs {_size(need)}",
        hint="make room there, or keep releases elsewhere with --root",
    )


def stale(predicted: Conditions | None, here: Conditions) -> str:
    """The conditions that differ, with both values, '' for none; a bundle without conditions fits anywhere."""
    return "; ".join(map(str, mismatches(predicted, here))) if predicted else ""


def upload_bytes(state: DeviceState, manifest: Manifest) -> int:
    """Size of the bundle's files that the device lacks (its small manifest not counted)."""
    return sum({entry.sha256: entry.size for entry in manifest.files if entry.sha256 in state.missing}.values())


def _need_bytes(state: DeviceState, manifest: Manifest) -> int:
    """The transfer and the blobs that come out of it, both for a moment, then the release, and something spare."""
    return 2 * upload_bytes(state, manifest) + sum(entry.size for entry in manifest.files) + SPARE_BYTES


# -- steps ----------------------------------------------------------------------------------------


def _steps(state: DeviceState, settled: DeviceState, manifest: Manifest, hooks: Hooks) -> list[Planned]:
    release = manifest.release
    steps = [*_first_steps(state, settled), Planned(Step.BEGIN, f"{settled.current or 'nothing'} -> {release}")]
    if state.missing:
        steps.append(Planned(Step.UPLOAD, _size(upload_bytes(state, manifest))))
    repair = release == settled.current
    return [
        *steps,
        Planned(Step.STAGE, f"repair {release}" if repair else release),
        *_outputs(manifest.modes),
        *_latencies(state, manifest.modes),
        *_switch(release, hooks),
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


def _outputs(modes: Sequence[Mode]) -> list[Planned]:
    return [
        Planned(Step.OUTPUTS, f"{_of(mode, modes)}golden outputs to {mode.golden.tolerance:g}", mode.name)
        for mode in modes
    ]


def _latencies(state: DeviceState, modes: Sequence[Mode]) -> list[Planned]:
    return [Planned(Step.LATENCY, _of(mode, modes) + _promise(state, mode), mode.name) for mode in modes]


def _switch(release: str, hooks: Hooks) -> list[Planned]:
    """From the switch to the commit, with what a person has run in between."""

    def hook(step: Step, kind: Kind) -> list[Planned]:
        argv = hooks.argv(kind)
        return [Planned(step, f"{' '.join(argv)[:200]}, at most {hooks.timeout_s:g} s")] if argv else []

    return [
        Planned(Step.SWITCH, f"current -> {release}"),
        *hook(Step.POST_SWITCH, Kind.POST_SWITCH),
        Planned(Step.VERIFY),
        *hook(Step.HEALTH, Kind.HEALTH),
        Planned(Step.COMMIT),
    ]


def _of(mode: Mode, modes: Sequence[Mode]) -> str:
    """Which mode, where there are several."""
    return f"mode {mode.name}: " if len(modes) > 1 else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _promise(state: DeviceState, mode: Mode) -> str:
    limits = {"at most": mode.budget.latency_ms, "p90 at most": mode.budget.p90_ms}
    said = ", ".join(f"{what} {limit:g} ms" for what, limit in limits.items() if limit is not None)
    if not said:
        return "measured, nothing was promised"
    return said + (", not checkable on an emulated device" if state.facts.emulated else "")
