"""Chooses the one subnet that is best for several devices and budgets together.

In: a Space, for each device and budget a latency model (and an energy model where energy is limited), an accuracy
model. Out: a `Chosen` for each, all of the same subnet, each with what is predicted of it there; or InfeasibleBudget.
Rules kept: those of choose.py, for every budget: what is promised is the upper bound on each device, and the subnet's
own intervals have the last word.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, Energy, Latency, excess
from ofa_edge.search.choose import Chosen, CostModels, infeasible
from ofa_edge.search.common.fronts import Device, best_common, nearest_common
from ofa_edge.search.limits import Limits
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
    latency: Latency
    budget: Budget
    inputs: Mapping[str, str]
    energy: Energy | None = None


def choose_together(
    space: Space,
    wanted: Sequence[Wanted],
    accuracy: AdditiveAccuracy,
    *,
    resolutions: Sequence[int],
    confidence: float = 0.95,
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
    models = [CostModels(space, one.latency, sizes, confidence, one.energy) for one in wanted]
    question = _Question(wanted, models)
    for count in (top + 1, max(_TRIED, 4 * top)):
        found = best_common(space, question.devices(), accuracy, sizes, count=count)
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
            space,
            [chosen, *(theirs[i] for _, theirs in others)],
            one.budget,
            seconds,
            strategy="exact",
            confidence=confidence,
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
    """What is wanted, each with its models."""

    wanted: Sequence[Wanted]
    models: Sequence[CostModels]

    def devices(self) -> list[Device]:
        """One for each latency model, with the tightest of the limits on it."""
        found: dict[int, Device] = {}
        for one, models in zip(self.wanted, self.models, strict=True):
            limits = models.limits(one.budget)
            if (known := found.get(id(one.latency))) is not None:
                limits = _tightest(known.limits, limits)
            found[id(one.latency)] = Device(one.latency, limits, one.energy)
        return list(found.values())

    def candidates(self, arch: Arch, accuracy: AdditiveAccuracy) -> list[Candidate] | None:
        """The subnet on each device; None where it does not keep a budget there.

        A margin is a bound over a sample of the space; the subnet's own intervals have the last word.
        """
        found = self._each(arch, accuracy.estimate(arch, self.models[0].confidence))
        budgets = [one.budget for one in self.wanted]
        return found if all(excess(c, b) <= 1 for c, b in zip(found, budgets, strict=True)) else None

    def _each(self, arch: Arch, top1: Top1) -> list[Candidate]:
        return [models.candidate(arch, top1) for models in self.models]

    def model(self, accuracy: AdditiveAccuracy) -> str:
        """In words, what was maximised over what."""
        space, sizes, confidence = self.models[0].space, self.models[0].resolutions, self.models[0].confidence
        kept = "; ".join(
            f"{one.name}: {one.budget} (latency counted {1 + models.margin:.3f} times)"
            for one, models in zip(self.wanted, self.models, strict=True)
        )
        return (
            f"greatest predicted top-1 over all {space.count() * len(sizes):,} subnets of {space.name} at"
            f" {', '.join(map(str, sizes))} px that keep all of these budgets with their {confidence:.0%} upper bounds:"
            f" {kept}; latency: sum over blocks; " + accuracy.describe()
        )

    def refusal(self) -> InfeasibleBudget:
        """Names the budgets that no subnet keeps even alone; where there are none, what all of them would need."""
        space, sizes = self.models[0].space, self.models[0].resolutions
        alone = [
            (one, infeasible(models, one.budget))
            for one, models in zip(self.wanted, self.models, strict=True)
            if nearest_common(space, _Question([one], [models]).devices(), sizes)[1] > 1
        ]
        if alone:
            return InfeasibleBudget(
                "; ".join(f"{one.name}: {error.message}" for one, error in alone),
                hint="; ".join(f"{one.name}: {error.hint}" for one, error in alone),
                details={"infeasible": [{"member": one.name, **error.details} for one, error in alone]},
            )
        arch, factor = nearest_common(space, self.devices(), sizes)
        near = self._each(arch, Top1(0.0, 0.0, 1.0))
        details: list[dict[str, Any]] = []
        for one, models, candidate in zip(self.wanted, self.models, near, strict=True):
            needed = needed_budget(candidate, one.budget, models.margin, models.energy_margin)
            nearest = candidate.as_json(space)
            del nearest["predicted"]["top1"]
            more = {"budget": one.budget.as_json(), "needed": needed.as_json(), "nearest": nearest}
            details.append({"member": one.name, **more})
        enough = "; ".join(f"{one['member']}: {Budget(**one['needed'])}" for one in details)
        return InfeasibleBudget(
            f"each budget is kept by some subnet of {space.name}, but none keeps all of them; all limits would have to"
            f" be {max(factor, 1.0):.3g} times as great",
            hint=f"leave --common out for a subnet each; one subnet keeps {enough}",
            details={"infeasible": details, "factor": factor},
        )


def _tightest(one: Limits, other: Limits) -> Limits:
    pairs = zip(astuple(one), astuple(other), strict=True)
    return Limits(*(min((n for n in pair if n is not None), default=None) for pair in pairs))
