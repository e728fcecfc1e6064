"""Spaces and archs: exact counts by listing, blocks that follow each other, and errors that name the axis."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES, get_space, resnet_d


def every_arch(space: Space, resolution: int) -> list[Arch]:
    """All subnets, from the axes alone (not from `Stage.choices`)."""
    stages = []
    for stage in space.stages:
        values = [BlockChoice(k, e) for k in stage.kernels for e in stage.expands]
        stages.append([choice for depth in stage.depths for choice in itertools.product(values, repeat=depth)])
    return [Arch(resolution, choices) for choices in itertools.product(*stages)]


def test_counts_are_those_of_the_list(reduced):
    archs = every_arch(reduced, 32)
    assert len(set(archs)) == len(archs) == reduced.count() == (4 + 16) * 4 * (2 + 4)
    for stage in reduced.stages:
        choices = list(stage.choices())
        assert len(set(choices)) == len(choices) == stage.count()
    assert {tuple(c) for c in itertools.product(*(s.choices() for s in reduced.stages))} == {a.stages for a in archs}


def test_count_of_ofa_lite0():
    assert OFA_LITE0.count() == (3 + 9) * (6 + 36) * (3 + 9 + 27) * (6 + 36 + 216) * (6 + 36 + 216 + 1296) * 3


def test_distinct_blocks_are_those_of_all_subnets(reduced):
    everything = {
        block for r in reduced.resolutions for arch in every_arch(reduced, r) for block in reduced.blocks(arch)
    }
    distinct = reduced.distinct_blocks(reduced.resolutions)
    assert len(set(distinct)) == len(distinct)
    assert set(distinct) == everything
    assert len({block.key for block in distinct}) == len(distinct)


def test_rows_are_those_of_an_ofa_table(reduced):
    # 2 + 3 fixed layers; kernels x expands at the first place of a stage and at the others, where these differ.
    assert len(reduced.rows(32)) == 5 + 2 * 4 + 2 + 2 * 2
    assert len(OFA_LITE0.rows(128)) == 5 + 2 * 3 + 2 * 6 + 2 * 3 + 2 * 6 + 2 * 6 + 3
    assert reduced.rows(32) == reduced.distinct_blocks((32,))


@pytest.mark.parametrize(
    ("name", "resolutions", "rows", "distinct"),
    [("ofa-mbv3-w1.0", range(128, 225, 4), 2400, 1257), ("ofa-mbv3-w1.2", range(160, 225, 4), 1632, 870)],
)
def test_published_spaces_need_as_many_blocks_as_known(name, resolutions, rows, distinct):
    """1,632 is 17 published tables (Samsung Note10) of 96 rows."""
    space = get_space(name)
    assert sum(len(space.rows(resolution)) for resolution in resolutions) == rows
    assert len(space.distinct_blocks(resolutions)) == distinct


@pytest.mark.parametrize("resolution", [17, 32])
def test_blocks_of_every_subnet_follow_each_other(reduced, resolution):
    for arch in every_arch(reduced, resolution):
        layers = reduced.layers(arch)
        assert len({layer.path for layer in layers}) == len(layers)
        blocks = [layer.block for layer in layers]
        assert (blocks[0].in_channels, blocks[0].in_size) == (3, resolution)
        assert (blocks[-1].type, blocks[-1].out_channels) == ("Logits", reduced.classes)
        for before, after in itertools.pairwise(blocks):
            assert (before.out_channels, before.out_size) == (after.in_channels, after.in_size)
        for layer in layers:
            fits = layer.block.stride == 1 and layer.block.in_channels == layer.block.out_channels
            assert layer.block.skip == (fits and layer.block.type == "expanded_conv")


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_drawn_subnets_are_of_the_space_and_of_its_blocks(space):
    rng = np.random.default_rng(0)
    known = set(space.distinct_blocks(space.resolutions))
    for arch in (space.largest(), space.smallest(), *(space.sample(rng) for _ in range(30))):
        layers = space.layers(arch)
        assert len({layer.path for layer in layers}) == len(layers)
        blocks = [layer.block for layer in layers]
        assert set(blocks) <= known
        for before, after in itertools.pairwise(blocks):
            assert (before.out_channels, before.out_size) == (after.in_channels, after.in_size)


def test_every_block_of_a_table_is_of_some_subnet():
    """Of a space with elastic widths, whose blocks depend on the widths before and after."""
    narrow = replace(resnet_d("narrow", (0.25, 0.5)), resolutions=(32,))
    rng = np.random.default_rng(0)
    seen = {block for _ in range(1500) for block in narrow.blocks(narrow.sample(rng))}
    assert seen == set(narrow.rows(32))


def test_widths_that_round_to_one_are_one_value():
    space = get_space("ofa-resnet50d")
    assert space.stem.mid_widths == (24, 24, 32)
    assert space.width_choices[0] == (24, 32)
    stages = [sum(3**depth for depth in depths) for depths in ((2, 3, 4), (2, 3, 4), (4, 5, 6), (2, 3, 4))]
    assert space.count() == math.prod(stages) * 2 * 3**5 * 2
    top = space.top(depths=1, expands=1, widths=2)
    assert top.width_choices == ((24, 32), (48, 64), (208, 256), (408, 512), (816, 1024), (1640, 2048))
    space.check(top.sample(np.random.default_rng(0)))


def test_subnets_at_another_size_are_the_same_but_for_it():
    space = get_space("ofa-resnet50d")
    arch = space.sample(np.random.default_rng(3), 128)
    assert arch.at(160) == replace(arch, resolution=160)
    assert arch.at(160).at(128) == arch
    other = replace(arch, widths=space.largest().widths, stem_depth=1 - arch.stem_depth)
    assert other.at(0) != arch.at(0)


def test_choices_reach_their_blocks(reduced):
    stages = (
        (BlockChoice(5, 6), BlockChoice(3, 3)),
        (BlockChoice(3, 1), BlockChoice(3, 4)),
        (BlockChoice(7, 4),),
    )
    layers = {layer.path: layer.block for layer in reduced.layers(Arch(32, stages))}
    found = {path: (b.kernel, b.in_channels, b.mid_channels, b.out_channels, b.stride, b.se, b.activation)
             for path, b in layers.items() if path.startswith("stages.")}  # fmt: skip
    assert found == {
        "stages.0.0": (5, 8, 48, 16, 2, False, "relu6"),
        "stages.0.1": (3, 16, 48, 16, 1, False, "relu6"),
        "stages.1.0": (3, 16, 16, 16, 1, True, "h_swish"),
        "stages.1.1": (3, 16, 64, 16, 1, True, "h_swish"),
        "stages.2.0": (7, 16, 64, 24, 2, False, "relu"),
    }


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_stage_sizes_are_those_of_the_layers(space):
    for resolution in space.resolutions:
        layers = {layer.path: layer.block for layer in space.layers(space.largest(resolution))}
        inputs = [layers[f"stages.{s}.0"].in_size for s in range(len(space.stages))]
        assert space.stage_sizes(resolution) == (*inputs, layers["pool"].in_size)


def test_largest_and_smallest_are_the_extremes(reduced):
    costs = {arch: cost(reduced.blocks(arch)) for arch in every_arch(reduced, 32)}
    assert max(costs, key=lambda arch: costs[arch].macs) == reduced.largest(32)
    assert max(costs, key=lambda arch: costs[arch].params) == reduced.largest(32)
    assert min(costs, key=lambda arch: costs[arch].macs) == reduced.smallest(32)
    assert (reduced.largest().resolution, reduced.smallest().resolution) == (32, 17)


def test_samples_are_of_the_space_and_reach_all_of_it(reduced):
    rng = np.random.default_rng(0)
    drawn = [reduced.sample(rng) for _ in range(1000)]
    for arch in drawn:
        reduced.check(arch)
    assert {arch.resolution for arch in drawn} == set(reduced.resolutions)
    for s, stage in enumerate(reduced.stages):
        assert {arch.stages[s] for arch in drawn} == set(stage.choices())
    assert {reduced.sample(rng, 17).resolution for _ in range(20)} == {17}


def test_sampling_is_reproducible():
    first, again = ([OFA_LITE0.sample(rng) for _ in range(5)] for rng in map(np.random.default_rng, (4, 4)))
    assert first == again


def test_equal_subnets_are_equal_values_and_know_their_depths():
    arch = OFA_LITE0.sample(np.random.default_rng(1), 128)
    twin = Arch(arch.resolution, tuple(tuple(BlockChoice(*choice) for choice in stage) for stage in arch.stages))
    assert arch == twin
    assert hash(arch) == hash(twin)
    assert arch.depths == tuple(len(stage) for stage in arch.stages)


def _with(arch: Arch, stage: int, *choices: BlockChoice) -> Arch:
    return replace(arch, stages=(*arch.stages[:stage], choices, *arch.stages[stage + 1 :]))


def _outsiders(space: Space) -> dict[str, Arch]:
    arch = space.smallest(32)
    good = BlockChoice(3, 3)
    return {
        "resolution 33 is not in space reduced": replace(arch, resolution=33),
        "the arch has 2 stages, space reduced has 3": replace(arch, stages=arch.stages[:2]),
        "stage 0: depth 0 is not one of [1, 2]": _with(arch, 0),
        "stage 0: depth 3 is not one of [1, 2]": _with(arch, 0, good, good, good),
        "stage 1: depth 1 is not one of [2]": _with(arch, 1, BlockChoice(3, 4)),
        "stage 0 block 1: kernel 7 is not one of [3, 5]": _with(arch, 0, good, BlockChoice(7, 3)),
        "stage 0 block 0: expand 4 is not one of [3, 6]": _with(arch, 0, BlockChoice(3, 4)),
    }


@pytest.mark.parametrize("number", range(7))
def test_archs_outside_the_space_are_refused_by_name(reduced, number):
    message, arch = list(_outsiders(reduced).items())[number]
    for action in (reduced.check, reduced.layers, reduced.blocks):
        with pytest.raises(UsageError) as caught:
            action(arch)
        assert caught.value.message == message


def test_spaces_are_found_by_name():
    assert get_space("ofa-lite0") is OFA_LITE0
    with pytest.raises(UsageError, match="no space 'ofa-lite9'") as caught:
        get_space("ofa-lite9")
    assert "ofa-lite0" in caught.value.hint


def test_stage_arrays_are_the_choices_in_order(reduced):
    for stage in (*reduced.stages, *OFA_LITE0.stages):
        choices = list(stage.choices())
        for arrays in (StageArrays.all(stage), StageArrays.of(stage, choices)):
            assert len(arrays) == len(choices)
            assert [arrays.choice(row) for row in range(len(arrays))] == choices
            assert arrays.depth.tolist() == [len(choice) for choice in choices]


def test_stage_arrays_hold_ratios_as_the_stage_has_them():
    whole, broken = OFA_LITE0.stages[0], SPACES["ofa-resnet50d"].stages[0]
    assert StageArrays.all(whole).expand.dtype == np.int64
    arrays = StageArrays.all(broken)
    assert arrays.expand.dtype == np.float64
    choices = list(broken.choices())
    assert [arrays.choice(row) for row in range(len(arrays))] == choices
    assert StageArrays.of(broken, choices).expand.tolist() == arrays.expand.tolist()


def test_codes_number_the_choices_of_a_block_and_are_0_at_inactive_places(reduced):
    stage = reduced.stages[0]
    arrays = StageArrays.all(stage)
    blocks = [None, *((k, e) for k in stage.kernels for e in stage.expands)]
    for row, choice in enumerate(stage.choices()):
        rest = (None,) * (stage.max_depth - len(choice))
        assert tuple(blocks[code] for code in arrays.code[row]) == (*choice, *rest)
