"""One attempt to change an app's current release: the steps of a plan, and the way back.

In: a Device, the manifest of the release and the plan's steps. Out: an Outcome for a commit, or the error of
any other end. Rules kept:

- A release becomes current only after the golden outputs (and, for a new one, the latency) of each of its modes were
  checked on the device. A latency taken while the device was disturbed is taken again, up to three times; the third
  counts.
- Whatever goes wrong before the commit, the device is told to go back and why, and its journal keeps it; where the
  post-switch command ran, it runs once more, so that the application opens the old release again. A host or a link that
  dies tells nothing: then the next attempt does, first thing.
- After the commit nothing undoes it; what fails then is a notice.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from device_agents import wire
from ofa_edge.deploy.bundle import MANIFEST, Bundle
from ofa_edge.deploy.hooks import HookFailed, Hooks, Kind
from ofa_edge.deploy.manifest import Manifest, Mode
from ofa_edge.deploy.outcome import Measure, Outcome, Promise, State, Timing, failure, kept
from ofa_edge.deploy.plan import Planned, Step
from ofa_edge.errors import BadFile, DeviceLost, Interrupted, OfaEdgeError, ProtocolError

ATTEMPTS = 3  # measurements of a latency while the device is disturbed
AGAIN = "run the same command again: it first puts right what was left half done"
STOPPED = "the host stopped"
TOO_SLOW = "choose a larger budget or another arch; if the device was busy, try again"
_OTHERWISE = (
    "bring the runtime there that the bundle was made with (`ofa-edge devices setup`), or take another precision"
)
_NOT_WELL = "`ofa-edge status` shows it; put the application or the command right, then deploy again"
_TRY_AGAIN = "try again; `ofa-edge doctor --host HOST` says what is wrong with the device"
_MAX_REASON = 900  # what a journal keeps of a reason, with what the device adds to it

Progress = Callable[[Planned], None]


class Device(Protocol):
    """What a deployment needs of a session with a device's agent (device/session.py).

    Attributes:
        facts: what the device is.
    """

    facts: wire.Facts

    def missing(self, sha256s: Sequence[str]) -> list[str]: ...

    def push(self, blobs: Mapping[str, bytes]) -> int: ...

    def check(self, args: Mapping[str, Any]) -> wire.Checked: ...

    def call(self, op: str, args: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]: ...


class TrialFailed(Exception):
    """The release cannot stay; `blame` where it is at fault, not what was asked of the device."""

    def __init__(self, reason: str, *, blame: bool = True, hint: str = TOO_SLOW):
        super().__init__(reason)
        self.blame = blame
        self.hint = hint


class Attempt:
    """One attempt; `execute` is called once, with the lock held and nothing unfinished on the device.

    Args:
        kind: `deploy` or `rollback`, for the journal.
        begun: what is known before: app, release, previous, predictions, budgets.
        bundle: what to bring to the device; None for a release that is there.
        measure: gives the latency of a mode; not called unless the plan says so.
        host: what messages call the device.
        progress: called before each step; what it raises ends the attempt as a failed step does.
    """

    def __init__(
        self,
        device: Device,
        manifest: Manifest,
        kind: str,
        begun: Outcome,
        *,
        bundle: Bundle | None,
        measure: Measure,
        hooks: Hooks,
        host: str,
        progress: Progress,
    ):
        self._device = device
        self._manifest = manifest
        self._kind = kind
        self._outcome = begun
        self._bundle = bundle
        self._measure = measure
        self._hooks = hooks
        self._reopened = False  # the application was told to open `current` again
        self._host = host
        self._progress = progress

    def execute(self, steps: Sequence[Planned]) -> Outcome:
        """Do the steps that the device and the model are needed for; lock and unlock are the caller's.

        Raises:
            RolledBack, NeedsHands, DeviceLost, Interrupted: see `run.deploy`.
        """
        actions: dict[Step, Callable[[Planned], object]] = {
            Step.BEGIN: lambda planned: self._call("begin", kind=self._kind),
            Step.UPLOAD: self._upload,
            Step.STAGE: self._stage,
            Step.SHARE: lambda planned: self._call("share"),
            Step.OUTPUTS: self._check_outputs,
            Step.LATENCY: self._check_latency,
            Step.SWITCH: lambda planned: self._call("switch"),
            Step.POST_SWITCH: self._post_switch,
            Step.VERIFY: self._verify,
            Step.HEALTH: lambda planned: self._hook(Kind.HEALTH),
            Step.COMMIT: self._commit,
            Step.PRUNE: self._prune,
            Step.SIGN: self._sign,
        }
        try:
            for planned in steps:
                if planned.step in actions:
                    self._progress(planned)
                    self._outcome = replace(self._outcome, steps=(*self._outcome.steps, planned))
                    actions[planned.step](planned)
        except TrialFailed as error:
            raise self._back(str(error), blame=error.blame, hint=error.hint) from None
        except (KeyboardInterrupt, Interrupted):
            raise self._interrupted() from None
        except OfaEdgeError as error:
            raise self._back(error.message.removeprefix(f"{self._host}: "), blame=False, cause=error) from error
        except BaseException:  # a mistake of ours: the device goes back all the same
            with contextlib.suppress(OfaEdgeError):
                self._recover(STOPPED, blame=False)
            raise
        return self._outcome

    # -- steps ----------------------------------------------------------------------------------

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._device.call(op, {"app": self._manifest.app, "release": self._manifest.release, **args})

    def _shipped(self) -> Bundle:
        if self._bundle is None:
            raise ValueError("a plan that ships files needs a bundle")
        return self._bundle

    def _upload(self, planned: Planned) -> None:
        blobs = self._shipped().blobs()
        self._device.push({sha256: blobs[sha256] for sha256 in self._device.missing(list(blobs))})

    def _stage(self, planned: Planned) -> None:
        """The signature lies beside the release there, so that it can be verified again."""
        signature = self._shipped().signature_sha256
        signed = {} if signature is None else {"signature": signature}
        args = {"manifest": self._shipped().sha256(MANIFEST), **signed}
        try:
            self._call("stage", **args)
        except BadFile:  # a blob was damaged there, or another app's prune has just removed it
            self._upload(planned)
            self._call("stage", **args)

    def _sign(self, planned: Planned) -> None:
        """What is staged already only gets its signature; the files of the release need not travel for that."""
        signature = self._shipped().signature or b""
        self._device.push({hashlib.sha256(signature).hexdigest(): signature})
        self._stage(planned)

    def _check_outputs(self, planned: Planned) -> None:
        """Golden outputs of a mode, computed on the device in a fresh process."""
        manifest, mode = self._manifest, self._manifest.mode(planned.mode)
        golden = mode.golden
        if self._kind == "deploy":
            self._call("trial")
        args = {
            "model": manifest.file(mode.model).sha256,
            "inputs": manifest.file(golden.input).sha256,
            "input_shape": list(golden.input_shape),
            "outputs": manifest.file(golden.output).sha256,
            "output_shape": list(golden.output_shape),
            "runtime": mode.runs.runtime,
            "threads": mode.runs.threads,
        }
        try:
            checked = self._device.check(args)
        except DeviceLost:
            raise
        except OfaEdgeError as error:
            reason = f"{self._of(mode)}the model does not run there: {error.message}"
            raise TrialFailed(reason, hint=_OTHERWISE) from error
        if checked.rel is None:
            raise TrialFailed(f"{self._of(mode)}its outputs on the device are not finite", hint=_OTHERWISE)
        if checked.rel > golden.tolerance:
            raise TrialFailed(
                f"{self._of(mode)}its outputs on the device differ by {checked.rel:.2g} of the largest, "
                f"{golden.tolerance:g} is allowed",
                hint=_OTHERWISE,
            )

    def _check_latency(self, planned: Planned) -> None:
        mode = self._manifest.mode(planned.mode)
        timing = self._timed(mode)
        (before,) = (one for one in self._outcome.modes if one.name == mode.name)
        judged = before.by(timing, emulated=self._device.facts.emulated)
        self._outcome = self._outcome.judged(judged)
        note = f" (disturbed: {', '.join(timing.disturbed)})" if timing.disturbed else ""
        if judged.promise is Promise.BROKEN:
            raise TrialFailed(f"{self._of(mode)}{judged.breach}{note}")
        if note:
            self._notice(f"{self._of(mode)}the latency was taken on a busy device{note}")

    def _timed(self, mode: Mode) -> Timing:
        left = 1 if self._device.facts.emulated else ATTEMPTS
        while True:
            left -= 1
            timing = self._measure(self._manifest, mode)
            if isinstance(timing, wire.Failed):
                reason = f"{self._of(mode)}the model failed while it was timed: {timing.reason}"
                raise TrialFailed(reason, hint=_OTHERWISE)
            if not timing.disturbed or not left:
                return timing

    def _of(self, mode: Mode) -> str:
        return f"mode {mode.name}: " if len(self._manifest.modes) > 1 else ""

    def _post_switch(self, planned: Planned) -> None:
        self._reopened = True  # even where it fails: it may have done half of what it does
        self._hook(Kind.POST_SWITCH)

    def _hook(self, kind: Kind) -> None:
        try:
            self._hooks.run(self._device, self._manifest.app, self._manifest.release, kind)
        except HookFailed as error:
            raise TrialFailed(str(error), blame=error.started, hint=_NOT_WELL) from None

    def _verify(self, planned: Planned) -> None:
        problem = wire.Fields("verify", self._call("verify")).text("problem")
        if problem:
            raise TrialFailed(f"after the switch {problem}", hint=_TRY_AGAIN)

    def _commit(self, planned: Planned) -> None:
        self._call("commit", facts=self._outcome.facts())
        self._outcome = replace(self._outcome, state=State.COMMITTED)

    def _prune(self, planned: Planned) -> None:
        try:
            self._device.call("prune", {"app": self._manifest.app})
        except OfaEdgeError as error:
            self._notice(f"old releases were not removed: {error.message}")

    # -- the way back -------------------------------------------------------------------------------

    def _back(
        self, reason: str, *, blame: bool, hint: str = _TRY_AGAIN, cause: OfaEdgeError | None = None
    ) -> OfaEdgeError:
        """Tell the device to go back; the error that says where that ended."""
        self._outcome = replace(self._outcome, state=State.ROLLED_BACK, reason=reason)
        try:
            recovered = self._recover(reason, blame=blame)
        except DeviceLost as error:
            lost = cause if isinstance(cause, DeviceLost) else error
            lost.hint, lost.details = AGAIN, {**self._outcome.as_json(), "state": None}
            return lost
        except OfaEdgeError as error:
            reason = f"{reason}; and going back failed: {error.message}"
            self._outcome = replace(self._outcome, state=State.NEEDS_HANDS, reason=reason)
            self._reopen()  # it may have gone half the way back
            return failure(self._outcome, self._host, hint)
        if recovered is not None and recovered.get("event") != "rolled-back":
            reason = f"{reason}; it is current all the same: {wire.clean(str(recovered.get('reason')))}"
            self._outcome = replace(self._outcome, state=State.NEEDS_HANDS, reason=reason)
        else:
            self._reopen()
        with contextlib.suppress(OfaEdgeError):  # a release that failed takes no room; that this fails changes nothing
            self._device.call("prune", {"app": self._manifest.app})
        return failure(self._outcome, self._host, hint)

    def _interrupted(self) -> Interrupted:
        """Ctrl-C: back as after a failed step, unless the commit was done. The error that says where that ended."""
        if self._outcome.state is not State.COMMITTED:
            error = self._back(STOPPED, blame=False)
            told = error.details
            if told.get("state") is None:
                said, hint = "it runs the old release or the new one", AGAIN
            elif told["state"] == State.ROLLED_BACK:
                said, hint = kept(self._outcome), "run the same command again"
            else:
                said, hint = error.message.removeprefix(f"{self._host}: "), error.hint
        else:
            told, said, hint = self._outcome.as_json(), f"release {self._manifest.release} is committed", ""
        return Interrupted(f"{self._host}: interrupted; {said}", hint=hint, details=told)

    def _recover(self, reason: str, *, blame: bool) -> dict[str, Any] | None:
        return recover(self._device, self._manifest.app, reason, blame=blame, facts=self._outcome.facts())

    def _reopen(self) -> None:
        """The application opens the old release again."""
        previous = self._outcome.previous if self._reopened else None
        if previous and (notice := reopened(self._device, self._manifest.app, previous, self._hooks)):
            self._notice(notice)

    def _notice(self, text: str) -> None:
        self._outcome = self._outcome.noting(text)


def reopened(device: Device, app: str, release: str, hooks: Hooks) -> str:
    """Run the post-switch command for a release that is current again; '' or what went wrong, which changes nothing."""
    if not hooks.post_switch:
        return ""
    try:
        hooks.run(device, app, release, Kind.POST_SWITCH)
    except HookFailed as error:
        return f"back at release {release}, {error}"
    except OfaEdgeError as error:
        return f"back at release {release}, its post-switch command could not be run: {error.message}"
    return ""


def recover(
    device: Device, app: str, reason: str, *, blame: bool, facts: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """End what is unfinished on the device; None where nothing is. `blame`: count it as a failed trial."""
    args = {"app": app, "reason": wire.clean(reason, _MAX_REASON), "blame": blame, "facts": dict(facts or {})}
    found = device.call("recover", args).get("recovered")
    if found is None or isinstance(found, dict):
        return found
    raise ProtocolError("the device's answer to 'recover' is none")
