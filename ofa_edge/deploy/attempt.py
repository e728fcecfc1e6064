"""One attempt to change an app's current release: the steps of a plan, and the way back.

In: a Device, the manifest of the release and the plan's steps. Out: an Outcome for a commit, or the error of
any other end. Rules kept:

- A release becomes current only after its golden outputs (and, for a new one, its latency) were checked on
  the device. A latency taken while the device was disturbed is taken again, up to three times; the third counts.
- Whatever goes wrong before the commit, the device is told to go back and why, and its journal keeps it. A
  host or a link that dies tells nothing: then the next attempt does, first thing.
- After the commit nothing undoes it; what fails then is a notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from device_agents import wire
from ofa_edge.deploy.bundle import MANIFEST, Bundle
from ofa_edge.deploy.manifest import Manifest
from ofa_edge.deploy.outcome import Measure, Outcome, Promise, State, Timing, failure, judge
from ofa_edge.deploy.plan import Planned, Step
from ofa_edge.errors import DeviceLost, OfaEdgeError, ProtocolError

ATTEMPTS = 3  # measurements of a latency while the device is disturbed
AGAIN = "run the same command again: it first puts right what was left half done"
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

    def call(self, op: str, args: Mapping[str, Any]) -> dict[str, Any]: ...


class TrialFailed(Exception):
    """The release is at fault, not the device or the link to it."""


class Attempt:
    """One attempt; `execute` is called once, with the lock held and nothing unfinished on the device.

    Args:
        kind: `deploy` or `rollback`, for the journal.
        begun: what is known before: app, release, previous, predictions, budget.
        bundle: what to bring to the device; None for a release that is there.
        measure: gives the latency; not called unless the plan says so.
        host: what messages call the device.
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
        host: str,
        progress: Progress,
    ):
        self._device = device
        self._manifest = manifest
        self._kind = kind
        self._outcome = begun
        self._bundle = bundle
        self._measure = measure
        self._host = host
        self._progress = progress

    def execute(self, steps: Sequence[Planned]) -> Outcome:
        """Do the steps that the device and the model are needed for; lock and unlock are the caller's.

        Raises:
            RolledBack, NeedsHands, DeviceLost: see `run.deploy`.
        """
        actions: dict[Step, Callable[[], object]] = {
            Step.BEGIN: lambda: self._call("begin", kind=self._kind),
            Step.UPLOAD: self._upload,
            Step.STAGE: lambda: self._call("stage", manifest=self._shipped().sha256(MANIFEST)),
            Step.SHARE: lambda: self._call("share"),
            Step.OUTPUTS: self._check_outputs,
            Step.LATENCY: self._check_latency,
            Step.SWITCH: lambda: self._call("switch"),
            Step.VERIFY: self._verify,
            Step.COMMIT: self._commit,
            Step.PRUNE: self._prune,
        }
        try:
            for planned in steps:
                if planned.step in actions:
                    self._progress(planned)
                    self._outcome = replace(self._outcome, steps=(*self._outcome.steps, planned))
                    actions[planned.step]()
        except TrialFailed as error:
            raise self._back(str(error), blame=True) from None
        except OfaEdgeError as error:
            raise self._back(error.message.removeprefix(f"{self._host}: "), blame=False, cause=error) from error
        except BaseException:  # Ctrl-C, or a mistake of ours: the device goes back either way
            with contextlib.suppress(OfaEdgeError):
                self._recover("the host stopped", blame=False)
            raise
        return self._outcome

    # -- steps ----------------------------------------------------------------------------------

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._device.call(op, {"app": self._manifest.app, "release": self._manifest.release, **args})

    def _shipped(self) -> Bundle:
        if self._bundle is None:
            raise ValueError("a plan that ships files needs a bundle")
        return self._bundle

    def _upload(self) -> None:
        blobs = self._shipped().blobs()
        self._device.push({sha256: blobs[sha256] for sha256 in self._device.missing(list(blobs))})

    def _check_outputs(self) -> None:
        """Golden outputs, computed on the device in a fresh process."""
        manifest, mode = self._manifest, self._manifest.default
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
            raise TrialFailed(f"the model does not run there: {error.message}") from error
        if checked.rel is None:
            raise TrialFailed("its outputs on the device are not finite")
        if checked.rel > golden.tolerance:
            raise TrialFailed(
                f"its outputs on the device differ by {checked.rel:.2g} of the largest, {golden.tolerance:g} is allowed"
            )

    def _check_latency(self) -> None:
        timing = self._timed()
        budget = self._outcome.budget_ms
        promise = judge(timing, budget, emulated=self._device.facts.emulated)
        self._outcome = replace(self._outcome, measured_ms=timing.median_ms, promise=promise)
        note = f" (disturbed: {', '.join(timing.disturbed)})" if timing.disturbed else ""
        if promise is Promise.BROKEN:
            raise TrialFailed(f"it takes {timing.median_ms:.3g} ms there, the budget is {budget:g} ms{note}")
        if note:
            self._notice(f"the latency was taken on a busy device{note}")

    def _timed(self) -> Timing:
        left = 1 if self._device.facts.emulated else ATTEMPTS
        while True:
            left -= 1
            timing = self._measure(self._manifest)
            if isinstance(timing, wire.Failed):
                raise TrialFailed(f"the model failed while it was timed: {timing.reason}")
            if not timing.disturbed or not left:
                return timing

    def _verify(self) -> None:
        problem = wire.Fields("verify", self._call("verify")).text("problem")
        if problem:
            raise TrialFailed(f"after the switch {problem}")

    def _commit(self) -> None:
        self._call("commit", facts=self._facts())
        self._outcome = replace(self._outcome, state=State.COMMITTED)

    def _prune(self) -> None:
        try:
            self._device.call("prune", {"app": self._manifest.app})
        except OfaEdgeError as error:
            self._notice(f"old releases were not removed: {error.message}")

    # -- the way back -------------------------------------------------------------------------------

    def _back(self, reason: str, *, blame: bool, cause: OfaEdgeError | None = None) -> OfaEdgeError:
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
            return failure(self._outcome, self._host)
        if recovered is not None and recovered.get("event") != "rolled-back":
            reason = f"{reason}; it is current all the same: {wire.clean(str(recovered.get('reason')))}"
            self._outcome = replace(self._outcome, state=State.NEEDS_HANDS, reason=reason)
        with contextlib.suppress(OfaEdgeError):  # a release that failed takes no room; that this fails changes nothing
            self._device.call("prune", {"app": self._manifest.app})
        return failure(self._outcome, self._host)

    def _recover(self, reason: str, *, blame: bool) -> dict[str, Any] | None:
        return recover(self._device, self._manifest.app, reason, blame=blame, facts=self._facts())

    def _facts(self) -> dict[str, Any]:
        """What the device's journal keeps of the trial."""
        outcome = self._outcome
        return {
            "predicted_ms": outcome.predicted_ms,
            "measured_ms": outcome.measured_ms,
            "budget_ms": outcome.budget_ms,
            "promise": str(outcome.promise),
            "top1": outcome.top1,
        }

    def _notice(self, text: str) -> None:
        self._outcome = replace(self._outcome, notices=(*self._outcome.notices, text))


def recover(
    device: Device, app: str, reason: str, *, blame: bool, facts: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """End what is unfinished on the device; None where nothing is. `blame`: count it as a failed trial."""
    args = {"app": app, "reason": wire.clean(reason, _MAX_REASON), "blame": blame, "facts": dict(facts or {})}
    found = device.call("recover", args).get("recovered")
    if found is None or isinstance(found, dict):
        return found
    raise ProtocolError("the device's answer to 'recover' is none")
