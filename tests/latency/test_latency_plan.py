"""A plan is a pure function of its settings and covers what it must."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ofa_edge.errors import UsageError
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.informative import MOST
from ofa_edge.latency.plan import FULL, QUICK, make_plan, middle, network_key
from ofa_edge.space.arch import Space
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0 as SPACE
from ofa_edge.space.spaces import SPACES

SETTINGS = PlanSettings(seed=3, quick=False, networks=12, holdout=5)
PLAN = make_plan(SPACE, SPACE.resolutions, SETTINGS)


def macs(arch: object) -> float:
    return cost(SPACE.blocks(arch)).macs  # type: ignore[arg-type]


def test_every_different_block_is_planned_once() -> None:
    assert sorted(PLAN.blocks, key=lambda b: b.key) == sorted(
        SPACE.distinct_blocks(SPACE.resolutions), key=lambda b: b.key
    )
    assert PLAN.sentinel in PLAN.blocks


def test_equal_settings_draw_equal_plans_and_seeds_differ() -> None:
    assert make_plan(SPACE, SPACE.resolutions, SETTINGS) == PLAN
    assert make_plan(SPACE, tuple(reversed(SPACE.resolutions)), SETTINGS) == PLAN
    other = make_plan(SPACE, SPACE.resolutions, SETTINGS.model_copy(update={"seed": 4}))
    assert other.blocks != PLAN.blocks
    assert other.networks != PLAN.networks
    assert (other.anchor, other.sentinel) == (PLAN.anchor, PLAN.sentinel)


def test_the_order_is_not_the_order_of_sizes() -> None:
    sizes = [block.in_size for block in PLAN.blocks]
    places = np.arange(len(sizes))
    assert abs(np.corrcoef(places, sizes)[0, 1]) < 0.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [8, 12, 20])
def test_calibration_networks_spread_over_sizes_and_resolutions(seed: int, count: int) -> None:
    plan = make_plan(SPACE, SPACE.resolutions, PlanSettings(seed=seed, quick=False, networks=count))
    archs = [network.arch for network in plan.networks]
    assert len(set(archs)) == count
    assert SPACE.smallest() in archs
    assert SPACE.largest() in archs
    assert {arch.resolution for arch in archs} == set(SPACE.resolutions)
    logs = sorted(math.log(macs(arch)) for arch in archs)
    assert max(np.diff(logs)) < 0.45 * (logs[-1] - logs[0])
    # Sum of blocks and weight bytes are two terms of the fit: they must not be one.
    weights = [cost(SPACE.blocks(arch)).weight_bytes for arch in archs]
    assert np.corrcoef([macs(arch) for arch in archs], weights)[0, 1] < 0.95


def test_holdout_networks_are_random_archs_that_are_not_fitted() -> None:
    held = [network.arch for network in PLAN.networks if network.role == "holdout"]
    fitted = [network.arch for network in PLAN.networks if network.role == "calibration"]
    assert (len(held), len(fitted)) == (5, 12)
    assert not set(held) & set(fitted)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_networks(count: int) -> None:
    plan = make_plan(SPACE, (96,), PlanSettings(seed=0, quick=True, networks=count))
    assert len(plan.networks) == count
    if count >= 2:
        assert {SPACE.smallest(96), SPACE.largest(96)} <= {network.arch for network in plan.networks}


def test_the_anchor_is_of_middle_size_at_the_middle_resolution() -> None:
    assert PLAN.anchor == middle(SPACE, SPACE.resolutions)
    assert PLAN.anchor.resolution == 128
    assert macs(SPACE.smallest(128)) < macs(PLAN.anchor) < macs(SPACE.largest(128))


def test_later_rounds_have_the_same_blocks_in_orders_of_their_own() -> None:
    orders = [PLAN.order(r) for r in range(3)]
    assert orders[0] == PLAN.blocks
    assert {frozenset(order) for order in orders} == {frozenset(PLAN.blocks)}
    assert len(set(orders)) == 3
    assert [make_plan(SPACE, SPACE.resolutions, SETTINGS).order(r) for r in range(3)] == orders


def test_quick_takes_less_time() -> None:
    quick = make_plan(SPACE, SPACE.resolutions, SETTINGS.model_copy(update={"quick": True}))
    assert quick.networks == PLAN.networks
    assert (quick.effort, PLAN.effort) == (QUICK, FULL)
    assert QUICK.rounds < FULL.rounds
    assert QUICK.network_seconds < FULL.network_seconds


def test_a_quick_plan_measures_80_blocks_and_predicts_the_others() -> None:
    quick = make_plan(SPACE, SPACE.resolutions, SETTINGS.model_copy(update={"quick": True}))
    assert len(quick.blocks) == MOST == 80
    assert not set(quick.blocks) & set(quick.predicted)
    assert {*quick.blocks, *quick.predicted} == set(PLAN.blocks)
    assert quick.sentinel in quick.blocks
    assert PLAN.predicted == ()
    other = make_plan(SPACE, SPACE.resolutions, SETTINGS.model_copy(update={"quick": True, "seed": 9}))
    assert set(other.blocks) == set(quick.blocks)
    assert other.blocks != quick.blocks
    assert make_plan(SPACE, (96,), SETTINGS.model_copy(update={"quick": True})).predicted == ()


def test_a_resolution_outside_the_space_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="resolution 100 is not in space ofa-lite0"):
        make_plan(SPACE, (96, 100), SETTINGS)
    with pytest.raises(UsageError, match="without resolutions"):
        make_plan(SPACE, (), SETTINGS)


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_plans_of_every_space_spread_over_its_subnets(space: Space) -> None:
    resolutions = space.resolutions[:2]
    plan = make_plan(space, resolutions, PlanSettings(seed=1, quick=True, networks=8, holdout=3))
    archs = [network.arch for network in plan.networks]
    assert len(set(archs)) == 11
    for arch in (plan.anchor, *archs):
        space.check(arch)
    assert {space.smallest(resolutions[0]), space.largest(resolutions[1])} <= set(archs)
    assert {block for arch in archs for block in space.blocks(arch)} <= {*plan.blocks, *plan.predicted}
    assert len({network_key(space, arch) for arch in archs}) == 11


def test_network_keys_differ_and_fit_the_wire() -> None:
    keys = {network_key(SPACE, network.arch) for network in PLAN.networks}
    assert len(keys) == len(PLAN.networks)
    assert all(len(key) < 400 and key.startswith("network:") for key in keys)
