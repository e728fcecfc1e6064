"""How a deployment ended: one value for all ends, and the error that stands for each bad one.

In: what run.py did and measured. Out: an Outcome, `deploy`'s JSON, or the exception that carries it. Rules
kept: the state on the device and its reason are always said; a promise is `held` only where it was measured
on a real device; a measurement is a value, a Timing or a Failed. What is said at the top of the JSON is of the
default mode; `modes` says it of each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from device_agents import wire
from ofa_edge import strict_json
from ofa_edge.deploy.manifest import Manifest, Mode
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

    Attributes:
        disturbed: what was wrong with it (an anchor off its reference, stolen time); empty for nothing.
        p90_ms: the median of their 90th percentiles; None where it was not taken.
    """

    median_ms: float
    disturbed: tuple[str, ...] = ()
    p90_ms: float | None = None


Measure = Callable[[Manifest, Mode], Timing | wire.Failed]
"""Measures the model of one mode of a manifest, which is among the device's blobs."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One mode: what was predicted, promised and measured of it."""

    name: str
    predicted_ms: float | None = None
    measured_ms: float | None = None
    measured_p90_ms: float | None = None
    budget_ms: float | None = None
    budget_p90_ms: float | None = None
    promise: Promise = Promise.NOT_CHECKABLE
    top1: float | None = None

    @classmethod
    def of(cls, mode: Mode) -> Self:
        """Before anything was measured."""
        return cls(
            mode.name,
            predicted_ms=mode.predicted.value if mode.predicted else None,
            budget_ms=mode.budget.latency_ms,
            budget_p90_ms=mode.budget.p90_ms,
            top1=mode.top1,
        )

    def by(self, timing: Timing, *, emulated: bool) -> Judged:
        """With a measurement. The promise is the raw median within the budget, and the 90th percentile within its own;
        one that is limited and was not taken breaks it."""
        pairs = ((self.budget_ms, timing.median_ms), (self.budget_p90_ms, timing.p90_ms))
        limited = [(limit, found) for limit, found in pairs if limit is not None]
        if emulated or not limited:
            promise = Promise.NOT_CHECKABLE
        else:
            kept = all(found is not None and found <= limit for limit, found in limited)
            promise = Promise.HELD if kept else Promise.BROKEN
        return replace(self, measured_ms=timing.median_ms, measured_p90_ms=timing.p90_ms, promise=promise)

    @property
    def breach(self) -> str:
        """How the promise was broken."""
        if self.budget_ms is not None and self.measured_ms is not None and self.measured_ms > self.budget_ms:
            return f"it takes {self.measured_ms:.3g} ms there, the budget is {self.budget_ms:g} ms"
        if self.measured_p90_ms is None:
            return f"its 90th percentile was not measured, the budget is {self.budget_p90_ms:g} ms"
        return f"its 90th percentile is {self.measured_p90_ms:.3g} ms there, the budget is {self.budget_p90_ms:g} ms"


_TOP = ("predicted_ms", "measured_ms", "measured_p90_ms", "budget_ms", "promise", "top1")
"""Figures of the default mode that the top of the JSON, and the device's journal, hold."""


ONLY_PLANNED = "only planned, nothing was changed"
"""The reason of an outcome whose steps were not executed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`previous` is the release that was current before; where nothing was committed it still is. The default mode is
    the first of `modes`."""

    app: str
    state: State
    release: str
    previous: str | None
    modes: tuple[Judged, ...]
    steps: tuple[Planned, ...] = ()
    reason: str = ""
    notices: tuple[str, ...] = ()

    @classmethod
    def begun(cls, manifest: Manifest, previous: str | None, notices: tuple[str, ...] = ()) -> Self:
        """Before the first step: until a commit says otherwise what happens is undone."""
        modes = tuple(map(Judged.of, manifest.modes))
        return cls(manifest.app, State.ROLLED_BACK, manifest.release, previous, modes, notices=notices)

    @property
    def default(self) -> Judged:
        return self.modes[0]

    def judged(self, mode: Judged) -> Outcome:
        """With what is now known of a mode."""
        return replace(self, modes=tuple(mode if one.name == mode.name else one for one in self.modes))

    def noting(self, *notices: str) -> Outcome:
        return replace(self, notices=(*self.notices, *notices))

    def as_json(self) -> dict[str, Any]:
        """The keys of `ofa-edge deploy --json`; times in ms."""
        default = _judged_json(self.default)
        return {
            "app": self.app,
            "state": str(self.state),
            "release": self.release,
            "previous": self.previous,
            **{name: default[name] for name in _TOP},
            "modes": [_judged_json(mode) for mode in self.modes],
            "steps": [{"step": str(planned.step), "detail": planned.detail} for planned in self.steps],
            "reason": self.reason,
            "notices": list(self.notices),
        }

    def facts(self) -> dict[str, Any]:
        """What the device's journal keeps of the trial: plain values, those of several modes as one text."""
        default = _judged_json(self.default)
        others = {mode.name: [mode.measured_ms, mode.measured_p90_ms, str(mode.promise)] for mode in self.modes[1:]}
        return {
            **{name: default[name] for name in _TOP},
            **({"modes": strict_json.dumps(others)} if others else {}),
        }

    def recalling(self, facts: Any) -> Outcome:
        """With the figures of an earlier trial, as `facts` gave them; what cannot be read is not there."""
        facts = facts if isinstance(facts, Mapping) else {}
        try:
            others = strict_json.loads(str(facts.get("modes", "{}")))
        except ValueError:
            others = {}
        first = [facts.get(name) for name in ("measured_ms", "measured_p90_ms", "promise")]
        kept = {**(others if isinstance(others, dict) else {}), self.default.name: first}
        return replace(self, modes=tuple(_recalled(mode, kept.get(mode.name)) for mode in self.modes))


def _judged_json(mode: Judged) -> dict[str, Any]:
    return {**asdict(mode), "promise": str(mode.promise)}


def _recalled(mode: Judged, kept: Any) -> Judged:
    if not isinstance(kept, list) or len(kept) != 3:
        return mode
    median, p90, promise = kept
    return replace(
        mode,
        measured_ms=_figure(median),
        measured_p90_ms=_figure(p90),
        promise=Promise(promise) if isinstance(promise, str) and promise in set(Promise) else Promise.NOT_CHECKABLE,
    )


def _figure(value: Any) -> float | None:
    """A device's number; a whole one may be larger than any float."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


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


def kept(outcome: Outcome) -> str:
    """What runs where nothing was committed."""
    return f"release {outcome.previous} still runs" if outcome.previous else "no release runs, as before"


def failure(outcome: Outcome, host: str, hint: str) -> OfaEdgeError:
    """The error for a deployment that began and was not committed; `hint` is for one that was rolled back."""
    if outcome.state is State.NEEDS_HANDS:
        return NeedsHands(
            f"{host}: {outcome.reason}",
            hint=f"look at `ofa-edge status --host {host} --app {outcome.app}`, then deploy a release that fits",
            details=outcome.as_json(),
        )
    return RolledBack(
        f"{host}: {outcome.reason}; {kept(outcome)}",
        hint=hint,
        details=outcome.as_json(),
    )
