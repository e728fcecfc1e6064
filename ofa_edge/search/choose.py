"""Chooses the subnet: the best one the models allow inside a budget.

In: a Space, a latency model, an accuracy model or table, a Budget. Out: `Chosen`: a Selection, the next best
subnets, the seconds it took; or InfeasibleBudget with the nearest subnet and a budget that it fits. Rules kept:
what is promised is the upper bound of the latency: value x (1 + margin), margin bounding the interval of every
subnet of the space, and the chosen subnet's own interval besides; an infeasible budget is answered at once; the
same inputs choose the same subnet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.latency.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BlockLatencies
from ofa_edge.search.frontier import Front, exact_front, nearest
from ofa_edge.search.selection import Selection, predicted_json
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space, StageChoice
from ofa_edge.space.block import Block
from ofa_edge.space.cost import Cost, cost

DIGITS = 9  # of shares and of ms, as fine as the front's own steps


class Latency(BlockLatencies, Protocol):
    """What choosing asks of a latency model besides its sums (latency.model.LatencyModel)."""

    def estimate(self, blocks: Sequence[Block], confidence: float = ...) -> Estimate: ...

    def margin(self, confidence: float = ...) -> float: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnet with everything that is predicted of it."""

    arch: Arch
    top1: Top1
    latency_ms: Estimate
    cost: Cost

    def as_json(self, space: Space) -> dict[str, Any]:
        return {
            "arch": codecs.encode(space, self.arch),
            "predicted": predicted_json(self.top1, self.latency_ms, self.cost),
        }


@dataclass(frozen=True, slots=True)
class Chosen:
    """A selection, and what is not part of it: the next best subnets within the budget, and how long it took."""

    selection: Selection
    alternatives: tuple[Candidate, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What `select --json` prints."""
        return {
            **self.selection.as_json(),
            "alternatives": [candidate.as_json(self.selection.space) for candidate in self.alternatives],
            "seconds": self.seconds,
        }


def shared_resolutions(latency_resolutions: Sequence[int], accuracy: AdditiveAccuracy) -> tuple[int, ...]:
    """The resolutions to search at: those of the latency table that the accuracy table covers.

    Raises:
        UsageError: there is none.
    """
    shared = tuple(r for r in sorted(set(latency_resolutions)) if accuracy.covers(r))
    if not shared:
        raise UsageError(
            f"the latency table is of resolutions {', '.join(map(str, sorted(latency_resolutions)))}, the accuracy "
            f"table of {accuracy.resolutions[0]}..{accuracy.resolutions[-1]}",
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
    return Budget(latency_ms=_rounded_up(float(front.latency_ms[len(front) // 2]) * (1 + margin)))


def choose(
    space: Space,
    latency: Latency,
    accuracy: AdditiveAccuracy,
    budget: Budget,
    *,
    resolutions: Sequence[int],
    inputs: Mapping[str, str],
    confidence: float = 0.95,
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 within the budget (strategy exact).

    Args:
        resolutions: to search at; see `shared_resolutions`.
        inputs: hex sha256 by role, for the selection.
        seed: of the accuracy model, for the selection.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no subnet fits; details hold the nearest one and a budget that it fits.
    """
    start = time.perf_counter()
    margin = latency.margin(confidence)
    front = exact_front(space, latency, accuracy, resolutions, budget)
    limit = math.inf if budget.latency_ms is None else budget.latency_ms
    fitting = [i for i, ms in enumerate(front.latency_ms) if ms * (1 + margin) <= limit]
    found = []
    for i in reversed(fitting):
        arch = front.arch(i)
        candidate = candidate_of(space, latency, arch, accuracy.estimate(arch, confidence), confidence)
        # The margin is a bound over a sample of the space; the subnet's own interval has the last word.
        if excess(candidate, budget) <= 1:
            found.append((i, candidate))
        if len(found) > top:
            break
    if not found:
        raise _infeasible(space, latency, budget, resolutions, margin, confidence)
    best, chosen = found[0]
    selection = Selection(
        space=space,
        arch=chosen.arch,
        top1=chosen.top1,
        latency_ms=chosen.latency_ms,
        cost=chosen.cost,
        budget=budget,
        strategy="exact",
        confidence=confidence,
        model=_exact_model(space, accuracy, budget, resolutions, margin, confidence),
        proven_optimal=best == fitting[-1],
        bound=round(accuracy.top1(float(front.score[fitting[-1]])), DIGITS),
        inputs=dict(inputs),
        seed=seed,
    )
    return Chosen(selection, tuple(candidate for _, candidate in found[1:]), time.perf_counter() - start)


def choose_measured(
    space: Space,
    latency: Latency,
    table: AccuracyTable,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    confidence: float = 0.95,
    top: int = 5,
) -> Chosen:
    """The measured subnet with the highest top-1 whose latency's upper bound fits (strategy table).

    Of subnets with equal top-1 the faster one is better.

    Raises:
        InfeasibleBudget: no measured subnet fits.
        BadFile: the accuracy table has no row that can run.
    """
    start = time.perf_counter()
    rows = []
    for arch, *shares in zip(*(table.frame[name] for name in ("arch", "top1", "low", "high")), strict=True):
        if all(math.isfinite(latency.block_ms(block)) for block in space.blocks(arch)):
            rows.append(candidate_of(space, latency, arch, Top1(*shares), confidence))
    if not rows:
        raise BadFile("the accuracy table has no subnet that can run", hint="measure more with `ofa-edge evaluate`")
    fitting = [candidate for candidate in rows if excess(candidate, budget) <= 1]
    if not fitting:
        best = min(rows, key=lambda candidate: excess(candidate, budget))
        raise _refusal(space, best, budget, _needed(best, budget, 0.0), "no measured subnet fits")
    fitting.sort(key=_by_top1)
    chosen = fitting[0]
    selection = Selection(
        space=space,
        arch=chosen.arch,
        top1=chosen.top1,
        latency_ms=chosen.latency_ms,
        cost=chosen.cost,
        budget=budget,
        strategy="table",
        confidence=confidence,
        model=f"greatest measured top-1 among the accuracy table's {len(rows):,} subnets that fit {budget} (latency:"
        f" the {confidence:.0%} upper bound of the prediction); images: {table.header.data}",
        proven_optimal=True,
        bound=chosen.top1.value,
        inputs=dict(inputs),
        seed=table.header.seed,
    )
    return Chosen(selection, tuple(fitting[1 : top + 1]), time.perf_counter() - start)


def candidate_of(space: Space, latency: Latency, arch: Arch, top1: Top1, confidence: float) -> Candidate:
    """Rounded to what is meant, so that the last bits of a sum, which differ by machine, do not reach a file."""
    blocks = space.blocks(arch)
    estimate = latency.estimate(blocks, confidence)
    low, high = (None if ms is None else round(ms, DIGITS) for ms in (estimate.low, estimate.high))
    return Candidate(
        arch,
        Top1(round(top1.value, DIGITS), round(top1.low, DIGITS), round(top1.high, DIGITS)),
        Estimate(round(estimate.value, DIGITS), low, high),
        cost(blocks),
    )


def _by_top1(candidate: Candidate) -> tuple[float, float, int, tuple[StageChoice, ...], tuple[int, ...], int]:
    """Order of measured subnets, best first; of equals the faster, then the smaller."""
    arch = candidate.arch
    where = arch.resolution, arch.stages, arch.widths, arch.stem_depth
    return -candidate.top1.value, candidate.latency_ms.value, *where


# -- the words and the errors -------------------------------------------------------------------
def _exact_model(
    space: Space,
    accuracy: AdditiveAccuracy,
    budget: Budget,
    resolutions: Sequence[int],
    margin: float,
    confidence: float,
) -> str:
    sizes = sorted(set(resolutions))
    counted = f"latency counted {1 + margin:.3f} times, its {confidence:.0%} upper bound for all subnets"
    if margin == 0:
        counted = "latency as predicted, its interval being unknown"
    return (
        f"greatest predicted top-1 over all {space.count() * len(sizes):,} subnets of {space.name} at"
        f" {', '.join(map(str, sizes))} px within {budget} ({counted}); latency: sum over blocks; "
        + accuracy.describe()
    )


def _infeasible(
    space: Space, latency: Latency, budget: Budget, resolutions: Sequence[int], margin: float, confidence: float
) -> InfeasibleBudget:
    arch, _ = nearest(space, latency, resolutions, budget, margin)
    near = candidate_of(space, latency, arch, Top1(0.0, 0.0, 1.0), confidence)
    return _refusal(space, near, budget, _needed(near, budget, margin), f"no subnet of {space.name} fits")


def _refusal(space: Space, near: Candidate, budget: Budget, needed: Budget, what: str) -> InfeasibleBudget:
    details = near.as_json(space)
    del details["predicted"]["top1"]
    return InfeasibleBudget(
        f"{what} {budget}; the nearest needs {needed}",
        hint=f"try --budget {needed}",
        details={"budget": budget.as_json(), "needed": needed.as_json(), "nearest": details},
    )


def _needed(near: Candidate, budget: Budget, margin: float) -> Budget:
    """The budget with each limit that `near` breaks raised to what it needs."""
    upper = max(near.latency_ms.value * (1 + margin), near.latency_ms.high or 0.0)
    memory = near.cost.weight_bytes + near.cost.peak_activation_bytes
    return Budget(
        latency_ms=None if budget.latency_ms is None else max(budget.latency_ms, _rounded_up(upper)),
        memory_bytes=None if budget.memory_bytes is None else max(budget.memory_bytes, memory),
        size_bytes=None if budget.size_bytes is None else max(budget.size_bytes, near.cost.weight_bytes),
        macs=None if budget.macs is None else max(budget.macs, near.cost.macs),
    )


def excess(candidate: Candidate, budget: Budget) -> float:
    """By what factor the budget would have to grow for the candidate; at most 1 where it fits."""
    estimate = candidate.latency_ms
    upper = estimate.value if estimate.high is None else estimate.high
    latency = 0.0 if budget.latency_ms is None else upper / budget.latency_ms
    return max(latency, excess_of_counts(candidate.cost, budget))


def excess_of_counts(counts: Cost, budget: Budget) -> float:
    """The same of all limits but latency's; 0 where there are none."""
    uses = (
        (counts.weight_bytes + counts.peak_activation_bytes, budget.memory_bytes),
        (counts.weight_bytes, budget.size_bytes),
        (counts.macs, budget.macs),
    )
    return max((use / limit for use, limit in uses if limit is not None), default=0.0)


def _rounded_up(ms: float) -> float:
    """Three significant digits, never below."""
    if ms <= 0:
        return 0.001
    step = 10.0 ** (math.floor(math.log10(ms)) - 2)
    rounded = float(f"{math.ceil(ms / step) * step:.12g}")
    return rounded if rounded >= ms else float(f"{(math.ceil(ms / step) + 1) * step:.12g}")
