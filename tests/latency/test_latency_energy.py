"""Energy is a run of its own after the latencies; a device without a counter is unknown, never an error."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.errors import DeviceLost
from ofa_edge.latency.campaign import energy
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.table import LatencyTable
from tests.latency.helpers import SETTINGS, device_for, plan_of, profile, row_problems, task
from tests.simulated import FACTS, SimulatedDevice

WORK = task(SETTINGS.model_copy(update={"networks": 3}))
PLAN = plan_of(WORK)
METERED = replace(FACTS, sensors=("rapl", "nvml"))


def profiled(path: Path, **what: Any) -> tuple[SimulatedDevice, Outcome]:
    device = device_for(WORK, facts=METERED, **what)
    return device, profile(path, device, WORK)


def test_networks_and_some_blocks_get_their_millijoules_and_the_table_stays_finished(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device, outcome = profiled(path)
    seen: list[str] = []
    report = energy.measure(device, outcome.table, PLAN, WORK.runs_on, seen.append)
    rows = report.as_json()["rows"]
    assert [row["key"] for row in rows] == seen
    roles = [row["role"] for row in rows]
    assert (roles.count("calibration"), roles.count("block")) == (3, energy.BLOCKS)
    assert (report.sensor, report.as_json()["idle_w"], report.as_json()["failed"]) == ("rapl", 2.0, [])
    medians = (
        dict(outcome.table.networks[["key", "median"]].itertuples(index=False))
        | outcome.table.blocks["median"].to_dict()
    )
    for row in rows:
        assert row["mj"] == pytest.approx(3.0 * medians[row["key"]], rel=1e-3)  # 3 W more for so many ms
        assert row["low"] < row["mj"] < row["high"]
    after = LatencyTable.read(path)
    assert after.complete
    assert row_problems(after) == []
    assert after.blocks["median"].equals(outcome.table.blocks["median"])
    assert [row["session"] for row in after.contents.of("energy")] == [1] * len(rows)
    assert report.notices() == ()


def test_blocks_are_spread_over_their_latencies(tmp_path: Path) -> None:
    _, outcome = profiled(tmp_path / "t.jsonl")
    blocks = outcome.table.blocks["median"].sort_values()
    chosen = [block.key for block in energy.spread(outcome.table, PLAN.blocks, 5)]
    places = [list(blocks.index).index(key) for key in chosen]
    assert (places[0], places[-1]) == (0, len(blocks) - 1)
    assert max(b - a for a, b in pairwise(places)) <= len(blocks) / 4 + 1
    assert len(energy.spread(outcome.table, PLAN.blocks, 10_000)) == len(blocks)


def test_a_device_without_a_counter_is_unknown_and_told_what_would_help(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device = device_for(WORK)
    outcome = profile(path, device, WORK)
    before = path.read_bytes()
    report = energy.measure(device, outcome.table, PLAN, WORK.runs_on)
    assert report.as_json() == {"sensor": "unknown"}
    (notice,) = report.notices()
    assert (notice.code, notice.value) == ("no-energy-sensor", "unknown")
    assert "INA219" in notice.hint
    assert path.read_bytes() == before
    assert replace(outcome, energy=report).as_json()["energy"] == {"sensor": "unknown"}
    assert "energy" not in outcome.as_json()


def test_what_fails_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    device, outcome = profiled(tmp_path / "t.jsonl")
    bad = device.asked[-1][0]
    device.crashes = frozenset({bad})
    report = energy.measure(device, outcome.table, PLAN, WORK.runs_on)
    assert [key for key, _ in report.failed] == [bad]
    assert len(report.rows) == 3 + energy.BLOCKS - 1
    assert report.notices()[0].value == 1
    assert "signal 11" in report.notices()[0].hint
    assert bad not in LatencyTable.read(outcome.table.path).failed.index


def test_when_the_time_is_over_the_rest_is_left_for_the_next_run(tmp_path: Path) -> None:
    device, outcome = profiled(tmp_path / "t.jsonl")
    every = 3 + energy.BLOCKS
    for seconds, rows in ((0.0, 0), (60.0, 4), (1e6, every)):  # one takes a quarter of a minute
        report = energy.measure(device, outcome.table, PLAN, WORK.runs_on, max_seconds=seconds, clock=device.clock)
        assert len(report.rows) == rows
        assert report.left == every - rows
        assert [notice.code for notice in report.notices()] == (["energy-unfinished"] if report.left else [])
        table = LatencyTable.read(outcome.table.path)
        assert table.complete
        outcome = replace(outcome, table=table)


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    device, outcome = profiled(path)

    def cut(key: str) -> None:
        if len(LatencyTable.read(path).contents.of("energy")) == 4:
            raise DeviceLost("cut")

    with pytest.raises(DeviceLost):
        energy.measure(device, outcome.table, PLAN, WORK.runs_on, cut)
    asked = len(device.asked)
    report = energy.measure(device, LatencyTable.read(path), PLAN, WORK.runs_on)
    assert len(device.asked) - asked == 3 + energy.BLOCKS - 4
    assert len(report.rows) == 3 + energy.BLOCKS
    asked = len(device.asked)
    assert energy.measure(device, LatencyTable.read(path), PLAN, WORK.runs_on).rows == report.rows
    assert len(device.asked) == asked
