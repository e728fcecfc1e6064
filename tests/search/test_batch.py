"""Many archs at once cost and score what each does alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.search import batch
from ofa_edge.search.batch import BatchAccuracy, BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BYTES, COLUMNS, FAILED, LATENCY, MACS, PEAK, PER_MS
from ofa_edge.search.exact import scores
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.space.cost import cost
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.doubles import COUPLED, SMALL, DrawnLatency, keeps, listed


def picoseconds(ms):
    return round(ms * PER_MS)


@pytest.mark.parametrize("space", [SMALL, COUPLED, OFA_LITE0, SPACES["ofa-resnet50d"]], ids=lambda space: space.name)
@given(seed=st.integers(0, 10**6), failed=st.sampled_from([0.0, 0.02]))
@settings(max_examples=8, deadline=None)
def test_costs_are_those_of_the_blocks(space, seed, failed):
    latency, sizes = DrawnLatency(seed, failed=failed), space.resolutions[:2]
    drawn = ArchArrays.sample(space, np.random.default_rng(seed), 25, sizes)
    batch = BatchCosts(space, latency, sizes)
    rows = batch.rows(drawn)
    for row, ms, arch in zip(rows, batch.latency_ms(drawn), drawn.archs(), strict=True):
        blocks = space.blocks(arch)
        expected = cost(blocks)
        if math.isfinite(latency.value(blocks)):
            assert ms == pytest.approx(latency.value(blocks), abs=1e-7)
            assert row[LATENCY] == sum(map(picoseconds, map(latency.block_ms, blocks))) + picoseconds(latency.offset_ms)
        else:
            assert (row[LATENCY], ms) == (FAILED, math.inf)
        counts = expected.macs, expected.weight_bytes, expected.peak_activation_bytes
        assert tuple(row[[MACS, BYTES, PEAK]].tolist()) == counts


@pytest.mark.parametrize("values", [1, 100, 1 << 18])
@pytest.mark.parametrize("rows", [1, 7, 1 << 13])
def test_how_tables_and_populations_are_cut_changes_nothing(monkeypatch, values, rows):
    space, latency = OFA_LITE0, DrawnLatency(2)
    drawn = ArchArrays.sample(space, np.random.default_rng(3), 40, space.resolutions)
    expected = BatchCosts(space, latency, space.resolutions).rows(drawn)
    score = fitted(space, np.random.default_rng(0))
    scored = PlaceScores.of(space, score, space.resolutions).scores(drawn)
    for module in (batch, scores):
        monkeypatch.setattr(module, "_VALUES", values)
        monkeypatch.setattr(module, "_ROWS", rows)
    assert np.array_equal(BatchCosts(space, latency, space.resolutions).rows(drawn), expected)
    again = PlaceScores.of(space, score, space.resolutions).scores(drawn)
    assert again == pytest.approx(scored, abs=1e-12)


def test_only_the_columns_that_are_asked_for_are_filled():
    drawn = ArchArrays.sample(SMALL, np.random.default_rng(3), 10, SMALL.resolutions)
    costs = BatchCosts(SMALL, DrawnLatency(2), SMALL.resolutions)
    rows, some = costs.rows(drawn), costs.rows(drawn, [MACS])
    assert rows.shape == (10, len(COLUMNS))
    assert np.array_equal(some[:, MACS], rows[:, MACS])
    assert not np.delete(some, MACS, axis=1).any()


@given(
    seed=st.integers(0, 10**6),
    share=st.none() | st.floats(0, 1),
    macs=st.none() | st.floats(0, 1),
    memory=st.none() | st.floats(0, 1),
)
@settings(max_examples=15, deadline=None)
def test_those_that_keep_limits_can_run_and_keep_the_budget(seed, share, macs, memory):
    latency = DrawnLatency(seed, failed=0.03)
    subnets = listed(SMALL)
    values = np.array([latency.value(subnet.blocks) for subnet in subnets])

    def limit(part, used):
        return None if part is None else sorted(used)[int(part * (len(used) - 1))]

    budget = Budget(
        latency_ms=limit(share, values[np.isfinite(values)].tolist() or [1.0]),
        macs=limit(macs, [subnet.cost.macs for subnet in subnets]),
        memory_bytes=limit(memory, [s.cost.weight_bytes + s.cost.peak_activation_bytes for s in subnets]),
        size_bytes=10**9,
    )
    archs = ArchArrays.of(SMALL, [subnet.arch for subnet in subnets])
    kept = BatchCosts(SMALL, latency, SMALL.resolutions).keep(archs, Limits.of(budget, margin=0.05))
    most = math.inf if budget.latency_ms is None else budget.latency_ms / 1.05 * (1 + 1e-12)
    expected = [
        math.isfinite(ms) and ms <= most and keeps(s.cost, budget) for ms, s in zip(values, subnets, strict=True)
    ]
    assert kept.tolist() == expected


def fitted(space, rng):
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(200)))
    correct = [600 + sum(len(s) for s in a.stages) * 10 + int(rng.integers(40)) for a in archs]
    return AdditiveAccuracy.fit_measured(Rows.of(space, archs, correct, [1000] * len(archs)))


@pytest.mark.parametrize("space", [SMALL, COUPLED, OFA_LITE0], ids=lambda space: space.name)
def test_scores_are_the_fitted_models(space):
    model = fitted(space, np.random.default_rng(0))
    drawn = ArchArrays.sample(space, np.random.default_rng(1), 100, space.resolutions)
    found = PlaceScores.of(space, model, space.resolutions).scores(drawn)
    assert found == pytest.approx([model.score(arch) for arch in drawn.archs()], abs=1e-9)
    shares = BatchAccuracy(model, space.resolutions).top1(drawn)
    assert shares == pytest.approx([model.estimate(arch).value for arch in drawn.archs()], abs=1e-9)
    assert model.predict_arrays(drawn) == pytest.approx(shares, abs=1e-9)
