"""Tables started from another one: another device, another unit, and what they carry over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import wire
from ofa_edge.errors import BadFile, DeviceLost, UsageError
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.conditions import PlanSettings, RunsOn, conditions
from ofa_edge.latency.models import transfer
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.models.transfer import TransferredModel, start_from
from ofa_edge.latency.models.unit import UnitModel
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from tests.latency.helpers import SPACE, device_for, profile, row_problems, task
from tests.search.doubles import SMALL
from tests.simulated import FACTS, Law, SimulatedDevice

OTHER = replace(FACTS, device_model="Other Board", soc="SIM2", serial="0009")
SECOND = replace(FACTS, serial="0002", boot_id="4d5c1a62-0000-4000-8000-000000000002")
# Slower, launch-bound, poor at memory: not the prior's law times a factor.
SLOWER = Law(per_block=0.02, macs_per_ms=6e6, offset=0.3, scale=1.3, rate=0.1)
PRIORS = {
    "blocks": PlanSettings(seed=1, quick=False, networks=12),
    "network": PlanSettings(seed=1, quick=False, networks=60, predictor="network"),
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LatencyTable]:
    made: dict[str, LatencyTable] = {}

    def table(kind: str) -> LatencyTable:
        if kind not in made:
            work = replace(task(PRIORS[kind]), space=SMALL, resolutions=SMALL.resolutions)
            path = tmp_path_factory.mktemp("prior") / f"{kind}.jsonl"
            profile(path, device_for(work, noise=0.01), work)
            made[kind] = LatencyTable.read(path)
        return made[kind]

    return table


def started(table: LatencyTable, facts: wire.Facts, networks: int, holdout: int = 12) -> campaign.Task:
    now = conditions(facts, RunsOn())
    start = start_from(table, model_of(table), SMALL, SMALL.resolutions, now)
    settings = PlanSettings(
        seed=2, quick=False, networks=networks, holdout=holdout, predictor="network", prior=table.sha256
    )
    return campaign.Task(SMALL, SMALL.resolutions, RunsOn(), settings, start)


def board(work: campaign.Task, **what: Any) -> SimulatedDevice:
    plan = work.plan()
    return SimulatedDevice(work.space, [n.arch for n in plan.networks], plan.anchor, **what)


def second_unit(path: Path, table: LatencyTable, slower: float, seed: int = 0) -> Outcome:
    work = started(table, SECOND, 4)
    device = board(work, facts=SECOND, noise=0.005, seed=seed, speed=lambda now: slower)
    return profile(path, device, work)


# -- another device -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["blocks", "network"])
def test_ten_networks_bring_a_table_to_another_device(
    prior: Callable[[str], LatencyTable], kind: str, tmp_path: Path
) -> None:
    work = started(prior(kind), OTHER, 10, holdout=20)
    device = board(work, law=SLOWER, noise=0.01, facts=OTHER)
    outcome = profile(tmp_path / "t.jsonl", device, work)
    assert isinstance(outcome.fitted, TransferredModel)
    assert all(fresh and key.startswith("network:") for key, fresh in device.asked)
    value = outcome.as_json()
    distinct = len(SMALL.distinct_blocks(SMALL.resolutions))
    assert value["blocks"] == {"distinct": distinct, "measured": 0, "predicted": distinct, "failed": 0}
    assert {"offset", "scale"} <= set(value["fit"]["terms"])
    assert outcome.held_out is not None
    assert outcome.held_out.mape < 0.03
    assert outcome.held_out.covered is not None
    assert outcome.held_out.covered >= 0.8
    (notice,) = outcome.fitted.notices
    assert "Simulated Board" in notice.text
    assert "10 whole networks" in notice.text
    # The prior alone would be off by factors.
    arch = SMALL.largest()
    assert model_of(prior(kind)).estimate(SMALL.blocks(arch)).value < 0.5 * SLOWER.network(SMALL.blocks(arch))


@pytest.mark.slow
def test_intervals_of_transferred_tables_cover_what_they_say(prior: Callable[[str], LatencyTable]) -> None:
    table = prior("blocks")
    source = model_of(table)
    inside = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        law = Law(
            per_block=float(rng.uniform(0.001, 0.02)),
            macs_per_ms=float(rng.uniform(5e6, 4e7)),
            offset=float(rng.uniform(0, 0.1)),
            rate=float(rng.uniform(0, 0.1)),
        )
        archs = [SMALL.sample(rng) for _ in range(30)]
        measured = [law.network(SMALL.blocks(arch)) * float(np.exp(0.01 * rng.normal())) for arch in archs]
        encoding = transfer.Encoding(source.times)
        rows = np.stack([encoding.network(SMALL.blocks(arch)) for arch in archs])
        fitted = transfer.fit_transfer(rows[:10], np.array(measured[:10]))
        model = TransferredModel(
            source.times, SMALL, SMALL.resolutions, encoding, fitted, _any_prior(table), reference_ms=None,
            anchor_spread=0.0,
        )  # fmt: skip
        for arch, ms in zip(archs[10:], measured[10:], strict=True):
            estimate = model.estimate(SMALL.blocks(arch))
            assert estimate.low is not None
            assert estimate.high is not None
            inside.append(estimate.low <= ms <= estimate.high)
    assert 0.90 <= np.mean(inside) <= 0.995


def _any_prior(table: LatencyTable) -> Any:
    return start_from(table, model_of(table), SMALL, SMALL.resolutions, conditions(OTHER, RunsOn())).header


def test_the_new_table_needs_the_priors_file_no_more(prior: Callable[[str], LatencyTable], tmp_path: Path) -> None:
    table = prior("blocks")
    work = started(table, OTHER, 6, holdout=0)
    outcome = profile(tmp_path / "t.jsonl", board(work, law=SLOWER, facts=OTHER), work)
    again = LatencyTable.read(tmp_path / "t.jsonl")
    assert row_problems(again) == []
    assert set(again.predicted.index) == {block.key for block in SMALL.distinct_blocks(SMALL.resolutions)}
    header = again.header.prior
    assert header is not None
    assert (header.sha256, header.kind) == (table.sha256, "transfer")
    assert again.header.plan.prior == table.sha256
    assert header.conditions == table.conditions
    assert header.provenance == table.header.provenance
    arch = SMALL.largest()
    assert model_of(again).predict([arch]) == outcome.fitted.predict([arch])
    assert model_of(again).predict([arch])[0].missing == ()
    # And it can be a prior itself.
    third = start_from(again, model_of(again), SMALL, SMALL.resolutions, conditions(SECOND, RunsOn()))
    assert third.header.kind == "transfer"
    assert third.blocks.keys() == work.start.blocks.keys() if work.start else False


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_lost_device_costs_nothing_and_the_priors_blocks_are_there_once(
    prior: Callable[[str], LatencyTable], tmp_path: Path, after: int
) -> None:
    work = started(prior("blocks"), OTHER, 6, holdout=0)
    device = board(work, law=SLOWER, facts=OTHER, lose_after=after)
    path = tmp_path / "t.jsonl"
    with pytest.raises(DeviceLost):
        profile(path, device, work)
    outcome = profile(path, device, work, resume=True)
    assert outcome.finished
    keys = [row["key"] for row in outcome.table.contents.of("predicted")]
    assert len(keys) == len(set(keys)) == len(SMALL.distinct_blocks(SMALL.resolutions))
    assert len(outcome.table.networks) == 6


def test_a_block_that_failed_on_the_priors_device_is_not_chosen_on_this_one(tmp_path: Path) -> None:
    work = replace(task(PRIORS["blocks"]), space=SMALL, resolutions=SMALL.resolutions)
    bad = next(b.key for b in SMALL.blocks(SMALL.smallest()) if b.type == "expanded_conv")
    profile(tmp_path / "p.jsonl", device_for(work, crashes=frozenset({bad})), work)
    mine = started(LatencyTable.read(tmp_path / "p.jsonl"), OTHER, 8, holdout=0)
    outcome = profile(tmp_path / "t.jsonl", board(mine, law=SLOWER, facts=OTHER), mine)
    assert outcome.fitted.block_ms(Block.from_key(bad)) == float("inf")
    assert "on the prior's device" in outcome.table.failed["reason"][bad]
    assert outcome.fitted.predict([SMALL.smallest()])[0].latency is None


def test_another_space_or_resolution_than_the_priors_is_refused(prior: Callable[[str], LatencyTable]) -> None:
    table, now = prior("blocks"), conditions(OTHER, RunsOn())
    with pytest.raises(UsageError, match="is of space small, not of ofa-lite0"):
        start_from(table, model_of(table), SPACE, (96,), now)
    other: Space = replace(SMALL, resolutions=(*SMALL.resolutions, 64))
    with pytest.raises(UsageError, match=r"of space small|does not cover resolution"):
        start_from(table, model_of(table), other, (64,), now)
    with pytest.raises(UsageError, match="does not cover resolution 64") as error:
        transfer.require_cover(table, SMALL, (64,))
    assert "--resolutions" in error.value.hint


def test_other_threads_or_another_runtime_are_a_transfer_and_said(prior: Callable[[str], LatencyTable]) -> None:
    table = prior("blocks")
    model = model_of(table)
    same = start_from(table, model, SMALL, SMALL.resolutions, conditions(FACTS, RunsOn()))
    threads = start_from(table, model, SMALL, SMALL.resolutions, conditions(FACTS, RunsOn(threads=2)))
    assert (same.header.kind, threads.header.kind) == ("unit", "transfer")
    assert same.sentinel is not None
    assert threads.sentinel is None


def test_a_table_whose_blocks_are_gone_says_so(prior: Callable[[str], LatencyTable], tmp_path: Path) -> None:
    work = started(prior("blocks"), OTHER, 6, holdout=0)
    table = profile(tmp_path / "t.jsonl", board(work, law=SLOWER, facts=OTHER), work).table
    with pytest.raises(BadFile, match="lacks the block values of its prior"):
        model_of(replace(table, predicted=table.predicted.iloc[:0]))
    with pytest.raises(BadFile, match="holds no measured networks"):
        model_of(replace(table, networks=table.networks.iloc[:0]))


# -- another unit ---------------------------------------------------------------------------------
def test_a_unit_that_is_8_percent_slower_is_named_and_corrected(
    prior: Callable[[str], LatencyTable], tmp_path: Path
) -> None:
    outcome = second_unit(tmp_path / "t.jsonl", prior("blocks"), 1.08)
    model = outcome.fitted
    assert isinstance(model, UnitModel)
    assert model.factor.value == pytest.approx(1.08, abs=0.02)
    assert model.factor.low <= 1.08 <= model.factor.high
    (notice,) = (notice for notice in outcome.notices if notice.code.startswith("unit"))
    assert notice.code == "unit-slower"
    assert "% slower than the one the prior was made on, beyond its interval" in notice.text
    assert outcome.as_json()["fit"]["terms"] == ["unit"]
    before = model_of(prior("blocks"))
    for block in SMALL.distinct_blocks(SMALL.resolutions):
        assert model.block_ms(block) == pytest.approx(model.factor.value * before.block_ms(block), rel=1e-9)
    assert outcome.held_out is not None
    assert outcome.held_out.mape < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_a_unit_that_is_1_percent_slower_is_not_named(
    prior: Callable[[str], LatencyTable], seed: int, tmp_path: Path
) -> None:
    outcome = second_unit(tmp_path / "t.jsonl", prior("blocks"), 1.01, seed)
    (notice,) = outcome.fitted.notices
    assert notice.code == "unit-equal"
    assert "fits this unit as it is" in notice.text


def test_the_priors_sentinel_is_measured_beside_each_network_and_speaks_too(
    prior: Callable[[str], LatencyTable], tmp_path: Path
) -> None:
    table = prior("blocks")
    work = started(table, SECOND, 4, holdout=0)
    device = board(work, facts=SECOND, speed=lambda now: 1.08)
    outcome = profile(tmp_path / "t.jsonl", device, work)
    sentinels = outcome.table.sentinels
    assert len(sentinels) == 4
    assert set(sentinels["key"]) == set(table.sentinels["key"])
    assert isinstance(outcome.fitted, UnitModel)
    # Networks alone know less.
    without = work.start.header.model_copy(update={"sentinel_ms": None}) if work.start else None
    assert without is not None
    alone = UnitModel(outcome.table, without, transfer.carried_times(outcome.table))
    width = outcome.fitted.factor.high - outcome.fitted.factor.low
    assert width < alone.factor.high - alone.factor.low


def test_witnesses_that_contradict_each_other_widen_the_interval(prior: Callable[[str], LatencyTable]) -> None:
    from ofa_edge.latency.models.unit import unit_factor

    header = start_from(
        prior("blocks"), model_of(prior("blocks")), SMALL, SMALL.resolutions, conditions(SECOND, RunsOn())
    ).header
    assert header.sentinel_ms is not None
    shares, anchors = np.array([1.08, 1.081, 1.079, 1.08]), np.array([1.0, 1.001, 0.999, 1.0])
    agreeing = unit_factor(shares, anchors, header.sentinel_ms * shares, header)
    contradicting = unit_factor(shares, anchors, header.sentinel_ms * shares / 1.3, header)
    assert agreeing.sure
    assert contradicting.high / contradicting.low > 3 * agreeing.high / agreeing.low - 2
    assert not contradicting.sure


def test_a_prior_of_networks_corrects_a_unit_without_a_sentinel(
    prior: Callable[[str], LatencyTable], tmp_path: Path
) -> None:
    outcome = second_unit(tmp_path / "t.jsonl", prior("network"), 0.9)
    assert outcome.table.sentinels.empty
    assert [notice.code for notice in outcome.fitted.notices] == ["unit-faster"]


def test_the_same_device_later_is_told_so(prior: Callable[[str], LatencyTable], tmp_path: Path) -> None:
    work = started(prior("blocks"), FACTS, 4, holdout=0)
    outcome = profile(tmp_path / "t.jsonl", board(work, speed=lambda now: 1.2), work)
    (notice,) = outcome.fitted.notices
    assert "this device is" in notice.text
    assert "slower than when the prior was made" in notice.text
