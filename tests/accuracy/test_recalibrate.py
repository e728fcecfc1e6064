"""Recalibration of a checkpoint of one subnet: it has the statistics that it has inside its supernet."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.accuracy.recalibrate import Recalibrator
from ofa_edge.errors import UsageError
from ofa_edge.weights.checkpoint import Checkpoint, Metadata
from ofa_edge.weights.cut import subnet_arrays
from tests.train.tiny import TINY, arrays_of, image_set, random_network, random_statistics

METADATA = Metadata("tiny", ("a", "b", "c"), "random", "none", {}, {}, {})


def test_a_subnet_alone_is_recalibrated_as_in_its_supernet() -> None:
    arrays, source = arrays_of(random_network(0)), image_set(40, seed=7)
    arch = TINY.sample(np.random.default_rng(1))
    alone = Checkpoint(TINY, subnet_arrays(TINY, arrays, arch), None, METADATA, "", random_statistics(arch, 0), arch)
    expected = Recalibrator(Checkpoint(TINY, arrays, None, METADATA, ""), source, count=30)(arch)
    found = Recalibrator(alone, source, count=30)(arch)
    assert found.keys() == expected.keys()
    for name, pair in expected.items():
        for one, two in zip(found[name], pair, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert alone.folded(arch, found).keys() == alone.folded(arch).keys()
    with pytest.raises(UsageError, match="this arch is another"):
        alone.folded(TINY.largest(), found)
