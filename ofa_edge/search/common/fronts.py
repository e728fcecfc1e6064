"""The best subnets under several latency limits at once: the one subnet that serves several devices.

In: a Space, for each device a latency that is a sum over blocks and its limits, a score that is a sum over stages, the
resolutions. Out: the subnets with the greatest scores that keep every limit, best first; or where none does, the
nearest.

How: put a price on each limited cost. A subnet within the limits loses nothing when it pays prices x (cost - limit),
so the greatest score less what is paid, found stage by stage, bounds the score of every subnet within the limits
(Lagrangian relaxation; Fisher 1981). Kelley's cutting planes find the prices with the least bound. Then all subnets are
listed that come within some distance of the bound (listing.py), and the distance doubles until one of them keeps the
limits. Whatever was not listed scores less, so the best one listed is the optimum.

Rules kept: exact for the model that is given: latencies, counts and scores are the integers of costs.py and
frontier.py, and prices only decide what is looked at. The same inputs choose the same subnet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linprog

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph.stored import Stored
from ofa_edge.search.common.listing import Best, Column, Problem, Seen
from ofa_edge.search.costs import BYTES, ENERGY, HELD, LATENCY, MACS, CostTables, Floats
from ofa_edge.search.exact.frontier import StageScores, require_energy, require_enumerable
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space

# Cutting planes that find the prices; each is one pass over the tables.
_CUTS = 60
# No limit is worth more than this, in units of the scores' range for the whole limit.
_DEAREST = 1e3
# The distance from the bound that is looked at first, and how exact prices are, of the scores' range.
_FIRST = 2.0**-16
_TIGHT = 1e-7
# Of sums of scores: far below a difference that matters, far above their last bits.
_ROUNDING = 1e-10
# A listing this long is not made longer for alternatives alone.
_LONG = 1 << 13


@dataclass(frozen=True, slots=True)
class Device:
    """A device's part of the question: what blocks cost there, and the limits, margins counted in."""

    tables: CostTables
    limits: Limits


def best_common(
    space: Space,
    devices: Sequence[Device],
    score: StageScores,
    resolutions: Sequence[int],
    count: int = 1,
) -> list[tuple[float, Arch]]:
    """The subnets with the greatest scores that keep every device's limits, best first.

    Args:
        count: how many at most. The first is the optimum; the others are among the next best.

    Returns:
        (score, arch); empty where no subnet keeps all limits, which then is proven.

    Raises:
        UsageError: no device, no resolution or no limit is given, or energy is limited and its model missing.
    """
    problems = _problems(space, devices, score, resolutions)
    if not problems:
        return []
    span = max(p.greatest for p in problems) - min(p.least for p in problems) or 1.0
    known = -math.inf  # a score that a subnet within the limits has
    priced = []
    for problem in sorted(problems, key=lambda p: -p.greatest):
        prices, bound, reached = _prices(problem, span, known)
        known = max(known, reached)
        priced.append((problem, prices, bound))
    top, least = max(bound for *_, bound in priced), min(p.least for p in problems)
    distance = _FIRST * span
    while True:
        floor = max(top - distance, known, least)
        found, longest = _listed(priced, floor, count)
        if len(found) or floor == least:
            break
        distance *= 2
    while 0 < len(found) < count and longest < _LONG and floor > least:  # the optimum is there; alternatives
        floor = max(floor - distance, least)
        found, longest = _listed(priced, floor, count)
        distance *= 2
    return found.archs(space)


def nearest_common(space: Space, devices: Sequence[Device], resolutions: Sequence[int]) -> tuple[Arch, float]:
    """The subnet that fits when all limits grow by the least factor, and that factor (exact).

    Raises:
        UsageError: as best_common.
        BadFile: no subnet can run on all devices.
    """
    best: tuple[float, Arch] | None = None
    for problem in _problems(space, devices, None, resolutions):
        prices, least = _even_prices(problem)
        widened = 2.0**-14
        while best is None or least < best[0]:
            factor = min(least * (1 + widened), math.inf if best is None else best[0])
            found = Best(1, -factor)
            problem.list_within(prices, -factor, found, factor)
            if len(found):
                ((share, arch),) = found.archs(space)
                best = -share, arch
                break
            if best is not None and factor == best[0]:
                break
            widened *= 2
    if best is None:
        raise BadFile(
            "every subnet needs a block that failed on one of the devices",
            hint="measure again: `ofa-edge profile --resume`",
        )
    return best[1], best[0]


# -- resolutions --------------------------------------------------------------------------------
def _listed(priced: Sequence[tuple[Problem, Floats, float]], floor: float, count: int) -> tuple[Best, int]:
    """The best with at least this score over all resolutions, and how long the longest listing was."""
    found = Best(count, floor - _ROUNDING)
    longest = 0
    for problem, prices, bound in priced:
        if bound >= floor - _ROUNDING:
            longest = max(longest, problem.list_within(prices, floor - _ROUNDING, found))
    return found, longest


def _problems(
    space: Space, devices: Sequence[Device], score: StageScores | None, resolutions: Sequence[int]
) -> list[Problem]:
    """One for each resolution at which a subnet can run on all devices."""
    if not devices or not resolutions:
        raise UsageError("there is no device or no resolution to search for", hint="give tables that share one")
    require_enumerable(space)
    for device in devices:
        require_energy(device.limits, device.tables)
    columns = _columns(devices)
    if not columns:
        raise UsageError("there is no limit to keep", hint="limit latency, memory, size, macs or energy")
    found = []
    for resolution in sorted(set(resolutions)):
        costs = [device.tables.at(resolution) for device in devices]
        found.append(Problem.of(space, costs, columns, score))
    return [problem for problem in found if problem is not None]


def _columns(devices: Sequence[Device]) -> list[Column]:
    """Latency and energy on each device; of what is alike on all devices, or all that store numbers alike, the tightest
    limit."""
    found = [
        Column(d, column, most)
        for d, one in enumerate(devices)
        for column, most in one.limits.sums.items()
        if column in (LATENCY, ENERGY)
    ]
    alike: dict[tuple[int, Stored | None], Column] = {}
    for d, one in enumerate(devices):
        limits, stored = one.limits, one.tables.stored
        kinds = [(MACS, limits.macs, None), (BYTES, limits.size, stored), (HELD, limits.memory, stored)]
        for column, most, own in kinds:
            if most is not None:
                first = alike.setdefault((column, own), Column(d, column, most, with_peak=column == HELD))
                alike[column, own] = replace(first, limit=min(first.limit, most))
    return found + sorted(alike.values(), key=lambda one: (one.column, one.device))


# -- prices -------------------------------------------------------------------------------------
def _prices(problem: Problem, span: float, known: float) -> tuple[Floats, float, float]:
    """Prices of the limits with about the least bound, that bound, and the greatest score seen within the limits.

    It ends early where the bound falls below `known`: nothing of this resolution is then the best.
    """
    prices = np.zeros(len(problem.columns))
    best_prices, bound, reached = prices, math.inf, -math.inf
    seen: list[Seen] = []
    for _ in range(_CUTS):  # the first, at no prices, is the best subnet of all
        one = problem.best(prices)
        seen.append(one)
        used = one.use + one.peak
        if (used <= problem.limits).all():
            reached = max(reached, one.score)
        if one.value < bound:
            best_prices, bound = prices, one.value
        if bound <= max(known, reached):
            break
        slack = 1 - np.array([_shares(problem, s) for s in seen])
        scores = np.array([s.score for s in seen])
        # The least bound that the subnets seen so far allow: greatest, over them, of score + prices x slack.
        solved = linprog(
            np.r_[np.zeros(len(prices)), 1.0],
            A_ub=np.c_[slack, -np.ones(len(seen))],
            b_ub=-scores,
            bounds=[(0, _DEAREST * span)] * len(prices) + [(None, None)],
        )
        if solved.x is None or solved.fun is None or bound - solved.fun <= _TIGHT * span:
            break
        prices = np.maximum(solved.x[:-1], 0.0)
    return best_prices, bound, reached


def _even_prices(problem: Problem) -> tuple[Floats, float]:
    """Prices that add up to 1, for which the least that any subnet pays is about greatest; and that: all limits must
    grow by this factor at least."""
    prices = np.full(len(problem.columns), 1 / len(problem.columns))
    best_prices, least = prices, 0.0
    shares: list[Floats] = []
    for _ in range(_CUTS):
        one = problem.best(prices)
        shares.append(_shares(problem, one))
        if -one.value > least:
            best_prices, least = prices, -one.value
        solved = linprog(
            np.r_[np.zeros(len(prices)), -1.0],
            A_ub=np.c_[-np.array(shares), np.ones(len(shares))],
            b_ub=np.zeros(len(shares)),
            A_eq=np.r_[np.ones(len(prices)), 0.0][None],
            b_eq=[1.0],
            bounds=[(0, 1)] * len(prices) + [(None, None)],
        )
        if solved.x is None or solved.fun is None or -solved.fun - least <= _TIGHT * least:
            break
        prices = np.maximum(solved.x[:-1], 0.0)
        prices /= prices.sum()
    return best_prices, least


def _shares(problem: Problem, seen: Seen) -> Floats:
    """What a subnet pays for, as shares of the limits: of memory the weights and the least peak there is."""
    shares: Floats = (seen.use + problem.shift) / problem.limits
    return shares
