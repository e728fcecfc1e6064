"""Tables of whole networks alone: the design, the ridge, and that every command can use such a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agents import wire
from ofa_edge.errors import BadFile, DeviceLost, OfaEdgeError
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.models import network_model, relative_ridge
from ofa_edge.latency.models.network_model import NetworkModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.plan import nested, network_key
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.space.arch import Arch
from tests.latency.helpers import SPACE, device_for, plan_of, profile, row_problems, task
from tests.search.doubles import SMALL, DrawnScores, front_by_listing, listed
from tests.simulated import Law, SimulatedDevice

SIZES = (96, 128)
SETTINGS = PlanSettings(seed=1, quick=False, networks=40, holdout=10, predictor="network")
WORK = task(SETTINGS, SIZES)
# Where it does not matter which networks: making the files of these takes no time.
SMALL_WORK = replace(
    WORK,
    space=SMALL,
    resolutions=SMALL.resolutions,
    settings=PlanSettings(seed=1, quick=False, networks=20, holdout=2, predictor="network"),
)
LAW = Law()


def draw(count: int, seed: int = 0) -> tuple[Arch, ...]:
    return nested(SPACE, SIZES, count, np.random.default_rng(seed))


def fitted(archs: Sequence[Arch], noise: float, seed: int, law: Law = LAW) -> NetworkModel:
    rng = np.random.default_rng(seed)
    networks = [SPACE.blocks(arch) for arch in archs]
    latencies = np.array([law.network(blocks) for blocks in networks]) * np.exp(noise * rng.normal(size=len(archs)))
    columns, ridge = network_model.fit(SPACE.distinct_blocks(SIZES), networks, latencies)
    return NetworkModel(SPACE, SIZES, columns, ridge, reference_ms=None, anchor_spread=0.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, SimulatedDevice]:
    device = device_for(WORK, noise=0.01, law=LAW)
    return profile(tmp_path_factory.mktemp("networks") / "t.jsonl", device, WORK), device


@pytest.fixture(scope="module")
def path(measured: tuple[Outcome, SimulatedDevice]) -> Path:
    return Path(measured[0].table.path)


# -- the design -----------------------------------------------------------------------------------
def test_fewer_networks_are_the_beginning_of_more() -> None:
    assert draw(60)[:25] == draw(25)
    assert len(set(draw(60))) == 60
    assert draw(25, seed=1) != draw(25)
    few, many = (plan_of(task(SETTINGS.model_copy(update={"networks": n, "holdout": 0}), SIZES)) for n in (10, 30))
    assert many.networks[:10] == few.networks


def test_the_first_networks_see_every_value_of_every_axis_and_both_ends() -> None:
    archs = draw(20)
    assert {SPACE.smallest(96), SPACE.largest(128)} <= set(archs)
    assert sorted(arch.resolution for arch in archs).count(96) == 10
    for s, stage in enumerate(SPACE.stages):
        assert {len(arch.stages[s]) for arch in archs} == set(stage.depths)
        for i in range(min(2, stage.max_depth)):
            seen = {arch.stages[s][i] for arch in archs if len(arch.stages[s]) > i}
            assert {choice.kernel for choice in seen} == set(stage.kernels)
            assert {choice.expand for choice in seen} == set(stage.expands)


def test_a_plan_of_networks_has_no_block_and_no_sentinel() -> None:
    plan = plan_of(WORK)
    assert (plan.blocks, plan.sentinel, plan.predicted) == ((), None, ())
    assert [n.role for n in plan.networks].count("calibration") == 40
    assert [n.role for n in plan.networks].count("holdout") == 10
    assert len({n.arch for n in plan.networks}) == 50


# -- the model ------------------------------------------------------------------------------------
def test_without_noise_an_additive_device_is_recovered() -> None:
    model = fitted(draw(120), 0.0, 0)
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(60):
        blocks = SPACE.blocks(SPACE.sample(rng, int(rng.choice(SIZES))))
        errors.append(abs(model.estimate(blocks).value / LAW.network(blocks) - 1))
    assert max(errors) < 0.01
    assert np.mean(errors) < 0.003


@pytest.mark.slow
def test_intervals_cover_what_they_say_and_leave_one_out_tells_the_error() -> None:
    """Over ten designs: the shares of single ones scatter by 4 %."""
    covered, errors, told = [], [], []
    for seed in range(10):
        model = fitted(draw(40, seed), 0.015, seed)
        rng = np.random.default_rng(100 + seed)
        for _ in range(40):
            blocks = SPACE.blocks(SPACE.sample(rng, int(rng.choice(SIZES))))
            measured = LAW.network(blocks) * float(np.exp(0.015 * rng.normal()))
            estimate = model.estimate(blocks)
            assert estimate.low is not None
            assert estimate.high is not None
            covered.append(estimate.low <= measured <= estimate.high)
            errors.append(estimate.value / measured - 1)
        told.append(model.fit.loo_error)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert 0.7 < np.sqrt(np.mean(np.square(errors))) / np.mean(told) < 1.5


def test_two_hundred_networks_are_fitted_while_one_waits() -> None:
    archs = draw(200)
    fitted(archs[:20], 0.01, 0)  # what is loaded on the first call
    start = time.process_time()
    fitted(archs, 0.01, 0)
    assert time.process_time() - start < 5  # .4 s alone on a core; a bound that only a wrong method misses


def test_every_block_takes_some_time_and_shorter_networks_less() -> None:
    for seed in range(3):
        model = fitted(draw(30, seed), 0.05, seed)
        assert min(model.block_ms(block) for block in SPACE.distinct_blocks(SIZES)) > 0


@pytest.mark.parametrize("left_out", [0, 3, 11])
def test_leave_one_out_in_closed_form_is_a_refit_without_the_network(left_out: int) -> None:
    rng = np.random.default_rng(0)
    columns = np.abs(rng.normal(1, 0.3, (12, 5)))
    latencies = columns @ np.array([1.0, 2, 0.5, 1, 3]) * np.exp(0.05 * rng.normal(size=12))
    mean, width, strength = np.ones(5), np.array([1.0, 1, 0.5, 0.5, 2]), 0.3
    rows = columns / latencies[:, None]
    way = next(w for w in relative_ridge.ways(rows, mean, width, (strength,)))
    kept = np.delete(rows, left_out, axis=0)
    scaled = kept * width
    weights = np.linalg.solve(scaled.T @ scaled + strength * np.eye(5), scaled.T @ (1 - kept @ mean))
    again = mean + width * weights
    assert way.left_out[left_out] == pytest.approx(1 - rows[left_out] @ again, abs=1e-9)


# -- campaigns ------------------------------------------------------------------------------------
def test_a_campaign_of_networks_measures_each_in_a_fresh_process_and_no_block(
    measured: tuple[Outcome, SimulatedDevice],
) -> None:
    outcome, device = measured
    assert outcome.finished
    assert all(fresh and key.startswith("network:") for key, fresh in device.asked)
    assert len(device.asked) == 50
    value = outcome.as_json()
    distinct = len(SPACE.distinct_blocks(SIZES))
    assert value["blocks"] == {"distinct": distinct, "measured": 0, "predicted": distinct, "failed": 0}
    assert value["networks"] == 50
    assert {"terms", "loo_error_pct", "loo_mape_pct", "loo_worst_pct", "loo_covered"} <= value["fit"].keys()
    assert value["held_out"]["mape_pct"] < 4
    assert 0.6 <= value["held_out"]["covered"] <= 1
    assert row_problems(outcome.table) == []
    assert outcome.table.header.plan.predictor == "network"


def test_the_file_holds_measurements_and_the_model_comes_from_them_alone(path: Path) -> None:
    table = LatencyTable.read(path)
    assert {row["record"] for row in table.contents.rows} == {"session", "network", "fit"}
    first, second = (model_of(LatencyTable.read(path)) for _ in range(2))
    assert isinstance(first, NetworkModel)
    arch = SPACE.smallest(96)
    assert first.predict([arch]) == second.predict([arch])
    (prediction,) = first.predict([arch])
    assert prediction.missing == ()
    assert prediction.latency is not None
    assert first.reference_ms == pytest.approx(LAW.network(SPACE.blocks(first.anchor)), rel=0.02)
    assert first.anchor == plan_of(WORK).anchor


@pytest.mark.parametrize("after", [1, 9, 21])
def test_a_lost_device_costs_no_network_that_was_measured(tmp_path: Path, after: int) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(SMALL_WORK, lose_after=after, law=LAW)
    with pytest.raises(DeviceLost):
        profile(path, device, SMALL_WORK)
    assert len(LatencyTable.read(path).networks) == after
    assert profile(path, device, SMALL_WORK, resume=True).finished
    asked = [key for key, _ in device.asked]
    assert len(asked) == len(set(asked)) == 22


def test_disturbed_networks_are_measured_again_when_the_anchor_says_that_it_is_quiet(tmp_path: Path) -> None:
    def busy(key: str, before: int) -> tuple[str, ...]:
        return ("preempted",) if before == 0 and len(device.asked) == 15 else ()

    device = device_for(SMALL_WORK, flags=busy, law=LAW)
    outcome = profile(tmp_path / "t.jsonl", device, SMALL_WORK)
    assert len(outcome.table.contents.of("network")) == 23
    assert [key for key, fresh in device.asked if not fresh] == [network_key(SMALL, plan_of(SMALL_WORK).anchor)]
    assert not outcome.table.networks["disturbed"].any()


def test_a_block_that_only_other_numbers_of_classes_have_is_predicted_too(path: Path) -> None:
    model = model_of(LatencyTable.read(path))
    blocks = list(SPACE.with_classes(7).blocks(SPACE.smallest(96)))
    usual = model.estimate(SPACE.blocks(SPACE.smallest(96))).value
    assert 0.7 * usual < model.estimate(blocks).value < usual


def test_a_network_that_crashes_is_a_failed_row_and_too_few_say_so(tmp_path: Path) -> None:
    settings = PlanSettings(seed=1, quick=False, networks=4, predictor="network")
    work = replace(SMALL_WORK, settings=settings)
    device = device_for(work, law=LAW)
    keys = [network_key(SMALL, network.arch) for network in plan_of(work).networks]
    crashing = device_for(work, law=LAW, crashes=frozenset(keys[:1]))
    with pytest.raises(BadFile, match="holds 3 measured networks"):
        profile(tmp_path / "t.jsonl", crashing, work)
    with pytest.raises(OfaEdgeError, match="no network could be measured: simulated"):
        profile(tmp_path / "u.jsonl", device_for(work, law=LAW, crashes=frozenset(keys)), work)
    assert profile(tmp_path / "t.jsonl", device, work, resume=True).finished


# -- search ---------------------------------------------------------------------------------------
def test_the_exact_front_of_a_network_table_is_that_of_listing_every_subnet(tmp_path: Path) -> None:
    profile(tmp_path / "t.jsonl", device_for(SMALL_WORK, noise=0.01, law=LAW), SMALL_WORK)
    model = model_of(LatencyTable.read(tmp_path / "t.jsonl"))
    assert isinstance(model, NetworkModel)
    scores = DrawnScores(3)
    front = exact_front(SMALL, model, scores, SMALL.resolutions)
    points = [(model.estimate(one.blocks).value, scores.score(one.arch), one.arch) for one in listed(SMALL)]
    expected = front_by_listing(points)
    assert len(expected) > 3
    assert [front.arch(i) for i in range(len(front))] == [arch for _, _, arch in expected]
    assert front.latency_ms.tolist() == pytest.approx([ms for ms, _, _ in expected], abs=1e-8)


def test_noise_of_a_network_row_is_kept(path: Path) -> None:
    (row, *_) = LatencyTable.read(path).contents.of("network")
    assert set(row["noise"]) == set(wire.Noise.__dataclass_fields__)
