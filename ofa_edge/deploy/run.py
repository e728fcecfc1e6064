"""Deploy a bundle to one device, go back, look: what the CLI calls.

In: a session with a device's agent, a Bundle and a function that measures. Out: an Outcome, or the error that
carries it where the device did not get the release. Rules kept: what is executed is the plan that `--dry-run`
shows (plan.py), made again under the lock; what an earlier deployment left half done is put right first;
plan.py decides, attempt.py executes, this module only joins them.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from device_agents import wire
from ofa_edge.deploy.attempt import Attempt, Device, Progress, recover
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.manifest import Manifest, parse_manifest
from ofa_edge.deploy.outcome import Measure, Outcome, Promise, State, refusal
from ofa_edge.deploy.plan import DeviceState, Plan, Planned, Step, Verdict, parse_state, plan, plan_rollback
from ofa_edge.errors import DeploymentRefused, LockHeld, OfaEdgeError, ProtocolError

_INTERRUPTED = "it was interrupted: the host, the link or the device stopped"


def silent(planned: Planned) -> None:
    """Progress for nobody."""


def deploy(
    device: Device,
    bundle: Bundle,
    *,
    measure: Measure,
    budget: float | None = None,
    dry_run: bool = False,
    accept_stale: bool = False,
    host: str = "the device",
    progress: Progress = silent,
) -> Outcome:
    """Make a bundle the current release of its app.

    Args:
        measure: gives the latency in fresh processes; called once, or up to three times while disturbed.
        budget: the promise in ms, in place of the bundle's own (which makes it another release).
        dry_run: only plan; the Outcome says `unchanged` and holds the steps.
        accept_stale: go on where the bundle's conditions are not the device's.
        host: what messages call the device.
        progress: called before each step.

    Returns:
        An Outcome whose state is `committed` or `unchanged`.

    Raises:
        RolledBack: the promise broke, the outputs differ or a step failed; the old release runs.
        LockHeld, DeploymentRefused, BadFile (stale): nothing was changed.
        NeedsHands: neither forward nor back.
        DeviceLost: the end is unknown; the next deployment puts it right.
        All of them carry the Outcome's JSON as `details`.
    """
    run = _Run(device, bundle if budget is None else bundle.with_latency_budget(budget), host, progress)
    state = run.state()
    first = plan(state, run.manifest, accept_stale=accept_stale)
    if dry_run or first.verdict in (Verdict.UNCHANGED, Verdict.LOCKED, Verdict.NEEDS_HANDS):
        return run.settle(first, state)
    with run.locked():
        run.put_right()
        state = run.state()
        second = plan(state, run.manifest, accept_stale=accept_stale)
        if second.verdict is not Verdict.DEPLOY:
            run.record(second)
            return run.settle(second, state)
        attempt = Attempt(
            device,
            run.manifest,
            "deploy",
            run.begun(state),
            bundle=run.bundle,
            measure=measure,
            host=host,
            progress=progress,
        )
        return attempt.execute(second.steps)


def rollback(device: Device, app: str, *, host: str = "the device", progress: Progress = silent) -> Outcome:
    """Make the release before the current one current again, after checking its files and golden outputs.

    Raises:
        DeploymentRefused: there is none.
        BadFile: its files are damaged.
        RolledBack: it computes something else than it did; the current release stays.
    """
    with _locked(device, app, host, progress):
        _put_right(device, app, progress)
        state = parse_state(device.call("state", {"app": app}), device.facts)
        if state.needs_hands or state.previous is None:
            raise DeploymentRefused(
                f"{host}: {state.needs_hands or f'app {app} has no release before the current one'}",
                hint=f"`ofa-edge status --host {host} --app {app}` shows what there is",
            )
        manifest = _manifest(device, app, state.previous)
        begun = _begun(manifest, state)
        attempt = Attempt(
            device, manifest, "rollback", begun, bundle=None, measure=_not_measured, host=host, progress=progress
        )
        return attempt.execute(plan_rollback(state, manifest).steps)


def status(device: Device, app: str) -> dict[str, Any]:
    """What `ofa-edge status` prints: current, previous, releases, lock, the newest journal records.

    Raises:
        ProtocolError: the device's answer is none.
        BadFile: the manifest of the current release is not valid here.
    """
    reply = device.call("status", {"app": app})
    records, manifest = reply.pop("journal", None), reply.pop("manifest", None)
    state = parse_state(reply, device.facts)
    if not isinstance(records, list):
        raise ProtocolError("the device's answer to 'status' has no journal")
    holder = state.lock
    return {
        "app": app,
        "current": state.current,
        "previous": state.previous,
        "mode": None,
        "releases": list(state.releases),
        "problem": state.needs_hands or state.problem,
        "unfinished": state.unfinished.release if state.unfinished else None,
        "lock": {"holder": holder.name, "age_s": holder.age_s, "alive": holder.alive} if holder else None,
        "manifest": parse_manifest(str(manifest).encode(), "the device's manifest").as_json() if manifest else None,
        "journal": [_printable(record) for record in records if isinstance(record, dict)],
    }


def prune(device: Device, app: str, *, host: str = "the device", progress: Progress = silent) -> dict[str, Any]:
    """Remove all releases but the current and the previous one: {"app", "removed": [release]}."""
    with _locked(device, app, host, progress):
        _put_right(device, app, progress)
        removed = wire.Fields("prune", device.call("prune", {"app": app})).items("removed", 10_000)
    return {"app": app, "removed": [wire.clean(str(release)) for release in removed]}


@dataclass(frozen=True)
class _Run:
    """What `deploy` does again and again for one bundle and device."""

    device: Device
    bundle: Bundle
    host: str
    progress: Progress

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def state(self) -> DeviceState:
        missing = frozenset(self.device.missing(list(self.bundle.blobs())))
        return parse_state(self.device.call("state", {"app": self.manifest.app}), self.device.facts, missing)

    def begun(self, state: DeviceState) -> Outcome:
        return _begun(self.manifest, state)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return _locked(self.device, self.manifest.app, self.host, self.progress)

    def put_right(self) -> None:
        _put_right(self.device, self.manifest.app, self.progress)

    def record(self, refused: Plan) -> None:
        """Leave a refusal in the device's journal; that this fails changes nothing."""
        args = {"app": self.manifest.app, "release": self.manifest.release, "reason": wire.clean(refused.reason, 900)}
        with contextlib.suppress(OfaEdgeError):
            self.device.call("refuse", args)

    def settle(self, decided: Plan, state: DeviceState) -> Outcome:
        """The Outcome of a plan that is not executed; raises the error of one that cannot be."""
        outcome = replace(self.begun(state), state=State.UNCHANGED, reason=decided.reason, steps=decided.steps)
        if decided.verdict is Verdict.DEPLOY:
            return replace(outcome, reason="only planned, nothing was changed")
        if decided.verdict is not Verdict.UNCHANGED:
            raise refusal(decided, outcome, self.host)
        facts = state.committed.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        measured, promise = facts.get("measured_ms"), facts.get("promise")
        return replace(
            outcome,
            previous=state.previous,
            measured_ms=float(measured) if isinstance(measured, (int, float)) else None,
            promise=Promise(promise) if promise in set(Promise) else Promise.NOT_CHECKABLE,
        )


def _begun(manifest: Manifest, state: DeviceState) -> Outcome:
    mode = manifest.default
    return Outcome(
        app=manifest.app,
        state=State.ROLLED_BACK,  # until a commit says otherwise
        release=manifest.release,
        previous=state.current,
        predicted_ms=mode.predicted.value if mode.predicted else None,
        budget_ms=mode.budget.latency_ms,
        top1=mode.top1,
    )


@contextlib.contextmanager
def _locked(device: Device, app: str, host: str, progress: Progress) -> Iterator[None]:
    """Hold the device's lock for this app; given back as far as the link still allows."""
    holder = wire.clean(f"{_user()}@{socket.gethostname()}", 200)
    progress(Planned(Step.LOCK))
    try:
        device.call("lock", {"app": app, "holder": holder})
    except LockHeld as error:
        error.hint = error.hint or "wait for it; a lock whose holder died is taken over"
        raise
    try:
        yield
    finally:
        with contextlib.suppress(OfaEdgeError):
            device.call("unlock", {"app": app})


def _put_right(device: Device, app: str, progress: Progress) -> None:
    if recovered := recover(device, app, _INTERRUPTED, blame=True):
        progress(Planned(Step.RECOVER, wire.clean(f"{recovered.get('release')}: {recovered.get('reason')}")))


def _manifest(device: Device, app: str, release: str) -> Manifest:
    text = device.call("manifest", {"app": app, "release": release}).get("manifest")
    return parse_manifest(str(text).encode(), f"the device's manifest of release {release}")


def _not_measured(manifest: Manifest) -> wire.Failed:
    return wire.Failed(manifest.release, "a rollback measures nothing")


def _printable(value: Any) -> Any:
    """A journal record as a terminal may show it."""
    if isinstance(value, Mapping):
        return {wire.clean(str(key)): _printable(item) for key, item in value.items()}
    return wire.clean(value) if isinstance(value, str) else value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return "somebody"
