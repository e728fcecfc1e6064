"""Choosing under a model that is no sum: within the budget, no worse than said, and the same each time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.encoding import ONE_HOT, encode_arrays
from ofa_edge.accuracy.mlp import HIDDEN, MlpAccuracy, forward
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.validation import Rows, Validation
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.search.nonadditive import polish
from ofa_edge.search.nonadditive.additive import Additive
from ofa_edge.search.nonadditive.moves import from_matrix, neighbours
from ofa_edge.search.nonadditive.network import network_bound
from ofa_edge.search.selection import Selection
from ofa_edge.space.population import ArchArrays
from tests.search.doubles import COUPLED, SMALL, DrawnLatency, listed

INPUTS = {"latency-table": "1" * 64, "accuracy-table": "2" * 64}
SPACES_BY_NAME = {"small": SMALL, "coupled": COUPLED}


@cache
def pairwise(name):
    """Fitted to subnets whose blocks help each other less the more there are."""
    space = SPACES_BY_NAME[name]
    archs = list(dict.fromkeys(space.sample(np.random.default_rng(i)) for i in range(150)))
    rng = np.random.default_rng(1)
    sizes = np.array([sum(b.kernel * b.expand for stage in arch.stages for b in stage) for arch in archs])
    odds = np.sqrt(sizes) / 3 + np.array([arch.resolution for arch in archs]) / 40 + rng.normal(0, 0.05, len(archs))
    correct = np.rint(1000 / (1 + np.exp(-(odds - odds.mean()))))
    return PairwiseAccuracy.fit_measured(Rows.of(space, archs, correct, [1000] * len(archs)))


@cache
def mlp(name, seed=0):
    """Weights as drawn before training, scaled so that predictions are shares."""
    space, rng = SPACES_BY_NAME[name], np.random.default_rng(seed)
    some = ArchArrays.sample(space, rng, 300, space.resolutions)
    widths = [encode_arrays(space, some, space.resolutions, ONE_HOT).shape[1], *HIDDEN, 1]
    layers = []
    for before, after in itertools.pairwise(widths):
        bound = 1 / np.sqrt(before)
        drawn = (rng.uniform(-bound, bound, shape).astype(np.float32) for shape in ((before, after), (after,)))
        layers.append(tuple(drawn))
    said = forward(layers, encode_arrays(space, some, space.resolutions, ONE_HOT))
    layers[-1] = (layers[-1][0] * np.float32(0.05 / said.std()), np.zeros(1, dtype=np.float32))
    errors = np.array([0.0, 1.0]), np.array([0.01, 0.01])
    return MlpAccuracy(space, space.resolutions, 300, 300, Validation(5, 0.01, 0.9), 0.6, tuple(layers), errors)


@cache
def everything(name):
    return ArchArrays.of(SPACES_BY_NAME[name], [subnet.arch for subnet in listed(SPACES_BY_NAME[name])])


def budget_at(name, latency, share, macs):
    """What about `share` of all subnets keep."""
    space = SPACES_BY_NAME[name]
    values = BatchCosts(space, latency, space.resolutions).latency_ms(everything(name)) * (1 + latency.width)
    counts = [subnet.cost.macs for subnet in listed(space)]
    limit = round(float(np.quantile(values, share)) * (1 + 1e-7), 9)
    return Budget(latency_ms=limit, macs=int(np.quantile(counts, 0.7)) if macs else None)


def chosen_at(name, predictor, budget, latency, **more):
    space = SPACES_BY_NAME[name]
    models = CostModels(space, latency, space.resolutions, energy=more.pop("energy", None))
    return polish.choose(models, predictor, budget, inputs=INPUTS, **more)


def best_of_all(name, predictor, budget, latency):
    space = SPACES_BY_NAME[name]
    rows = BatchCosts(space, latency, space.resolutions).rows(everything(name))
    kept = Limits.of(budget, latency.width).kept(rows)
    return float(predictor.predict_arrays(everything(name))[kept].max()) if kept.any() else None


@given(
    name=st.sampled_from(["small", "coupled"]),
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 1),
    width=st.sampled_from([0.0, 0.08]),
    macs=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_the_best_of_a_pairwise_model_is_found_and_proven(name, seed, share, width, macs):
    latency, predictor = DrawnLatency(seed, width=width), pairwise(name)
    budget = budget_at(name, latency, share, macs)
    best = best_of_all(name, predictor, budget, latency)
    if best is None:
        with pytest.raises(InfeasibleBudget):
            chosen_at(name, predictor, budget, latency)
        return
    selection = chosen_at(name, predictor, budget, latency).selection
    assert selection.top1.value == pytest.approx(best, abs=1e-8)
    assert selection.proven_optimal
    assert selection.bound == selection.top1.value
    assert "proven: no subnet is better" in selection.model
    assert (selection.latency_ms.high or selection.latency_ms.value) <= budget.latency_ms
    assert budget.macs is None or selection.cost.macs <= budget.macs


@given(name=st.sampled_from(["small", "coupled"]), seed=st.integers(0, 10**6), share=st.floats(0.05, 1))
@settings(max_examples=5, deadline=None)
def test_the_bound_of_a_network_holds_and_the_gap_said_is_true(name, seed, share):
    latency, predictor = DrawnLatency(seed, width=0.05), mlp(name, seed % 3)
    budget = budget_at(name, latency, share, False)
    best = best_of_all(name, predictor, budget, latency)
    if best is None:
        return
    selection = chosen_at(name, predictor, budget, latency).selection
    assert selection.top1.value <= best + 1e-6  # the network adds in single precision
    if selection.bound is None:
        assert "is not known" in selection.model
        return
    assert best <= selection.bound + 1e-6
    assert selection.proven_optimal == (selection.bound - selection.top1.value <= 1e-9)
    said = float(selection.model.split("no subnet is more than ")[1].split()[0])
    assert selection.bound <= selection.top1.value + said / 100 + 1e-9
    assert selection.bound >= selection.top1.value + (said - 0.0011) / 100
    assert selection.latency_ms.high <= budget.latency_ms


@pytest.mark.parametrize("name", ["small", "coupled"])
def test_the_line_over_a_network_is_above_it_everywhere(name):
    space, latency, predictor = SPACES_BY_NAME[name], DrawnLatency(0), mlp(name)
    for size in space.resolutions:
        here = everything(name).take(everything(name).resolution == size)
        bound = network_bound(space, latency, predictor, Limits(latency=10**15), [size])
        assert predictor.predict_arrays(here).max() <= bound < np.inf
    assert network_bound(space, latency, predictor, Limits(latency=1), space.resolutions) == -np.inf


@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.9), macs=st.booleans())
@settings(max_examples=4)
def test_the_line_within_limits_is_above_all_that_keep_them(seed, share, macs):
    latency, predictor = DrawnLatency(seed), mlp("small", seed % 3)
    budget = budget_at("small", latency, share, macs)
    best = best_of_all("small", predictor, budget, latency)
    if best is None:
        return
    # Knowing a good subnet, or the best, lowers the line, and never below the best.
    bounds = [
        network_bound(SMALL, latency, predictor, Limits.of(budget), SMALL.resolutions, best=known)
        for known in (-np.inf, best - 0.05, best - 0.01, best)
    ]
    assert all(best <= bound for bound in bounds)
    assert bounds[1] <= bounds[0] + 1e-9


def test_limits_lower_the_line():
    latency, predictor = DrawnLatency(0), mlp("small")
    tight, loose = (
        network_bound(SMALL, latency, predictor, limits, SMALL.resolutions)
        for limits in (Limits.of(budget_at("small", latency, 0.02, False)), Limits(latency=10**15))
    )
    assert tight < 0.9 * loose


@pytest.mark.parametrize("name", ["small", "coupled"])
def test_a_network_whose_units_are_always_on_is_bounded_exactly(name):
    space, latency, drawn = SPACES_BY_NAME[name], DrawnLatency(4), mlp(name)
    *hidden, (last, zero) = drawn.layers
    on = (*((weights, biases + np.float32(9.0)) for weights, biases in hidden), (last * np.float32(1e-3), zero))
    predictor = replace(drawn, layers=on)
    budget = budget_at(name, latency, 0.4, True)
    bound = network_bound(space, latency, predictor, Limits.of(budget), space.resolutions)
    assert bound == pytest.approx(best_of_all(name, predictor, budget, latency), abs=3e-4)


def test_a_selection_is_the_same_each_time_and_says_what_it_is(tmp_path):
    latency, predictor = DrawnLatency(3, width=0.05), pairwise("small")
    budget = budget_at("small", latency, 0.4, True)
    first, second = (chosen_at("small", predictor, budget, latency, seed=7, top=3) for _ in range(2))
    assert first.selection.to_bytes() == second.selection.to_bytes()
    assert [a.arch for a in first.alternatives] == [a.arch for a in second.alternatives]
    assert (first.selection.strategy, first.selection.seed, first.selection.inputs) == ("exact", 7, INPUTS)
    for said in (f"{SMALL.count() * 2:,} subnets", "1.050", "95%", "all pairs of choices", str(budget)):
        assert said in first.selection.model
    tops = [first.selection.top1.value, *(a.top1.value for a in first.alternatives)]
    assert len(first.alternatives) == 3
    assert tops == sorted(tops, reverse=True)
    assert all(a.latency_ms.high <= budget.latency_ms and a.cost.macs <= budget.macs for a in first.alternatives)
    first.selection.write(tmp_path / "selection.json")
    assert Selection.read(tmp_path / "selection.json", SMALL) == first.selection


def test_a_budget_that_nothing_fits_is_refused_with_what_would():
    latency, predictor = DrawnLatency(3), pairwise("small")
    with pytest.raises(InfeasibleBudget) as caught:
        chosen_at("small", predictor, Budget(latency_ms=0.01), latency)
    assert chosen_at("small", predictor, Budget(**caught.value.details["needed"]), latency).selection


def test_a_predictor_of_which_nothing_is_known_is_searched_and_nothing_is_claimed():
    latency, known = DrawnLatency(3), pairwise("small")

    class Unknown:
        """Another kind of predictor, with the same predictions."""

        kind = "unknown"
        space, resolutions = known.space, known.resolutions
        predict, predict_arrays = known.predict, known.predict_arrays
        intervals, describe, state = known.intervals, known.describe, known.state

    budget = budget_at("small", latency, 0.4, True)
    selection = chosen_at("small", Unknown(), budget, latency).selection
    assert (selection.bound, selection.proven_optimal) == (None, False)
    assert "how much better another may be is not known" in selection.model
    assert selection.top1.value <= chosen_at("small", known, budget, latency).selection.bound


def test_only_sizes_that_were_measured_are_searched():
    predictor = pairwise("small")
    assert polish.shared_resolutions([32, 17, 48], predictor) == (17, 32)
    with pytest.raises(UsageError, match="the predictor of 17, 32"):
        polish.shared_resolutions([48, 64], predictor)
    models = CostModels(SMALL, DrawnLatency(1), (17, 48))
    found = polish.choose(models, predictor, Budget(latency_ms=50.0), inputs=INPUTS)
    assert found.selection.arch.resolution == 17


@pytest.mark.parametrize("name", ["small", "coupled"])
def test_moves_are_all_subnets_that_differ_in_one_choice(name):
    space = SPACES_BY_NAME[name]
    matrix = everything(name).matrix()
    for seed in range(5):
        row = matrix[np.random.default_rng(seed).integers(len(matrix))]
        moved, touched = neighbours(space, space.resolutions, row)
        known = {tuple(found) for found in matrix.tolist()}
        assert {tuple(found) for found in moved.tolist()} <= known - {tuple(row.tolist())}
        assert ((moved != row) <= touched).all()
        # Every subnet that differs in one column, where no depth changes, is among them.
        single = matrix[((matrix != row).sum(axis=1) == 1) & ((matrix == 0) == (row == 0)).all(axis=1)]
        assert {tuple(found) for found in single.tolist()} <= {tuple(found) for found in moved.tolist()}
        # And for each stage every other depth, with every block that comes new.
        archs = from_matrix(space, moved)
        for s, stage in enumerate(space.stages):
            own = int(np.count_nonzero(from_matrix(space, row[None]).codes[s]))
            new = len(stage.kernels) * len(stage.expands)
            for depth in stage.depths:
                if depth != own:
                    assert (archs.depth[:, s] == depth).sum() == new ** max(0, depth - own)


def test_an_additive_score_that_is_fitted_to_one_is_that_one():
    space = COUPLED
    archs = ArchArrays.sample(space, np.random.default_rng(0), 2000, space.resolutions)
    weights = np.random.default_rng(1).normal(size=encode_arrays(space, archs, space.resolutions, "places").shape[1])
    true = Additive(space, space.resolutions, "places", 0.3, weights)

    def scores(additive, some):
        found = np.array([additive.offset(r) for r in some.resolution.tolist()])
        found += sum(additive.stage_scores(s, some.stage(s)) for s in range(len(space.stages)))
        found += sum(additive.width_scores(p)[some.widths[:, p]] for p in range(len(space.width_choices)))
        return found + additive.stem_depth_scores()[some.stem_depth]

    columns = encode_arrays(space, archs, space.resolutions, "places")
    assert scores(true, archs) == pytest.approx(0.3 + columns @ weights)
    fitted = Additive.fit(archs, scores(true, archs), space.resolutions)
    assert scores(fitted, archs) == pytest.approx(scores(true, archs), abs=0.05)
