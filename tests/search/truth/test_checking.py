"""Measuring a shortlist: everything once, in turns, and an interrupted run goes on where it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ofa_edge.errors import BadFile, DeviceLost, LockHeld, OfaEdgeError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.models.model import Estimate
from ofa_edge.latency.plan import QUICK, middle
from ofa_edge.latency.workload import network_source
from ofa_edge.search.truth.checking import evaluate_missing, time_missing
from ofa_edge.search.truth.journal import Process, TruthJournal, latency_of, undisturbed
from tests.search.doubles import REDUCED, SMALL
from tests.simulated import Law, SimulatedDevice

ARCHS = [REDUCED.sample(np.random.default_rng(i), 32) for i in range(4)]
ANCHOR = middle(REDUCED, REDUCED.resolutions)
REFERENCE = Law().network(REDUCED.blocks(ANCHOR))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "truth.jsonl"


def device(**what: object) -> SimulatedDevice:
    named = {str(i): arch for i, arch in enumerate(ARCHS)}
    return SimulatedDevice(REDUCED, anchor=ANCHOR, named=named, **what)  # type: ignore[arg-type]


def timed(notes: TruthJournal, there: SimulatedDevice, processes: int = 3, archs=ARCHS, report=lambda count: None):
    return time_missing(
        there,
        archs,
        notes,
        notes.under(board="one"),
        space=REDUCED,
        anchor=network_source(REDUCED, ANCHOR, RunsOn()),
        reference_ms=REFERENCE,
        runs_on=RunsOn(),
        processes=processes,
        effort=QUICK,
        report=report,
    )


def true(arch) -> float:
    return Law().network(REDUCED.blocks(arch))


# -- on a device ----------------------------------------------------------------------------------
def test_each_subnet_is_timed_in_turns_and_its_median_is_anchored(path: Path) -> None:
    there, done = device(speed=lambda now: 1.03), []
    with TruthJournal.open(path, REDUCED) as notes:
        assert timed(notes, there, report=done.append) == {}
        assert there.asked == [(str(i), True) for _ in range(3) for i in range(4)]
        assert sum(done) == 12
        for arch in ARCHS:
            processes = notes.processes(notes.under(board="one"), arch)
            assert latency_of(processes, REFERENCE).value == pytest.approx(true(arch), rel=1e-3)
            assert latency_of(processes, None).value == pytest.approx(1.03 * true(arch), rel=1e-3)


def test_a_cut_link_loses_nothing_and_the_next_run_measures_the_rest(path: Path) -> None:
    with TruthJournal.open(path, REDUCED) as notes, pytest.raises(DeviceLost):
        timed(notes, device(lose_after=6))
    again, done = device(), []
    with TruthJournal.open(path, REDUCED) as notes:
        assert timed(notes, again, report=done.append) == {}
        counts = {len(notes.processes(notes.under(board="one"), arch)) for arch in ARCHS}
    assert counts == {3}
    assert len(again.asked) == 12 - 6
    assert sum(done) == 12


def test_another_device_is_measured_anew(path: Path) -> None:
    with TruthJournal.open(path, REDUCED) as notes:
        timed(notes, device(), processes=1)
        assert notes.processes(notes.under(board="two"), ARCHS[0]) == ()
        assert len(notes.processes(notes.under(board="one"), ARCHS[0])) == 1


def test_a_disturbed_process_is_repeated_before_it_counts(path: Path) -> None:
    there = device(flags=lambda key, before: ("steal",) if before == 0 and key == "1" else ())
    with TruthJournal.open(path, REDUCED) as notes:
        timed(notes, there, processes=2)
        kept = notes.processes(notes.under(board="one"), ARCHS[1])
    assert Counter(key for key, _ in there.asked) == {"0": 2, "1": 3, "2": 2, "3": 2}
    assert [process.flags for process in kept] == [(), ()]


def test_processes_that_stayed_disturbed_are_left_out_and_replaced_by_a_later_run(path: Path) -> None:
    busy = device(flags=lambda key, before: ("preempted",) if key == "1" else (), slow=lambda key, before: 3.0)
    with TruthJournal.open(path, REDUCED) as notes:
        timed(notes, busy, archs=ARCHS[:2])
        kept = notes.processes(notes.under(board="one"), ARCHS[1])
        assert len(kept) == 3
        assert undisturbed(kept) is None
    again = device()
    with TruthJournal.open(path, REDUCED) as notes:
        timed(notes, again, archs=ARCHS[:2])
        kept = notes.processes(notes.under(board="one"), ARCHS[1])
    assert again.asked == [("1", True)] * 3
    assert latency_of(kept, REFERENCE).value == pytest.approx(true(ARCHS[1]), rel=1e-3)


def test_few_quiet_processes_are_used_where_they_are_not_fewer_than_the_others() -> None:
    quiet, busy = Process(5.0), Process(9.0, flags=("steal",))
    assert latency_of([quiet, busy], None) == Estimate(5.0)
    assert latency_of([quiet, busy, busy], None) == Estimate(9.0, 5.0, 9.0)
    assert latency_of([quiet] * 3 + [busy] * 9, None) == Estimate(5.0, 5.0, 5.0)


def test_a_subnet_that_crashes_costs_no_other(path: Path) -> None:
    there = device(crashes=frozenset({"2"}))
    with TruthJournal.open(path, REDUCED) as notes:
        failed = timed(notes, there)
        assert list(failed) == [ARCHS[2]]
        assert len(notes.processes(notes.under(board="one"), ARCHS[3])) == 3
    assert Counter(key for key, _ in there.asked)["2"] == 1


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ([5.0], Estimate(5.0)),
        ([5.0, 7.0, 6.0], Estimate(6.0, 5.0, 7.0)),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 90.0], Estimate(3.5, 1.0, 90.0)),
    ],
)
def test_the_latency_is_the_median_of_processes(medians: list[float], expected: Estimate) -> None:
    assert latency_of([Process(ms) for ms in medians], 2.0) == expected
    anchored = [Process(100.0, ms / 2, 3.0) for ms in medians]
    found = latency_of(anchored, 2.0)
    assert (found.value, found.high) == (expected.value, expected.high)


# -- on images ------------------------------------------------------------------------------------
def drawn(arch) -> np.ndarray:
    return np.random.default_rng(arch.resolution + len(arch.stages[0])).random(77) < 0.6


def test_images_are_classified_once_and_kept_bit_by_bit(path: Path) -> None:
    asked = []

    def right(arch):
        asked.append(arch)
        return drawn(arch)

    for _ in range(2):
        with TruthJournal.open(path, REDUCED) as notes:
            under = notes.under(images="a", bn="bank")
            assert evaluate_missing(right, ARCHS, notes, under) == {}
            for arch in ARCHS:
                assert np.array_equal(notes.right(under, arch), drawn(arch))
            assert notes.right(notes.under(images="b", bn="bank"), ARCHS[0]) is None
    assert asked == ARCHS


def test_a_subnet_that_fails_costs_no_other_and_is_tried_again(path: Path) -> None:
    def right(arch):
        if arch == ARCHS[0]:
            raise OfaEdgeError("its outputs are not finite")
        if arch == ARCHS[1]:
            raise RuntimeError("no memory")
        return drawn(arch)

    with TruthJournal.open(path, REDUCED) as notes:
        failed = evaluate_missing(right, ARCHS, notes, notes.under(images="a"))
        assert failed == {ARCHS[0]: "its outputs are not finite", ARCHS[1]: "RuntimeError: no memory"}
        assert evaluate_missing(drawn, ARCHS, notes, notes.under(images="a")) == {}


# -- the file -------------------------------------------------------------------------------------
def test_the_journal_has_one_writer_and_one_space(path: Path) -> None:
    with TruthJournal.open(path, REDUCED) as notes:
        notes.add_process(notes.under(board="one"), ARCHS[0], Process(1.5, 1.0, 1.5, ("steal",)))
        with pytest.raises(LockHeld) as caught:
            TruthJournal.open(path, REDUCED)
        assert "wait until" in caught.value.hint
    with pytest.raises(BadFile, match="of space reduced, not of small"):
        TruthJournal.open(path, SMALL)
    with TruthJournal.open(path, REDUCED) as notes:
        assert list(notes.processes(notes.under(board="one"), ARCHS[0])) == [Process(1.5, 1.0, 1.5, ("steal",))]
    assert path.read_text().count('"record":"under"') == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"correct":', '"correct":1'),
        ('"right":"', '"right":"zz'),
        ('"median":1.5', '"median":-1.5'),
        ('"r":32', '"r":33'),
        ('"flags":[]', '"flags":7'),
    ],
)
def test_a_row_that_is_none_is_refused_with_a_way_out(path: Path, old: str, new: str) -> None:
    with TruthJournal.open(path, REDUCED) as notes:
        under = notes.under(images="a")
        notes.add_right(under, ARCHS[0], drawn(ARCHS[0]))
        notes.add_process(under, ARCHS[0], Process(1.5))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadFile, match="holds a row that is none") as caught:
        TruthJournal.open(path, REDUCED)
    assert "remove it" in caught.value.hint
    path.write_text(path.read_text().replace(new, old))
    TruthJournal.open(path, REDUCED).__exit__(None, None, None)


def test_a_torn_last_line_is_dropped(path: Path) -> None:
    with TruthJournal.open(path, REDUCED) as notes:
        notes.add_process(notes.under(board="one"), ARCHS[0], Process(1.5))
    path.write_bytes(path.read_bytes()[:-9])
    with TruthJournal.open(path, REDUCED) as notes:
        assert notes.processes(notes.under(board="one"), ARCHS[0]) == ()
