"""The shortlist: subnets worth measuring because a predictor may be wrong about the best, and the choice among them.

In: predicted subnets within a budget; then what was measured of each. Out: archs to measure, best first; then verdicts,
best first. Rules kept: pure, and the same for the same seed. Two subnets that differ in a few blocks share their
predictor's error, so of such only the better one is measured: an optimiser exploits a predictor's errors, and
measuring twenty copies of one error would not show it. A subnet whose measured latency breaks the budget with its upper
bound is not chosen; of the rest the one with the greatest top-1 to expect (posterior.py), not the greatest measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.accuracy.table import wilson
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate
from ofa_edge.search.costs import FAILED, LATENCY, BlockLatencies, Floats
from ofa_edge.search.exact.frontier import StageScores
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.exact.top import best_front
from ofa_edge.search.limits import Limits
from ofa_edge.search.sampled.genes import Genes
from ofa_edge.search.selection import Measured
from ofa_edge.search.truth.posterior import Bools, corrected, predictors_error, sampling_noise
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays, concatenate

# Top-1 (n,) of archs: predictions, as shares.
Predicted = Callable[[ArchArrays], Floats]

# How many are measured, where nobody says; axis values in which they differ from each other, where there are enough.
TOP = 20
APART = 4

# Points of each resolution's front that the search for more begins at.
_ENDS = 10
# Steps from the subnets given, subnets varied in each, and genes drawn anew in one on average.
_ROUNDS = 12
_VARIED = 2048
_CHANGES = 3.0


# -- what to measure ----------------------------------------------------------------------------
def best_by_resolution(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    limits: Limits,
) -> list[Arch]:
    """The end of the exact front of each resolution: some of the best subnets within the limits, where there are any.

    From the best subnet of one resolution no change of a few blocks leads to that of another.

    Raises:
        UsageError: as frontier.exact_front.
    """
    fronts = [best_front(space, latency, score, [r], limits, count=_ENDS)[0] for r in resolutions]
    return [front.arch(i) for front in fronts for i in range(max(0, len(front) - _ENDS), len(front))]


def near_optimal(
    costs: BatchCosts, limits: Limits, top1: Predicted, given: Sequence[Arch], *, tolerance: float, seed: int = 0
) -> ArchArrays:
    """Different subnets within the limits and within `tolerance` of the best one known, the given ones among them.

    They are found by changing genes of the given ones, and of those found, at random.

    Args:
        costs: their resolutions are those that may be varied to.
        given: at least one, at some of these resolutions.
        tolerance: a share of images.
    """
    rng = np.random.default_rng(seed)
    genes = Genes.of(costs.space, costs.resolutions)
    found = _different(ArchArrays.of(costs.space, given))
    found = found.take(_kept(costs, limits, found))
    for _ in range(_ROUNDS):
        if len(found) == 0:
            break
        rows = genes.rows(found.take(rng.integers(len(found), size=_VARIED)))
        varied = genes.archs(genes.mutated(rng, rows, _CHANGES / len(genes)))
        found = _different(concatenate([found, varied.take(_kept(costs, limits, varied))]))
        shares = top1(found)
        found = found.take(shares >= shares.max() - tolerance)
    return found


def diverse(
    archs: ArchArrays, top1: Floats, k: int, *, apart: int = APART, fits: Callable[[Arch], bool] = lambda arch: True
) -> list[Arch]:
    """At most k of the archs, best first, each at least `apart` axis values from every better one.

    Where that leaves fewer than k they may be nearer to each other, one axis value after the other.

    Args:
        top1: (n,) predicted; of equals the first arch is better.
        fits: asked of those that would be taken.
    """
    order = np.argsort(-top1, kind="stable")
    rows = archs.matrix()[order]
    known: dict[int, bool] = {}

    def fit(row: int) -> bool:
        if row not in known:
            known[row] = fits(archs.arch(int(order[row])))
        return known[row]

    taken: list[int] = []
    for distance in range(max(apart, 1), 0, -1):
        taken = _spread(rows, k, distance, fit)
        if len(taken) >= k:
            break
    return [archs.arch(int(order[row])) for row in taken]


def _spread(rows: Ints, k: int, apart: int, fits: Callable[[int], bool]) -> list[int]:
    """Row numbers, rising: the first that fits, then each next one that is far enough from all before it."""
    free = np.ones(len(rows), dtype=bool)
    taken: list[int] = []
    while len(taken) < k and free.any():
        row = int(np.argmax(free))
        free[row] = False
        if fits(row):
            taken.append(row)
            free &= (rows != rows[row]).sum(axis=1) >= apart
    return taken


def _different(archs: ArchArrays) -> ArchArrays:
    return archs.take(np.unique(archs.matrix(), axis=0, return_index=True)[1])


def _kept(costs: BatchCosts, limits: Limits, archs: ArchArrays) -> Bools:
    rows = costs.rows(archs)
    return limits.kept(rows) & (rows[:, LATENCY] < FAILED)


# -- the choice ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """A candidate and what was measured of it.

    Attributes:
        right: (n,) which of the images it gets right; None where it was not evaluated.
        latency_ms: measured; None where it was not.
    """

    candidate: Candidate
    right: Bools | None = None
    latency_ms: Estimate | None = None

    @property
    def upper_ms(self) -> float:
        """What is held against the budget: the upper bound of what is known best."""
        known = self.latency_ms or self.candidate.latency_ms
        return known.value if known.high is None else known.high

    def fits(self, budget: Budget) -> bool:
        """Whether it keeps the budget's latency; the other limits were kept when it was predicted."""
        return budget.latency_ms is None or self.upper_ms <= budget.latency_ms


@dataclass(frozen=True, slots=True)
class Verdict:
    """A candidate, what was measured of it, and whether it keeps the budget."""

    candidate: Candidate
    measured: Measured
    fits: bool


def judge(
    checked: Sequence[Checked], budget: Budget, *, confidence: float = 0.95, predicted_on: float = math.inf
) -> list[Verdict]:
    """Verdicts on candidates of which something was measured: those that fit first, best first.

    Better is what has the greater top-1 to expect after measuring, or where nothing was evaluated the greater
    predicted one; of equals the faster.

    Args:
        confidence: of the predictions' intervals.
        predicted_on: images in each row that the predictor was fitted on; infinite where `candidate.top1` is itself a
            measurement.
    """
    expected = _expected(checked, confidence, predicted_on)

    def rank(i: int) -> tuple[bool, float, float, int]:
        one, top1 = checked[i], expected[i]
        best = one.candidate.top1.value if top1 is None else top1
        return not one.fits(budget), -best, one.upper_ms, i

    order = sorted(range(len(checked)), key=rank)
    return [Verdict(checked[i].candidate, _measured(checked[i], expected[i]), checked[i].fits(budget)) for i in order]


def require_fitting(verdicts: Sequence[Verdict], space: Space, budget: Budget, where: str) -> Verdict:
    """The best verdict.

    Raises:
        InfeasibleBudget: none fits as measured; details hold the nearest one and a budget that it fits.
    """
    if verdicts[0].fits:
        return verdicts[0]
    near = min(verdicts, key=_upper)
    limit = float(f"{1.01 * _upper(near):.3g}")  # a percent, since the next measurement is another
    needed = replace(budget, latency_ms=limit)
    raise InfeasibleBudget(
        f"none of the {len(verdicts)} best subnets fits {budget} as measured on {where}; the nearest needs {needed}",
        hint=f"try --budget {needed}; if the device was busy, try again",
        details={
            "budget": budget.as_json(),
            "needed": needed.as_json(),
            "nearest": {**near.candidate.as_json(space), "measured": near.measured.as_json()},
        },
    )


def table_rows(verdicts: Sequence[Verdict], space: Space) -> list[list[str]]:
    """Cells of a table for people: size, top-1 predicted, measured, corrected; latency predicted, measured; fits."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.2f}"

    def ms(estimate: Estimate | None) -> str:
        if estimate is None:
            return "-"
        return f"{estimate.value:.3f}" + ("" if estimate.high is None else f" (to {estimate.high:.3f})")

    return [
        [
            str(codecs.encode(space, one.candidate.arch)["r"]),
            percent(one.candidate.top1.value),
            percent(None if one.measured.top1 is None else one.measured.top1.value),
            percent(one.measured.corrected_top1),
            ms(one.candidate.latency_ms),
            ms(one.measured.latency_ms),
            "yes" if one.fits else "no",
        ]
        for one in verdicts
    ]


def _upper(verdict: Verdict) -> float:
    return Checked(verdict.candidate, latency_ms=verdict.measured.latency_ms).upper_ms


def _expected(checked: Sequence[Checked], confidence: float, predicted_on: float) -> list[float | None]:
    """Corrected top-1 of those that were evaluated."""
    expected: list[float | None] = [None] * len(checked)
    rows = [(i, one.right, one.candidate.top1) for i, one in enumerate(checked) if one.right is not None]
    if not rows:
        return expected
    right = np.stack([found for _, found, _ in rows])
    predicted = np.array([top1.value for _, _, top1 in rows])
    halves = np.array([(top1.high - top1.low) / 2 for _, _, top1 in rows])
    noise = sampling_noise(right)
    # What tells two subnets apart on these images does so on those that the predictor was fitted to.
    error = predictors_error(halves, confidence, noise * right.shape[1] / predicted_on)
    found = corrected(predicted, right.mean(axis=1), noise, error)
    for (i, *_), top1 in zip(rows, found.top1.tolist(), strict=True):
        expected[i] = round(top1, DIGITS)
    return expected


def _measured(one: Checked, top1: float | None) -> Measured:
    latency = one.latency_ms
    if latency is not None:
        ends = (None if ms is None else round(ms, DIGITS) for ms in (latency.low, latency.high))
        latency = Estimate(round(latency.value, DIGITS), *ends)
    if one.right is None:
        return Measured(latency_ms=latency)
    right, n = int(one.right.sum()), len(one.right)
    low, high = (round(end, DIGITS) for end in wilson(right, n))
    share = round(right / n, DIGITS)
    return Measured(Top1(share, min(low, share), max(high, share)), n, latency, top1)
