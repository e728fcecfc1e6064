"""Many archs at once cost and score what each does alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.costs import BYTES, FAILED, LATENCY, MACS, PEAK
from ofa_edge.search.scores import PlaceScores
from ofa_edge.space.cost import cost
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.doubles import COUPLED, SMALL, DrawnLatency


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
        else:
            assert row[LATENCY] >= FAILED
        counts = expected.macs, expected.weight_bytes, expected.peak_activation_bytes
        assert tuple(row[[MACS, BYTES, PEAK]].tolist()) == counts


@pytest.mark.parametrize("space", [SMALL, COUPLED, OFA_LITE0], ids=lambda space: space.name)
def test_scores_are_the_fitted_models(space):
    rng = np.random.default_rng(0)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(200)))
    correct = [600 + sum(len(s) for s in a.stages) * 10 + int(rng.integers(40)) for a in archs]
    fitted = AdditiveAccuracy.fit_rows(space, archs, correct, [1000] * len(archs))
    drawn = ArchArrays.sample(space, np.random.default_rng(1), 100, space.resolutions)
    found = PlaceScores.of(space, fitted, space.resolutions).scores(drawn)
    assert found == pytest.approx([fitted.score(arch) for arch in drawn.archs()], abs=1e-9)
