"""The one subnet for several devices is the best of all that keep every limit, held against listing the space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.common import listing
from ofa_edge.search.common.fronts import Device, best_common, nearest_common
from ofa_edge.search.costs import BYTES, FAILED, LATENCY, MACS, PEAK, PER_MJ, PER_MS, CostTables
from ofa_edge.search.limits import Limits
from ofa_edge.space.population import ArchArrays
from tests.search.doubles import COUPLED, REDUCED, SMALL, DrawnEnergy, DrawnLatency, DrawnScores, listed


@dataclass(frozen=True)
class Listing:
    """All subnets of a space with what they score and cost on each device: costs (n, devices, COLUMNS)."""

    archs: tuple
    scores: np.ndarray
    costs: np.ndarray

    @property
    def runs(self):
        return (self.costs[:, :, LATENCY] < FAILED).all(axis=1)

    def used(self):
        """(n, devices + 3): latencies, MACs, weights, memory."""
        first = self.costs[:, 0]
        sides = np.stack([first[:, MACS], first[:, BYTES], first[:, BYTES] + first[:, PEAK]], axis=1)
        return np.concatenate([self.costs[:, :, LATENCY], sides], axis=1)


@cache
def listing_of(space, latencies, scores):
    archs = tuple(subnet.arch for subnet in listed(space))
    arrays = ArchArrays.of(space, archs)
    costs = [BatchCosts(space, latency, space.resolutions).rows(arrays) for latency in latencies]
    return Listing(archs, np.array([scores.score(arch) for arch in archs]), np.stack(costs, axis=1))


def limited(found, shares, sides):
    """Limits at these shares of the subnets that can run; None is no limit."""
    used = np.sort(found.used()[found.runs], axis=0)
    at = [None if s is None else int(used[int(s * (len(used) - 1)), i]) for i, s in enumerate((*shares, *sides))]
    count = len(shares)
    macs, size, memory = at[count:]
    return [
        Limits(latency=at[d], **({"macs": macs, "size": size, "memory": memory} if d == 0 else {}))
        for d in range(count)
    ]


def keeping(found, limits):
    sides = limits[0]
    bounds = [*(one.latency for one in limits), sides.macs, sides.size, sides.memory]
    keeps = found.runs
    for used, bound in zip(found.used().T, bounds, strict=True):
        keeps = keeps & (used <= bound if bound is not None else True)
    return keeps


def _devices(space, latencies, limits):
    return [Device(CostTables(space, one), limit) for one, limit in zip(latencies, limits, strict=True)]


share = st.floats(0, 1)
some = st.none() | share


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=["small", "coupled"])
@given(
    seed=st.integers(0, 40),
    shares=st.lists(share, min_size=1, max_size=3),
    sides=st.tuples(some, some, some),
    failed=st.sampled_from([0.0, 0.03]),
    step=st.sampled_from([2**-20, 2**-4]),
)
@settings(max_examples=25, deadline=None)
def test_no_listed_subnet_that_keeps_all_limits_is_better(space, seed, shares, sides, failed, step):
    latencies = tuple(DrawnLatency(seed + 100 * d, failed=failed, step=step) for d in range(len(shares)))
    scores = DrawnScores(seed, step=step, space=space)
    found = listing_of(space, latencies, scores)
    if not found.runs.any():
        return
    limits = limited(found, shares, sides)
    devices = _devices(space, latencies, limits)
    keeps = keeping(found, limits)
    best = best_common(space, devices, scores, space.resolutions, count=3)
    assert bool(best) == bool(keeps.any())
    number = {arch: i for i, arch in enumerate(found.archs)}
    for score, arch in best:
        assert keeps[number[arch]]
        assert score == pytest.approx(scores.score(arch), abs=1e-9)
    if best:
        order = np.sort(found.scores[keeps])[::-1]
        assert [score for score, _ in best] == pytest.approx(order[: len(best)], abs=1e-9)
        assert best == best_common(space, devices, scores, space.resolutions, count=3)


def outer_sums(parts):
    """Every sum of one number of each part."""
    total = np.zeros(1)
    for part in parts:
        total = np.add.outer(total, part).ravel()
    return total


def times_of(space, latency, resolution):
    """Of all subnets at a resolution: sums over stages of sums over blocks."""
    fixed = [x.block for x in space.layers(space.smallest(resolution)) if not x.path.startswith("stages.")]
    parts = [np.array([latency.value(fixed)])]
    for s, (stage, size) in enumerate(zip(space.stages, space.stage_sizes(resolution), strict=False)):
        sizes = (size, -(-size // stage.stride))
        blocks = [[space.stage_block(s, i, c, sizes[i > 0]) for i, c in enumerate(own)] for own in stage.choices()]
        parts.append(np.array([sum(map(latency.block_ms, own)) for own in blocks]))
    return outer_sums(parts)


@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.98), devices=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_the_optimum_of_a_hundred_thousand_subnets(seed, share, devices):
    scores, latencies = DrawnScores(seed, space=REDUCED), [DrawnLatency(seed + d) for d in range(devices)]
    stages = [[scores.choice_score(s, c) for c in stage.choices()] for s, stage in enumerate(REDUCED.stages)]
    reached = np.concatenate([scores.offset(r) + outer_sums(stages) for r in REDUCED.resolutions])
    times = [np.concatenate([times_of(REDUCED, own, r) for r in REDUCED.resolutions]) for own in latencies]
    limits = [float(np.quantile(own, share)) + 1e-9 for own in times]
    keeps = np.all([own <= limit for own, limit in zip(times, limits, strict=True)], axis=0)
    asked = _devices(REDUCED, latencies, [Limits(latency=int(ms * PER_MS)) for ms in limits])
    best = best_common(REDUCED, asked, scores, REDUCED.resolutions)
    assert bool(best) == bool(keeps.any())
    if best:
        assert best[0][0] == pytest.approx(reached[keeps].max(), abs=1e-9)


@given(seed=st.integers(0, 40), shares=st.lists(share, min_size=4, max_size=4))
@settings(max_examples=10, deadline=None)
def test_energy_is_limited_on_each_device(seed, shares):
    latencies, energies = (DrawnLatency(seed), DrawnLatency(seed + 1)), (DrawnEnergy(seed), DrawnEnergy(seed + 1))
    scores = DrawnScores(seed)
    found = listing_of(SMALL, latencies, scores)
    drawn = np.array([[round(e.value(s.blocks) * PER_MJ) for e in energies] for s in listed(SMALL)])
    used = np.concatenate([found.costs[:, :, LATENCY], drawn], axis=1)
    bounds = np.quantile(used, shares, axis=0, method="lower").diagonal()
    limits = [Limits(latency=int(bounds[d]), energy=int(bounds[2 + d])) for d in range(2)]
    keeps = (used <= bounds).all(axis=1)
    devices = [
        Device(CostTables(SMALL, *models), limit) for *models, limit in zip(latencies, energies, limits, strict=True)
    ]
    best = best_common(SMALL, devices, scores, SMALL.resolutions)
    assert bool(best) == bool(keeps.any())
    if best:
        assert best[0][0] == pytest.approx(found.scores[keeps].max(), abs=1e-9)


@given(seed=st.integers(0, 10**6), shares=st.tuples(share, share), sides=st.tuples(some, some, some))
@settings(max_examples=15, deadline=None)
def test_dropping_beaten_partial_subnets_loses_nothing(seed, shares, sides):
    scores, latencies = DrawnScores(seed), (DrawnLatency(seed), DrawnLatency(seed + 1))
    limits = limited(listing_of(SMALL, latencies, scores), shares, sides)
    devices = _devices(SMALL, latencies, limits)
    whole = best_common(SMALL, devices, scores, SMALL.resolutions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_MANY", 2)
        patch.setattr(listing, "_PAIRS", 16)
        assert best_common(SMALL, devices, scores, SMALL.resolutions)[:1] == whole[:1]


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=["small", "coupled"])
@given(seed=st.integers(0, 40), parts=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)), memory=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_nearest_needs_the_least_growth_of_all_limits(space, seed, parts, memory):
    latencies = (DrawnLatency(seed), DrawnLatency(seed + 100))
    found = listing_of(space, latencies, DrawnScores(0, space=space))
    least = found.used().min(axis=0)
    limits = [Limits(latency=max(1, int(part * ms))) for part, ms in zip(parts, least, strict=False)]
    if memory:
        limits[0] = Limits(latency=limits[0].latency, memory=int(0.9 * least[-1]))
    bounds = np.array([limits[0].latency, limits[1].latency, np.inf, np.inf, limits[0].memory or np.inf])
    factors = (found.used() / bounds).max(axis=1)
    arch, factor = nearest_common(space, _devices(space, latencies, limits), space.resolutions)
    assert factor == pytest.approx(factors.min(), rel=1e-12)
    assert factors[found.archs.index(arch)] == pytest.approx(factor, rel=1e-12)


def test_where_nothing_runs_there_is_nothing():
    devices = [Device(CostTables(SMALL, DrawnLatency(1, failed=1.1)), Limits(latency=9 * PER_MS))]
    assert best_common(SMALL, devices, DrawnScores(1), SMALL.resolutions) == []
    with pytest.raises(BadFile, match="failed on one of the devices"):
        nearest_common(SMALL, devices, SMALL.resolutions)


def test_a_question_without_devices_limits_or_energies_is_refused():
    latency = DrawnLatency(1)
    for devices, sizes, said in [
        ([], (32,), "no device or no resolution"),
        ([Device(CostTables(SMALL, latency), Limits(latency=PER_MS))], (), "no device or no resolution"),
        ([Device(CostTables(SMALL, latency), Limits())], (32,), "no limit to keep"),
        ([Device(CostTables(SMALL, latency), Limits(energy=5))], (32,), "energy limit needs"),
    ]:
        with pytest.raises(UsageError, match=said):
            best_common(SMALL, devices, DrawnScores(1), sizes)
