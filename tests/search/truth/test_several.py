"""Ways to run held against each other by what was measured: pure rules."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.selection import Measured
from ofa_edge.search.truth.several import drop_of, merged, ordered
from ofa_edge.search.truth.shortlist import Verdict
from ofa_edge.space.cost import cost
from tests.search.doubles import SMALL

ARCHS = [SMALL.sample(np.random.default_rng(i)) for i in range(4)]
FAST, SLOW = RunsOn("litert"), RunsOn()


def candidate(i, top1=0.8, ms=5.0, runs_on=SLOW):
    counts = cost(SMALL.blocks(ARCHS[i]))
    return Candidate(ARCHS[i], Top1(top1, top1 - 0.02, top1 + 0.02), Estimate(ms, ms, ms), counts, None, runs_on)


def verdict(one, corrected=None, fits=True, ms=None):
    top1 = None if corrected is None else Top1(corrected, 0.0, 1.0)
    latency = None if ms is None else Estimate(ms)
    return Verdict(one, Measured(top1, None if top1 is None else 100, latency or Estimate(1.0), corrected), fits)


def test_a_group_has_each_subnet_once_the_fastest_way_and_the_chosen_one_first():
    given = [
        candidate(0, 0.7),
        candidate(1, 0.9),
        candidate(1, 0.9, 4.0, FAST),
        candidate(2, 0.8),
        candidate(0, 0.7, 9.0),
    ]
    found = merged(given, ARCHS[0], 3)
    assert [one.arch for one in found] == [ARCHS[0], ARCHS[1], ARCHS[2]]
    assert [one.runs_on for one in found] == [SLOW, FAST, SLOW]
    assert found[0].latency_ms.value == 5.0
    assert len(merged(given, ARCHS[0], 2)) == 2


def test_groups_are_compared_by_what_is_to_be_expected_and_what_does_not_fit_comes_last():
    floats = [verdict(candidate(0), 0.85), verdict(candidate(1, 0.99), 0.80), verdict(candidate(2), 0.99, fits=False)]
    ints = [verdict(candidate(3, runs_on=FAST), 0.82), verdict(candidate(0, runs_on=FAST), 0.85, ms=0.5)]
    found = ordered([floats, ints])
    assert [one.measured.corrected_top1 for one in found] == [0.85, 0.85, 0.82, 0.80, 0.99]
    assert found[0].candidate.runs_on == FAST  # of equals the faster


def test_without_images_predictions_order():
    found = ordered([[verdict(candidate(0, 0.7))], [verdict(candidate(1, 0.9))]])
    assert [one.candidate.top1.value for one in found] == [0.9, 0.7]


def test_a_drop_is_counted_on_the_same_subnets_and_images():
    rng = np.random.default_rng(0)
    right = {arch: rng.random(2000) < 0.9 for arch in ARCHS}
    run_so = {arch: right[arch] & (rng.random(2000) > 0.02) for arch in ARCHS[:3]}
    found = drop_of(right, run_so)
    assert found.subnets == 3
    exact = np.mean([right[arch].mean() - run_so[arch].mean() for arch in ARCHS[:3]])
    assert found.share == pytest.approx(exact)
    assert 0.0005 < found.error < 0.005
    assert abs(found.share - 0.018) < 4 * found.error
    assert f"{100 * exact:.2f} points" in str(found)


def test_a_drop_needs_subnets_that_were_evaluated_both_ways():
    assert drop_of({ARCHS[0]: np.ones(3, bool)}, {ARCHS[1]: np.ones(3, bool)}) is None
    assert drop_of({}, {}) is None
