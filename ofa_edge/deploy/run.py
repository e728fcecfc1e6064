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
from ofa_edge.deploy.attempt import Attempt, Device, Progress, recover, reopened
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.device_state import DeviceState, parse_state
from ofa_edge.deploy.hooks import Hooks
from ofa_edge.deploy.manifest import DEFAULT_MODE, Manifest, Mode, parse_manifest
from ofa_edge.deploy.outcome import ONLY_PLANNED, Measure, Outcome, State, refusal
from ofa_edge.deploy.plan import Plan, Planned, Step, Verdict, Wishes, plan, plan_rollback
from ofa_edge.errors import DeploymentRefused, LockHeld, OfaEdgeError, ProtocolError

_INTERRUPTED = "it was interrupted: the host, the link or the device stopped"


def silent(planned: Planned) -> None:
    """Progress for nobody."""


def deploy(
    device: Device,
    bundle: Bundle,
    *,
    measure: Measure,
    dry_run: bool = False,
    wishes: Wishes | None = None,
    host: str = "the device",
    progress: Progress = silent,
) -> Outcome:
    """Make a bundle the current release of its app.

    Args:
        measure: gives the latency of a mode in fresh processes; called once for each, or up to three times while
            disturbed.
        dry_run: only plan; the Outcome says `unchanged` and holds the steps.
        wishes: see plan.py.
        host: what messages call the device.
        progress: called before each step; what it raises ends the deployment as a failed step does.

    Returns:
        An Outcome whose state is `committed` or `unchanged`.

    Raises:
        RolledBack: a promise broke, outputs differ, a step or a hook failed; the old release runs.
        LockHeld, DeploymentRefused, BadFile (stale): nothing was changed.
        NeedsHands: neither forward nor back.
        DeviceLost: the end is unknown; the next deployment puts it right.
        Interrupted: Ctrl-C, or `progress` raised it.
        All of them carry the Outcome's JSON as `details`.
    """
    wishes = wishes or Wishes()
    run = _Run(device, bundle, wishes, host, progress)
    state = run.state()
    first = run.plan(state)
    if dry_run or first.verdict in (Verdict.UNCHANGED, Verdict.LOCKED, Verdict.NEEDS_HANDS):
        return run.settle(first, state)
    with _locked(device, run.manifest.app, host, progress):
        notices = _put_right(device, run.manifest.app, wishes.hooks, progress)
        state = run.state()
        second = run.plan(state)
        if second.verdict not in (Verdict.DEPLOY, Verdict.SIGN):
            if second.verdict is not Verdict.UNCHANGED:
                run.record(second)
            return run.settle(second, state, notices)
        attempt = Attempt(
            device,
            run.manifest,
            "deploy",
            run.begun(state, notices),
            bundle=run.bundle,
            measure=measure,
            hooks=wishes.hooks,
            host=host,
            progress=progress,
        )
        done = attempt.execute(second.steps)
        if second.verdict is Verdict.DEPLOY:
            return done
        return run.settle(replace(second, verdict=Verdict.UNCHANGED, steps=done.steps), state, notices)


def rollback(
    device: Device,
    app: str,
    *,
    measure: Measure | None = None,
    hooks: Hooks | None = None,
    host: str = "the device",
    progress: Progress = silent,
) -> Outcome:
    """Make the release before the current one current again, after checking its files and golden outputs.

    Where the current one was never committed, because its deployment was interrupted, undoing that is all there is to
    do: its files are checked, and nothing is tried. A rollback that was interrupted is undone and done again.

    Args:
        measure: also hold the latency of each mode against its budget; None: it is not measured.

    Raises:
        DeploymentRefused: there is none; an interrupted deployment of the first one was undone all the same.
        BadFile: its files are damaged.
        RolledBack: it computes something else than it did, breaks a promise, or a hook failed; the current one stays.
        Further ones as `deploy`.
    """
    hooks = hooks or Hooks()
    with _locked(device, app, host, progress):
        before = parse_state(device.call("state", {"app": app}), device.facts)
        notices = _put_right(device, app, hooks, progress)
        state = parse_state(device.call("state", {"app": app}), device.facts)
        half = before.unfinished
        if half and not half.is_rollback and state.current != before.current:
            undone = Planned(Step.RECOVER, f"the deployment of {before.current} was interrupted before its commit")
            if state.current is None:
                raise DeploymentRefused(
                    f"{host}: {undone.detail} and has been undone; app {app} had no release before it and has none now",
                    hint=f"`ofa-edge deploy --host {host} --app {app}` brings one",
                )
            manifest = read_manifest(device, app, state.current)
            back = Outcome.begun(manifest, before.current, notices).recalling(state.committed.get("facts"))
            return replace(back, state=State.COMMITTED, reason=undone.detail, steps=(undone,))
        if state.needs_hands or state.previous is None:
            raise DeploymentRefused(
                f"{host}: {state.needs_hands or f'app {app} has no release before the current one'}",
                hint=f"`ofa-edge status --host {host} --app {app}` shows what there is",
            )
        manifest = read_manifest(device, app, state.previous)
        attempt = Attempt(
            device,
            manifest,
            "rollback",
            Outcome.begun(manifest, state.current, notices),
            bundle=None,
            measure=measure or _not_measured,
            hooks=hooks,
            host=host,
            progress=progress,
        )
        return attempt.execute(plan_rollback(state, manifest, hooks=hooks, measure=measure is not None).steps)


def status(device: Device, app: str) -> dict[str, Any]:
    """What `ofa-edge status` prints: current, previous, mode, modes, releases, lock, the newest journal records.

    Raises:
        ProtocolError: the device's answer is none.
        BadFile: the manifest of the current release is not valid here.
    """
    reply = device.call("status", {"app": app})
    records, text = reply.pop("journal", None), reply.pop("manifest", None)
    state = parse_state(reply, device.facts)
    if not isinstance(records, list):
        raise ProtocolError("the device's answer to 'status' has no journal")
    holder = state.lock
    manifest = parse_manifest(str(text).encode(), "the device's manifest") if text else None
    return {
        "app": app,
        "current": state.current,
        "previous": state.previous,
        "mode": state.mode,
        "modes": [mode.name for mode in manifest.modes] if manifest else [],
        "releases": list(state.releases),
        "problem": state.needs_hands or state.problem,
        "unfinished": state.unfinished.release if state.unfinished else None,
        "unfinished_kind": state.unfinished.kind if state.unfinished else None,
        "unfinished_step": state.unfinished.step if state.unfinished else None,
        "lock": {"holder": holder.name, "age_s": holder.age_s, "alive": holder.alive} if holder else None,
        "manifest": manifest.as_json() if manifest else None,
        "journal": [_printable(record) for record in records if isinstance(record, dict)],
    }


def prune(device: Device, app: str, *, host: str = "the device") -> dict[str, Any]:
    """Remove all releases but the current and the previous one: {"app", "removed": [release]}."""
    with _locked(device, app, host, silent):
        _put_right(device, app, Hooks(), silent)
        removed = wire.Fields("prune", device.call("prune", {"app": app})).items("removed", 10_000)
    return {"app": app, "removed": [wire.clean(str(release)) for release in removed]}


@dataclass(frozen=True)
class _Run:
    """What `deploy` does again and again for one bundle and device."""

    device: Device
    bundle: Bundle
    wishes: Wishes
    host: str
    progress: Progress

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def state(self) -> DeviceState:
        missing = frozenset(self.device.missing(list(self.bundle.blobs())))
        return parse_state(self.device.call("state", {"app": self.manifest.app}), self.device.facts, missing)

    def plan(self, state: DeviceState) -> Plan:
        return plan(state, self.manifest, self.wishes, self.bundle.signature_sha256)

    def begun(self, state: DeviceState, notices: tuple[str, ...] = ()) -> Outcome:
        names = [mode.name for mode in self.manifest.modes]
        if state.mode not in (None, DEFAULT_MODE, *names):
            notices = (*notices, f"the device is in mode {state.mode}, which this release lacks: it runs in {names[0]}")
        return Outcome.begun(self.manifest, state.current, notices)

    def record(self, refused: Plan) -> None:
        """Leave a refusal in the device's journal; that this fails changes nothing."""
        args = {"app": self.manifest.app, "release": self.manifest.release, "reason": wire.clean(refused.reason, 900)}
        with contextlib.suppress(OfaEdgeError):
            self.device.call("refuse", args)

    def settle(self, decided: Plan, state: DeviceState, notices: tuple[str, ...] = ()) -> Outcome:
        """The Outcome of a plan that changes no release, or is not executed; raises the error of one that cannot be."""
        begun = self.begun(state, notices)
        outcome = replace(begun, state=State.UNCHANGED, reason=decided.reason, steps=decided.steps)
        if decided.verdict in (Verdict.DEPLOY, Verdict.SIGN):
            return replace(outcome, reason=ONLY_PLANNED)
        if decided.verdict is not Verdict.UNCHANGED:
            raise refusal(decided, outcome, self.host)
        return replace(outcome.recalling(state.committed.get("facts")), previous=state.previous)


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


def _put_right(device: Device, app: str, hooks: Hooks, progress: Progress) -> tuple[str, ...]:
    """End what was left half done; notices about it. Where `current` went back, the application opens it again."""
    recovered = recover(device, app, _INTERRUPTED, blame=True)
    if not recovered:
        return ()
    progress(Planned(Step.RECOVER, wire.clean(f"{recovered.get('release')}: {recovered.get('reason')}")))
    origin = recovered.get("from")
    if recovered.get("event") != "rolled-back" or not recovered.get("switched") or not isinstance(origin, str):
        return ()
    notice = reopened(device, app, origin, hooks)
    return (notice,) if notice else ()


def read_manifest(device: Device, app: str, release: str) -> Manifest:
    """The manifest of a release on the device, its files hashed there; raises BadFile where it is damaged."""
    text = device.call("manifest", {"app": app, "release": release}).get("manifest")
    return parse_manifest(str(text).encode(), f"the device's manifest of release {release}")


def _not_measured(manifest: Manifest, mode: Mode) -> wire.Failed:
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
