"""The front is exact: it equals listing every subnet, with ties, with blocks that cannot run and under every
combination of side limits; and on the whole ofa-lite0 it reaches the optimum of every weighted sum."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.certificate import nearest
from ofa_edge.search.costs import CostTables
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.space.arch import Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, block_weight_bytes, cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.doubles import (
    COUPLED,
    REDUCED,
    SMALL,
    DrawnEnergy,
    DrawnLatency,
    DrawnScores,
    front_by_listing,
    keeps,
    listed,
    listed_by_stage,
)

STEPS = st.sampled_from([2**-2, 2**-4, 2**-20])  # many ties, some, hardly any
SEEDS = st.integers(0, 10**6)


SIDES = ("macs", "size_bytes", "memory_bytes")
COMBINATIONS = [names for n in (1, 2, 3) for names in itertools.combinations(SIDES, n)]


@st.composite
def side_limits(draw, names=None, space=SMALL):
    """Limits that some subnets just keep; on all of `names`, or on any."""
    costs = [draw(st.sampled_from(listed(space))).cost for _ in range(3)]
    limits = {
        "macs": costs[0].macs,
        "size_bytes": costs[1].weight_bytes,
        "memory_bytes": costs[2].weight_bytes + costs[2].peak_activation_bytes,
    }
    return Budget(**{name: limits[name] for name in names or draw(st.sampled_from(COMBINATIONS))})


def points_by_listing(space, latency, scores, budget=None):
    found = []
    for subnet in listed(space):
        value = latency.value(subnet.blocks)
        if math.isfinite(value) and keeps(subnet.cost, budget):
            found.append((value, scores.score(subnet.arch), subnet.arch))
    return found


def as_points(front):
    archs = [front.arch(i) for i in range(len(front))]
    return list(zip(front.latency_ms.tolist(), front.score.tolist(), archs, strict=True))


def assert_same(front, expected, archs=True):
    found = as_points(front)
    assert [p[:2] for p in found] == [pytest.approx(p[:2], rel=0, abs=1e-8) for p in expected]
    if archs:
        assert [p[2] for p in found] == [p[2] for p in expected]


@given(seed=SEEDS, step=STEPS, score_step=STEPS, failed=st.sampled_from([0.0, 0.1]))
@settings(max_examples=40, deadline=None)
def test_equals_listing_every_subnet_and_of_equals_keeps_the_first(seed, step, score_step, failed):
    latency, scores = DrawnLatency(seed, step, failed=failed), DrawnScores(seed, score_step)
    front = exact_front(SMALL, latency, scores, SMALL.resolutions)
    assert_same(front, front_by_listing(points_by_listing(SMALL, latency, scores)))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
@given(seed=SEEDS, step=STEPS, score_step=STEPS, failed=st.sampled_from([0.0, 0.1]), data=st.data())
@settings(max_examples=25, deadline=None)
def test_equals_listing_every_subnet_that_keeps_the_side_limits(names, seed, step, score_step, failed, data):
    budget = data.draw(side_limits(names))
    latency, scores = DrawnLatency(seed, step, failed=failed), DrawnScores(seed, score_step)
    front = exact_front(SMALL, latency, scores, SMALL.resolutions, budget)
    assert_same(front, front_by_listing(points_by_listing(SMALL, latency, scores, budget)), archs=False)
    for latency_ms, score, arch in as_points(front):
        blocks = SMALL.blocks(arch)
        assert keeps(cost(blocks), budget)
        assert latency.value(blocks) == pytest.approx(latency_ms, abs=1e-8)
        assert scores.score(arch) == pytest.approx(score, abs=1e-8)


@given(seed=SEEDS, step=STEPS, failed=st.sampled_from([0.0, 0.02]), data=st.data())
@settings(max_examples=15, deadline=None)
def test_equals_listing_where_elastic_widths_couple_the_stages(seed, step, failed, data):
    latency, scores = DrawnLatency(seed, step, failed=failed), DrawnScores(seed, step, COUPLED)
    budget = data.draw(st.none() | side_limits(space=COUPLED))
    front = exact_front(COUPLED, latency, scores, COUPLED.resolutions, budget)
    assert_same(front, front_by_listing(points_by_listing(COUPLED, latency, scores, budget)), archs=False)
    for latency_ms, score, arch in as_points(front):
        blocks = COUPLED.blocks(arch)
        assert keeps(cost(blocks), budget)
        assert latency.value(blocks) == pytest.approx(latency_ms, abs=1e-8)
        assert scores.score(arch) == pytest.approx(score, abs=1e-8)


@given(seed=SEEDS, step=STEPS, share=st.floats(0, 1), data=st.data())
@settings(max_examples=30, deadline=None)
def test_equals_listing_under_a_limit_on_energy_too(seed, step, share, data):
    space = data.draw(st.sampled_from([SMALL, COUPLED]))
    latency, scores, energy = DrawnLatency(seed, step), DrawnScores(seed, step, space), DrawnEnergy(seed)
    budget = data.draw(st.none() | side_limits(space=space))
    draws = {subnet.arch: energy.value(subnet.blocks) for subnet in listed(space)}
    limit = sorted(draws.values())[int(share * (len(draws) - 1))]
    limited = Budget(**({} if budget is None else budget.as_json()), energy_mj=limit + 1e-5)
    expected = [
        point for point in points_by_listing(space, latency, scores, budget) if draws[point[2]] <= limited.energy_mj
    ]
    front = exact_front(space, CostTables(space, latency, energy), scores, space.resolutions, limited)
    assert_same(front, front_by_listing(expected), archs=False)
    assert all(draws[front.arch(i)] <= limited.energy_mj for i in range(len(front)))


@given(seed=SEEDS, margin=st.sampled_from([0.0, 0.07]), ms=st.floats(0.5, 20), mj=st.floats(0.5, 20))
@settings(max_examples=30, deadline=None)
def test_integer_limits_are_the_budgets(seed, margin, ms, mj):
    """A cost keeps the integer limit exactly where the value with its margin keeps the budget."""
    limits = Limits.of(Budget(latency_ms=ms, energy_mj=mj), margin, margin)
    for n, per, limit in ((limits.latency, 10**9, ms), (limits.energy, 10**6, mj)):
        assert n / per * (1 + margin) <= limit < (n + 1) / per * (1 + margin)


def test_an_energy_limit_without_energies_is_refused():
    for search in (
        lambda budget: exact_front(SMALL, DrawnLatency(1), DrawnScores(1), SMALL.resolutions, budget),
        lambda budget: nearest(CostModels(SMALL, DrawnLatency(1), SMALL.resolutions), budget),
    ):
        with pytest.raises(UsageError, match="energy limit needs") as caught:
            search(Budget(energy_mj=1.0))
        assert "ofa-edge profile --energy" in caught.value.hint


def test_the_whole_of_ofa_resnet50d_is_searched():
    space = SPACES["ofa-resnet50d"]
    latency, scores = GrowingLatency(), DrawnScores(1, space=space)
    front = exact_front(space, latency, scores, (128, 224))
    points = as_points(front)
    assert len(points) > 20
    for latency_ms, score, arch in points[:: len(points) // 5]:
        space.check(arch)
        assert latency.offset_ms + sum(map(latency.block_ms, space.blocks(arch))) == pytest.approx(latency_ms, abs=1e-6)
        assert scores.score(arch) == pytest.approx(score, abs=1e-8)
    drawn = [space.sample(np.random.default_rng(seed), 128) for seed in range(200)]
    for arch in drawn:
        value = latency.offset_ms + sum(map(latency.block_ms, space.blocks(arch)))
        best = front.score[front.latency_ms <= value + 1e-9].max(initial=-np.inf)
        assert best >= scores.score(arch) - 1e-9


def test_equals_listing_148176_subnets():
    latency, scores = DrawnLatency(7), DrawnScores(7)
    subnets = listed_by_stage(REDUCED, latency, scores)
    assert len(subnets) == 2 * REDUCED.count() == 148_176
    front = exact_front(REDUCED, latency, scores, REDUCED.resolutions)
    assert len(front) > 10
    assert_same(front, front_by_listing([(ms, score, arch) for ms, score, _, arch in subnets]))

    # Limits that most of the front breaks: the median of what subnets use.
    costs = [(c.macs, c.weight_bytes, c.weight_bytes + c.peak_activation_bytes) for _, _, c, _ in subnets]
    macs, size, memory = (int(x) for x in np.median(costs, axis=0))
    budget = Budget(macs=macs, size_bytes=size, memory_bytes=memory)
    keeping = [(ms, score, arch) for ms, score, c, arch in subnets if keeps(c, budget)]
    assert 1000 < len(keeping) < 100_000
    limited = exact_front(REDUCED, latency, scores, REDUCED.resolutions, budget)
    assert_same(limited, front_by_listing(keeping))
    assert as_points(limited) != as_points(front)


def test_listing_by_stage_is_listing_by_block():
    """The two ways to list agree, so the large test above stands on the same ground as the small ones."""
    latency, scores = DrawnLatency(3), DrawnScores(3)
    for (ms, score, c, arch), subnet in zip(listed_by_stage(SMALL, latency, scores), listed(SMALL), strict=True):
        assert (arch, c) == (subnet.arch, subnet.cost)
        assert (ms, score) == pytest.approx((latency.value(subnet.blocks), scores.score(arch)))


class GrowingLatency:
    """Times of a plausible size for any space: what a block computes and moves, with a tenth of noise."""

    offset_ms = 0.3

    def block_ms(self, block: Block) -> float:
        noise = DrawnLatency(1).block_ms(block)
        return (block_macs(block) / 2e7 + block_weight_bytes(block) / 1e7) * (0.9 + 0.2 * noise)


class GrowingScores:
    """Deeper, wider and larger kernels score higher, less so each time."""

    def offset(self, resolution: int) -> float:
        return resolution / 100

    def stage_scores(self, stage_index: int, values: StageArrays) -> np.ndarray:
        rng = np.random.default_rng(stage_index)
        places = values.kernel.shape[1]
        widths, kernels = rng.normal(0.10, 0.05, places), rng.normal(0.06, 0.05, places)
        return 0.8 * np.sqrt(values.depth) + values.expand @ widths + values.kernel @ kernels


def test_on_ofa_lite0_every_weighted_sum_has_its_optimum_on_the_front():
    """max(score - price x latency) over 1.2e11 subnets is a sum of one maximum per stage: exact without a front."""
    latency, scores = GrowingLatency(), GrowingScores()
    front = exact_front(OFA_LITE0, latency, scores, OFA_LITE0.resolutions)
    assert len(front) > 100
    for price in np.geomspace(0.01, 10, 13):
        best = max(weighted_optimum(latency, scores, resolution, price) for resolution in OFA_LITE0.resolutions)
        assert np.max(front.score - price * front.latency_ms) == pytest.approx(best, abs=1e-6)
    assert (np.diff(front.latency_ms) > 0).all()
    assert (np.diff(front.score) > 0).all()


@pytest.mark.parametrize("text", ["macs=100M,size=10MB,memory=14MB", "macs=200M,size=9MB,memory=10MB"])
def test_on_ofa_lite0_under_limits_no_point_gains_by_changing_one_stage(text):
    """A join of this size is pruned in several slices. Every neighbour of a point that keeps the limits is no better
    than the point of the front at its latency."""
    budget = Budget.parse(text)
    latency, scores = GrowingLatency(), GrowingScores()
    front = exact_front(OFA_LITE0, latency, scores, OFA_LITE0.resolutions, budget)
    assert len(front) > 100
    rng = np.random.default_rng(0)
    feasible = 0
    for i in np.linspace(0, len(front) - 1, 12).astype(int):
        arch = front.arch(int(i))
        assert keeps(cost(OFA_LITE0.blocks(arch)), budget)
        for s, stage in enumerate(OFA_LITE0.stages):
            choices = list(stage.choices())
            for j in rng.choice(len(choices), min(len(choices), 15), replace=False):
                neighbour = replace(arch, stages=(*arch.stages[:s], choices[j], *arch.stages[s + 1 :]))
                blocks = OFA_LITE0.blocks(neighbour)
                if keeps(cost(blocks), budget):
                    feasible += 1
                    value = latency.offset_ms + sum(map(latency.block_ms, blocks))
                    reached = front.score[front.latency_ms <= value + 1e-8]
                    assert len(reached)
                    assert reached[-1] >= whole_score(scores, neighbour) - 1e-8
    assert feasible > 300


def whole_score(scores, arch):
    parts = [
        scores.stage_scores(s, StageArrays.of(stage, [choice]))[0]
        for s, (stage, choice) in enumerate(zip(OFA_LITE0.stages, arch.stages, strict=True))
    ]
    return scores.offset(arch.resolution) + sum(parts)


def weighted_optimum(latency, scores, resolution, price):
    fixed = [x.block for x in OFA_LITE0.layers(OFA_LITE0.smallest(resolution)) if not x.path.startswith("stages.")]
    total = scores.offset(resolution) - price * (latency.offset_ms + sum(map(latency.block_ms, fixed)))
    for s, (stage, size) in enumerate(zip(OFA_LITE0.stages, OFA_LITE0.stage_sizes(resolution), strict=False)):
        choices = list(stage.choices())
        gains = scores.stage_scores(s, StageArrays.of(stage, choices))
        sizes = (size, -(-size // stage.stride))
        times = [
            sum(latency.block_ms(OFA_LITE0.stage_block(s, i, c, sizes[i > 0])) for i, c in enumerate(choice))
            for choice in choices
        ]
        total += max(gains - price * np.array(times))
    return total


@given(seed=SEEDS, budget=side_limits(), latency_ms=st.floats(0.1, 20), margin=st.sampled_from([0.0, 0.07]))
@settings(max_examples=60, deadline=None)
def test_the_nearest_subnet_needs_the_least_enlarged_budget(seed, budget, latency_ms, margin):
    latency = DrawnLatency(seed, 2**-6, width=margin, failed=0.05)
    budget = replace(budget, latency_ms=latency_ms)
    factors = []
    for subnet in listed(SMALL):
        value, c = latency.value(subnet.blocks), subnet.cost
        uses = (value * (1 + margin), c.macs, c.weight_bytes, c.weight_bytes + c.peak_activation_bytes)
        limits = (budget.latency_ms, budget.macs, budget.size_bytes, budget.memory_bytes)
        factors.append(max(use / limit for use, limit in zip(uses, limits, strict=True) if limit is not None))
    if math.isinf(min(factors)):
        with pytest.raises(BadFile, match="failed on the device"):
            nearest(CostModels(SMALL, latency, SMALL.resolutions), budget)
        return
    arch, factor = nearest(CostModels(SMALL, latency, SMALL.resolutions), budget)
    assert factor == pytest.approx(min(factors), rel=1e-7)
    assert factors[[s.arch for s in listed(SMALL)].index(arch)] == pytest.approx(factor, rel=1e-7)


def test_limits_nobody_keeps_leave_no_front():
    smallest = min(subnet.cost.weight_bytes for subnet in listed(SMALL))
    for budget in (Budget(size_bytes=smallest - 1), Budget(memory_bytes=smallest), Budget(macs=1)):
        assert len(exact_front(SMALL, DrawnLatency(1), DrawnScores(1), SMALL.resolutions, budget)) == 0
    # The smallest subnet has the same size at both resolutions, which here are both on the front.
    assert len(exact_front(SMALL, DrawnLatency(1), DrawnScores(1), (32, 17), Budget(size_bytes=smallest))) == 2


def test_a_device_on_which_everything_fails_has_no_front():
    assert len(exact_front(SMALL, DrawnLatency(1, failed=1.1), DrawnScores(1), SMALL.resolutions)) == 0


def test_a_stage_too_large_to_list_is_refused_by_name():
    huge = replace(SMALL, stages=(*SMALL.stages[:2], Stage(24, 1, (7,), (3, 5, 7), (3, 4, 6), "relu")))
    with pytest.raises(UsageError, match=r"stage 2 of small has 4,782,969 choices"):
        exact_front(huge, DrawnLatency(1), DrawnScores(1), SMALL.resolutions)


def test_no_resolution_is_refused():
    with pytest.raises(UsageError, match="no resolution"):
        exact_front(SMALL, DrawnLatency(1), DrawnScores(1), ())
