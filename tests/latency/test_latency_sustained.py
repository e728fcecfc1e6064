"""A sustained table is measured on a device that was heated until its speed was steady, and says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.errors import BadFile
from ofa_edge.latency.campaign import sustained
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.campaign.sustained import MOST_SECONDS, WINDOW_SECONDS, Sample, is_steady, steady
from ofa_edge.latency.conditions import BURST, SUSTAINED, require_match
from ofa_edge.latency.stats import Verdict
from ofa_edge.latency.workload import Model
from tests.latency.helpers import device_for, plan_of, profile, row_problems, task
from tests.simulated import SimulatedDevice

BURSTS = task()
WORK = replace(BURSTS, runs_on=replace(BURSTS.runs_on, thermal=SUSTAINED))
PLAN = plan_of(WORK)


def heated(speed: Callable[[float], float], **what: Any) -> SimulatedDevice:
    """A device on which one sample of heating takes five seconds of its clock."""
    device = device_for(WORK, speed=speed, **what)
    device.named = {"heat": PLAN.anchor}
    device.__post_init__()
    device.seconds = 5.0
    return device


def run(path: Path, device: SimulatedDevice, **options: Any) -> Outcome:
    return profile(path, device, WORK, **options)


def settling(seconds: float) -> Callable[[float], float]:
    """30 % slower in the end."""
    return lambda now: 1.3 - 0.3 * math.exp(-now / seconds)


def test_the_device_is_heated_until_its_speed_is_steady_and_then_measured(tmp_path: Path) -> None:
    device = heated(settling(60))
    outcome = run(tmp_path / "t.jsonl", device)
    rows = outcome.table.contents.of("sustained")
    assert WINDOW_SECONDS < rows[-1]["at"] < MOST_SECONDS
    assert rows[0]["ratio"] == 1.0
    assert [key for key, _ in device.asked[: len(rows)]] == ["heat"] * len(rows)
    assert "heat" not in {key for key, _ in device.asked[len(rows) :]}
    found = outcome.sustained
    assert found is not None
    assert found.reached
    assert found.slower == pytest.approx(0.25, abs=0.05)  # than the first sample, which ends after 5 s
    assert outcome.as_json()["sustained"]["steady"] is True
    (notice,) = outcome.notices
    assert notice.code == "sustained"
    assert notice.value == pytest.approx(found.slower)
    assert "longer than cold" in notice.text
    assert outcome.verdict is Verdict.GOOD
    assert row_problems(outcome.table) == []


def test_ten_minutes_are_enough(tmp_path: Path) -> None:
    outcome = run(tmp_path / "t.jsonl", heated(lambda now: 1 + now / 1000))
    rows = outcome.table.contents.of("sustained")
    assert MOST_SECONDS <= rows[-1]["at"] <= MOST_SECONDS + 5
    assert [n.code for n in outcome.notices if n.code in ("not-steady", "sustained")] == ["not-steady"]
    assert outcome.verdict is not Verdict.GOOD


def test_throttling_is_what_is_measured_and_nothing_waits_for_it_to_end(tmp_path: Path) -> None:
    def flags(key: str, before: int) -> tuple[str, ...]:
        return ("throttled", "clock-changed")

    noise = wire.Noise(temperature_c=84.0, throttled=4)
    device = heated(settling(30), flags=flags, noise_at=lambda now: noise)
    outcome = run(tmp_path / "t.jsonl", device)
    assert device.pauses == []
    assert not outcome.table.blocks["disturbed"].any()
    assert outcome.verdict is Verdict.GOOD
    assert "at 84.0 C" in outcome.notices[0].text
    assert outcome.table.contents.of("sentinel")[0]["noise"]["throttled"] == 4


def test_disturbances_of_other_kinds_still_count_but_are_not_waited_for(tmp_path: Path) -> None:
    victims = {block.key for block in PLAN.blocks[:5]}
    device = heated(settling(30), flags=lambda key, before: ("steal",) if key in victims and before == 0 else ())
    run(tmp_path / "t.jsonl", device)
    assert device.pauses == []


def test_heating_takes_at_most_half_of_the_time_given(tmp_path: Path) -> None:
    outcome = run(tmp_path / "t.jsonl", heated(lambda now: 1 + now / 1000), max_minutes=12)
    assert 360 <= outcome.table.contents.of("sustained")[-1]["at"] <= 365
    assert "not-steady" in [notice.code for notice in outcome.notices]


def test_sustained_tables_and_burst_ones_do_not_mix(tmp_path: Path) -> None:
    warm = run(tmp_path / "warm.jsonl", heated(settling(30))).table
    cold = profile(tmp_path / "cold.jsonl", device_for(BURSTS), BURSTS).table
    assert (warm.conditions.thermal, cold.conditions.thermal) == (SUSTAINED, BURST)
    with pytest.raises(BadFile, match="thermal: 'sustained' and 'burst'"):
        require_match(warm.conditions, cold.conditions, names=("a", "b"))
    assert profile(tmp_path / "c.jsonl", device_for(BURSTS), BURSTS).sustained is None


def samples(*medians: float) -> list[Sample]:
    return [Sample(10.0 * (i + 1), ms, wire.Noise()) for i, ms in enumerate(medians)]


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ([1.0] * 11, False),
        ([1.0] * 12, True),
        ([1.0] * 6 + [1.01] * 6, True),
        ([1.0] * 6 + [1.03] * 6, False),
        ([1.03] * 6 + [1.0] * 6, False),
        ([1.0, 1.0, 1.0, 1.5, 1.0, 1.0] * 2, True),
        ([5.0] * 20 + [1.0] * 12, True),
    ],
)
def test_steady_means_that_the_last_two_minutes_agree(medians: list[float], expected: bool) -> None:
    assert is_steady(samples(*medians)) is expected
    rows = [sample.row(medians[0]) for sample in samples(*medians)]
    found = steady(rows)
    assert found is not None
    assert found.reached is expected


@pytest.mark.parametrize("rows", [[], [{}], [{"at": "x", "median": 1, "ratio": 1}], [{"at": 1.0, "median": True}]])
def test_damaged_rows_say_nothing(rows: list[dict[str, Any]]) -> None:
    assert steady(rows) is None


def test_an_anchor_that_crashes_ends_the_heating() -> None:
    device = heated(settling(30), crashes=frozenset({"heat"}))
    model = Model("0" * 64, {})
    device.blobs[model.sha256] = 0
    assert list(sustained.heat(device, model, WORK.runs_on, device.clock)) == []
