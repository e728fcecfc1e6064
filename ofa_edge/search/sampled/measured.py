"""Chooses among the subnets that were measured: Once-for-All's own table strategy.

In: a Space, a latency model, an accuracy table (so many sampled subnets, each measured at some input sizes), a Budget,
the input sizes that the latency table knows. Out: `Chosen`: the best top-1 whose latency fits, or InfeasibleBudget. A
subnet measured at 128 and 160 pixels is a candidate at every size between that the latency table knows, with a top-1
interpolated in FLOPs (accuracy/interpolation.py; Cai et al., ICLR 2020).

Rules kept: a measured figure is used as it was measured, and what is interpolated is said to be; what is promised is
the upper bound of the latency, as everywhere; of subnets with equal top-1 the faster one is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import BadFile, InfeasibleBudget
from ofa_edge.search import certificate
from ofa_edge.search.batch import BatchCosts, NoLatency
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, excess, used
from ofa_edge.search.choose import Chosen
from ofa_edge.search.costs import MACS
from ofa_edge.search.models import CostModels
from ofa_edge.search.refusal import refusal
from ofa_edge.space.arch import Arch, Space, StageChoice
from ofa_edge.space.population import ArchArrays


@dataclass(frozen=True, slots=True)
class Row:
    """A subnet with its top-1; `between` are the two sizes it was interpolated from, () where it was measured."""

    arch: Arch
    top1: Top1
    between: tuple[int, ...] = ()


def choose_measured(
    models: CostModels,
    table: AccuracyTable,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    top: int = 5,
) -> Chosen:
    """The subnet of the table with the highest top-1 whose latency's upper bound fits (strategy table).

    Args:
        models: their resolutions are sizes at which a subnet is a candidate between two that it was measured at.

    Raises:
        InfeasibleBudget: none fits.
        BadFile: the accuracy table has no subnet that can run.
        UsageError: energy is limited and its model missing.
    """
    start = time.perf_counter()
    rows = measured_rows(table)
    between = interpolated_rows(models.space, rows, models.resolutions)
    found = _best(models, [*rows, *between], budget, top + 1)
    chosen, row = found[0]
    return Chosen.of(
        models,
        [candidate for candidate, _ in found],
        budget,
        time.perf_counter() - start,
        strategy="table",
        model=_model(table, budget, models.confidence, len(rows), len(between), row),
        proven_optimal=True,
        bound=chosen.top1.value,
        inputs=inputs,
        seed=table.header.seed,
    )


def measured_rows(table: AccuracyTable) -> list[Row]:
    """What was measured."""
    columns = (table.frame[name] for name in ("arch", "top1", "low", "high"))
    return [Row(arch, Top1(*shares)) for arch, *shares in zip(*columns, strict=True)]


def interpolated_rows(space: Space, rows: Sequence[Row], resolutions: Sequence[int]) -> list[Row]:
    """The measured subnets at those of these sizes that lie between two at which they were measured, and at which they
    were not; value, low and high are interpolated alike."""
    known: dict[Arch, dict[int, Top1]] = {}
    for row in rows:
        known.setdefault(row.arch.at(0), {})[row.arch.resolution] = row.top1
    wanted = sorted(set(resolutions) & set(space.resolutions))
    found = [(arch.at(r), *ends) for arch, sizes in known.items() for r in wanted if (ends := _neighbours(r, sizes))]
    if not found:
        return []
    archs = ArchArrays.of(space, [arch for arch, _, _ in found])
    before, after = (np.array([ends[i] for ends in found], dtype=np.int64) for i in (1, 2))
    costs = BatchCosts(space, NoLatency(), [*wanted, *before.tolist(), *after.tolist()])
    macs, least, most = (costs.rows(archs.at(r), [MACS])[:, MACS] for r in (archs.resolution, before, after))
    made = []
    for (arch, r0, r1), share in zip(found, ((macs - least) / (most - least)).tolist(), strict=True):
        low, high = known[arch.at(0)][r0], known[arch.at(0)][r1]
        pairs = zip((low.value, low.low, low.high), (high.value, high.low, high.high), strict=True)
        made.append(Row(arch, Top1(*(a + (b - a) * share for a, b in pairs)), (r0, r1)))
    return made


def _neighbours(r: int, measured: Iterable[int]) -> tuple[int, int] | None:
    """The measured sizes next to one between them; None where it was measured, or lies outside."""
    grid = sorted(measured)
    if r in grid or not grid[0] < r < grid[-1]:
        return None
    after = int(np.searchsorted(grid, r))
    return grid[after - 1], grid[after]


def _best(models: CostModels, rows: Sequence[Row], budget: Budget, count: int) -> list[tuple[Candidate, Row]]:
    """The best that fit, best first; latencies are asked for only until there are enough.

    Raises:
        InfeasibleBudget, BadFile: as `choose_measured`.
    """
    fitting: list[tuple[Candidate, Row]] = []
    others: list[Candidate] = []
    for alike in _by_top1(rows):
        candidates = []
        for row in alike:
            if all(math.isfinite(models.latency.block_ms(block)) for block in models.space.blocks(row.arch)):
                candidates.append((models.candidate(row.arch, row.top1), row))
        candidates.sort(key=lambda pair: _order(pair[0]))
        fitting += [pair for pair in candidates if excess(pair[0], budget) <= 1]
        others += [candidate for candidate, _ in candidates]
        if len(fitting) >= count:
            return fitting[:count]
    if not others:
        raise BadFile("the accuracy table has no subnet that can run", hint="measure more with `ofa-edge evaluate`")
    if not fitting:
        raise _refused(models.space, others, budget)
    return fitting


def _by_top1(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of equal top-1, the best first."""

    def share(row: Row) -> float:
        return -round(row.top1.value, DIGITS)

    return (list(alike) for _, alike in groupby(sorted(rows, key=share), key=share))


def _order(candidate: Candidate) -> tuple[float, int, tuple[StageChoice, ...], tuple[int, ...], int]:
    """Order of subnets of equal top-1, best first: the faster, then the smaller."""
    arch = candidate.arch
    return candidate.latency_ms.value, arch.resolution, arch.stages, arch.widths, arch.stem_depth


def _refused(space: Space, candidates: Sequence[Candidate], budget: Budget) -> InfeasibleBudget:
    best = min(candidates, key=lambda candidate: excess(candidate, budget))
    found = certificate.of_uses(np.array([used(candidate, budget) for candidate in candidates]), budget)
    nearest = [None if limit.nearest is None else candidates[limit.nearest] for limit in found.limits]
    return refusal(space, best, budget, (0.0, 0.0), "no measured subnet fits", found, nearest)


def _model(table: AccuracyTable, budget: Budget, confidence: float, measured: int, between: int, chosen: Row) -> str:
    held = f"that fit {budget} (latency: the {confidence:.0%} upper bound of the prediction)"
    images = f"images: {table.header.data}"
    if not between:
        return f"greatest measured top-1 among the accuracy table's {measured:,} subnets {held}; {images}"
    this = "was measured"
    if chosen.between:
        this = f"is interpolated between those at {chosen.between[0]} and {chosen.between[1]} px"
    return (
        f"greatest top-1 among the accuracy table's {measured:,} subnets and {between:,} at sizes between those they"
        f" were measured at, interpolated in FLOPs, {held}; the chosen subnet's top-1 {this}; {images}"
    )
