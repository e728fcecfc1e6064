"""Between measured input sizes accuracy follows FLOPs, by the paper's formula, and beyond them nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.accuracy.interpolation import between, interpolate_all, measured_resolutions
from ofa_edge.errors import UsageError
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES

MBV3 = SPACES["ofa-mbv3-w1.0"]
GRID = (160, 176, 192, 208, 224)


def macs(arch, resolution):
    return cost(MBV3.blocks(arch.at(resolution))).macs


def test_the_formula_of_the_paper():
    """Acc(164) = Acc(160) + (Acc(176) - Acc(160)) x (F(164) - F(160)) / (F(176) - F(160))."""
    arch = MBV3.sample(np.random.default_rng(0), 164)
    known = np.array((0.70, 0.72, 0.73, 0.735, 0.74))
    part = (macs(arch, 164) - macs(arch, 160)) / (macs(arch, 176) - macs(arch, 160))
    assert 0.5 < part < 1, "maps are rounded up, so 4 of 16 pixels cost more than a quarter of the way"
    found = interpolate_all(MBV3, [arch], GRID, lambda archs: known[[[GRID.index(a.resolution)] for a in archs]])
    assert found.item() == pytest.approx(0.70 + (0.72 - 0.70) * part, abs=1e-15)


def test_a_measured_size_is_what_was_measured():
    arch = MBV3.largest(176)
    assert between(MBV3, arch, GRID) == (176, 176, 0.0)


def test_many_at_once_are_each_as_alone():
    rng = np.random.default_rng(1)
    archs = [MBV3.sample(rng, int(rng.choice(MBV3.resolutions[8:]))) for _ in range(30)]

    def at_grid(found):
        assert {arch.resolution for arch in found} <= set(GRID)
        return np.array([[len(arch.stages[0]) + arch.resolution**0.5, -arch.resolution] for arch in found])

    together = interpolate_all(MBV3, archs, GRID, at_grid)
    for arch, row in zip(archs, together, strict=True):
        assert row == pytest.approx(interpolate_all(MBV3, [arch], GRID, at_grid)[0], abs=1e-12)
        assert -224 <= row[1] <= -160


@pytest.mark.parametrize("resolution", [156, 132])
def test_nothing_is_said_beyond_the_grid(resolution):
    with pytest.raises(UsageError, match=rf"resolution {resolution} lies outside the accuracy table's 160\.\.224"):
        between(MBV3, MBV3.smallest(resolution), GRID)


def test_every_sixteenth_pixel_is_measured_where_sizes_lie_four_apart():
    assert measured_resolutions(MBV3.resolutions) == (128, 144, 160, 176, 192, 208, 224)
    assert measured_resolutions(OFA_LITE0.resolutions) == OFA_LITE0.resolutions
    assert measured_resolutions((160,)) == (160,)
    assert measured_resolutions((132, 136, 140, 144)) == (132, 136, 140, 144), "ends off the grid could not be reached"
