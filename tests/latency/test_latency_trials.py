"""Whole networks: the median over fresh processes, repeated while something else runs."""

from __future__ import annotations

from collections import Counter

import pytest

from device_agents import wire
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.plan import middle
from ofa_edge.latency.trials import ANCHOR_OFF, Trial, measure_networks, over_processes
from ofa_edge.latency.workload import Source, network_source
from ofa_edge.space.spaces import OFA_LITE0 as SPACE
from tests.simulated import Law, SimulatedDevice, figures

SMALL, LARGE, ANCHOR = SPACE.smallest(96), SPACE.smallest(112), middle(SPACE, (96, 128, 160))
NAMED = {"small": SMALL, "large": LARGE}
SOURCES = {name: network_source(SPACE, arch, RunsOn()) for name, arch in NAMED.items()}
ANCHOR_SOURCE = network_source(SPACE, ANCHOR, RunsOn())
REFERENCE = Law().network(SPACE.blocks(ANCHOR))


def device(**what: object) -> SimulatedDevice:
    return SimulatedDevice(SPACE, anchor=ANCHOR, named=NAMED, **what)  # type: ignore[arg-type]


def true(name: str) -> float:
    return Law().network(SPACE.blocks(NAMED[name]))


def test_each_network_gets_its_processes_in_turns() -> None:
    there = device()
    found = measure_networks(
        there, SOURCES, runs_on=RunsOn(), processes=3, anchor=ANCHOR_SOURCE, reference_ms=REFERENCE
    )
    assert there.asked == [("small", True), ("large", True)] * 3
    for latency, name in zip(found, NAMED, strict=True):
        assert latency.key == name
        assert latency.figures is not None
        assert latency.anchored is not None
        assert latency.figures.n == 3
        assert latency.figures.median == pytest.approx(true(name))
        assert latency.anchored.median == pytest.approx(true(name))
        assert latency.anchor_ms == pytest.approx(REFERENCE)
        assert (latency.flags, latency.repeats, latency.failed) == ((), 0, None)


def test_a_slow_machine_shows_in_the_raw_figures_and_not_in_the_anchored_ones() -> None:
    there = device(speed=lambda now: 1.03)
    (found, _) = measure_networks(there, SOURCES, runs_on=RunsOn(), anchor=ANCHOR_SOURCE, reference_ms=REFERENCE)
    assert found.figures is not None
    assert found.anchored is not None
    assert found.figures.median == pytest.approx(1.03 * true("small"))
    assert found.anchored.median == pytest.approx(true("small"))


def test_a_trial_whose_anchor_is_off_is_repeated_until_it_is_not() -> None:
    there = device(speed=lambda now: 1.2 if now < 0.6 else 1.0, seconds=0.25)
    seen: list[tuple[str, Trial]] = []
    (found, _) = measure_networks(
        there, SOURCES, runs_on=RunsOn(), processes=1, anchor=ANCHOR_SOURCE, reference_ms=REFERENCE,
        on_process=lambda key, trial: seen.append((key, trial)),
    )  # fmt: skip
    assert [trial.flags for _, trial in seen] == [(ANCHOR_OFF,), (ANCHOR_OFF,), (), ()]
    assert found.repeats == 2
    assert found.flags == ()
    assert found.figures is not None
    assert found.figures.median == pytest.approx(true("small"))


def test_the_third_try_counts_whatever_it_is_and_its_flags_are_told() -> None:
    there = device(flags=lambda key, before: ("steal", "pressure"), speed=lambda now: 2.0)
    (found, _) = measure_networks(
        there, SOURCES, runs_on=RunsOn(), processes=1, anchor=ANCHOR_SOURCE, reference_ms=REFERENCE
    )
    assert Counter(key for key, _ in there.asked) == {"small": 3, "large": 3}
    assert found.flags == (ANCHOR_OFF, "pressure", "steal")
    assert found.figures is not None
    assert found.figures.median == pytest.approx(2 * true("small"))


def test_flags_that_are_no_disturbance_are_told_and_not_repeated() -> None:
    there = device(flags=lambda key, before: ("interval-wide", "load"))
    (found, _) = measure_networks(there, SOURCES, runs_on=RunsOn(), processes=1)
    assert found.repeats == 0
    assert found.flags == ("interval-wide", "load")


def test_without_an_anchor_there_is_nothing_to_be_anchored_to() -> None:
    (found, _) = measure_networks(device(), SOURCES, runs_on=RunsOn(), processes=2)
    assert found.anchored is None
    assert found.anchor_ms is None
    (no_reference, _) = measure_networks(device(), SOURCES, runs_on=RunsOn(), processes=2, anchor=ANCHOR_SOURCE)
    assert no_reference.anchored is None
    assert no_reference.anchor_ms == pytest.approx(REFERENCE)


def test_a_network_that_crashes_is_a_result_with_a_reason() -> None:
    there = device(crashes=frozenset({"small"}))
    (bad, good) = measure_networks(there, SOURCES, runs_on=RunsOn(), processes=2)
    assert bad.figures is None
    assert "signal 11" in (bad.failed or "")
    assert bad.as_json()["latency_ms"] is None
    assert good.figures is not None
    assert Counter(key for key, _ in there.asked) == {"small": 2, "large": 2}


def test_a_network_may_have_any_name() -> None:
    named = {"anchor": SMALL, "": LARGE}
    there = SimulatedDevice(SPACE, anchor=ANCHOR, named=named)
    sources = {name: network_source(SPACE, arch, RunsOn()) for name, arch in named.items()}
    found = measure_networks(there, sources, runs_on=RunsOn(), processes=1, anchor=ANCHOR_SOURCE)
    medians = [latency.figures.median for latency in found if latency.figures]
    assert medians == pytest.approx([Law().network(SPACE.blocks(arch)) for arch in named.values()])


def test_a_file_is_made_once_and_sent_once() -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return SOURCES["small"].make()

    there = device()
    measure_networks(there, {"small": Source(make)}, runs_on=RunsOn(), processes=3)
    measure_networks(there, {"small": Source(make)}, runs_on=RunsOn(), processes=1)
    assert len(made) == 2
    assert len(there.blobs) == 1


def test_one_process_gives_its_own_figures_and_several_the_figures_of_their_medians() -> None:
    one = figures(2.0)
    assert over_processes([one]) == one
    three = over_processes([figures(2.0), figures(4.0), figures(3.0)])
    assert (three.n, three.min, three.median, three.low, three.high) == (3, 2.0, 3.0, 2.0, 4.0)
    ten = over_processes([figures(float(i)) for i in range(1, 11)])
    assert (ten.low, ten.median, ten.high) == (2.0, 5.5, 9.0)
    wire.Figures.parse(wire.to_wire(ten))
