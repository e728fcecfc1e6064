"""The shortlist is near-optimal, within the budget and spread; the choice on measured figures keeps the budget."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.limits import Limits
from ofa_edge.search.truth.shortlist import (
    Checked,
    best_by_resolution,
    diverse,
    judge,
    near_optimal,
    require_fitting,
    table_rows,
)
from ofa_edge.space.cost import cost
from ofa_edge.space.population import ArchArrays
from tests.search.doubles import COUPLED, SMALL, DrawnLatency, DrawnScores, keeps, listed


def top1_of(scores: DrawnScores):
    """Shares for `near_optimal`, one arch after the other."""

    @cache
    def one(arch) -> float:
        return scores.score(arch)

    return lambda archs: np.array([one(arch) for arch in archs.archs()])


def apart(space, one, other) -> int:
    rows = ArchArrays.of(space, [one, other]).matrix()
    return int((rows[0] != rows[1]).sum())


# -- what to measure ------------------------------------------------------------------------------
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1), macs=st.booleans())
@settings(max_examples=15)
def test_near_optimal_subnets_are_those_of_the_listed_space(seed: int, share: float, macs: bool) -> None:
    latency, scores = DrawnLatency(seed), DrawnScores(seed)
    values = {subnet.arch: latency.value(subnet.blocks) for subnet in listed(SMALL)}
    limit = sorted(values.values())[int(share * (len(values) - 1))] + 1e-6
    budget = Budget(
        latency_ms=limit,
        macs=int(np.median([subnet.cost.macs for subnet in listed(SMALL)])) if macs else None,
    )
    fitting = {
        subnet.arch: scores.score(subnet.arch)
        for subnet in listed(SMALL)
        if values[subnet.arch] <= limit and keeps(subnet.cost, budget)
    }
    best = max(fitting, key=fitting.__getitem__, default=None)
    if best is None:
        return
    tolerance = 0.5
    costs = BatchCosts(SMALL, latency, SMALL.resolutions)
    found = near_optimal(costs, Limits.of(budget), top1_of(scores), [best], tolerance=tolerance, seed=seed).archs()
    near = {arch for arch, score in fitting.items() if score >= fitting[best] - tolerance}
    assert best in found
    assert len(set(found)) == len(found)
    assert set(found) <= near
    assert len(found) > len(near) / 2  # of a space this small most are met


def test_near_optimal_is_the_same_for_the_same_seed_also_among_coupled_widths() -> None:
    latency, scores = DrawnLatency(3), DrawnScores(3, space=COUPLED)
    budget = Budget(latency_ms=float(np.median([latency.value(subnet.blocks) for subnet in listed(COUPLED)])))
    limits, costs = Limits.of(budget), BatchCosts(COUPLED, latency, COUPLED.resolutions)
    begin = best_by_resolution(COUPLED, latency, scores, COUPLED.resolutions, limits)

    def found(seed: int):
        return near_optimal(costs, limits, top1_of(scores), begin, tolerance=0.4, seed=seed).archs()

    assert found(1) == found(1)
    assert len(found(1)) > 10
    for arch in found(1):
        COUPLED.check(arch)
        assert latency.value(COUPLED.blocks(arch)) <= budget.latency_ms


def test_the_best_of_each_resolution_are_the_ends_of_its_own_front() -> None:
    latency, scores = DrawnLatency(5), DrawnScores(5)
    front = exact_front(SMALL, latency, scores, SMALL.resolutions)
    budget = Budget(latency_ms=float(front.latency_ms[len(front) // 2]) * 1.05)
    found = best_by_resolution(SMALL, latency, scores, SMALL.resolutions, Limits.of(budget, 0.05))
    assert front.arch(len(front) // 2) in found
    assert {arch.resolution for arch in found} == set(SMALL.resolutions)
    assert all(latency.value(SMALL.blocks(arch)) * 1.05 <= budget.latency_ms * (1 + 1e-9) for arch in found)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), distance=st.integers(1, 5))
@settings(max_examples=25)
def test_a_diverse_list_is_best_first_and_apart(seed: int, k: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    archs = ArchArrays.of(SMALL, list(dict.fromkeys(SMALL.sample(rng) for _ in range(60))))
    top1 = rng.permutation(len(archs)) / 100
    score = dict(zip(archs.archs(), top1, strict=True))
    found = diverse(archs, top1, k, apart=distance)
    assert found[0] == max(score, key=score.__getitem__)
    assert [score[arch] for arch in found] == sorted((score[arch] for arch in found), reverse=True)
    assert len(found) == min(k, len(archs))
    least = min((apart(SMALL, a, b) for i, a in enumerate(found) for b in found[:i]), default=distance)
    # Nearer than asked only where there are not enough that far apart.
    if least < distance:
        assert len(diverse(archs, top1, len(archs), apart=distance)) == len(archs)
        assert _spread_count(found, score, least + 1) < k
    assert diverse(archs, top1, k, apart=distance) == found


def _spread_count(found, score, distance: int) -> int:
    """How many of all archs are taken best first, at this distance."""
    taken: list = []
    for arch in sorted(score, key=score.__getitem__, reverse=True):
        if all(apart(SMALL, arch, other) >= distance for other in taken):
            taken.append(arch)
    return len(taken)


def test_what_does_not_fit_is_neither_taken_nor_in_the_way() -> None:
    rng = np.random.default_rng(0)
    archs = ArchArrays.of(SMALL, list(dict.fromkeys(SMALL.sample(rng) for _ in range(40))))
    top1 = -np.arange(len(archs)) / 100
    fits = {arch: i % 2 == 1 for i, arch in enumerate(archs.archs())}
    found = diverse(archs, top1, 10, fits=fits.__getitem__)
    assert found[0] == archs.arch(1)
    assert len(found) == 10
    assert all(fits[arch] for arch in found)
    assert diverse(archs, top1, 5, fits=lambda arch: False) == []


# -- the choice -----------------------------------------------------------------------------------
def candidate(seed: int, top1: float, ms: float) -> Candidate:
    arch = SMALL.sample(np.random.default_rng(seed))
    return Candidate(
        arch, Top1(top1, top1 - 0.02, top1 + 0.02), Estimate(ms, 0.9 * ms, 1.1 * ms), cost(SMALL.blocks(arch))
    )


def right(share: float, n: int = 400) -> np.ndarray:
    return np.arange(n) < round(share * n)


def test_a_measured_upper_bound_that_breaks_the_budget_is_not_chosen() -> None:
    checked = [
        Checked(candidate(1, 0.95, 9.0), right(0.96), Estimate(9.9, 9.5, 10.2)),
        Checked(candidate(2, 0.94, 9.0), right(0.94), Estimate(9.8, 9.6, 9.9)),
        Checked(candidate(3, 0.93, 9.0), right(0.90), Estimate(9.0, 8.6, 9.3)),
    ]
    found = judge(checked, Budget(latency_ms=10.0), predicted_on=1000)
    assert [one.fits for one in found] == [True, True, False]
    assert found[0].candidate == checked[1].candidate
    assert found[2].candidate == checked[0].candidate
    assert found[0].measured.latency_ms == Estimate(9.8, 9.6, 9.9)
    assert found[0].measured.n == 400
    assert found[0].measured.top1.value == 0.94
    assert found[0].measured.top1.low < 0.94 < found[0].measured.top1.high
    assert require_fitting(found, SMALL, Budget(latency_ms=10.0), "board") is found[0]


def test_the_greatest_to_expect_is_chosen_not_the_greatest_measured() -> None:
    # Five of 400 images are within chance; what prediction says is worth more.
    checked = [Checked(candidate(1, 0.960, 5.0), right(0.950)), Checked(candidate(2, 0.900, 5.0), right(0.9525))]
    checked[1] = replace(checked[1], right=np.roll(checked[1].right, 150))
    best = judge(checked, Budget(latency_ms=10.0), predicted_on=1000)[0]
    assert best.candidate == checked[0].candidate
    assert best.measured.top1.value < 0.9525
    many = [Checked(one.candidate, np.tile(one.right, 500)) for one in checked]
    assert judge(many, Budget(latency_ms=10.0), predicted_on=1000)[0].candidate == checked[1].candidate


def test_without_images_the_best_predicted_that_keeps_the_budget_is_chosen_and_nothing_is_corrected() -> None:
    checked = [Checked(candidate(i, 0.9 + i / 100, 9.0), None, Estimate(8.0 + i)) for i in range(4)]
    found = judge(checked, Budget(latency_ms=10.0))
    assert [one.candidate for one in found] == [checked[i].candidate for i in (2, 1, 0, 3)]
    assert found[0].measured.top1 is None
    assert found[0].measured.corrected_top1 is None


def test_of_equals_the_faster_is_better() -> None:
    checked = [
        Checked(candidate(1, 0.9, 9.0), None, Estimate(8.0)),
        Checked(candidate(2, 0.9, 9.0), None, Estimate(7.0)),
    ]
    assert judge(checked, Budget(latency_ms=10.0))[0].candidate == checked[1].candidate


def test_without_a_latency_limit_everything_measured_fits() -> None:
    found = judge([Checked(candidate(1, 0.9, 9.0), right(0.9), Estimate(8.0, 7.0, 99.0))], Budget(macs=10**9))
    assert found[0].fits
    assert found[0].measured.corrected_top1 == pytest.approx(0.9)


@given(limit=st.floats(1, 50), over=st.lists(st.floats(1.001, 3), min_size=1, max_size=6))
def test_where_nothing_fits_the_nearest_is_named_and_its_budget_fits_it(limit: float, over: list[float]) -> None:
    budget = Budget(latency_ms=limit, macs=10**9)
    checked = [
        Checked(candidate(i, 0.9, 0.9 * limit), None, Estimate(limit, limit, o * limit)) for i, o in enumerate(over)
    ]
    with pytest.raises(
        InfeasibleBudget, match=r"best subnets fits latency=.* as measured on board; the nearest"
    ) as caught:
        require_fitting(judge(checked, budget), SMALL, budget, "board")
    details = caught.value.details
    assert min(over) * limit <= details["needed"]["latency_ms"] <= 1.02 * min(over) * limit
    assert details["needed"]["macs"] == 10**9
    assert details["nearest"]["measured"]["latency_ms"]["high"] == pytest.approx(min(over) * limit)
    assert Budget.parse(caught.value.hint.split("--budget ")[1].split(";")[0]).as_json() == details["needed"]


def test_people_see_predicted_and_measured_side_by_side() -> None:
    checked = [Checked(candidate(1, 0.95, 9.0), right(0.96), Estimate(9.5, 9.1, 10.2)), Checked(candidate(2, 0.9, 9.0))]
    rows = table_rows(judge(checked[:1], Budget(latency_ms=10.0)), SMALL)
    assert rows == [
        [
            str(checked[0].candidate.arch.resolution),
            "95.00",
            "96.00",
            "96.00",
            "9.000 (to 9.900)",
            "9.500 (to 10.200)",
            "no",
        ]
    ]
