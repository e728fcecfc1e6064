"""What was disturbed is measured again when it is quiet, within bounds; a device that became another one is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_agents import wire
from ofa_edge.errors import BadFile
from ofa_edge.latency.campaign.quiet import MOST_SECONDS, MOST_TOGETHER, Quiet
from ofa_edge.latency.plan import FULL
from ofa_edge.latency.table import LatencyTable
from tests.latency.helpers import SETTINGS, device_for, plan_of, profile, row_problems, task
from tests.simulated import FACTS, figures

WORK = task()
PLAN = plan_of(WORK)
FULL_WORK = task(SETTINGS.model_copy(update={"quick": False}))
assert PLAN.sentinel is not None
SENTINEL = PLAN.sentinel.key
OTHERS = [block.key for block in PLAN.blocks if block.key != SENTINEL]


def result(ms: float = 1.0, flags: tuple[str, ...] = (), celsius: float | None = None) -> wire.Measured:
    noise = wire.Noise(temperature_c=celsius)
    return wire.Measured("s", figures(ms), None, None, 1, 0.1, 1.0, 0, flags, noise)


class Scripted:
    """A device whose sentinel at time t is `at(t)`."""

    def __init__(self, at: object):
        self.now = 0.0
        self.at = at
        self.looks: list[float] = []
        self.quiet = Quiet(self.look, lambda: self.now, self.pause)

    def look(self) -> wire.Measured | wire.Failed:
        self.looks.append(self.now)
        found = self.at(self.now)  # type: ignore[operator]
        assert isinstance(found, (wire.Measured, wire.Failed))
        return found

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_a_quiet_device_is_looked_at_once() -> None:
    there = Scripted(lambda now: result())
    assert there.quiet.wait()
    assert there.looks == [0.0]


@pytest.mark.parametrize("noisy", [result(flags=("steal",)), result(1.2), wire.Failed("s", "crashed")])
def test_the_wait_ends_when_the_sentinel_is_back_at_its_level_and_unflagged(noisy: wire.Measured | wire.Failed) -> None:
    there = Scripted(lambda now: noisy if now < 20 else result(1.03))
    for _ in range(5):
        there.quiet.saw(result(), sentinel=True)
    there.quiet.saw(result(9.0, ("steal",)), sentinel=True)  # says nothing about the level
    assert there.quiet.wait()
    assert 20 <= there.now < 40
    assert there.looks == sorted(set(there.looks))


def test_what_throttled_must_have_cooled() -> None:
    there = Scripted(lambda now: result(celsius=82.0 - now))
    there.quiet.saw(result(flags=("throttled",), celsius=81.0), sentinel=False)
    assert there.quiet.wait()
    assert 82.0 - there.now <= 76.0
    unknown = Scripted(lambda now: result())
    unknown.quiet.saw(result(flags=("throttled",), celsius=81.0), sentinel=False)
    assert unknown.quiet.wait()


def test_waiting_is_bounded_each_time_and_together_and_by_the_deadline() -> None:
    there = Scripted(lambda now: result(flags=("steal",)))
    assert not there.quiet.wait()
    assert there.now == pytest.approx(MOST_SECONDS)
    for _ in range(10):
        there.quiet.wait()
    assert there.now == there.quiet.waited == pytest.approx(MOST_TOGETHER)
    late = Scripted(lambda now: result(flags=("steal",)))
    assert not late.quiet.wait(deadline=3.0)
    assert late.now == pytest.approx(3.0)


# ------------------------------------------------------------------------------- whole campaigns


def test_throttled_blocks_are_measured_again_after_the_device_has_cooled(tmp_path: Path) -> None:
    device = device_for(WORK)
    victims = set(OTHERS[:6])
    device.flags = lambda key, before: ("throttled",) if key in victims and sum(device.pauses) < 3 else ()
    device.noise_at = lambda now: wire.Noise(temperature_c=85.0 - 2 * sum(device.pauses))
    table = profile(tmp_path / "t.jsonl", device, WORK).table
    assert not table.blocks["disturbed"].any()
    assert sum(device.pauses) >= 2.5  # 5 degrees
    assert sorted(row["key"] for row in table.contents.of("block") if row["flags"]) == sorted(victims)
    assert all(sum(key == victim for key, _ in device.asked) == 2 for victim in victims)


def test_disturbed_networks_wait_for_quiet_before_they_are_measured_again(tmp_path: Path) -> None:
    device = device_for(FULL_WORK)

    def flags(key: str, before: int) -> tuple[str, ...]:
        ended = sum(k.startswith("network:") for k, _ in device.asked) >= 12
        return ("preempted",) if sum(device.pauses) < 40 and (key.startswith("network:") or ended) else ()

    device.flags = flags
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    assert sum(device.pauses) >= 40
    assert [row["flags"] for row in table.contents.of("network")] == [["preempted"]] * 12 + [[]] * 4
    assert not table.networks["disturbed"].any()


def test_looks_at_the_sentinel_are_no_rows(tmp_path: Path) -> None:
    device = device_for(FULL_WORK)
    device.flags = lambda key, before: ("steal",) if key in OTHERS[:3] and before < FULL.rounds else ()
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    asked = sum(key == SENTINEL for key, _ in device.asked)
    rows = len(table.contents.of("sentinel")) + sum(r["key"] == SENTINEL for r in table.contents.of("block"))
    assert asked == rows + 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"governor": "powersave"}, "governor: 'performance' and 'powersave'"),
        ({"runtimes": {"onnxruntime": "9.9"}}, "runtime_version: '1.31.1' and '9.9'"),
    ],
)
def test_a_device_that_changes_on_the_way_ends_the_campaign_and_the_rows_are_kept(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    path = tmp_path / "t.jsonl"
    changed = replace(FACTS, **change)  # type: ignore[arg-type]
    device = device_for(WORK, facts_at=lambda now: FACTS if now < 15 else changed)
    device.noise_at = lambda now: wire.Noise(governor=device.ask_facts().governor)
    with pytest.raises(BadFile, match=named) as caught:
        profile(path, device, WORK)
    assert "kept" in caught.value.message
    table = LatencyTable.read(path)
    assert not table.complete
    assert len(table.blocks) > 40


def test_a_governor_that_changes_is_noticed_at_the_next_sentinel(tmp_path: Path) -> None:
    changed = replace(FACTS, governor="powersave")
    device = device_for(WORK, facts_at=lambda now: FACTS if now < 1.1 else changed)
    device.noise_at = lambda now: wire.Noise(governor=device.ask_facts().governor)
    with pytest.raises(BadFile, match="governor"):
        profile(tmp_path / "t.jsonl", device, WORK)
    assert len(device.asked) <= 2 * 21 + 1


def test_a_device_that_was_booted_again_begins_a_new_session(tmp_path: Path) -> None:
    again = replace(FACTS, boot_id="4d5c1a62-0000-4000-8000-000000000002")
    device = device_for(FULL_WORK, facts_at=lambda now: FACTS if now < 5 else again)
    table = profile(tmp_path / "t.jsonl", device, FULL_WORK).table
    assert [row["facts"]["boot_id"] for row in table.contents.of("session")] == [FACTS.boot_id, again.boot_id]
    assert {(row["round"], row["session"]) for row in table.contents.of("block")} == {(0, 0), (1, 1), (2, 1)}
    assert row_problems(table) == []
