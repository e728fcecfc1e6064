"""Choosing gives the best subnet whose promise holds, says how sure it is, and refuses with a way out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.graph.stored import Stored
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import Estimate, LatencyModel, fit_terms
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import excess_of_counts
from ofa_edge.search.choose import choose, default_budget, shared_resolutions
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.models import CostModels
from ofa_edge.search.selection import Selection
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, cost
from ofa_edge.space.spaces import OFA_LITE0
from tests.search.doubles import SMALL, DrawnEnergy, DrawnLatency, DrawnScores, keeps, listed

INPUTS = {"latency-table": "1" * 64, "accuracy-table": "2" * 64}


def counts(seed, archs, n=1000):
    """Right answers whose log-odds are the drawn scores, and a little noise."""
    rng, scores = np.random.default_rng(seed), DrawnScores(seed)
    odds = np.array([scores.score(arch) for arch in archs]) - 0.5 + rng.normal(0, 0.02, len(archs))
    return np.rint(n / (1 + np.exp(-odds))).astype(int)


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, counts(1, archs), [1000] * len(archs)))


def chosen_at(budget, latency, accuracy, energy=None, confidence=0.95, **more):
    models = CostModels(SMALL, latency, SMALL.resolutions, confidence, energy)
    return choose(models, accuracy, budget, inputs=INPUTS, **more)


@cache
def predicted(accuracy, arch):
    return accuracy.top1(accuracy.score(arch))


def upper(latency, subnet):
    estimate = latency.estimate(subnet.blocks)
    return estimate.value if estimate.high is None else estimate.high


def test_a_limit_on_the_90th_percentile_is_one_on_the_median_where_there_is_no_other(accuracy):
    latency = DrawnLatency(3)
    uses = sorted(upper(latency, subnet) for subnet in listed(SMALL)[:200])
    limit = uses[100]
    by_p90, by_median = (
        chosen_at(Budget(**{name: limit}), latency, accuracy).selection for name in ("p90_ms", "latency_ms")
    )
    assert by_p90.arch == by_median.arch
    assert by_p90.budget == Budget(latency_ms=limit, p90_ms=limit)
    loose = chosen_at(Budget(latency_ms=limit, p90_ms=limit / 1e6), latency, accuracy).selection
    assert loose.arch == by_median.arch, "nothing predicts it"


def test_what_is_said_instead_of_an_infeasible_90th_percentile_works(accuracy):
    latency = DrawnLatency(3)
    with pytest.raises(InfeasibleBudget) as refused:
        chosen_at(Budget(p90_ms=1e-6), latency, accuracy)
    needed = Budget(**refused.value.details["needed"])
    assert needed.p90_ms == needed.latency_ms
    assert chosen_at(needed, latency, accuracy).selection.budget == needed


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), width=st.sampled_from([0.0, 0.08]), macs=st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_listed_subnet_that_fits_is_better(accuracy, seed, share, width, macs):
    latency = DrawnLatency(seed, width=width)
    values = sorted(latency.value(subnet.blocks) * (1 + width) for subnet in listed(SMALL))
    budget = Budget(
        latency_ms=values[int(share * (len(values) - 1))] * (1 + 1e-7),
        macs=int(np.median([subnet.cost.macs for subnet in listed(SMALL)])) if macs else None,
    )
    fitting = [
        subnet
        for subnet in listed(SMALL)
        if latency.value(subnet.blocks) * (1 + width) <= budget.latency_ms and keeps(subnet.cost, budget)
    ]
    if not fitting:
        with pytest.raises(InfeasibleBudget):
            chosen_at(budget, latency, accuracy)
        return
    best = max(predicted(accuracy, subnet.arch) for subnet in fitting)
    selection = chosen_at(budget, latency, accuracy).selection
    assert selection.top1.value == pytest.approx(best, abs=1e-6)
    assert selection.bound == selection.top1.value
    assert selection.proven_optimal
    assert selection.latency_ms.high is None or selection.latency_ms.high <= budget.latency_ms
    assert selection.arch in [subnet.arch for subnet in fitting]


def test_a_selection_says_what_it_is(accuracy):
    latency = DrawnLatency(3, width=0.05)
    budget = Budget(latency_ms=9.0, macs=600_000)
    found = chosen_at(budget, latency, accuracy, top=3, seed=9)
    selection = found.selection
    subnet = next(subnet for subnet in listed(SMALL) if subnet.arch == selection.arch)
    assert selection.cost == subnet.cost
    assert selection.latency_ms.value == pytest.approx(latency.value(subnet.blocks), abs=1e-6)
    assert (selection.inputs, selection.seed, selection.strategy) == (INPUTS, 9, "exact")
    for said in ("960 subnets", "latency=9ms,macs=600000", "1.050", "95%", "RMSE"):
        assert said in selection.model
    assert found.seconds > 0
    # Alternatives fit too, each a little worse than the one before.
    tops = [selection.top1.value, *(a.top1.value for a in found.alternatives)]
    assert len(found.alternatives) == 3
    assert tops == sorted(tops, reverse=True)
    assert all(a.latency_ms.high <= 9.0 and a.cost.macs <= 600_000 for a in found.alternatives)
    value = found.as_json()
    assert {"arch", "predicted", "model", "proven_optimal", "bound", "seconds", "alternatives", "inputs"} <= set(value)
    assert set(value["predicted"]) == {
        "top1", "latency_ms", "macs", "params", "weight_bytes", "peak_activation_bytes",
    }  # fmt: skip


def test_the_same_inputs_choose_the_same_bytes(accuracy):
    budget = Budget(latency_ms=8.0, memory_bytes=120_000)
    first, second = (chosen_at(budget, DrawnLatency(3, width=0.05), accuracy).selection for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


@dataclass(frozen=True)
class OneWide(DrawnLatency):
    """A model whose margin is no bound: the interval of one subnet is wider than it says."""

    wide: tuple[Block, ...] = ()

    def estimate(self, blocks, confidence=0.95):
        value = self.value(blocks)
        return Estimate(value, value, value * (1.5 if blocks == self.wide else 1.0))


def test_the_subnets_own_interval_has_the_last_word(accuracy):
    """Where the best subnet's own bound breaks the budget the next one is taken, and no optimum is claimed."""
    budget = Budget(latency_ms=8.0)
    plain = chosen_at(budget, OneWide(3), accuracy)
    found = chosen_at(budget, OneWide(3, wide=SMALL.blocks(plain.selection.arch)), accuracy)
    assert plain.selection.proven_optimal
    assert found.selection.arch == plain.alternatives[0].arch
    assert not found.selection.proven_optimal
    assert found.selection.bound == plain.selection.top1.value > found.selection.top1.value


@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 0.999),
    size=st.none() | st.integers(1, 30_000),
    memory=st.none() | st.integers(1, 60_000),
    width=st.sampled_from([0.0, 0.06]),
)
@settings(max_examples=30, deadline=None)
def test_an_infeasible_budget_is_refused_with_one_that_works(accuracy, seed, share, size, memory, width):
    latency = DrawnLatency(seed, width=width)
    fastest = min(latency.value(subnet.blocks) for subnet in listed(SMALL)) * (1 + width)
    budget = Budget(latency_ms=share * fastest, size_bytes=size, memory_bytes=memory)
    with pytest.raises(InfeasibleBudget) as caught:
        chosen_at(budget, latency, accuracy)
    error = caught.value
    assert error.code == 3
    assert str(budget) in error.message
    assert "top1" not in error.details["nearest"]["predicted"]
    needed = Budget(**error.details["needed"])
    assert error.hint.split(";")[0] == f"try --budget {needed}"
    assert_certified(error, budget, latency, accuracy)
    assert needed != budget
    for name, limit in budget.as_json().items():
        assert error.details["needed"][name] >= limit
    chosen = chosen_at(needed, latency, accuracy).selection
    assert chosen.latency_ms.value <= needed.latency_ms


def assert_certified(error, budget, latency, accuracy):
    """Each limit of the details says what it would have to be, and that works."""
    limits = {limit["limit"]: limit for limit in error.details["limits"]}
    assert list(limits) == list(budget.as_json())
    assert any(limit["conflicts"] for limit in limits.values())
    assert "cannot be kept" in error.message
    for name, limit in limits.items():
        assert limit["given"] == budget.as_json()[name]
        assert limit["feasible_alone"] == (limit["least"] <= limit["given"])
        if limit["budget"] is None:
            assert limit["nearest"] is None
            continue
        raised = Budget(**limit["budget"])
        assert {k: v for k, v in raised.as_json().items() if k != name} == {
            k: v for k, v in budget.as_json().items() if k != name
        }
        assert "top1" not in limit["nearest"]["predicted"]
        chosen_at(raised, latency, accuracy)
        if raised not in (budget, Budget(**error.details["needed"])):
            assert f"--budget {raised}" in error.hint


def test_a_conflict_of_two_limits_is_named_and_either_can_be_raised(accuracy):
    """Each can be kept alone; the hint has a budget for raising one or the other."""
    latency = DrawnLatency(11)
    by_latency = sorted(listed(SMALL), key=lambda subnet: latency.value(subnet.blocks))
    quick = latency.value(by_latency[0].blocks) * 1.001
    light = min(subnet.cost.weight_bytes for subnet in listed(SMALL))
    assert by_latency[0].cost.weight_bytes > light
    with pytest.raises(InfeasibleBudget, match="cannot be kept together") as caught:
        chosen_at(Budget(latency_ms=quick, size_bytes=light), latency, accuracy)
    limits = caught.value.details["limits"]
    assert [limit["feasible_alone"] for limit in limits] == [True, True]
    assert [limit["conflicts"] for limit in limits] == [[["latency_ms", "size_bytes"]]] * 2
    assert caught.value.hint.count("--budget") >= 3
    assert "raising one limit alone" in caught.value.hint


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1), size=st.booleans())
@settings(max_examples=20, deadline=None)
def test_an_energy_limit_holds_with_its_margin(accuracy, seed, share, size):
    latency, energy = DrawnLatency(seed, width=0.05), DrawnEnergy(seed, width=0.1)
    draws = sorted(energy.value(subnet.blocks) * 1.1 for subnet in listed(SMALL))
    budget = Budget(
        energy_mj=draws[int(share * (len(draws) - 1))] * (1 + 1e-5),
        size_bytes=int(np.median([subnet.cost.weight_bytes for subnet in listed(SMALL)])) if size else None,
    )
    fitting = [
        subnet
        for subnet in listed(SMALL)
        if energy.value(subnet.blocks) * 1.1 <= budget.energy_mj and keeps(subnet.cost, budget)
    ]
    if not fitting:
        with pytest.raises(InfeasibleBudget, match="cannot be kept"):
            chosen_at(budget, latency, accuracy, energy=energy)
        return
    found = chosen_at(budget, latency, accuracy, energy=energy)
    assert found.selection.top1.value == pytest.approx(max(predicted(accuracy, s.arch) for s in fitting), abs=1e-6)
    assert found.selection.proven_optimal
    for one in (found.selection, *found.alternatives):
        assert one.energy_mj.high <= budget.energy_mj
    assert found.as_json()["predicted"]["energy_mj"]["high"] <= budget.energy_mj
    assert "energy counted 1.100 times" in found.selection.model
    assert Selection.from_bytes(found.selection.to_bytes(), "s", SMALL) == found.selection


@pytest.mark.parametrize("stored", [Stored("onnxruntime", "int8"), Stored("litert", "int8"), Stored("litert", "fp16")])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_size_and_memory_are_limited_as_numbers_are_stored(accuracy, stored, share):
    """Of int8 and fp16 what their files and runtimes hold, in the search, the certificate and what is said."""
    costs = {subnet.arch: stored.cost(subnet.blocks) for subnet in listed(SMALL)}
    sizes, memories = (sorted(getattr(c, name) for c in costs.values()) for name in ("weight_bytes", "memory_bytes"))
    at = int(share * (len(costs) - 1))
    budget = Budget(latency_ms=50.0, size_bytes=sizes[at], memory_bytes=memories[at])
    fitting = [a for a, c in costs.items() if c.weight_bytes <= sizes[at] and c.memory_bytes <= memories[at]]
    models = CostModels(SMALL, DrawnLatency(3), SMALL.resolutions, stored=stored)
    if fitting:
        found = choose(models, accuracy, budget, inputs=INPUTS)
        assert found.selection.top1.value == pytest.approx(max(predicted(accuracy, arch) for arch in fitting), abs=1e-6)
        assert found.selection.proven_optimal
        assert all(one.arch in fitting for one in (found.selection, *found.alternatives))
        assert found.selection.cost == costs[found.selection.arch]
    with pytest.raises(InfeasibleBudget) as caught:
        choose(models, accuracy, Budget(memory_bytes=memories[0] - 1), inputs=INPUTS)
    assert caught.value.details["needed"] == {"memory_bytes": memories[0]}


def test_an_infeasible_energy_limit_is_refused_with_one_that_works(accuracy):
    latency, energy = DrawnLatency(4), DrawnEnergy(4, width=0.1)
    with pytest.raises(InfeasibleBudget, match=r"energy 0\.1 mJ cannot be kept, the least of any subnet is") as caught:
        chosen_at(Budget(energy_mj=0.1), latency, accuracy, energy=energy)
    needed = Budget(**caught.value.details["needed"])
    chosen_at(needed, latency, accuracy, energy=energy)
    assert caught.value.details["nearest"]["predicted"]["energy_mj"]["high"] <= needed.energy_mj


def test_energy_is_never_limited_unseen(accuracy):
    """Without a model of it a limit on energy is refused."""
    for search in (
        lambda budget: chosen_at(budget, DrawnLatency(1), accuracy),
        lambda budget: excess_of_counts(listed(SMALL)[0].cost, budget),
    ):
        with pytest.raises(UsageError, match="energy limit needs") as caught:
            search(Budget(energy_mj=1.0))
        assert "--energy" in caught.value.hint


def test_the_nearest_names_the_limit_that_is_in_the_way(accuracy):
    """Only what has to grow grows: a feasible latency stays as it was asked for."""
    with pytest.raises(InfeasibleBudget) as caught:
        chosen_at(Budget(latency_ms=50.0, size_bytes=1000), DrawnLatency(3), accuracy)
    smallest = min(subnet.cost.weight_bytes for subnet in listed(SMALL))
    assert caught.value.details["needed"] == {"latency_ms": 50.0, "size_bytes": smallest}


def test_the_default_budget_is_feasible_and_leaves_a_choice(accuracy):
    latency = DrawnLatency(5, width=0.05)
    front = exact_front(SMALL, latency, accuracy, SMALL.resolutions)
    budget = default_budget(front, latency.margin())
    chosen = chosen_at(budget, latency, accuracy)
    assert chosen.selection.latency_ms.high <= budget.latency_ms
    assert front.latency_ms[0] * 1.05 < budget.latency_ms < front.latency_ms[-1] * 1.05
    digits = f"{budget.latency_ms:g}".replace(".", "").lstrip("0")
    assert len(digits) <= 3


def test_a_front_of_nothing_has_no_default_budget(accuracy):
    front = exact_front(SMALL, DrawnLatency(1, failed=1.1), accuracy, SMALL.resolutions)
    with pytest.raises(BadFile, match="no subnet can run"):
        default_budget(front, 0.0)


def test_resolutions_are_those_both_tables_know(accuracy):
    assert accuracy.resolutions == (17, 32)
    assert shared_resolutions((64, 32, 24, 17, 8), accuracy) == (17, 24, 32)
    with pytest.raises(UsageError, match=r"of resolutions 8, 64, the accuracy table of 17\.\.32"):
        shared_resolutions((64, 8), accuracy)


def test_the_real_models_on_ofa_lite0():
    """A latency model calibrated on twelve networks, an accuracy model fitted on sixty: chosen within the bound, and
    read back from its file as it was."""
    rng = np.random.default_rng(0)
    blocks = OFA_LITE0.distinct_blocks(OFA_LITE0.resolutions)
    times = BlockTimes({b.key: (block_macs(b) / 2e7 + 0.01) * rng.uniform(0.9, 1.1) for b in blocks})
    networks = [OFA_LITE0.blocks(OFA_LITE0.sample(rng)) for _ in range(12)]
    sums = np.array([sum(times.get(block).ms for block in network) for network in networks])
    weights = np.array([cost(network).weight_bytes / 1e6 for network in networks])
    features = np.stack([np.ones(12), sums, weights], axis=1)
    fit = fit_terms(features, (0.3 + 1.1 * sums + 0.05 * weights) * rng.normal(1, 0.01, 12))
    latency = LatencyModel(times, fit, OFA_LITE0, OFA_LITE0.resolutions)
    archs = [OFA_LITE0.sample(rng) for _ in range(60)]
    correct = [round(1000 - 3000 / cost(OFA_LITE0.blocks(arch)).macs ** 0.15) for arch in archs]
    accuracy = AdditiveAccuracy.fit_measured(Rows.of(OFA_LITE0, archs, correct, [1000] * 60))
    sizes = shared_resolutions(latency.resolutions, accuracy)
    budget = default_budget(exact_front(OFA_LITE0, latency, accuracy, sizes), latency.margin())
    selection = choose(CostModels(OFA_LITE0, latency, sizes), accuracy, budget, inputs=INPUTS).selection
    own = latency.estimate(OFA_LITE0.blocks(selection.arch))
    assert selection.latency_ms.high == pytest.approx(own.high, abs=1e-8)
    assert own.value < own.high <= budget.latency_ms
    assert selection.proven_optimal
    assert selection.bound == selection.top1.value
    assert Selection.from_bytes(selection.to_bytes(), "it") == selection
