"""A campaign keeps every result it got, resumes where it stopped, and says what went wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ofa_edge.cli.profiling import describe
from ofa_edge.errors import BadFile, DeviceLost, NoRoom, OfaEdgeError, UsageError
from ofa_edge.latency.campaign.campaign import Step
from ofa_edge.latency.judging import health
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.plan import QUICK
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.spaces import resnet_d
from tests.latency.helpers import SETTINGS, device_for, plan_of, profile, row_problems, task
from tests.simulated import FACTS

WORK = task()
PLAN = plan_of(WORK)
BLOCKS = len(PLAN.blocks)


def test_a_campaign_measures_every_block_and_network_once(tmp_path: Path) -> None:
    device = device_for(WORK)
    outcome = profile(tmp_path / "new" / "t.jsonl", device, WORK)
    table = outcome.table
    assert outcome.finished
    assert table.complete
    assert set(table.blocks.index) == {block.key for block in PLAN.blocks}
    assert len(table.networks) == 4
    counts = Counter(key for key, _ in device.asked)
    sentinels = -(-BLOCKS // QUICK.sentinel_every) + 1
    assert counts.pop(PLAN.sentinel.key) == sentinels + 1
    assert set(counts.values()) == {1}
    assert len(table.sentinels) == sentinels
    assert row_problems(table) == []
    assert outcome.as_json()["blocks"] == {"distinct": BLOCKS, "measured": BLOCKS, "predicted": 0, "failed": 0}


def test_blocks_share_a_worker_and_every_network_gets_a_fresh_one(tmp_path: Path) -> None:
    device = device_for(WORK)
    profile(tmp_path / "t.jsonl", device, WORK)
    assert [key for key, fresh in device.asked if fresh and not key.startswith("network:")] == [PLAN.sentinel.key]
    assert {key.startswith("network:") for key, fresh in device.asked if not fresh} == {False}


def test_the_order_is_random_but_the_seeds(tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        work = task(SETTINGS.model_copy(update={"seed": seed}))
        device = device_for(work)
        profile(tmp_path / name, device, work)
        orders.append(device.asked)
    assert orders[0] == orders[1] != orders[2]


def test_progress_counts_to_the_total_and_starts_before_the_first_result(tmp_path: Path) -> None:
    steps: list[Step] = []
    profile(tmp_path / "t.jsonl", device_for(WORK), WORK, on_step=steps.append)
    assert (steps[0].kind, steps[0].done, steps[0].total) == ("upload", 0, BLOCKS + 4)
    assert [step.done for step in steps] == list(range(BLOCKS + 5))


@pytest.mark.parametrize("after", [0, 1, 2, 30, BLOCKS + 3, BLOCKS + 6])
def test_a_lost_device_costs_nothing_that_was_measured(tmp_path: Path, after: int) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(WORK, lose_after=after)
    with pytest.raises(DeviceLost):
        profile(path, device, WORK)
    before = LatencyTable.read(path)
    assert not before.complete
    assert len(before.blocks) + len(before.sentinels) + len(before.networks) == after
    asked = len(device.asked)
    outcome = profile(path, device, WORK, resume=True)
    assert outcome.finished
    assert set(before.blocks.index).isdisjoint({k for k, _ in device.asked[asked:]} - {PLAN.sentinel.key})
    assert set(outcome.table.blocks.index) == {block.key for block in PLAN.blocks}
    assert [row["session"] for row in outcome.table.contents.of("block")] == sorted(
        row["session"] for row in outcome.table.contents.of("block")
    )


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    def interrupt(step: Step) -> None:
        if step.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(path, device_for(WORK), WORK, on_step=interrupt)
    assert len(LatencyTable.read(path).blocks) == 10
    assert profile(path, device_for(WORK), WORK, resume=True).finished


def test_resuming_a_finished_campaign_measures_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(WORK)
    profile(path, device, WORK)
    before, asked = path.read_bytes(), len(device.asked)
    outcome = profile(path, device, WORK, resume=True)
    assert outcome.finished
    assert path.read_bytes() == before
    assert len(device.asked) == asked


def test_resuming_what_does_not_exist_starts_it(tmp_path: Path) -> None:
    assert profile(tmp_path / "t.jsonl", device_for(WORK), WORK, resume=True).finished


def test_an_existing_table_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        profile(path, device_for(WORK), WORK)
    assert path.read_text() == "precious"


def test_a_campaign_is_not_resumed_on_another_device_or_with_another_plan(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    profile(path, device_for(WORK), WORK)
    before = path.read_bytes()
    other = device_for(WORK, facts=replace(FACTS, governor="powersave"))
    with pytest.raises(BadFile, match="governor: 'performance' and 'powersave'"):
        profile(path, other, WORK, resume=True)
    with pytest.raises(UsageError, match="begun with seed 1, this run has seed 2"):
        profile(path, device_for(WORK), task(SETTINGS.model_copy(update={"seed": 2})), resume=True)
    with pytest.raises(UsageError, match=r"begun with resolutions \[96\], this run has resolutions \[96, 112\]"):
        profile(path, device_for(WORK), task(resolutions=(96, 112)), resume=True)
    assert path.read_bytes() == before
    profile(path, device_for(WORK), WORK, resume=True)
    assert path.read_bytes() == before


def test_a_table_keeps_the_definition_of_a_space_of_ones_own(tmp_path: Path) -> None:
    """With elastic widths here; without the definition beside it the name would say nothing."""
    own = replace(resnet_d("mine", (0.1, 0.2)), resolutions=(32,), classes=7)
    work = replace(WORK, space=own, resolutions=(32,))
    path = tmp_path / "t.jsonl"
    table = profile(path, device_for(work), work).table
    assert table.header.definition is not None
    model = LatencyModel.from_table(LatencyTable.read(path))
    assert model.space == own
    arch = own.sample(np.random.default_rng(0))
    (prediction,) = model.predict([arch], 0.95)
    assert prediction.missing == ()
    assert row_problems(table) == []
    other = replace(work, space=own.with_classes(8))
    with pytest.raises(UsageError, match=r"begun with space mine \(definition \w{8}\), this run has space mine \(def"):
        profile(path, device_for(other), other, resume=True)
    assert "definition" not in profile(tmp_path / "named.jsonl", device_for(WORK), WORK).table.header.as_json()


def test_a_crash_costs_one_block_and_is_tried_again_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    bad = next(b.key for b in PLAN.blocks if b.key != PLAN.sentinel.key)
    outcome = profile(path, device_for(WORK, crashes=frozenset({bad})), WORK)
    assert outcome.finished
    assert list(outcome.table.failed.index) == [bad]
    assert "signal 11" in outcome.table.failed["reason"].iloc[0]
    assert len(outcome.table.blocks) == BLOCKS - 1
    assert [notice.code for notice in outcome.notices] == ["failed"]
    again = profile(path, device_for(WORK), WORK, resume=True)
    assert again.table.failed.empty
    assert len(again.table.blocks) == BLOCKS


def test_a_disturbed_network_is_measured_again_where_only_a_crashed_block_was_left(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    bad = next(b.key for b in PLAN.blocks if b != PLAN.sentinel)
    busy = device_for(
        WORK,
        crashes=frozenset({bad}),
        flags=lambda key, before: ("steal",) if key.startswith("network:") else (),
    )
    assert profile(path, busy, WORK).table.networks["disturbed"].all()
    again = profile(path, device_for(WORK), WORK, resume=True)
    assert again.finished
    assert again.table.failed.empty
    assert not again.table.networks["disturbed"].any()


def test_when_every_block_crashes_the_reason_is_told(tmp_path: Path) -> None:
    device = device_for(WORK, crashes=frozenset(block.key for block in PLAN.blocks))
    with pytest.raises(OfaEdgeError, match="no block could be measured: simulated: the worker was killed"):
        profile(tmp_path / "t.jsonl", device, WORK)


def test_when_the_time_is_over_the_networks_had_their_share_and_the_table_is_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(WORK)
    outcome = profile(path, device, WORK, max_minutes=24 / 60)
    assert not outcome.finished
    assert not outcome.table.complete
    assert 0 < len(outcome.table.blocks) < BLOCKS
    assert len(outcome.table.networks) == 4
    assert "unfinished" in [notice.code for notice in outcome.notices]
    assert "unfinished" in [problem.code for problem in row_problems(outcome.table)]
    assert device.now <= 25
    assert profile(path, device, WORK, resume=True).finished


_KINDS: dict[str, dict[str, Any]] = {
    "quick": {},
    "full": {"quick": False},
    "holdout": {"networks": 2, "holdout": 3},
    "network": {"quick": False, "predictor": "network"},
}


@pytest.mark.parametrize(
    ("kind", "results"),
    [("quick", 1), ("quick", 12), ("full", 2), ("full", 12), ("holdout", 4), ("network", 1), ("network", 3)],
)
def test_a_campaign_that_is_cut_early_gives_an_unfinished_outcome_and_is_resumed(
    tmp_path: Path, kind: str, results: int
) -> None:
    """Whatever was not measured by then: networks, or all blocks of a type that they are made of."""
    work = task(SETTINGS.model_copy(update=_KINDS[kind]))
    path, device = tmp_path / "t.jsonl", device_for(work)
    outcome = profile(path, device, work, max_minutes=results * device.seconds / 60)
    assert not outcome.finished
    value = outcome.as_json()
    assert "unfinished" in {notice["code"] for notice in value["notices"]}
    assert value["fit"] is None or value["fit"]["terms"]
    assert describe(outcome).startswith("table ")
    health.check(LatencyTable.read(path)).require_valid()
    again = profile(path, device, work, resume=True)
    assert again.finished
    assert again.table.complete
    assert again.as_json()["fit"]["networks"] > 0


def test_networks_alone_are_not_enough_for_a_finished_table_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(WORK, crashes=frozenset(block.key for block in PLAN.blocks))
    with pytest.raises(OfaEdgeError, match="no block could be measured: simulated: the worker was killed"):
        profile(path, device, WORK)
    assert len(LatencyTable.read(path).networks) == 4
    assert profile(path, device_for(WORK), WORK, resume=True).finished


def test_disturbed_blocks_are_measured_again_at_the_end_and_the_quiet_one_counts(tmp_path: Path) -> None:
    noisy = {block.key for block in PLAN.blocks[:5]} - {PLAN.sentinel.key}

    def flags(key: str, before: int) -> tuple[str, ...]:
        return ("preempted",) if key in noisy and before == 0 else ("interval-wide",)

    device = device_for(WORK, flags=flags)
    outcome = profile(tmp_path / "t.jsonl", device, WORK)
    assert Counter(k for k, _ in device.asked if k in noisy) == dict.fromkeys(noisy, 2)
    assert not outcome.table.blocks["disturbed"].any()
    assert {key for key, _ in device.asked[1:6]} >= noisy


def test_a_busy_machine_is_not_measured_again_and_again(tmp_path: Path) -> None:
    def flags(key: str, before: int) -> tuple[str, ...]:
        return ("cpu-starved",)

    device = device_for(WORK, flags=flags)
    outcome = profile(tmp_path / "t.jsonl", device, WORK)
    blocks = Counter(k for k, _ in device.asked if not k.startswith("network:") and k != PLAN.sentinel.key)
    assert set(blocks.values()) == {1}
    assert outcome.verdict == "unusable"
    assert outcome.notices[0].code == "disturbed"


def test_a_network_that_was_disturbed_in_every_round_is_measured_again_and_all_tries_are_kept(tmp_path: Path) -> None:
    def flags(key: str, before: int) -> tuple[str, ...]:
        return ("steal",) if key.startswith("network:") and before < 4 else ()

    device = device_for(FULL_WORK, flags=flags)
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    tries = Counter(row["key"] for row in table.contents.of("network"))
    assert list(tries.values()) == [5] * 4
    assert not table.networks["disturbed"].any()
    assert set(table.networks["processes"]) == {4}  # the three rounds, and the quiet one of the end


def test_on_a_device_that_stays_busy_networks_are_not_repeated_for_ever(tmp_path: Path) -> None:
    work = task(SETTINGS.model_copy(update={"quick": False, "networks": 8}))
    device = device_for(work, flags=lambda key, before: ("steal",) if key.startswith("network:") else ())
    table = profile(tmp_path / "t.jsonl", device, work).table
    tries = Counter(row["key"] for row in table.contents.of("network"))
    assert sorted(tries.values()) == [3] * 4 + [5] * 4


def test_one_unlucky_process_of_a_network_decides_nothing(tmp_path: Path) -> None:
    key = next(k for k, _ in _asked(tmp_path / "first") if k.startswith("network:"))
    calm = profile(tmp_path / "calm.jsonl", device_for(FULL_WORK), FULL_WORK).table
    device = device_for(FULL_WORK, slow=lambda asked, before: 1.2 if (asked, before) == (key, 1) else 1.0)
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    pd.testing.assert_series_equal(table.networks["ratio_median"], calm.networks["ratio_median"])
    assert set(table.networks["processes"]) == {3}


def test_a_network_that_crashes_is_a_failed_row(tmp_path: Path) -> None:
    key = next(k for k, fresh in _asked(tmp_path / "first") if k.startswith("network:"))
    outcome = profile(tmp_path / "t.jsonl", device_for(WORK, crashes=frozenset({key})), WORK)
    assert outcome.finished
    assert list(outcome.table.failed.index) == [key]
    assert len(outcome.table.networks) == 3
    assert outcome.as_json()["blocks"]["failed"] == 0


def test_the_second_session_pushes_nothing_again(tmp_path: Path) -> None:
    device = device_for(WORK)
    first = profile(tmp_path / "a.jsonl", device, WORK)
    second = profile(tmp_path / "b.jsonl", device, WORK)
    assert first.bytes_pushed > 0
    assert second.bytes_pushed == 0


@pytest.mark.slow
@pytest.mark.parametrize("quick", [True, False])
def test_networks_come_when_they_are_due_and_make_room_for_each_other_on_a_small_disk(
    tmp_path: Path, quick: bool
) -> None:
    """In three rounds some come three times."""
    work = task(SETTINGS.model_copy(update={"networks": 12, "quick": quick}))
    roomy = device_for(work)
    profile(tmp_path / "roomy.jsonl", roomy, work)
    every = sum(roomy.blobs.values())
    small = device_for(work, disk_bytes=0.8 * every)
    outcome = profile(tmp_path / "small.jsonl", small, work)
    assert outcome.finished
    assert len(outcome.table.networks) == 12
    assert outcome.bytes_pushed == every if quick else every < outcome.bytes_pushed < 3 * every
    assert len(small.blobs) < len(roomy.blobs)
    tiny = device_for(work, disk_bytes=1000)
    with pytest.raises(NoRoom):
        profile(tmp_path / "tiny.jsonl", tiny, work)


def test_strict_refuses_a_disturbed_campaign(tmp_path: Path) -> None:
    from ofa_edge.errors import NotTrustworthy

    good = profile(tmp_path / "a.jsonl", device_for(WORK), WORK)
    good.require_good()
    bad = profile(tmp_path / "b.jsonl", device_for(WORK, flags=lambda key, before: ("steal",)), WORK)
    with pytest.raises(NotTrustworthy, match="stayed disturbed"):
        bad.require_good()


# -- rounds ---------------------------------------------------------------------------------------
FULL_WORK = task(SETTINGS.model_copy(update={"quick": False}))


def test_a_full_table_is_measured_in_rounds_each_in_its_own_worker_and_order(tmp_path: Path) -> None:
    device = device_for(FULL_WORK)
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    rows = table.contents.of("block")
    orders = [[row["key"] for row in rows if row["round"] == r] for r in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2]) == sorted(table.blocks.index)
    assert len(set(map(tuple, orders))) == 3
    assert len(rows) == 3 * BLOCKS
    assert set(table.blocks["rounds"]) == {3}
    # Every network is measured after each round, and a round begins in a new worker.
    kinds = [row["record"] for row in table.contents.rows if row["record"] in ("block", "network")]
    assert kinds == [kind for _ in range(3) for kind in ["block"] * BLOCKS + ["network"] * 4]
    assert sum(fresh and key == PLAN.sentinel.key for key, fresh in device.asked) == 3
    assert len({row["round"] for row in table.contents.of("sentinel")}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("after", [BLOCKS - 5, BLOCKS + 3, BLOCKS + 8, BLOCKS + 30, 2 * BLOCKS + 11])
def test_a_campaign_is_resumed_in_the_middle_of_any_round(tmp_path: Path, after: int) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(DeviceLost):
        profile(path, device_for(FULL_WORK, lose_after=after), FULL_WORK)
    outcome = profile(path, device_for(FULL_WORK), FULL_WORK, resume=True)
    assert outcome.finished
    counts = Counter((row["key"], row["round"]) for row in outcome.table.contents.of("block"))
    assert counts == dict.fromkeys([(block.key, r) for block in PLAN.blocks for r in range(3)], 1)
    networks = Counter((row["key"], row["round"]) for row in outcome.table.contents.of("network"))
    assert list(networks.values()) == [1] * 12


def test_a_block_that_is_narrow_already_gets_less_time_in_a_later_round(tmp_path: Path) -> None:
    wide = {block.key for block in PLAN.blocks[:6]} - {PLAN.sentinel.key}
    device = device_for(FULL_WORK, width=lambda key: 0.05 if key in wide else 0.01)
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    given: dict[str, list[float]] = {}
    for job in device.jobs:
        given.setdefault(job.key, []).append(job.max_seconds)
    effort = plan_of(FULL_WORK).effort
    for block in PLAN.blocks:
        if block.key in wide:
            assert given[block.key] == [effort.block_seconds, *[effort.wide_seconds] * 3]
        elif block != PLAN.sentinel:
            assert given[block.key] == [effort.block_seconds, *[effort.narrow_seconds] * 2]
    assert effort.narrow_seconds < effort.block_seconds < effort.wide_seconds
    assert (table.blocks.loc[sorted(wide), "rounds"] == 4).all()


def test_the_blocks_measured_once_more_are_a_share_of_them_and_the_widest(tmp_path: Path) -> None:
    places = {block.key: i for i, block in enumerate(PLAN.blocks)}
    device = device_for(FULL_WORK, width=lambda key: 0.1 + 0.01 * places.get(key, 0))
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    again = {row["key"] for row in table.contents.of("block") if row["round"] == 3}
    count = round(plan_of(FULL_WORK).effort.again * BLOCKS)
    assert again == {block.key for block in PLAN.blocks[-count:]}


def test_a_block_that_crashes_in_the_first_round_is_not_tried_in_the_second(tmp_path: Path) -> None:
    bad = next(b.key for b in PLAN.blocks if b.key != PLAN.sentinel.key)
    device = device_for(FULL_WORK, crashes=frozenset({bad}))
    outcome = profile(tmp_path / "t.jsonl", device, FULL_WORK)
    assert outcome.finished
    assert [key for key, _ in device.asked].count(bad) == 1
    assert len(outcome.table.contents.of("failed")) == 1


def _asked(path: Path) -> list[tuple[str, bool]]:
    device = device_for(WORK)
    profile(path, device, WORK)
    return device.asked
