"""Which subnets are measured: the presets of the papers, one size each, inside a budget, and always the same ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ofa_edge.accuracy.samples import PRESETS, sample_sizes
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.train.tiny import TINY

MBV3 = SPACES["ofa-mbv3-w1.0"]


def macs(space, arch):
    return cost(space.blocks(arch)).macs


def test_each_at_one_drawn_size_with_the_largest_and_smallest_first():
    found = sample_sizes(MBV3, 60, (128, 176, 224), 3)
    assert len(found) == len(set(found)) == 60
    assert found[:2] == [MBV3.largest(224), MBV3.smallest(128)]
    assert {arch.resolution for arch in found} == {128, 176, 224}
    assert found == sample_sizes(MBV3, 60, (128, 176, 224), 3)
    assert found[:20] == sample_sizes(MBV3, 20, (128, 176, 224), 3), "a longer sample begins with the shorter"
    assert found[2:] != sample_sizes(MBV3, 60, (128, 176, 224), 4)[2:]


def test_only_what_fits_is_drawn():
    limit = 120_000_000
    found = sample_sizes(OFA_LITE0, 30, (96, 160), 0, lambda arch: macs(OFA_LITE0, arch) <= limit)
    assert len(set(found)) == 30
    assert max(macs(OFA_LITE0, arch) for arch in found) <= limit
    assert found[0] == OFA_LITE0.smallest(96), "the largest does not fit"


def test_drawing_ends_where_nothing_or_not_enough_fits():
    with pytest.raises(InfeasibleBudget):
        sample_sizes(TINY, 5, (16, 32), 0, lambda arch: False)
    small = replace(TINY, stages=tuple(replace(s, depths=(1,), kernels=(3,)) for s in TINY.stages))
    assert len(sample_sizes(small, 12, (16, 32), 0)) == 12
    with pytest.raises(UsageError, match="only 12 different subnets were found where 13 were asked for"):
        sample_sizes(small, 13, (16, 32), 0)


def test_presets_are_what_the_papers_say():
    ofa, spos = PRESETS["ofa-paper"], PRESETS["spos-paper"]
    assert (ofa.samples, ofa.heldout, ofa.bn, ofa.bn_images) == (16_000, 10_000, "recalibrated", 2_000)
    assert (spos.heldout, spos.bn, spos.bn_images) == (50_000, "recalibrated", 20_000)
    assert all(preset.one_size for preset in PRESETS.values())
