"""The refusal of a budget that nothing fits: what is in the way, and what to type instead.

In: a budget, its certificate (certificate.py), the subnets that it names. Out: InfeasibleBudget. Rule kept: what the
hint says works: a budget it names is kept by the subnet that it was made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.certificate import Certificate
from ofa_edge.space.arch import Space


def refusal(
    space: Space,
    near: Candidate,
    budget: Budget,
    margins: tuple[float, float],
    what: str,
    found: Certificate,
    nearest: Sequence[Candidate | None],
) -> InfeasibleBudget:
    """The error.

    Args:
        margins: of latency and energy (CostModels.margins).
        near: the subnet that the least enlarged budget fits.
        nearest: for each limit the subnet that keeps all others, None where there is none.
    """
    needed = needed_budget(near, budget, margins)
    limits, instead = found.as_json(), []
    for limit, candidate in zip(limits, nearest, strict=True):
        limit["nearest"] = limit["budget"] = None
        if candidate is not None:
            enough = needed_budget(candidate, budget, margins)
            limit |= {"nearest": _without_top1(space, candidate), "budget": enough.as_json()}
            instead += [enough] if enough not in (needed, budget) else []
    said = found.sentence()
    alone = " or ".join(f"--budget {enough}" for enough in dict.fromkeys(instead))
    return InfeasibleBudget(
        f"{what} {budget}" + (f": {said}" if said else "") + f"; the nearest needs {needed}",
        hint=f"try --budget {needed}" + (f"; raising one limit alone: {alone}" if alone else ""),
        details={
            "budget": budget.as_json(),
            "needed": needed.as_json(),
            "nearest": _without_top1(space, near),
            "limits": limits,
        },
    )


def _without_top1(space: Space, candidate: Candidate) -> dict[str, Any]:
    found = candidate.as_json(space)
    del found["predicted"]["top1"]
    return found


def needed_budget(near: Candidate, budget: Budget, margins: tuple[float, float]) -> Budget:
    """The budget with each limit that `near` breaks raised to what it needs."""
    upper = max(near.latency_ms.value * (1 + margins[0]), near.latency_ms.high or 0.0)
    energy = near.energy_mj or Estimate(0.0)
    drawn = max(energy.value * (1 + margins[1]), energy.high or 0.0)
    memory = near.cost.memory_bytes
    latency = _raised(budget.latency_ms, upper)
    p90 = budget.p90_ms if latency == budget.latency_ms else _raised(budget.p90_ms, latency or 0.0)
    return Budget(
        latency_ms=latency,
        p90_ms=p90,  # never below the median's limit: raised with it
        memory_bytes=None if budget.memory_bytes is None else max(budget.memory_bytes, memory),
        size_bytes=None if budget.size_bytes is None else max(budget.size_bytes, near.cost.weight_bytes),
        macs=None if budget.macs is None else max(budget.macs, near.cost.macs),
        energy_mj=_raised(budget.energy_mj, drawn),
    )


def _raised(limit: float | None, use: float) -> float | None:
    """A limit that the use keeps, the given one if it does."""
    return limit if limit is None or use <= limit else rounded_up(use)


def rounded_up(ms: float) -> float:
    """Three significant digits, never below."""
    if ms <= 0:
        return 0.001
    step = 10.0 ** (math.floor(math.log10(ms)) - 2)
    rounded = float(f"{math.ceil(ms / step) * step:.12g}")
    return rounded if rounded >= ms else float(f"{(math.ceil(ms / step) + 1) * step:.12g}")
