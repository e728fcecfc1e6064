"""Chooses the one subnet that is best for several devices and budgets together.

In: a Space, for each device and budget a latency model (and an energy model where energy is limited), an accuracy
model. Out: a `Chosen` for each, all of the same subnet, each with what is predicted of it there; or InfeasibleBudget.
Rules kept: those of choose.py, for every budget: what is promised is the upper bound on each device, and the subnet's
own intervals have the last word.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, excess
from ofa_edge.search.choose import Chosen, infeasible
from ofa_edge.search.common.fronts import Device, best_common, nearest_common
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.search.refusal import needed_budget
from ofa_edge.space.arch import Arch, Space

# Subnets that are tried where the intervals of the best ones break a budget that their values keep.
_TRIED = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the one subnet shall be good for: a device by its models, and the budget there.

    Attributes:
        name: what errors call it.
        inputs: hex sha256 by role, for the selection.
    """

    name: str
    models: CostModels
    budget: Budget
    inputs: Mapping[str, str]


def choose_together(
    wanted: Sequence[Wanted],
    accuracy: AdditiveAccuracy,
    *,
    resolutions: Sequence[int],
    seed: int = 0,
    top: int = 5,
) -> list[Chosen]:
    """The one subnet with the highest predicted top-1 that keeps every budget, as chosen for each (strategy exact).

    Args:
        resolutions: to search at, which all latency tables and the accuracy table share.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no subnet keeps all budgets; details name those that none keeps alone, or else by what factor
            all would have to grow.
        UsageError: energy is limited and a model of it missing.
    """
    start = time.perf_counter()
    sizes = tuple(sorted(set(resolutions)))
    question = _Question(wanted, sizes)
    for count in (top + 1, max(_TRIED, 4 * top)):
        found = best_common(question.space, question.devices(), accuracy, sizes, count=count)
        fitting = [(arch, each) for _, arch in found if (each := question.candidates(arch, accuracy)) is not None]
        if fitting or len(found) < count:
            break
    if not fitting:
        raise question.refusal()
    (best, each), *others = fitting[: top + 1]
    model, bound = question.model(accuracy), round(accuracy.top1(found[0][0]), DIGITS)
    seconds = time.perf_counter() - start
    return [
        Chosen.of(
            one.models,
            [chosen, *(theirs[i] for _, theirs in others)],
            one.budget,
            seconds,
            strategy="exact",
            model=model,
            proven_optimal=best == found[0][1],
            bound=bound,
            inputs=one.inputs,
            seed=seed,
        )
        for i, (one, chosen) in enumerate(zip(wanted, each, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class _Question:
    """What is wanted, and at which resolutions."""

    wanted: Sequence[Wanted]
    sizes: tuple[int, ...]

    @property
    def space(self) -> Space:
        return self.wanted[0].models.space

    def devices(self) -> list[Device]:
        """One for each latency model, with the tightest of the limits on it."""
        found: dict[int, Device] = {}
        for one in self.wanted:
            limits, own = one.models.limits(one.budget), id(one.models.latency)
            if (known := found.get(own)) is not None:
                limits = _tightest(known.limits, limits)
            tables = one.models.tables if known is None or known.tables.energy is None else known.tables
            found[own] = Device(tables, limits)
        return list(found.values())

    def candidates(self, arch: Arch, accuracy: AdditiveAccuracy) -> list[Candidate] | None:
        """The subnet on each device; None where it does not keep a budget there.

        A margin is a bound over a sample of the space; the subnet's own intervals have the last word.
        """
        found = self._each(arch, accuracy.estimate(arch, self.wanted[0].models.confidence))
        budgets = [one.budget for one in self.wanted]
        return found if all(excess(c, b) <= 1 for c, b in zip(found, budgets, strict=True)) else None

    def _each(self, arch: Arch, top1: Top1) -> list[Candidate]:
        return [one.models.candidate(arch, top1) for one in self.wanted]

    def model(self, accuracy: AdditiveAccuracy) -> str:
        """In words, what was maximised over what."""
        space, confidence = self.space, self.wanted[0].models.confidence
        kept = "; ".join(
            f"{one.name}: {one.budget} (latency counted {1 + one.models.margin:.3f} times)" for one in self.wanted
        )
        return (
            f"greatest predicted top-1 over all {space.count() * len(self.sizes):,} subnets of {space.name} at"
            f" {', '.join(map(str, self.sizes))} px that keep all of these budgets with their {confidence:.0%} upper"
            f" bounds: {kept}; latency: sum over blocks; " + accuracy.describe()
        )

    def refusal(self) -> InfeasibleBudget:
        """Names the budgets that no subnet keeps even alone; where there are none, what all of them would need."""
        alone = [
            (one, infeasible(replace(one.models, resolutions=self.sizes), one.budget))
            for one in self.wanted
            if nearest_common(self.space, _Question([one], self.sizes).devices(), self.sizes)[1] > 1
        ]
        if alone:
            return InfeasibleBudget(
                "; ".join(f"{one.name}: {error.message}" for one, error in alone),
                hint="; ".join(f"{one.name}: {error.hint}" for one, error in alone),
                details={"infeasible": [{"member": one.name, **error.details} for one, error in alone]},
            )
        arch, factor = nearest_common(self.space, self.devices(), self.sizes)
        near = self._each(arch, Top1(0.0, 0.0, 1.0))
        details: list[dict[str, Any]] = []
        for one, candidate in zip(self.wanted, near, strict=True):
            needed = needed_budget(candidate, one.budget, one.models.margins)
            nearest = candidate.as_json(self.space)
            del nearest["predicted"]["top1"]
            more = {"budget": one.budget.as_json(), "needed": needed.as_json(), "nearest": nearest}
            details.append({"member": one.name, **more})
        enough = "; ".join(f"{one['member']}: {Budget(**one['needed'])}" for one in details)
        return InfeasibleBudget(
            f"each budget is kept by some subnet of {self.space.name}, but none keeps all of them; all limits would"
            f" have to be {max(factor, 1.0):.3g} times as great",
            hint=f"leave --common out for a subnet each; one subnet keeps {enough}",
            details={"infeasible": details, "factor": factor},
        )


def _tightest(one: Limits, other: Limits) -> Limits:
    pairs = zip(astuple(one), astuple(other), strict=True)
    return Limits(*(min((n for n in pair if n is not None), default=None) for pair in pairs))
