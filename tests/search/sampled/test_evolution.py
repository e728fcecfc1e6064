"""Evolution evaluates only what fits, always ends, repeats itself, and finds the optimum where that is easy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy import family
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.batch import BatchAccuracy, BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.search.sampled.evolution import OFA, PRESETS, SPOS, choose_evolution, evolve
from ofa_edge.search.sampled.genes import Genes, keys
from ofa_edge.search.selection import Selection
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.doubles import COUPLED, REDUCED, SMALL, DrawnLatency, drawn, keeps, listed
from tests.search.test_choose import INPUTS, counts

SHORT = replace(OFA, population=20, generations=8, parents=5, mutations=10)


@cache
def everything(space):
    """All subnets of a space of fixed widths, as arrays."""
    stages = [StageArrays.all(stage) for stage in space.stages]
    rows = np.indices((len(space.resolutions), *map(len, stages))).reshape(1 + len(stages), -1)
    zeros = np.zeros(rows.shape[1], dtype=np.int64)
    return ArchArrays(
        space,
        np.asarray(space.resolutions)[rows[0]],
        np.stack([stage.depth[n] for stage, n in zip(stages, rows[1:], strict=True)], axis=1),
        tuple(stage.code[n] for stage, n in zip(stages, rows[1:], strict=True)),
        zeros[:, None][:, :0],
        zeros,
    )


def objective(seed, spread=0.3):
    """A function of archs that is no sum: drawn numbers of every column's values, and smaller ones of neighbours."""

    def of(archs):
        matrix = archs.matrix()
        rng = np.random.default_rng(seed)
        alone, pairs = rng.normal(0, 1, (matrix.shape[1], 64)), rng.normal(0, spread, (matrix.shape[1], 64))
        both = (matrix[:, 1:] * 7 + matrix[:, :-1]) % 64
        columns = np.arange(matrix.shape[1])
        return alone[columns, matrix % 64].sum(axis=1) + pairs[columns[1:], both].sum(axis=1)

    return of


class Asked:
    """An objective that remembers what it was asked, and refuses what does not fit."""

    def __init__(self, of, fits):
        self.of, self.fits, self.keys = of, fits, []

    def __call__(self, archs):
        assert self.fits(archs).all(), "only subnets that fit are evaluated"
        self.keys += keys(archs).tolist()
        return self.of(archs)


def within(space, latency, budget):
    costs = BatchCosts(space, latency, space.resolutions)
    return lambda archs: costs.keep(archs, Limits.of(budget))


def latency_at(space, latency, share):
    """A latency that this share of random subnets keeps."""
    archs = ArchArrays.sample(space, np.random.default_rng(0), 400, space.resolutions)
    return float(np.quantile(BatchCosts(space, latency, space.resolutions).latency_ms(archs), share))


# -- what is published --------------------------------------------------------------------------
def test_presets_are_the_papers():
    assert {"ofa": OFA, "spos": SPOS} == PRESETS
    assert (OFA.population, OFA.generations, OFA.probability) == (100, 500, 0.1)
    assert (OFA.parents / OFA.population, OFA.mutations / OFA.population) == (0.25, 0.5)
    assert (SPOS.population, SPOS.generations, SPOS.parents, SPOS.probability) == (50, 20, 10, 0.1)
    assert (SPOS.mutations, SPOS.population - SPOS.mutations) == (25, 25)
    with pytest.raises(UsageError, match="no evolution 'genetic'") as caught:
        evolve(SMALL, objective(1), lambda archs: archs.resolution > 0, preset="genetic")
    assert "ofa, spos" in caught.value.hint


@pytest.mark.parametrize("preset", [SHORT, SPOS])
def test_it_evaluates_a_population_a_generation(preset):
    asked = Asked(objective(3), lambda archs: archs.depth.sum(axis=1) <= 5)
    found = evolve(REDUCED, asked, asked.fits, preset=preset, seed=2)
    assert found.evaluations == len(asked.keys) == preset.population * preset.generations
    assert len(found.history) == preset.generations
    assert list(found.history) == sorted(found.history)
    assert found.history[-1] == found.value == asked.of(ArchArrays.of(REDUCED, [found.arch]))[0]
    assert (len(set(asked.keys)) == len(asked.keys)) == preset.distinct


# -- what it finds ------------------------------------------------------------------------------
@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (0, 0.3), (0, 1.0), (1, 0.3), (1, 1.0)])
def test_it_finds_the_optimum_of_a_listed_space(seed, share):
    """On these seeds; on others its parents become alike too early."""
    latency, of = DrawnLatency(seed), objective(seed)
    fits = within(REDUCED, latency, Budget(latency_ms=latency_at(REDUCED, latency, share)))
    every = everything(REDUCED)
    assert len(every) == 148_176
    best = of(every.take(fits(every))).max()
    found = evolve(REDUCED, of, fits, preset=replace(OFA, generations=120), seed=seed)
    assert found.value == best


@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 1.0))
@settings(max_examples=6, deadline=None)
def test_evaluating_no_subnet_twice_it_sees_all_of_a_small_space(seed, share):
    """960 subnets, of which SPOS evaluates up to 1,000 different ones."""
    latency, of = DrawnLatency(seed), objective(seed)
    fits = within(SMALL, latency, Budget(latency_ms=latency_at(SMALL, latency, share)))
    every = everything(SMALL)
    fitting = every.take(fits(every))
    asked = Asked(of, fits)
    found = evolve(SMALL, asked, fits, preset=SPOS, seed=seed)
    assert found.evaluations == len(set(asked.keys)) <= len(fitting)
    if found.evaluations == len(fitting):
        assert found.value == of(fitting).max()
    assert found.evaluations > 0.5 * len(fitting)
    assert len(found.history) == SPOS.generations


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), macs=st.none() | st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_what_is_returned_keeps_every_limit(seed, share, macs):
    latency = DrawnLatency(seed, failed=0.02)
    values = sorted(ms for s in listed(COUPLED) if np.isfinite(ms := latency.value(s.blocks)))
    counted = sorted(subnet.cost.macs for subnet in listed(COUPLED))
    budget = Budget(
        latency_ms=values[int(share * (len(values) - 1))] * (1 + 1e-9) if values else 1.0,
        macs=None if macs is None else counted[int(macs * (len(counted) - 1))],
    )
    kept = {s.arch for s in listed(COUPLED) if latency.value(s.blocks) <= budget.latency_ms and keeps(s.cost, budget)}
    fits = within(COUPLED, latency, budget)
    asked = Asked(objective(seed), fits)
    some = sorted(kept, key=repr)[:1]
    try:
        found = evolve(
            COUPLED,
            asked,
            fits,
            preset=SHORT,
            seed=seed,
            start=lambda: ArchArrays.of(COUPLED, some) if some else fail(),
        )
    except InfeasibleBudget:
        assert not kept
        return
    assert set(found.best.archs()) <= kept
    assert found.arch == found.best.arch(0)
    assert found.values.tolist() == sorted(found.values, reverse=True)
    assert len(np.unique(found.best.matrix(), axis=0)) == len(found.best)


def fail():
    raise InfeasibleBudget("nothing fits")


def test_the_same_seed_gives_the_same_result():
    fits = within(REDUCED, DrawnLatency(4), Budget(latency_ms=latency_at(REDUCED, DrawnLatency(4), 0.2)))
    runs = [evolve(REDUCED, objective(5), fits, preset=SHORT, seed=seed) for seed in (7, 7, 8)]
    assert np.array_equal(runs[0].best.matrix(), runs[1].best.matrix())
    assert runs[0].history == runs[1].history != runs[2].history


def test_an_objective_may_fail_for_some():
    def of(archs):
        return np.where(archs.resolution == 32, np.nan, archs.depth.sum(axis=1).astype(float))

    found = evolve(SMALL, of, lambda archs: archs.resolution > 0, preset=SHORT, seed=1)
    assert (found.arch.resolution, found.value) == (17, 6)


# -- it always ends -----------------------------------------------------------------------------
@pytest.mark.parametrize("preset", [SHORT, SPOS])
def test_where_one_subnet_fits_it_is_found(preset):
    latency = DrawnLatency(9)
    every = everything(REDUCED)
    ms = BatchCosts(REDUCED, latency, REDUCED.resolutions).latency_ms(every)
    fastest = every.arch(int(np.argmin(ms)))
    budget = Budget(latency_ms=float(ms.min()) * (1 + 1e-9))
    fits = within(REDUCED, latency, budget)
    assert fits(every).sum() == 1
    found = evolve(REDUCED, objective(1), fits, preset=preset, start=lambda: ArchArrays.of(REDUCED, [fastest]))
    assert found.arch == fastest
    assert len(found.best) == 1


@pytest.mark.parametrize("few", [2, 20, 200])
def test_where_few_subnets_fit_it_finds_others_than_the_start(few):
    """Drawing alone would need about 148,176 / few draws for each."""
    latency, of = DrawnLatency(9), objective(2)
    every = everything(REDUCED)
    ms = BatchCosts(REDUCED, latency, REDUCED.resolutions).latency_ms(every)
    order = np.argsort(ms)
    fits = within(REDUCED, latency, Budget(latency_ms=float(ms[order[few - 1]]) * (1 + 1e-12)))
    assert fits(every).sum() == few
    asked = Asked(of, fits)
    found = evolve(REDUCED, asked, fits, preset=SHORT, seed=3, start=lambda: every.take(order[:1]))
    assert len(set(asked.keys)) > few / 8
    assert found.value >= np.median(of(every.take(order[:few])))


def test_nothing_that_fits_is_refused():
    def nothing(archs):
        return np.zeros(len(archs), dtype=bool)

    with pytest.raises(InfeasibleBudget, match=r"neither the smallest subnets of reduced nor any of 1,000 drawn"):
        evolve(REDUCED, objective(1), nothing)
    with pytest.raises(InfeasibleBudget, match="no subnet to start from fits"):
        evolve(REDUCED, objective(1), nothing, start=lambda: everything(REDUCED).take(slice(3)))
    with pytest.raises(UsageError, match="no resolution"):
        evolve(REDUCED, objective(1), nothing, resolutions=())


def test_without_a_start_the_smallest_subnets_are_tried():
    smallest = REDUCED.smallest()
    number = keys(ArchArrays.of(REDUCED, [smallest]))[0]
    found = evolve(REDUCED, objective(1), lambda archs: keys(archs) == number, preset=SHORT)
    assert found.arch == smallest


# -- genes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [*SPACES.values(), COUPLED], ids=lambda space: space.name)
def test_genes_stand_for_archs(space):
    rng, genes = np.random.default_rng(0), Genes.of(space, space.resolutions)
    rows = genes.draw(rng, 200)
    archs = genes.archs(rows)
    for arch in archs.take(slice(50)).archs():
        space.check(arch)
    again = genes.archs(genes.rows(archs))
    assert np.array_equal(archs.matrix(), again.matrix())
    assert np.array_equal(keys(archs), keys(again))
    assert len(np.unique(keys(archs))) == len(np.unique(archs.matrix(), axis=0))


def test_a_skipped_block_keeps_its_genes():
    genes = Genes.of(REDUCED, REDUCED.resolutions)
    rows = genes.draw(np.random.default_rng(0), 300)
    shallow, deep = rows.copy(), rows.copy()
    shallow[:, 1:4], deep[:, 1:4] = 0, 1
    grown = shallow.copy()
    grown[:, 1:4] = 1
    assert (genes.archs(shallow).depth == 1).all()
    assert np.array_equal(genes.archs(grown).matrix(), genes.archs(deep).matrix())


def test_mutations_and_crossings_are_as_described():
    rng, genes = np.random.default_rng(1), Genes.of(OFA_LITE0, OFA_LITE0.resolutions)
    first, second = genes.draw(rng, 4000), genes.draw(rng, 4000)
    assert np.array_equal(genes.mutated(rng, first, 0.0), first)
    changed = genes.mutated(rng, first, 0.1) != first
    expected = 0.1 * (1 - 1 / genes.values)
    assert changed.mean(axis=0) == pytest.approx(expected, abs=0.02)
    for whole in (False, True):
        child = genes.crossed(rng, first, second, whole=whole)
        assert ((child == first) | (child == second)).all()
        differ = first != second
        assert ((child == first) & differ).sum() / differ.sum() == pytest.approx(0.5, abs=0.01)
        blocks = [np.flatnonzero(genes.group == g) for g in np.unique(genes.group)]
        pairs = [b for b in blocks if len(b) == 2]
        assert len(pairs) == sum(stage.max_depth for stage in OFA_LITE0.stages)
        a, b = np.array(pairs).T
        both = differ[:, a] & differ[:, b]
        apart = both & ((child[:, a] == first[:, a]) != (child[:, b] == first[:, b]))
        assert apart.any() != whole


# -- with models and a budget -------------------------------------------------------------------
@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, counts(1, archs), [1000] * len(archs)))


def evolved_at(budget, latency, accuracy, space=SMALL, **more):
    models = CostModels(space, latency, more.pop("resolutions", space.resolutions), energy=more.pop("energy", None))
    return choose_evolution(models, accuracy, budget, inputs=INPUTS, **{"preset": SPOS, **more})


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), width=st.sampled_from([0.0, 0.08]))
@settings(max_examples=10, deadline=None)
def test_no_chosen_subnet_is_better_than_the_exact_one_or_breaks_the_budget(accuracy, seed, share, width):
    latency = DrawnLatency(seed, width=width)
    values = sorted(latency.value(subnet.blocks) * (1 + width) for subnet in listed(SMALL))
    budget = Budget(latency_ms=values[int(share * (len(values) - 1))] * (1 + 1e-7))
    found = evolved_at(budget, latency, accuracy, seed=seed, top=3)
    exact = choose(CostModels(SMALL, latency, SMALL.resolutions), accuracy, budget, inputs=INPUTS).selection
    chosen = [found.selection, *found.alternatives]
    assert all((c.latency_ms.high or c.latency_ms.value) <= budget.latency_ms for c in chosen)
    tops = [c.top1.value for c in chosen]
    assert tops == sorted(tops, reverse=True)
    assert len({c.arch for c in chosen}) == len(chosen)
    assert found.selection.top1.value <= exact.top1.value + 1e-9
    assert exact.top1.value <= found.selection.bound + 1e-9
    assert not found.selection.proven_optimal


def test_a_selection_says_how_it_was_found(accuracy):
    found = evolved_at(Budget(latency_ms=9.0), DrawnLatency(3, width=0.05), accuracy, seed=5)
    selection = found.selection
    assert (selection.strategy, selection.seed, selection.inputs) == ("evolution", 5, INPUTS)
    for said in ("Single Path One-Shot's", "population 50", "20 generations", "25 mutations", "latency=9ms", "1.050"):
        assert said in selection.model
    assert Selection.from_bytes(selection.to_bytes(), "lock", SMALL) == selection
    again = evolved_at(Budget(latency_ms=9.0), DrawnLatency(3, width=0.05), accuracy, seed=5)
    assert again.selection.to_bytes() == selection.to_bytes()


def test_an_infeasible_budget_is_refused_as_by_the_exact_search(accuracy):
    latency, budget = DrawnLatency(3), Budget(latency_ms=0.7, macs=10**6)
    errors = []
    models = CostModels(SMALL, latency, SMALL.resolutions)
    for search in (evolved_at, lambda *a: choose(models, accuracy, budget, inputs=INPUTS)):
        with pytest.raises(InfeasibleBudget) as caught:
            search(budget, latency, accuracy)
        errors.append((caught.value.message, caught.value.hint, caught.value.details))
    assert errors[0] == errors[1]
    needed = Budget(**errors[0][2]["needed"])
    assert evolved_at(needed, latency, accuracy).selection.latency_ms.value <= needed.latency_ms
    with pytest.raises(UsageError, match="energy"):
        evolved_at(Budget(energy_mj=1.0), latency, accuracy)


def test_any_predictor_at_any_resolution_between_those_measured():
    """Pairwise, fitted at 96, 128 and 160 px; 112 and 144 are interpolated in FLOPs, as single estimates are."""
    rng = np.random.default_rng(0)
    archs = [OFA_LITE0.sample(rng, int(rng.choice((96, 128, 160)))) for _ in range(120)]
    scores = [sum(b.expand for s in a.stages for b in s) / 100 + a.resolution / 800 for a in archs]
    correct = [
        round(1000 * (0.3 + 0.4 * score) + drawn(1, str(a), 0.01) * 9) for a, score in zip(archs, scores, strict=True)
    ]
    rows = Rows.of(OFA_LITE0, archs, correct, [1000] * len(archs))
    predictor = PairwiseAccuracy.fit_measured(rows)
    some = ArchArrays.sample(OFA_LITE0, rng, 60, OFA_LITE0.resolutions)
    fitted = family.Fitted(predictor, family.Validation(5, 0.0, 0.0), 120, 120, "1" * 64, "unknown", "drawn", 0)
    single = [top1.value for top1 in fitted.estimates(some.archs())]
    assert BatchAccuracy(predictor, OFA_LITE0.resolutions).top1(some) == pytest.approx(single, abs=1e-9)
    latency = DrawnLatency(1)
    budget = Budget(latency_ms=latency_at(OFA_LITE0, latency, 0.3))
    found = evolved_at(budget, latency, predictor, OFA_LITE0, seed=1)
    (own,) = fitted.estimates([found.selection.arch])
    assert found.selection.top1.value == pytest.approx(own.value, abs=1e-8)
    assert "pairs of choices" in found.selection.model
    assert found.selection.bound is None  # nothing is known of how good others may be
    assert Selection.from_bytes(found.selection.to_bytes(), "lock") == found.selection
    assert found.selection.latency_ms.value <= budget.latency_ms
