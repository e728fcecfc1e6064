"""Predictions recover the law they were fitted on; intervals cover as often as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ofa_edge import journal
from ofa_edge.errors import BadFile
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.models.block_model import features, fit_features
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import PLAIN_SUM, LatencyModel, fit_terms
from ofa_edge.latency.plan import make_plan, spread_sample
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import decode
from ofa_edge.space.cost import block_macs, block_ops, block_weight_bytes
from ofa_edge.space.spaces import SPACES
from tests.latency.helpers import SPACE, device_for, profile, task
from tests.simulated import Law

FROZEN = Path(__file__).parents[1] / "formats" / "latency-table-1.0.jsonl"
LAW = Law()
BLOCKS = SPACE.distinct_blocks(SPACE.resolutions)
TIMES = BlockTimes({block.key: LAW.block(block) for block in BLOCKS})
RNG = np.random.default_rng(0)
ARCHS = [SPACE.sample(RNG) for _ in range(25)]


def row(blocks: tuple[Block, ...]) -> list[float]:
    return [1.0, sum(map(LAW.block, blocks)), sum(map(block_weight_bytes, blocks)) / 1e6]


def long_row(blocks: Sequence[Block]) -> list[float]:
    """With the columns of operators and SE blocks."""
    return [*row(tuple(blocks)), sum(map(block_ops, blocks)), sum(block.se for block in blocks)]


@cache
def calibration_blocks(count: int, seed: int) -> list[tuple[Block, ...]]:
    plan = make_plan(SPACE, SPACE.resolutions, PlanSettings(seed=seed, quick=False, networks=count))
    return [SPACE.blocks(network.arch) for network in plan.networks]


def calibration_rows(count: int, seed: int) -> np.ndarray:
    return np.array([row(blocks) for blocks in calibration_blocks(count, seed)])


def model_of(rows: np.ndarray, latencies: np.ndarray, times: BlockTimes = TIMES) -> LatencyModel:
    return LatencyModel(times, fit_terms(rows, latencies), SPACE, SPACE.resolutions)


# -- the fit --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "law",
    [(0.0, 1.2, 0.0), (0.2, 0.9, 0.0), (0.0, 1.1, 0.03), (-0.05, 1.1, 0.03)],
    ids=["scale", "offset", "bytes", "both"],
)  # fmt: skip
def test_a_law_without_noise_is_recovered_exactly(law: tuple[float, float, float]) -> None:
    rows = calibration_rows(12, 0)
    model = model_of(rows, rows @ np.array(law))
    assert model.offset_ms == pytest.approx(law[0], abs=1e-9)
    assert model.fit.coefficient("scale") == pytest.approx(law[1])
    assert model.fit.coefficient("bytes") == pytest.approx(law[2], abs=1e-9)


@pytest.mark.slow
def test_noise_buys_no_terms_that_the_law_does_not_have() -> None:
    rows = calibration_rows(12, 0)
    rng = np.random.default_rng(1)
    kept = [fit_terms(rows, 1.2 * rows[:, 1] * rng.normal(1, 0.012, 12)).terms for _ in range(200)]
    assert sum(terms == ("scale",) for terms in kept) > 120


# Offset, scale, weight bytes, operators, SE: quiet CPUs, and a GPU whose launches cost more than its work.
@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [(0.0, 1.2, 0.0, 0, 0), (0.0, 1.1, 0.03, 0, 0), (-0.05, 1.1, 0.03, 0, 0), (0.02, 0.3, 0, 0.02, 0)],
    ids=["scale", "bytes", "both", "launches"],
)
@pytest.mark.parametrize("count", [12, 20])
def test_the_95_percent_interval_covers_new_networks(count: int, law: tuple[float, ...]) -> None:
    """However many terms were tried; and the share that leave-one-out says is the share of new networks."""
    rng = np.random.default_rng(count)
    calibration = [np.array([long_row(b) for b in calibration_blocks(count, seed)]) for seed in range(4)]
    new = [SPACE.blocks(arch) for arch in ARCHS]
    truth = np.array([long_row(blocks) for blocks in new]) @ np.array(law)
    covered, said, widths = [], [], []
    for i in range(40):
        rows = calibration[i % 4]
        model = model_of(rows, rows @ np.array(law) * rng.normal(1, 0.012, len(rows)))
        assert model.fit.left_out is not None
        said.append(model.fit.left_out.covered)
        for blocks, latency in zip(new, truth * rng.normal(1, 0.012, len(new)), strict=True):
            estimate = model.estimate(blocks)
            assert estimate.low is not None
            assert estimate.high is not None
            covered.append(estimate.low <= latency <= estimate.high)
            widths.append(estimate.high / estimate.value - 1)
    assert 0.91 <= np.mean(covered) <= 0.99
    assert 0.92 <= np.mean(said) <= 0.99
    assert np.mean(widths) < 0.05


def test_operators_count_where_launches_cost_and_only_from_12_networks_on() -> None:
    law = np.array([0.02, 0.3, 0.0, 0.02, 0.0])
    for count, kept in ((12, True), (10, False)):
        rows = np.array([long_row(blocks) for blocks in calibration_blocks(count, 1)])
        model = model_of(rows, rows @ law)
        assert ("ops" in model.fit.terms) == kept
        assert any("ops" in terms for terms, _ in model.fit.tried) == kept
        errors = [model.estimate(SPACE.blocks(a)).value / (np.array(long_row(SPACE.blocks(a))) @ law) for a in ARCHS]
        assert (np.max(np.abs(np.array(errors) - 1)) < 1e-6) == kept
    blocks = SPACE.blocks(ARCHS[0])
    model = model_of(rows := np.array([long_row(b) for b in calibration_blocks(12, 1)]), rows @ law)
    total = model.offset_ms + sum(model.block_ms(block) for block in blocks)
    assert model.estimate(blocks).value == pytest.approx(total)


def test_the_fit_says_what_it_tried_and_how_it_predicts_networks_it_has_not_seen() -> None:
    rows = np.array([long_row(blocks) for blocks in calibration_blocks(12, 0)])
    noise = np.random.default_rng(7).normal(1, 0.012, 12)
    fit = fit_terms(rows, 1.1 * rows[:, 1] * noise)
    said = fit.as_json()
    tried = {tuple(one["terms"]): one["loo_error_pct"] for one in said["tried"]}
    assert fit.terms in tried
    assert ("scale",) in tried
    assert 0.5 < said["mape_pct"] <= said["loo_error_pct"] <= said["worst_pct"] < 5
    assert 0.8 <= said["covered"] <= 1
    # The choice is part of what is left out: the best of the tried errors flatters itself.
    assert said["loo_error_pct"] >= min(tried.values())


def test_blocks_known_worse_than_those_of_the_calibration_widen_the_interval_and_only_then() -> None:
    rows = calibration_rows(12, 0)
    latencies = 1.1 * rows[:, 1] * np.random.default_rng(4).normal(1, 0.01, 12)
    arch = SPACE.largest(128)
    own = {block.key for block in SPACE.blocks(arch)}

    def width(errors: dict[str, float], variances: list[float]) -> float:
        times = BlockTimes(TIMES.measured, errors=errors)
        model = LatencyModel(times, fit_terms(rows, latencies, variances), SPACE, SPACE.resolutions)
        estimate = model.estimate(SPACE.blocks(arch))
        return (estimate.high or 0) / estimate.value - 1

    plain = width({}, [])
    worse = width(dict.fromkeys(own, 0.1), [0.0] * 12)
    assert plain < worse < plain + 3 * 0.1  # independent errors: far below their sum
    assert width(dict.fromkeys(own, 0.1), [0.05] * 12) == pytest.approx(plain)


def test_more_confidence_is_a_wider_interval() -> None:
    rows = calibration_rows(12, 0)
    model = model_of(rows, rows[:, 1] * np.random.default_rng(2).normal(1, 0.01, 12))
    blocks = SPACE.blocks(SPACE.largest())
    highs = [model.estimate(blocks, confidence).high or 0 for confidence in (0.5, 0.9, 0.95, 0.99)]
    assert highs == sorted(highs)
    assert highs[0] < highs[-1]


def test_weight_bytes_never_make_a_network_faster() -> None:
    rows = calibration_rows(12, 0)
    model = model_of(rows, rows @ np.array([0.05, 1.1, -0.03]))
    assert model.fit.coefficient("bytes") >= 0
    assert all(model.block_ms(block) > 0 for block in BLOCKS)


def test_networks_that_contradict_the_blocks_give_the_plain_sum() -> None:
    rows = calibration_rows(12, 0)
    assert fit_terms(rows[:, [0, 1, 2]] * [1, 0, 0], np.ones(12)) is PLAIN_SUM


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_networks_give_the_interval_they_can(count: int) -> None:
    rows = calibration_rows(12, 0)[:count]
    model = model_of(rows, 1.3 * rows[:, 1] * np.array([1.0, 1.01, 0.99, 1.0])[:count])
    estimate = model.estimate(SPACE.blocks(SPACE.largest()))
    assert model.calibrated == (count >= 2)
    assert (estimate.high is None) == (count < 2)
    expected = sum(LAW.block(b) for b in SPACE.blocks(SPACE.largest())) * (1.3 if count else 1)
    assert estimate.value == pytest.approx(expected, rel=0.05)


# -- additivity -----------------------------------------------------------------------------------
def test_the_model_is_offset_plus_the_sum_of_blocks() -> None:
    rows = calibration_rows(12, 0)
    model = model_of(rows, rows @ np.array([0.1, 1.1, 0.02]))
    for arch in ARCHS:
        blocks = SPACE.blocks(arch)
        total = model.offset_ms + sum(model.block_ms(block) for block in blocks)
        assert model.estimate(blocks).value == pytest.approx(total)


def test_the_margin_bounds_high_for_subnets_it_has_not_seen() -> None:
    rows = calibration_rows(12, 1)
    model = model_of(rows, rows @ np.array([0.1, 1.1, 0.02]) * np.random.default_rng(3).normal(1, 0.012, 12))
    margin = model.margin()
    assert 0 < margin < 0.08
    assert model.margin(0.99) > margin
    unseen = spread_sample(SPACE, SPACE.resolutions, 150, np.random.default_rng(99))
    for arch in [*ARCHS, *unseen]:
        estimate = model.estimate(SPACE.blocks(arch))
        assert (estimate.high or math.inf) <= estimate.value * (1 + margin) * (1 + 1e-9)


def test_an_uncalibrated_model_has_no_margin_and_says_so() -> None:
    model = LatencyModel(TIMES, PLAIN_SUM, SPACE, SPACE.resolutions)
    assert not model.calibrated
    assert model.margin() == 0


# -- missing and failed blocks --------------------------------------------------------------------
def without(keep: object) -> BlockTimes:
    return BlockTimes({key: ms for key, ms in TIMES.measured.items() if keep(Block.from_key(key))})  # type: ignore[operator]


def test_a_block_between_two_sizes_is_interpolated_in_its_area() -> None:
    times = without(lambda block: block.in_size != 128 // 16)
    gone = [block for block in BLOCKS if block.in_size == 8]
    found = [times.get(block) for block in gone]
    assert {time.source for time in found} == {"interpolated"}
    errors = [time.ms / LAW.block(block) - 1 for time, block in zip(found, gone, strict=True)]
    assert max(map(abs, errors)) < 0.02


def test_a_block_of_no_measured_size_comes_from_what_it_computes() -> None:
    times = without(lambda block: "mid480:" not in block.key)
    gone = [block for block in BLOCKS if "mid480:" in block.key]
    assert {times.get(block).source for block in gone} == {"analytic"}
    errors = [times.get(block).ms / LAW.block(block) - 1 for block in gone]
    assert np.sqrt(np.mean(np.square(errors))) < 2 * times.get(gone[0]).error < 1


def test_missing_blocks_are_listed_and_widen_the_interval() -> None:
    rows = calibration_rows(12, 0)
    latencies = 1.1 * rows[:, 1] * np.random.default_rng(4).normal(1, 0.01, 12)
    arch = SPACE.largest(128)
    full = model_of(rows, latencies)
    gappy = model_of(rows, latencies, without(lambda block: block.in_size != 8))
    (seen,), (filled,) = full.predict([arch]), gappy.predict([arch])
    assert seen.missing == ()
    assert set(filled.missing) == {block.key for block in SPACE.blocks(arch) if block.in_size == 8}
    assert seen.latency is not None
    assert filled.latency is not None
    assert filled.latency.value == pytest.approx(seen.latency.value, rel=0.02)
    assert (filled.latency.high or 0) - filled.latency.value > (seen.latency.high or 0) - seen.latency.value


def test_a_missing_block_is_never_silently_nothing() -> None:
    few = BlockTimes({block.key: 1.0 for block in BLOCKS[:5]})
    with pytest.raises(BadFile, match="measured only 5 blocks"):
        few.get(BLOCKS[40])


def test_work_that_no_measured_block_does_is_not_guessed() -> None:
    times = without(lambda block: block.type != "Conv")
    with pytest.raises(BadFile, match="nothing like Conv with kernel 3 was measured"):
        times.get(BLOCKS[0])


def test_a_failed_block_takes_forever_and_no_estimate_hides_it() -> None:
    arch = SPACE.largest(128)
    bad = SPACE.blocks(arch)[5]
    times = BlockTimes({k: v for k, v in TIMES.measured.items() if k != bad.key}, failed={bad.key: "signal 11"})
    rows = calibration_rows(12, 0)
    model = model_of(rows, 1.1 * rows[:, 1], times)
    assert model.block_ms(bad) == math.inf
    with pytest.raises(BadFile, match="failed on the device: signal 11"):
        model.estimate(SPACE.blocks(arch))
    (prediction,) = model.predict([arch])
    assert prediction.latency is None
    assert prediction.missing == (bad.key,)
    assert math.isfinite(model.margin())


def test_predicted_blocks_are_used_with_their_error_and_not_listed() -> None:
    arch = SPACE.largest(128)
    block = SPACE.blocks(arch)[5]
    times = BlockTimes({k: v for k, v in TIMES.measured.items() if k != block.key}, {block.key: (7.0, 0.1)})
    rows = calibration_rows(12, 0)
    model = model_of(rows, rows[:, 1] * np.random.default_rng(5).normal(1, 0.01, 12), times)
    (prediction,) = model.predict([arch])
    assert prediction.missing == ()
    assert prediction.latency is not None
    assert prediction.latency.value > 7.0
    assert (prediction.latency.high or 0) / prediction.latency.value > 1.1


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_the_features_of_a_block_hold_all_its_macs(space: Space) -> None:
    for block in space.distinct_blocks(space.resolutions[:1]):
        assert features(block)[1:6].sum() * 1e6 == pytest.approx(block_macs(block))


def test_the_features_of_80_blocks_rebuild_a_law_made_of_them() -> None:
    coefficients = np.array([0.004, 0.05, 0.1, 0.13, 0.0, 0.06, 0.02, 0.01, 0, 0, 0, 0])
    rows = np.stack([features(block) for block in BLOCKS])
    times = rows @ coefficients
    some = np.append(np.random.default_rng(6).choice(len(BLOCKS), 79, replace=False), 0)  # 0 is the first layer
    np.testing.assert_allclose(rows @ fit_features(rows[some], times[some]), times, rtol=1e-6)


# -- from a table ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A campaign on a device that gets 10 % slower in 20 s."""
    work = task(PlanSettings(seed=2, quick=True, networks=12, holdout=6), resolutions=(96, 128))
    device = device_for(work, noise=0.01, speed=lambda now: 1 + 0.10 * now / 20)
    return profile(tmp_path_factory.mktemp("campaign") / "t.jsonl", device, work)


def test_a_model_from_a_campaign_predicts_its_holdout_networks(outcome: Outcome) -> None:
    assert outcome.held_out is not None
    assert outcome.held_out.networks == 6
    assert outcome.held_out.mape < 0.03
    fit = outcome.table.contents.of("fit")[-1]
    assert fit["held_out"]["mape_pct"] == pytest.approx(100 * outcome.held_out.mape)
    assert fit["reference_ms"] == outcome.fitted.reference_ms
    assert outcome.fitted.reference_ms == pytest.approx(LAW.network(SPACE.blocks(outcome.fitted.anchor)), rel=0.6)
    assert outcome.fitted.anchor == make_plan(SPACE, (96, 128), outcome.table.header.plan).anchor


def test_drift_is_removed_from_blocks_and_does_not_reach_the_anchored_networks(outcome: Outcome) -> None:
    assert "drift" in [notice.code for notice in outcome.notices]
    table, model = outcome.table, outcome.fitted
    rows = table.contents.of("block")
    true = np.array([LAW.block(Block.from_key(row["key"])) for row in rows])
    at = np.array([row["at"] for row in rows])
    raw = np.array([row["median"] for row in rows]) / true
    clean = np.array([model.times.measured[row["key"]] for row in rows]) / true
    assert np.polyfit(at, raw, 1)[0] > 0.004
    assert abs(np.polyfit(at, clean, 1)[0]) < 0.001
    ratios = table.networks["ratio_median"].to_numpy()
    archs = [decode(SPACE, arch) for arch in table.networks["arch"]]
    ratios_true = np.array([LAW.network(SPACE.blocks(arch)) for arch in archs])
    assert np.std(ratios / ratios_true) / np.mean(ratios / ratios_true) < 0.02
    medians = table.networks["median"].to_numpy()
    assert np.std(medians / ratios_true) / np.mean(medians / ratios_true) > 0.005


def test_networks_that_stayed_disturbed_are_left_out_where_enough_others_are_there(
    outcome: Outcome, tmp_path: Path
) -> None:
    contents = outcome.table.contents
    fitted = [row for row in contents.of("network") if row["role"] == "calibration"]
    for count, used in ((3, 9), (5, 12)):
        bad = [row["key"] for row in fitted[:count]]
        rows = [row | ({"flags": ["steal"]} if row.get("key") in bad else {}) for row in contents.rows]
        journal.write(tmp_path / "t.jsonl", FORMAT, contents.header, rows)
        assert LatencyModel.from_table(LatencyTable.read(tmp_path / "t.jsonl")).fit.networks == used


def test_the_frozen_table_still_gives_the_same_predictions() -> None:
    model = LatencyModel.from_table(LatencyTable.read(FROZEN))
    estimate = model.estimate(SPACE.blocks(SPACE.smallest(96)))
    assert estimate.value == pytest.approx(1.1831198, rel=1e-6)
    assert estimate.high == pytest.approx(1.2553972, rel=1e-6)


def test_a_table_without_networks_predicts_the_plain_sum(tmp_path: Path) -> None:
    table = LatencyTable.read(FROZEN)
    rows = [r for r in table.contents.rows if r["record"] != "network"]
    journal.write(tmp_path / "t.jsonl", FORMAT, table.contents.header, rows)
    model = LatencyModel.from_table(LatencyTable.read(tmp_path / "t.jsonl"))
    blocks = SPACE.blocks(SPACE.smallest(96))
    estimate = model.estimate(blocks)
    assert estimate.value == pytest.approx(sum(model.times.get(block).ms for block in blocks))
    assert estimate.as_json() == {"value": estimate.value, "low": None, "high": None}


def test_a_network_outside_the_space_is_a_bad_file(tmp_path: Path) -> None:
    table = LatencyTable.read(FROZEN)
    rows = [r | ({"arch": {"r": 97}} if r["record"] == "network" else {}) for r in table.contents.rows]
    journal.write(tmp_path / "t.jsonl", FORMAT, table.contents.header, rows)
    with pytest.raises(BadFile, match="a network that is not in ofa-lite0"):
        LatencyModel.from_table(LatencyTable.read(tmp_path / "t.jsonl"))


def test_a_table_without_blocks_predicts_nothing() -> None:
    table = LatencyTable.read(FROZEN)
    with pytest.raises(BadFile, match="no measured blocks"):
        LatencyModel.from_table(replace(table, blocks=table.blocks.iloc[:0]))
