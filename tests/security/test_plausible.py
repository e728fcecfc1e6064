"""Results that no hardware gives are refused, those of the fastest hardware are not; another machine is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.device import identity
from ofa_edge.errors import ProtocolError, UsageError
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.judging import plausible
from ofa_edge.latency.table import LatencyTable
from tests.device import fake
from tests.latency.helpers import device_for, profile, task
from tests.simulated import FACTS, SimulatedDevice

FP32, INT8 = RunsOn(), RunsOn(precision="int8")


@pytest.mark.parametrize(
    ("ms", "macs", "runs_on", "why"),
    [
        (0.0004, 0, FP32, ""),  # LiteRT, one small operator
        (0.00009, 0, FP32, "a call into a runtime alone takes"),
        (1.0, 200_000_000, FP32, ""),  # 200 GMAC/s: a desktop core
        (0.02, 20_000_000, FP32, ""),  # 1 TMAC/s: a matrix unit
        (0.01, 80_000_000, FP32, "cannot reach 6.3e"),  # 8 TMAC/s
        (0.01, 80_000_000, INT8, ""),
        (0.01, 80_000_000, RunsOn(threads=4), ""),
        (0.001, 80_000_000, INT8, "1 threads at int8 cannot reach"),
    ],
)
def test_a_time_is_held_against_the_fastest_hardware_there_is(ms: float, macs: int, runs_on: RunsOn, why: str) -> None:
    said = plausible.implausible(fake.measured("k", ms), runs_on, macs)
    assert bool(said) == bool(why)
    assert why in said


def test_figures_that_contradict_each_other_are_named() -> None:
    good = fake.measured("k", 2.0, anchor_ms=4.0)
    assert plausible.implausible(good, FP32) == ""
    ratio = plausible.implausible(replace(good, ratio=fake.figures(5.0)), FP32)
    assert "ratio to the anchor is 5, its times say 0.5" in ratio
    seconds = plausible.implausible(replace(good, seconds=0.01), FP32)
    assert "were timed in 0.01 s" in seconds
    assert "its anchor took" in plausible.implausible(replace(good, anchor=fake.figures(5e-5)), FP32)


def test_rows_before_one_that_cannot_be_stay_and_the_error_names_it(tmp_path: Path) -> None:
    work = task()
    device = device_for(work)
    honest = device.measure

    def lie(jobs: Any, *, fresh: bool) -> Any:
        for result in honest(jobs, fresh=fresh):
            if len(device.asked) == 20 and isinstance(result, wire.Measured):
                result = replace(result, figures=fake.figures(1e-4))
            yield result

    device.measure = lie  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="Simulated Board says what cannot be of") as caught:
        profile(tmp_path / "t", device, work)
    kept = LatencyTable.read(tmp_path / "t")
    assert len(kept.contents.of("block")) + len(kept.sentinels) == 19
    assert caught.value.details["key"] not in kept.blocks.index


@pytest.mark.parametrize(
    "change", [{"serial": "0002"}, {"machine": "x86_64"}, {"memory_bytes": 4 << 30}, {"device_model": "Other"}]
)
def test_another_unit_is_another_machine(change: dict[str, Any]) -> None:
    now = replace(FACTS, **change)
    assert set(identity.changes(FACTS, now).machine) == set(change)
    with pytest.raises(ProtocolError, match=f"board became another machine.*{next(iter(change))} was"):
        identity.require_same_machine(FACTS, now, device="board")


@pytest.mark.parametrize(
    "change",
    [
        {"governor": "powersave"},
        {"core_mask": (0,)},
        {"runtimes": {}},
        {"serial": "unknown"},
        {"memory_bytes": 1 << 30},
    ],
)
def test_another_state_or_silence_about_it_is_no_other_machine(change: dict[str, Any]) -> None:
    now = replace(FACTS, **change)
    found = identity.changes(FACTS, now)
    assert found.machine == {}
    assert not found.rebooted
    identity.require_same_machine(FACTS, now, device="board")


def test_no_session_outlives_a_restart() -> None:
    now = replace(FACTS, boot_id="another")
    assert identity.changes(FACTS, now).rebooted
    with pytest.raises(ProtocolError, match="boot_id"):
        identity.require_same_machine(FACTS, now, device="board")


def test_a_table_is_resumed_on_the_unit_it_was_begun_on_after_a_restart_too(tmp_path: Path) -> None:
    work = task()

    def on(**facts: Any) -> SimulatedDevice:
        device = device_for(work)
        device.facts = replace(FACTS, **facts)
        return device

    first = on()
    first.lose_after = 10
    with pytest.raises(Exception, match="cut"):
        profile(tmp_path / "t", first, work)
    size = (tmp_path / "t").stat().st_size
    with pytest.raises(UsageError, match="begun on another device: serial was '0001' and is '0002'"):
        campaign.run(on(serial="0002"), tmp_path / "t", work, resume=True)
    assert (tmp_path / "t").stat().st_size == size
    assert profile(tmp_path / "t", on(boot_id="another"), work, resume=True).finished
