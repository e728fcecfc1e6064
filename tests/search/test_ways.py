"""The best over several ways to run a subnet: what listing all ways finds, proven where no way may hold more, refused
with each way's own reason."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.models import CostModels
from ofa_edge.search.selection import Selection
from ofa_edge.search.ways import Found, Way, best_of, growth
from tests.search.doubles import SMALL, DrawnLatency, DrawnScores, listed

RUNS = (RunsOn(), RunsOn("litert"), RunsOn("litert", 1, None, "int8", activations="int8"))


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    odds = np.array([DrawnScores(1).score(arch) for arch in archs]) - 0.5
    right = np.rint(1000 / (1 + np.exp(-odds))).astype(int)
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, right, [1000] * len(archs)))


@pytest.fixture(scope="module")
def shares(accuracy):
    return np.array([accuracy.estimate(subnet.arch).value for subnet in listed(SMALL)])


def way(i, drop=0.0):
    return Way(str(RUNS[i]), f"table-{i}.jsonl", RUNS[i], drop, str(i) * 64, "abc"[i] * 64)


def alone(latency, budget, accuracy, i, top=5):
    inputs = {"latency-table": str(i) * 64, "accuracy-table": "f" * 64}
    try:
        found = choose(CostModels(SMALL, latency, SMALL.resolutions), accuracy, budget, inputs=inputs, top=top)
    except InfeasibleBudget as error:
        return error
    return replace(found, selection=replace(found.selection, headers={"latency-table": "abc"[i] * 64}))


def over_all(latencies, drops, budget, accuracy, top=5):
    found = [
        Found(way(i, drop), alone(latency, budget, accuracy, i, top))
        for i, (latency, drop) in enumerate(zip(latencies, drops, strict=True))
    ]
    return best_of(found, top=top)


@given(
    seed=st.integers(0, 50),
    share=st.floats(0, 0.6),
    drops=st.lists(st.sampled_from([0.0, 0.0, 0.002, 0.01]), min_size=2, max_size=3),
    width=st.sampled_from([0.0, 0.08]),
    macs=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_no_subnet_is_better_run_any_way(accuracy, shares, seed, share, drops, width, macs):
    latencies = [DrawnLatency(seed + 100 * i, width=width, failed=0.02) for i in range(len(drops))]
    times = np.array([[one.value(subnet.blocks) * (1 + width) for subnet in listed(SMALL)] for one in latencies])
    limit = float(np.quantile(times[np.isfinite(times)], share, method="lower")) * (1 + 1e-7)
    most = int(np.median([subnet.cost.macs for subnet in listed(SMALL)])) if macs else None
    budget = Budget(latency_ms=limit, macs=most)
    fits = times <= limit
    if most is not None:
        fits &= np.array([subnet.cost.macs <= most for subnet in listed(SMALL)])
    assume(fits.any() and np.isfinite(times).any(axis=1).all())
    best = max(shares[own].max() - drop for own, drop in zip(fits, drops, strict=True) if own.any())
    found = over_all(latencies, drops, budget, accuracy)
    selection = found.selection
    assert selection.proven_optimal
    assert selection.top1.value == pytest.approx(best, abs=2e-9)
    assert selection.bound == pytest.approx(best, abs=2e-9)
    chosen = RUNS.index(selection.runs_on)
    assert selection.latency_ms.value == pytest.approx(latencies[chosen].value(SMALL.blocks(selection.arch)), abs=1e-8)
    assert selection.inputs["latency-table"] == str(chosen) * 64
    for one in found.alternatives:
        assert one.top1.value <= selection.top1.value
        ran = latencies[RUNS.index(one.runs_on)]
        assert one.latency_ms.value == pytest.approx(ran.value(SMALL.blocks(one.arch)), abs=1e-8)


def test_the_alternatives_are_the_best_of_the_union_each_subnet_once(accuracy):
    latencies = [DrawnLatency(1), DrawnLatency(2)]
    budget = Budget(latency_ms=float(np.median([latencies[0].value(s.blocks) for s in listed(SMALL)])))
    found = over_all(latencies, (0.0, 0.0), budget, accuracy, top=8)
    archs = [found.selection.arch, *(one.arch for one in found.alternatives)]
    assert len(set(archs)) == len(archs)
    values = [one.top1.value for one in found.alternatives]
    assert values == sorted(values, reverse=True)
    each = [alone(latency, budget, accuracy, i, 8) for i, latency in enumerate(latencies)]
    every = {one.arch: one.top1.value for chosen in each for one in chosen.alternatives}
    every |= {chosen.selection.arch: chosen.selection.top1.value for chosen in each}
    assert values == sorted((value for arch, value in every.items() if arch != archs[0]), reverse=True)[:8]


def test_of_equals_the_faster_way_is_taken(accuracy):
    slow, fast = DrawnLatency(3, offset_ms=2.0), DrawnLatency(3, offset_ms=0.5)
    found = over_all([slow, fast], (0.0, 0.0), Budget(latency_ms=1e3), accuracy)
    assert found.selection.runs_on == RUNS[1]
    assert {one.runs_on for one in found.alternatives} == {RUNS[1]}


def test_a_drop_is_subtracted_and_decides(accuracy):
    """The same times twice: int8 is taken only where it costs nothing."""
    latency = DrawnLatency(4)
    slower = replace(latency, offset_ms=latency.offset_ms + 0.1)
    budget = Budget(latency_ms=1e3)
    ways = [way(0), way(2)]
    results = [alone(slower, budget, accuracy, 0), alone(latency, budget, accuracy, 2)]
    free = best_of([Found(*pair) for pair in zip(ways, results, strict=True)], top=3)
    assert free.selection.runs_on == RUNS[2]
    dear = best_of([Found(ways[0], results[0]), Found(replace(ways[1], drop=0.001), results[1])], top=3)
    assert dear.selection.runs_on == RUNS[0]
    empty = InfeasibleBudget("none", details={"limits": [{"conflicts": [["latency_ms"]]}]})
    only = best_of([Found(replace(ways[1], drop=0.001), results[1]), Found(ways[0], empty)], top=3)
    assert only.selection.proven_optimal
    assert only.selection.top1.value == pytest.approx(results[1].selection.top1.value - 0.001, abs=1e-9)
    assert only.selection.bound == pytest.approx(results[1].selection.bound - 0.001, abs=1e-9)
    assert "0.1 points of top-1 subtracted for litert, int8, 1 thread" in only.selection.model
    assert "onnxruntime, fp32, 1 thread (no subnet)" in only.selection.model


def test_a_drop_greater_than_the_accuracy_leaves_none(accuracy):
    result = alone(DrawnLatency(4), Budget(latency_ms=1e3), accuracy, 2)
    found = best_of([Found(way(2, 1.0), result), Found(way(1, 1.0), result)], top=1)
    assert found.selection.top1 == Top1(0.0, 0.0, 0.0)


def test_it_is_proven_only_where_no_way_may_hold_a_better_one(accuracy):
    results = [alone(DrawnLatency(5 + i), Budget(latency_ms=1e3), accuracy, i) for i in range(2)]
    value = results[0].selection.top1.value

    def unproven(bound):
        other = results[1]
        selection = replace(other.selection, top1=Top1(value - 0.01, 0.0, 1.0), bound=bound, proven_optimal=False)
        return best_of([Found(way(0), results[0]), Found(way(1), replace(other, selection=selection))], top=1).selection

    above, below = unproven(value + 0.01), unproven(value - 0.005)
    assert (above.proven_optimal, above.bound) == (False, value + 0.01)
    assert (below.proven_optimal, below.bound) == (True, results[0].selection.bound)
    assert "bound" in above.model


def test_a_way_that_is_not_proven_to_have_no_subnet_leaves_the_bound_open(accuracy):
    """Its limits contradict nothing: the subnets that were looked at broke the budget with their own intervals."""
    result = alone(DrawnLatency(5), Budget(latency_ms=1e3), accuracy, 0)
    vague = InfeasibleBudget("none fits", details={"limits": [{"conflicts": []}]})
    selection = best_of([Found(way(0), result), Found(way(1), vague)], top=1).selection
    assert (selection.proven_optimal, selection.bound) == (False, None)
    drawn = replace(result, selection=replace(result.selection, strategy="random", proven_optimal=False))
    assert best_of([Found(way(0), drawn), Found(way(1), vague)], top=1).selection.bound == drawn.selection.bound


def test_every_table_that_was_looked_at_is_an_input(accuracy):
    latencies = [DrawnLatency(1, offset_ms=50.0), DrawnLatency(1, offset_ms=0.0), DrawnLatency(2, offset_ms=50.0)]
    budget = Budget(latency_ms=40.0)
    selection = over_all(latencies, (0.0, 0.0, 0.0), budget, accuracy).selection
    assert {role: digest[0] for role, digest in selection.inputs.items()} == {
        "latency-table": "1", "latency-table-2": "0", "latency-table-3": "2", "accuracy-table": "f",
    }  # fmt: skip
    assert {role: digest[0] for role, digest in selection.headers.items()} == {
        "latency-table": "b", "latency-table-2": "a", "latency-table-3": "c",
    }  # fmt: skip
    assert Selection.from_bytes(selection.to_bytes(), "it", SMALL) == selection


def test_where_no_way_has_a_subnet_each_says_why_and_the_hint_is_the_nearest_s(accuracy):
    latencies = [DrawnLatency(1, offset_ms=50.0), DrawnLatency(2, offset_ms=20.0)]
    with pytest.raises(InfeasibleBudget) as caught:
        over_all(latencies, (0.0, 0.0), Budget(latency_ms=10.0), accuracy)
    error = caught.value
    for i in range(2):
        assert f"{RUNS[i]} (table-{i}.jsonl): no subnet of small fits latency=10ms" in error.message
    assert [one["table"] for one in error.details["ways"]] == ["table-0.jsonl", "table-1.jsonl"]
    assert [one["runs"]["runtime"] for one in error.details["ways"]] == ["onnxruntime", "litert"]
    assert all({"needed", "nearest", "limits"} <= one.keys() for one in error.details["ways"])
    needed = error.details["needed"]["latency_ms"]
    assert needed == min(one["needed"]["latency_ms"] for one in error.details["ways"])
    assert f"try --budget latency={needed:g}ms" in error.hint
    found = over_all(latencies, (0.0, 0.0), Budget(latency_ms=needed), accuracy)
    assert found.selection.runs_on == RUNS[1]


def test_a_refusal_that_does_not_say_what_it_needs_is_the_farthest():
    assert growth({}) == math.inf
    assert growth({"budget": {"latency_ms": 2.0}, "needed": {"latency_ms": 3.0}}) == 1.5
    quiet, near = InfeasibleBudget("quiet"), InfeasibleBudget("near", hint="type this")
    near.details = {"budget": {"latency_ms": 2.0}, "needed": {"latency_ms": 3.0}}
    with pytest.raises(InfeasibleBudget) as caught:
        best_of([Found(way(0), quiet), Found(way(1), near)], top=1)
    assert caught.value.hint == "type this"
