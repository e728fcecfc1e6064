"""The proof of the pairwise model holds: no subnet is above the bound, and what is called the best is the best."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.encoding import PLACES, encode_arrays
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.costs import BYTES, LATENCY, MACS, PEAK, CostTables
from ofa_edge.search.limits import Limits
from ofa_edge.search.nonadditive import bound
from ofa_edge.search.nonadditive.dual import Dual
from ofa_edge.search.nonadditive.field import NEVER, Field, Places, Quadratic, uses_of
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.doubles import COUPLED, REDUCED, SMALL, DrawnLatency, listed

SPACES_BY_NAME = {space.name: space for space in (SMALL, REDUCED, COUPLED, OFA_LITE0, SPACES["ofa-resnet50d"])}
LISTED = ["small", "coupled"]


@cache
def everything(name):
    """All subnets."""
    space = SPACES_BY_NAME[name]
    if space.elastic_width:
        return ArchArrays.of(space, [subnet.arch for subnet in listed(space)])
    stages = [StageArrays.all(stage) for stage in space.stages]
    size, *rows = np.indices((len(space.resolutions), *map(len, stages))).reshape(1 + len(stages), -1)
    depth = np.stack([stage.depth[row] for stage, row in zip(stages, rows, strict=True)], axis=1)
    codes = tuple(stage.code[row] for stage, row in zip(stages, rows, strict=True))
    none = np.zeros((len(size), 0), dtype=np.int64)
    return ArchArrays(space, np.array(space.resolutions)[size], depth, codes, none, np.zeros_like(size))


@cache
def all_columns(name):
    space = SPACES_BY_NAME[name]
    return encode_arrays(space, everything(name), space.resolutions, PLACES)


def drawn_quadratic(space, seed, bend=0.05, sizes=None):
    """A model in which the products weigh about as much as the choices."""
    sizes = sizes or space.resolutions
    some = ArchArrays.sample(space, np.random.default_rng(0), 2, sizes)
    p = encode_arrays(space, some, sizes, PLACES).shape[1]
    rng = np.random.default_rng(seed)
    square = rng.normal(0, bend, (p, p))
    return Quadratic(0.7, rng.normal(0, 0.1, p), (square + square.T) / 2)


def scores_of(quadratic, x):
    return quadratic.level + x @ quadratic.slope + np.sum(x @ quadratic.bend * x, axis=1)


def drawn_limits(costs, share, macs, memory):
    """Limits that about `share` of the subnets of these costs keep, each by itself."""

    def at(values):
        return int(np.quantile(values, share))

    return Limits(
        latency=at(costs[:, LATENCY]),
        macs=at(costs[:, MACS]) if macs else None,
        memory=at(costs[:, BYTES] + costs[:, PEAK]) if memory else None,
    )


class Case:
    """A space with drawn models and limits, and the best subnet within them by listing."""

    def __init__(self, name, seed, share=0.5, macs=False, memory=False, bend=0.05):
        self.space = SPACES_BY_NAME[name]
        self.sizes, latency = self.space.resolutions, DrawnLatency(seed)
        self.quadratic = drawn_quadratic(self.space, seed, bend)
        self.costs = [CostTables(self.space, latency).at(r) for r in self.sizes]
        batch = BatchCosts(self.space, latency, self.sizes)
        self.rows = batch.rows(everything(name))
        self.limits = drawn_limits(self.rows, share, macs, memory)
        self.keeps = lambda archs: self.limits.kept(batch.rows(archs))
        self.scores = scores_of(self.quadratic, all_columns(name))
        self.fitting = np.flatnonzero(self.limits.kept(self.rows))
        self.archs = everything(name)

    @property
    def greatest(self):
        return float(self.scores[self.fitting].max())

    def prove(self, start, **more):
        first = self.archs.take(slice(start, start + 1))
        return bound.prove(self.quadratic, self.sizes, self.costs, self.limits, self.keeps, first, 100.0, **more)


cases = st.builds(
    Case,
    st.sampled_from(LISTED),
    st.integers(0, 10**6),
    share=st.floats(0.05, 1),
    macs=st.booleans(),
    memory=st.booleans(),
).filter(lambda case: len(case.fitting) > 0)


@pytest.mark.parametrize("name", sorted(SPACES_BY_NAME))
def test_a_field_scores_and_costs_as_its_subnets(name):
    space = SPACES_BY_NAME[name]
    sizes = space.resolutions[:2]
    quadratic, places = drawn_quadratic(space, 1, sizes=sizes), Places.of(space)
    limits, size = Limits(latency=10**10, macs=10**8, size=10**7), sizes[1]
    latency = DrawnLatency(1)
    field = Field.of(places, quadratic, sizes, CostTables(space, latency).at(size), limits)
    archs = ArchArrays.sample(space, np.random.default_rng(2), 50, [size])
    labels = places.labels(archs)
    assert np.array_equal(places.archs(size, labels).matrix(), archs.matrix())
    columns = encode_arrays(space, archs, sizes, PLACES)
    assert field.scores(labels) == pytest.approx(scores_of(quadratic, columns), abs=1e-9)
    v = np.arange(labels.shape[1])
    assert not field.forbids[v[:, None], labels[:, :, None], v, labels[:, None, :]].any()
    rows = BatchCosts(space, latency, sizes).rows(archs)
    used = field.use[:, v, labels].sum(axis=2)
    if field.pair_use is not None:
        used += field.pair_use[:, v[:, None], labels[:, :, None], v, labels[:, None, :]].sum(axis=(2, 3)) / 2
    assert field.pair_use is None or space.elastic_width
    wanted = rows[:, list(limits.sums)] / list(limits.sums.values())
    assert np.allclose(used.T + 1 - field.room, wanted, rtol=0, atol=1e-9)


def test_a_limit_on_memory_holds_for_the_places_with_the_greatest_activations():
    """No subnet within it uses more than its room, and some that break it do."""
    space, latency, size = OFA_LITE0, DrawnLatency(1), 128
    archs = ArchArrays.sample(space, np.random.default_rng(3), 3000, [size])
    rows = BatchCosts(space, latency, [size]).rows(archs)
    memory = rows[:, BYTES] + rows[:, PEAK]
    limits, places = Limits(memory=int(np.median(memory))), Places.of(space)
    use, _, room, _, _ = uses_of(places, CostTables(space, latency).at(size), limits)
    labels = places.labels(archs)
    used = use[:, np.arange(labels.shape[1]), labels].sum(axis=2)
    kept = limits.kept(rows)
    broken = (used > room[:, None] + 1e-12).any(axis=0)
    assert not (broken & kept).any()
    assert broken[~kept].mean() > 0.9
    assert broken[~kept].mean() > (used[0] > room[0])[~kept].mean()  # more than by the least peak alone


def test_labels_that_tell_no_depth_forbid_each_other():
    space = COUPLED
    places = Places.of(space)
    counts, forbids = places.counts, places.forbids()
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, count, 3000) for count in counts], axis=1)
    v = np.arange(len(counts))
    told = ~forbids[v[:, None], labels[:, :, None], v, labels[:, None, :]].any(axis=(1, 2))
    for row in np.flatnonzero(told):
        space.check(places.archs(space.resolutions[0], labels[row : row + 1]).arch(0))
    # All of the space, and nothing twice: as many labels as there are subnets tell a depth.
    assert told.mean() * np.prod(counts) == pytest.approx(space.count(), rel=0.2)


@given(case=cases, draw=st.integers(0, 100), scale=st.sampled_from([0.01, 1.0]))
@settings(max_examples=15, deadline=None)
def test_any_multipliers_give_a_bound(case, draw, scale):
    """Even drawn ones: nothing has to converge for a bound to be true."""
    places = Places.of(case.space)
    for size, costs in zip(case.sizes, case.costs, strict=True):
        dual = Dual(Field.of(places, case.quadratic, case.sizes, costs, case.limits), 100.0, rank=4)
        z = np.random.default_rng(draw).normal(0, scale, len(dual.start(_some(places), 1.0)))
        here = case.fitting[case.archs.resolution[case.fitting] == size]
        if len(here):
            assert dual.at(z).bound >= 100 * case.scores[here].max() - 1e-6


def _some(places):
    return np.zeros(len(places.counts), dtype=np.int64)


@pytest.mark.parametrize("name", LISTED)
def test_the_gradient_is_the_functions(name):
    case = Case(name, 3, macs=True)
    places = Places.of(case.space)
    dual = Dual(Field.of(places, case.quadratic, case.sizes, case.costs[0], case.limits), 100.0, rank=3)
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.5, len(dual.start(_some(places), 1.0)))
    _, gradient = dual._smooth(z, 0.5)
    for direction in (rng.normal(0, 1, len(z)) for _ in range(5)):
        step = 1e-5
        after, before = (dual._smooth(z + sign * step * direction, 0.5)[0] for sign in (1, -1))
        assert (after - before) / (2 * step) == pytest.approx(gradient @ direction, rel=1e-4)


def test_descending_lowers_the_bound():
    case = Case("small", 5)
    places = Places.of(case.space)
    dual = Dual(Field.of(places, case.quadratic, case.sizes, case.costs[0], case.limits), 100.0)
    z = dual.start(places.labels(case.archs.take([0]))[0], bound.PRICE)
    found, low = dual.descend(z, 0.001, 300)
    assert low == dual.at(found).bound < dual.at(z).bound
    assert dual.descend(z, 0.001, 300, target=np.inf)[0] is z  # low enough as it is


@given(case=cases, start=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_what_is_proven_is_the_best_of_all(case, start):
    found = case.prove(case.fitting[start % len(case.fitting)])
    assert found.exact
    assert found.score == pytest.approx(case.greatest, abs=1e-9)
    assert found.score <= found.bound <= found.score + 1e-9
    assert case.keeps(found.best).all()
    x = encode_arrays(case.space, found.best, case.sizes, PLACES)
    assert found.score == pytest.approx(scores_of(case.quadratic, x)[0], abs=1e-9)


@given(case=cases, start=st.integers(0, 10**6), nodes=st.sampled_from([0, 3, 30]))
@settings(max_examples=4, deadline=None)
def test_too_little_effort_leaves_a_bound_that_holds(case, start, nodes):
    found = case.prove(case.fitting[start % len(case.fitting)], nodes=nodes)
    assert found.score <= case.greatest + 1e-9
    assert found.bound >= case.greatest - 1e-9
    assert found.exact == (found.bound <= found.score + 1e-9)
    assert case.keeps(found.best).all()


def test_little_effort_is_not_always_enough():
    """Strong products, a bad start: the bound stays open without the tree, and is closed with it."""
    case = Case("small", 11, bend=0.3)
    worst = case.fitting[np.argmin(case.scores[case.fitting])]
    assert not case.prove(worst, nodes=0).exact
    assert case.prove(worst).exact


def test_a_larger_space_is_proven_in_few_partial_choices_from_a_good_start():
    case = Case("reduced", 7, bend=0.02)
    assert len(case.archs) == 148_176
    twentieth = case.fitting[np.argsort(-case.scores[case.fitting])[20]]
    found = case.prove(twentieth)
    assert found.exact
    assert found.score == pytest.approx(case.greatest, abs=1e-9)
    assert found.nodes < 5_000


def test_the_same_input_gives_the_same_proof():
    case = Case("small", 13)
    first, second = (case.prove(case.fitting[0]) for _ in range(2))
    assert (first.score, first.bound, first.nodes) == (second.score, second.bound, second.nodes)
    assert np.array_equal(first.best.matrix(), second.best.matrix())


def test_a_label_that_cannot_run_is_none():
    space = SMALL
    latency = DrawnLatency(4, failed=0.1)
    costs = CostTables(space, latency).at(32)
    field = Field.of(Places.of(space), drawn_quadratic(space, 2), space.resolutions, costs, Limits(latency=10**11))
    batch = BatchCosts(space, latency, [32])
    subnets = everything("small").take(everything("small").resolution == 32)
    runs = np.isfinite(batch.latency_ms(subnets))
    labels = Places.of(space).labels(subnets)
    assert 0 < runs.sum() < len(runs)
    assert np.array_equal(field.unary[np.arange(labels.shape[1]), labels].min(axis=1) > NEVER / 2, runs)
