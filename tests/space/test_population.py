"""Archs as arrays: the same archs, drawn as a space draws them."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.space.population import ArchArrays, code_count, concatenate
from ofa_edge.space.spaces import SPACES


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_archs_come_back_as_they_went_in(space):
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(40)] + [space.smallest(), space.largest()]
    arrays = ArchArrays.of(space, archs)
    assert arrays.archs() == archs
    assert arrays.take([41, 3]).archs() == [archs[41], archs[3]]
    assert concatenate([arrays.take(slice(10)), arrays.take(slice(10, None))]).archs() == archs


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_drawn_is_in_the_space_and_equal_archs_are_equal_rows(space):
    sizes = space.resolutions[::4]
    drawn = ArchArrays.sample(space, np.random.default_rng(1), 400, sizes)
    archs = drawn.archs()
    for arch in archs:
        space.check(arch)
        assert arch.resolution in sizes
    assert np.array_equal(drawn.matrix(), ArchArrays.of(space, archs).matrix())
    assert len(np.unique(drawn.matrix(), axis=0)) == len(set(archs))
    again = ArchArrays.sample(space, np.random.default_rng(1), 400, sizes)
    assert np.array_equal(drawn.matrix(), again.matrix())


def test_every_value_of_every_axis_is_drawn_about_as_often():
    space = SPACES["ofa-resnet50d"]
    drawn = ArchArrays.sample(space, np.random.default_rng(2), 6000, space.resolutions)
    axes = [drawn.depth[:, 2], drawn.codes[0][:, 0], drawn.widths[:, 1], drawn.stem_depth]
    for axis, values in zip(axes, (3, 3, len(space.width_choices[1]), 2), strict=True):
        counts = np.unique(axis, return_counts=True)[1]
        assert len(counts) == values
        assert counts.min() > 0.9 * 6000 / values


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_archs_at_other_sizes_are_the_same_subnets(space):
    drawn = ArchArrays.sample(space, np.random.default_rng(3), 30, space.resolutions)
    sizes = np.random.default_rng(4).choice(space.resolutions, 30)
    assert drawn.at(sizes).archs() == [arch.at(int(r)) for arch, r in zip(drawn.archs(), sizes, strict=True)]
    assert drawn.at(space.resolutions[0]).archs() == [arch.at(space.resolutions[0]) for arch in drawn.archs()]
    assert drawn.arch(-1) == drawn.archs()[-1]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_places_of_a_stage_are_numbered(space):
    drawn = ArchArrays.sample(space, np.random.default_rng(5), 200, space.resolutions)
    for s, stage in enumerate(space.stages):
        base = code_count(stage)
        numbers = drawn.number(s, 0, stage.max_depth)
        digits = [numbers // base**place % base for place in reversed(range(stage.max_depth))]
        assert np.array_equal(np.stack(digits, axis=1), drawn.codes[s])
        assert np.array_equal(drawn.number(s, 0, 1), drawn.codes[s][:, 0])
