"""Every block and every table gets a verdict; every notice has its value and says what to type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from device_agents import wire
from ofa_edge import journal
from ofa_edge.errors import NotTrustworthy
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.judging import verdicts
from ofa_edge.latency.stats import Notice, Verdict
from ofa_edge.latency.table import FORMAT, LatencyTable
from tests.latency.helpers import device_for, plan_of, profile, task
from tests.simulated import FACTS

WORK = task()
PLAN = plan_of(WORK)
QUIET = wire.Noise(0.0, 0.01, 1, 55.0, 1800.0, 0, "performance")


def campaign(tmp_path: Path, **what: Any) -> Outcome:
    return profile(tmp_path / "t.jsonl", device_for(WORK, **what), WORK)


def notice(outcome: Outcome, code: str) -> Notice:
    (found,) = [n for n in outcome.notices if n.code == code]
    return found


def test_a_quiet_device_and_one_that_tells_nothing_raise_no_notice(tmp_path: Path) -> None:
    for name, noise in (("a", QUIET), ("b", wire.Noise())):
        outcome = campaign(tmp_path / name, noise_at=lambda now, noise=noise: noise)
        assert (outcome.verdict, outcome.notices) == (Verdict.GOOD, ())
        outcome.require_good()


@pytest.mark.parametrize(
    ("change", "code", "value", "text", "hint"),
    [
        ({"pressure": 0.23}, "pressure", 0.23, "cores waited for 23% of the time", "pin with --cores 3"),
        ({"steal": 0.05}, "steal", 0.05, "a hypervisor took 5.0% of the time", "quiet"),
    ],
)
def test_other_work_is_told_with_its_share_and_is_no_good_verdict(
    tmp_path: Path, change: dict[str, Any], code: str, value: float, text: str, hint: str
) -> None:
    outcome = campaign(tmp_path, noise_at=lambda now: replace(QUIET, **change))
    found = notice(outcome, code)
    assert found.value == pytest.approx(value)
    assert found.text == text
    assert hint in found.hint
    assert outcome.verdict is Verdict.NOISY
    with pytest.raises(NotTrustworthy, match=text) as caught:
        outcome.require_good()
    assert caught.value.hint == found.hint
    assert outcome.as_json()["notices"][0] == {"code": code, "text": text, "value": found.value, "hint": found.hint}


def slowed(flag: str, share: float) -> Callable[[str, int], tuple[str, ...]]:
    """Of the blocks, and of the sentinel only where all are."""
    victims = {block.key for block in PLAN.blocks[: round(share * len(PLAN.blocks))]}
    if share < 1 and PLAN.sentinel is not None:
        victims.discard(PLAN.sentinel.key)
    return lambda key, before: (flag,) if key in victims else ()


@pytest.mark.parametrize(
    ("flag", "share", "verdict", "hint"),
    [
        ("throttled", 0.1, Verdict.NOISY, "--sustained"),
        ("throttled", 1.0, Verdict.UNUSABLE, "--sustained"),
        ("undervoltage", 0.1, Verdict.NOISY, "supply"),
        ("governor-changed", 0.1, Verdict.NOISY, "profile again"),
    ],
)
def test_a_device_that_was_slowed_is_told(tmp_path: Path, flag: str, share: float, verdict: Verdict, hint: str) -> None:
    outcome = campaign(tmp_path, flags=slowed(flag, share), noise_at=lambda now: replace(QUIET, temperature_c=83.5))
    found = notice(outcome, flag)
    assert isinstance(found.value, int)
    assert found.value >= round(share * len(PLAN.blocks)) - 1
    assert str(found.value) in found.text
    assert ("hottest 83.5 C" in found.text) == (flag == "throttled")
    assert hint in found.hint
    assert outcome.verdict is verdict
    assert sum(outcome.as_json()["verdicts"].values()) == len(PLAN.blocks)
    assert outcome.as_json()["verdicts"]["good"] <= (1 - share) * len(PLAN.blocks) + 1


def test_a_governor_that_saves_power_is_told_without_spoiling_the_verdict(tmp_path: Path) -> None:
    facts = replace(FACTS, governor="ondemand")
    noise = replace(QUIET, governor="ondemand")
    outcome = campaign(tmp_path, facts=facts, noise_at=lambda now: replace(noise, frequency_mhz=600 + 200 * (now > 8)))
    assert notice(outcome, "governor").value == "ondemand"
    assert "scaling_governor" in notice(outcome, "governor").hint
    assert "600 and 800 MHz" in notice(outcome, "clock").text
    assert outcome.verdict is Verdict.GOOD


def test_an_emulated_device_is_never_good(tmp_path: Path) -> None:
    outcome = campaign(tmp_path, facts=replace(FACTS, emulated=True))
    assert outcome.verdict is Verdict.UNUSABLE
    assert notice(outcome, "emulated").value is True


def test_load_must_be_there_most_of_the_time(tmp_path: Path) -> None:
    noise = replace(QUIET, runnable=9)
    often = campaign(tmp_path / "a", flags=lambda key, before: ("load",), noise_at=lambda now: noise)
    assert (notice(often, "load").value, often.verdict) == (9.0, Verdict.GOOD)
    once = campaign(tmp_path / "b", flags=slowed("load", 0.2), noise_at=lambda now: noise)
    assert once.notices == ()


@pytest.mark.parametrize("noise", [None, 3, {}, {"pressure": "high"}, {"pressure": True, "steal": 1e300}, []])
def test_rows_without_noise_or_with_any_say_nothing(tmp_path: Path, noise: object) -> None:
    """Tables from before there was noise, and files others wrote."""
    contents = campaign(tmp_path).table.contents
    rows = [{**row, "noise": noise} if row["record"] == "sentinel" else row for row in contents.rows]
    path = tmp_path / "other.jsonl"
    journal.write(path, FORMAT, contents.header, rows, version=contents.version)
    assert verdicts.surroundings(LatencyTable.read(path)) == (Verdict.GOOD, ())


def test_more_threads_than_cores_wait_for_each_other(tmp_path: Path) -> None:
    work = replace(WORK, runs_on=replace(WORK.runs_on, threads=2, cores=(1,)))
    device = device_for(work, noise_at=lambda now: replace(QUIET, pressure=0.9))
    assert profile(tmp_path / "t.jsonl", device, work).notices == ()


@pytest.mark.parametrize(
    ("half", "disturbed", "verdict"),
    [
        (0.01, False, Verdict.GOOD),
        (0.06, False, Verdict.NOISY),
        (0.01, True, Verdict.NOISY),
        (0.06, True, Verdict.UNUSABLE),
        (0.25, False, Verdict.UNUSABLE),
        (float("nan"), False, Verdict.GOOD),
    ],
)
def test_a_blocks_verdict_comes_from_its_flags_and_its_interval(half: float, disturbed: bool, verdict: Verdict) -> None:
    frame = pd.DataFrame({"low": [2 - 2 * half], "median": [2.0], "high": [2 + 2 * half], "disturbed": [disturbed]})
    assert list(verdicts.of_rows(frame)) == [verdict]
    assert verdicts.counts(frame)[verdict] == 1
