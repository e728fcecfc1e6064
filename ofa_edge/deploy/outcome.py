"""How a deployment ended: one value for all ends, and the error that stands for each bad one.

In: what run.py did and measured. Out: an Outcome, `deploy`'s JSON, or the exception that carries it. Rules
kept: the state on the device and its reason are always said; a promise is `held` only where it was measured
on a real device; a measurement is a value, a Timing or a Failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from device_agents import wire
from ofa_edge.deploy.manifest import Manifest
from ofa_edge.deploy.plan import Plan, Planned, Verdict
from ofa_edge.errors import BadFile, DeploymentRefused, LockHeld, NeedsHands, OfaEdgeError, RolledBack


class State(StrEnum):
    """What a deployment left on the device."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    NEEDS_HANDS = "needs-hands"


class Promise(StrEnum):
    HELD = "held"
    BROKEN = "broken"
    NOT_CHECKABLE = "not-checkable"


@dataclass(frozen=True, slots=True)
class Timing:
    """A network's latency in fresh processes: the median of their raw medians, in ms.

    `disturbed` says what was wrong with it (an anchor off its reference, stolen time); empty for nothing.
    """

    median_ms: float
    disturbed: tuple[str, ...] = ()


Measure = Callable[[Manifest], Timing | wire.Failed]
"""Measures the model of a manifest, which is among the device's blobs."""


def judge(timing: Timing, budget_ms: float | None, *, emulated: bool) -> Promise:
    """The promise is the raw median within the budget."""
    if emulated or budget_ms is None:
        return Promise.NOT_CHECKABLE
    return Promise.HELD if timing.median_ms <= budget_ms else Promise.BROKEN


@dataclass(frozen=True, slots=True)
class Outcome:
    """`previous` is the release that was current before; where nothing was committed it still is."""

    app: str
    state: State
    release: str
    previous: str | None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    budget_ms: float | None = None
    promise: Promise = Promise.NOT_CHECKABLE
    top1: float | None = None
    steps: tuple[Planned, ...] = ()
    reason: str = ""
    notices: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The keys of `ofa-edge deploy --json`; times in ms."""
        value = asdict(self)
        value["steps"] = [{"step": str(planned.step), "detail": planned.detail} for planned in self.steps]
        return {**value, "state": str(self.state), "promise": str(self.promise), "notices": list(self.notices)}


_REFUSALS: dict[Verdict, tuple[State, type[OfaEdgeError]]] = {
    Verdict.LOCKED: (State.REFUSED, LockHeld),
    Verdict.REFUSED: (State.REFUSED, DeploymentRefused),
    Verdict.STALE: (State.REFUSED, BadFile),
    Verdict.NEEDS_HANDS: (State.NEEDS_HANDS, NeedsHands),
}


def refusal(plan: Plan, outcome: Outcome, host: str) -> OfaEdgeError:
    """The error for a plan that is not to deploy; `outcome` is completed with its state and reason."""
    state, kind = _REFUSALS[plan.verdict]
    value = {**outcome.as_json(), "state": str(state), "reason": plan.reason}
    return kind(f"{host}: {plan.reason}", hint=plan.hint, details=value)


def failure(outcome: Outcome, host: str) -> OfaEdgeError:
    """The error for a deployment that began and was not committed."""
    kept = f"release {outcome.previous} still runs" if outcome.previous else "no release runs, as before"
    if outcome.state is State.NEEDS_HANDS:
        return NeedsHands(
            f"{host}: {outcome.reason}",
            hint=f"look at `ofa-edge status --host {host} --app {outcome.app}`, then deploy a release that fits",
            details=outcome.as_json(),
        )
    return RolledBack(
        f"{host}: {outcome.reason}; {kept}",
        hint="choose a larger budget or another arch; if the device was busy, try again",
        details=outcome.as_json(),
    )
