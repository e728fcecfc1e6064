"""The program's optimum is the best of all subnets that keep the limits, whatever limits, and a bound is a bound."""

from __future__ import annotations

import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import CostTables
from ofa_edge.search.exact import milp
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.exact.milp import optimum
from ofa_edge.search.exact.program import Layout, Program
from ofa_edge.search.exact.relaxation import relaxations
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.exact.top import best_front
from ofa_edge.search.limits import Limits
from ofa_edge.space.spaces import OFA_LITE0
from tests.search.budgets import SEEDS, budgets, fits, fitting, nothing_runs, uses_of
from tests.search.doubles import COUPLED, REDUCED, SMALL, DrawnEnergy, DrawnLatency, PlacedScores, listed

STEPS = st.sampled_from([2**-4, 2**-20])  # many ties, hardly any


def assert_optimal(found, scores, kept):
    """The best of the subnets that keep the budget, or the proof that there is none."""
    assert found.proven_optimal
    if not kept:
        assert (found.arch, found.score, found.bound) == (None, -math.inf, -math.inf)
        return
    best = max(scores.score(subnet.arch) for subnet in kept)
    assert found.score == pytest.approx(best, abs=1e-11)
    assert found.bound == found.score
    assert found.arch in [subnet.arch for subnet in kept]
    assert scores.score(found.arch) == pytest.approx(found.score, abs=1e-11)


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=lambda space: space.name)
@given(
    seed=SEEDS, step=STEPS, margin=st.sampled_from([0.0, 0.07]), core=st.sampled_from([6, 20, 10**6]), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_equals_listing_under_any_limits(space, seed, step, margin, core, data):
    latency = DrawnLatency(seed, failed=data.draw(st.sampled_from([0.0, 0.02])))
    energy, scores = DrawnEnergy(seed), PlacedScores(seed, step, space)
    if nothing_runs(space, latency):
        return
    budget = data.draw(budgets(space, latency, energy, margin, 0.04))
    kept = fitting(space, latency, energy, budget, margin, 0.04)
    found = optimum(
        space,
        CostTables(space, latency, energy),
        scores,
        space.resolutions,
        budget,
        margin,
        energy_margin=0.04,
        core=core,
    )
    assert_optimal(found, scores, kept)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_exact_front_over_148176_subnets(seed):
    latency, scores, energy = DrawnLatency(seed), PlacedScores(seed, space=REDUCED), DrawnEnergy(seed)
    rng = np.random.default_rng(seed)
    archs = [REDUCED.sample(rng) for _ in range(5)]
    used = [uses_of(_Listed(REDUCED, arch), latency, energy) for arch in archs]
    budget = Budget(**{field: use[field] for field, use in zip(used[0], used, strict=True)})
    front = exact_front(REDUCED, CostTables(REDUCED, latency, energy), scores, REDUCED.resolutions, budget)
    fast = front.score[front.latency_ms <= budget.latency_ms]
    found = optimum(REDUCED, CostTables(REDUCED, latency, energy), scores, REDUCED.resolutions, budget, core=10)
    assert found.proven_optimal
    assert found.score == (pytest.approx(fast.max(), abs=1e-11) if len(fast) else -math.inf)
    if found.arch is not None:
        assert fits(uses_of(_Listed(REDUCED, found.arch), latency, energy), replace(budget, latency_ms=1e9))


class _Listed:
    def __init__(self, space, arch):
        from ofa_edge.space.cost import cost

        self.arch, self.blocks = arch, space.blocks(arch)
        self.cost = cost(self.blocks)


def test_on_ofa_lite0_resolutions_that_cannot_win_are_not_solved():
    latency, scores = DrawnLatency(1), PlacedScores(1, space=OFA_LITE0)
    front = exact_front(OFA_LITE0, latency, scores, OFA_LITE0.resolutions)
    limit = float(front.latency_ms[len(front) // 2])
    found = optimum(OFA_LITE0, latency, scores, OFA_LITE0.resolutions, Budget(latency_ms=limit + 1e-9))
    assert found.score == pytest.approx(front.score[len(front) // 2], abs=1e-10)
    assert 1 <= found.programs < len(OFA_LITE0.resolutions)


def test_a_time_limit_leaves_a_bound_and_no_proof():
    latency, scores = DrawnLatency(2), PlacedScores(2)
    budget = Budget(latency_ms=8.0, macs=500_000)
    best = optimum(SMALL, latency, scores, SMALL.resolutions, budget)
    assert best.proven_optimal
    found = optimum(SMALL, latency, scores, SMALL.resolutions, budget, max_seconds=0.0)
    assert (found.arch, found.score, found.proven_optimal) == (None, -math.inf, False)
    assert best.score <= found.bound < math.inf


@given(seed=SEEDS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_relaxation_bounds_every_subnet_and_its_losses_add_up(seed, data):
    space = data.draw(st.sampled_from([SMALL, COUPLED]))
    latency, energy, scores = DrawnLatency(seed), DrawnEnergy(seed), PlacedScores(seed, space=space)
    budget = data.draw(budgets(space, latency, energy))
    places = PlaceScores.of(space, scores, space.resolutions)
    found = {
        r.program.resolution: r
        for r in relaxations(space, CostTables(space, latency, energy), places, Limits.of(budget))
    }
    kept = fitting(space, latency, energy, budget)
    for subnet in kept[:: max(1, len(kept) // 20)]:
        relaxed = found[subnet.arch.resolution]
        chosen = chosen_of(relaxed.program, subnet.arch)
        lost = relaxed.losses[chosen].sum()
        assert scores.score(subnet.arch) <= relaxed.bound - lost + 1e-9


def chosen_of(program, arch):
    """Numbers of the variables that are an arch."""
    layout, space = program.layout, program.layout.space
    numbers = [c.index(w) for c, w in zip(space.width_choices, arch.widths, strict=True)] or [0] * (
        len(space.stages) + 2
    )
    wanted = {(0, numbers[0], numbers[1], space.stem.depths.index(arch.stem_depth), 0, 0, 0)}
    wanted |= {(1, p, n, 0, 0, 0, 0) for p, n in enumerate(numbers[1:])}
    for s, (stage, choice) in enumerate(zip(space.stages, arch.stages, strict=True)):
        before, after, d = numbers[s + 1], numbers[s + 2], stage.depths.index(len(choice))
        wanted.add((2, s, d, after, 0, 0, 0))
        for i, block in enumerate(choice):
            code = 1 + stage.kernels.index(block.kernel) * len(stage.expands) + stage.expands.index(block.expand)
            wanted.add((3, s, d, i, code, before if i == 0 else 0, after))
    names = [(int(k), *map(int, at)) for k, at in zip(layout.kind, layout.at, strict=True)]
    chosen = np.array([j for j, variable in enumerate(program.variables) if names[variable] in wanted])
    assert len(chosen) == len(wanted)
    return chosen


@given(seed=SEEDS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_program_holds_every_subnet_with_its_costs(seed, data):
    space = data.draw(st.sampled_from([SMALL, COUPLED]))
    subnet = data.draw(st.sampled_from(listed(space)))
    latency, energy, scores = DrawnLatency(seed), DrawnEnergy(seed), PlacedScores(seed, space=space)
    places = PlaceScores.of(space, scores, space.resolutions)
    costs = CostTables(space, latency, energy).at(subnet.arch.resolution)
    program = Program.of(Layout.of(space), costs, places, Limits(latency=10**15))
    chosen = chosen_of(program, subnet.arch)
    assert program.arch(chosen) == subnet.arch
    ps, _, macs, size, peak, nj, held = program.costs_of(chosen)[0]
    assert (macs, size, peak) == (subnet.cost.macs, subnet.cost.weight_bytes, subnet.cost.peak_activation_bytes)
    assert held == size
    assert ps / 1e9 == pytest.approx(latency.value(subnet.blocks), abs=1e-7)
    assert nj / 1e6 == pytest.approx(energy.value(subnet.blocks), abs=1e-4)
    assert program.scores[chosen].sum() + program.constant == pytest.approx(scores.score(subnet.arch), abs=1e-9)
    x = np.zeros(len(program) + 1)
    x[chosen] = 1
    assert np.allclose(program.equations @ x, program.layout.right)


def test_what_is_missing_is_said():
    latency, scores = DrawnLatency(1), PlacedScores(1)
    with pytest.raises(UsageError, match="energy limit needs") as caught:
        optimum(SMALL, latency, scores, SMALL.resolutions, Budget(energy_mj=3.0))
    assert "ofa-edge profile --energy" in caught.value.hint
    with pytest.raises(UsageError, match="no resolution"):
        optimum(SMALL, latency, scores, (), Budget(latency_ms=3.0))


@pytest.mark.parametrize("field", ["latency_ms", "energy_mj"])
def test_limits_of_any_size_are_limits(field):
    """One of less than a unit, which nothing keeps, and the greatest there may be, which everything does."""
    latency, scores, energy = DrawnLatency(1), PlacedScores(1), DrawnEnergy(1)
    for limit, searched in ((1e-11, None), (1e15, max(scores.score(subnet.arch) for subnet in listed(SMALL)))):
        budget = Budget(**{field: limit}, macs=10**15, size_bytes=10**15, memory_bytes=10**15)
        found = optimum(
            SMALL, CostTables(SMALL, latency, energy), scores, SMALL.resolutions, budget, 0.1, energy_margin=0.1
        )
        front, _ = best_front(
            SMALL, CostTables(SMALL, latency, energy), scores, SMALL.resolutions, Limits.of(budget, 0.1, 0.1)
        )
        assert found.proven_optimal
        assert found.score == (-math.inf if searched is None else pytest.approx(searched, abs=1e-11))
        assert (len(front) == 0) == (searched is None)
        exact_front(SMALL, CostTables(SMALL, latency, energy), scores, SMALL.resolutions, budget)


def test_nothing_runs_nothing_is_found():
    found = optimum(SMALL, DrawnLatency(1, failed=1.1), PlacedScores(1), SMALL.resolutions, Budget(latency_ms=99.0))
    assert (found.arch, found.proven_optimal, found.bound) == (None, True, -math.inf)


def test_what_the_solver_prints_does_not_reach_stdout(capfd):
    with milp._nothing_printed():
        os.write(1, b"written")
        ctypes.CDLL(None).puts(b"left in the buffer of C's library")
    print("data")
    assert capfd.readouterr().out == "data\n"


def test_several_threads_leave_stdout_as_it_was(capfd):
    """Each turns it away and back: in turn, or the last one would bring back what another had turned away."""

    def work(number):
        for _ in range(50):
            with milp._nothing_printed():
                os.write(1, b"written")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    print("data")
    assert capfd.readouterr().out == "data\n"
