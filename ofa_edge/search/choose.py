"""Chooses the subnet: the best one the models allow inside a budget.

In: a Space, a latency model, an accuracy model or table, a Budget, an energy model where the budget limits energy. Out:
`Chosen`: a Selection, the next best subnets, the seconds it took; or InfeasibleBudget with a certificate, the nearest
subnet and a budget that it fits. Rules kept: what is promised is the upper bound of the latency: value x (1 + margin),
margin bounding the interval of every subnet of the space, and the chosen subnet's own interval besides; energy
likewise; an infeasible budget is answered at once; the same inputs choose the same subnet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_edge.accuracy.family import AccuracyPredictor
from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.search import certificate
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, excess
from ofa_edge.search.exact.frontier import Front
from ofa_edge.search.exact.top import best_front
from ofa_edge.search.limits import growth
from ofa_edge.search.models import CostModels
from ofa_edge.search.refusal import refusal, rounded_up
from ofa_edge.search.selection import Selection


@dataclass(frozen=True, slots=True)
class Chosen:
    """A selection, and what is not part of it: the next best subnets within the budget, and how long it took."""

    selection: Selection
    alternatives: tuple[Candidate, ...]
    seconds: float

    @classmethod
    def of(
        cls,
        models: CostModels,
        found: Sequence[Candidate],
        budget: Budget,
        seconds: float,
        *,
        strategy: str,
        model: str,
        proven_optimal: bool,
        bound: float | None,
        inputs: Mapping[str, str],
        seed: int,
    ) -> Chosen:
        """The first of the candidates, with the others as alternatives; the rest as in Selection."""
        best, *others = found
        selection = Selection(
            space=models.space,
            arch=best.arch,
            top1=best.top1,
            latency_ms=best.latency_ms,
            cost=best.cost,
            energy_mj=best.energy_mj,
            budget=budget,
            strategy=strategy,
            confidence=models.confidence,
            model=model,
            proven_optimal=proven_optimal,
            bound=bound,
            inputs=dict(inputs),
            seed=seed,
        )
        return cls(selection, tuple(others), seconds)

    def as_json(self) -> dict[str, Any]:
        """What `select --json` prints."""
        return {
            **self.selection.as_json(),
            "alternatives": [candidate.as_json(self.selection.space) for candidate in self.alternatives],
            "seconds": self.seconds,
        }


def shared_resolutions(latency_resolutions: Sequence[int], accuracy: AccuracyPredictor) -> tuple[int, ...]:
    """The resolutions to search at: those of the latency table that the accuracy table covers.

    Raises:
        UsageError: there is none.
    """
    least, most = accuracy.resolutions[0], accuracy.resolutions[-1]
    shared = tuple(r for r in sorted(set(latency_resolutions)) if least <= r <= most)
    if not shared:
        raise UsageError(
            f"the latency table is of resolutions {', '.join(map(str, sorted(latency_resolutions)))}, the accuracy "
            f"table of {least}..{most}",
            hint="measure both at the same resolutions, with --resolutions",
        )
    return shared


def default_budget(front: Front, margin: float) -> Budget:
    """The median upper bound of latency over the front, rounded up to three digits: feasible on every device.

    Raises:
        BadFile: the front is empty, since every subnet needs a block that failed.
    """
    if len(front) == 0:
        raise BadFile("no subnet can run on the device", hint="measure again: `ofa-edge profile --resume`")
    return Budget(latency_ms=rounded_up(float(front.latency_ms[len(front) // 2]) * (1 + margin)))


def choose(
    models: CostModels,
    accuracy: AdditiveAccuracy,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 within the budget (strategy exact).

    Args:
        inputs: hex sha256 by role, for the selection.
        seed: of the accuracy model, for the selection.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no subnet fits; details hold the nearest one, a budget that it fits, and which limits are in
            the way (`limits`, see certificate.py).
        UsageError: energy is limited and its model missing.
    """
    start = time.perf_counter()
    front, found = _best(models, accuracy, budget, top)
    if not found:
        raise infeasible(models, budget)
    best = found[0][0]
    return Chosen.of(
        models,
        [candidate for _, candidate in found],
        budget,
        time.perf_counter() - start,
        strategy="exact",
        model=_exact_model(models, accuracy, budget),
        proven_optimal=best == len(front) - 1,
        bound=round(accuracy.top1(float(front.score[-1])), DIGITS),
        inputs=inputs,
        seed=seed,
    )


def _best(
    models: CostModels, accuracy: AdditiveAccuracy, budget: Budget, top: int
) -> tuple[Front, list[tuple[int, Candidate]]]:
    """The top of the front, and of its points, best first, so many more than `top` as one that keep the budget with
    their own intervals: the margins are bounds over a sample of the space, the subnet's own has the last word."""
    count = top + 1
    while True:
        limits = models.limits(budget)
        front, whole = best_front(models.space, models.tables, accuracy, models.resolutions, limits, count=count)
        found: list[tuple[int, Candidate]] = []
        for i in reversed(range(len(front))):
            arch = front.arch(i)
            candidate = models.candidate(arch, accuracy.estimate(arch, models.confidence))
            if excess(candidate, budget) <= 1:
                found.append((i, candidate))
            if len(found) > top:
                return front, found
        if whole:
            return front, found
        count = 4 * max(count, len(front))


# -- the words and the errors -------------------------------------------------------------------
def _exact_model(models: CostModels, accuracy: AdditiveAccuracy, budget: Budget) -> str:
    space, margin = models.space, models.margin
    counted = f"latency counted {1 + margin:.3f} times, its {models.confidence:.0%} upper bound for all subnets"
    if margin == 0:
        counted = "latency as predicted, its interval being unknown"
    if budget.energy_mj is not None:
        known = f"{1 + models.energy_margin:.3f} times" if models.energy_margin else "as predicted"
        counted += f"; energy counted {known}"
    return (
        f"greatest predicted top-1 over all {space.count() * len(models.resolutions):,} subnets of {space.name} at"
        f" {', '.join(map(str, models.resolutions))} px within {budget} ({counted}); latency: sum over blocks; "
        + accuracy.describe()
    )


def infeasible(models: CostModels, budget: Budget) -> InfeasibleBudget:
    """The refusal of a budget that no subnet fits, with its certificate."""
    found, front = certificate.of(models, budget)

    def candidate(row: int) -> Candidate:
        return models.candidate(front.arch(row), Top1(0.0, 0.0, 1.0))

    best = candidate(int(np.argmin(growth(front.costs, budget, *models.margins))))
    nearest = [None if limit.nearest is None else candidate(limit.nearest) for limit in found.limits]
    space = models.space
    return refusal(space, best, budget, models.margins, f"no subnet of {space.name} fits", found, nearest)
