"""A few blocks, well chosen, tell of all others, and of how far they can be trusted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.informative import choose
from ofa_edge.latency.models.block_model import BlockModel
from ofa_edge.latency.plan import make_plan
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, block_peak_activation_bytes, block_weight_bytes
from ofa_edge.space.spaces import OFA_LITE0, OFA_MBV3_W10, SPACES
from tests.latency.helpers import device_for, profile, row_problems, task
from tests.simulated import Law

BLOCKS = OFA_MBV3_W10.distinct_blocks((128, 160, 192, 224))
CHOSEN = choose(BLOCKS)


def ms(block: Block) -> float:
    """A device with a law that no feature spells: rates fall with few channels, 5 x 5 is dear, and every block has a
    quirk of 4 % that its sizes share half of."""

    def quirk(name: str) -> float:
        return 2 * int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32 - 1

    narrow = 1 + 8 / min(block.in_channels, block.out_channels)
    work = narrow * block_macs(block) / 2e7 * (1.25 if block.kernel == 5 else 1.0)
    moved = block_peak_activation_bytes(block) / 4e7 + block_weight_bytes(block) / 3e8
    return (0.004 + work + moved) * (1 + 0.03 * quirk(block.weights_key) + 0.03 * quirk(block.key))


def kind(block: Block) -> tuple[object, ...]:
    return block.type, block.kernel, block.stride, block.se, block.activation


# -- which ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_every_kind_and_the_range_of_sizes_is_chosen(space: Space) -> None:
    blocks = space.distinct_blocks(space.resolutions[-4:])
    chosen = choose(blocks, 60)
    assert len(set(chosen)) == len(chosen) == min(60, len(blocks))
    assert {kind(block) for block in chosen} == {kind(block) for block in blocks}
    for size in (min, max):
        assert size(b.in_size for b in chosen) == size(b.in_size for b in blocks)
        assert size(b.mid_channels for b in chosen) == size(b.mid_channels for b in blocks)


def test_the_choice_is_a_function_of_the_blocks_and_grows_with_the_count() -> None:
    assert choose(BLOCKS) == CHOSEN
    assert choose(BLOCKS, 40) == CHOSEN[:40]
    given = BLOCKS[17]
    assert choose(BLOCKS, 40, given=[given])[0] == given
    assert set(choose(BLOCKS[:30], 80)) == set(BLOCKS[:30])


def test_chosen_blocks_tell_more_than_random_ones() -> None:
    def error(measured: tuple[Block, ...]) -> float:
        rest = [block for block in BLOCKS if block not in set(measured)]
        times, _ = BlockModel(measured, [ms(block) for block in measured]).predict(rest)
        return float(np.sqrt(np.mean(np.log(times / [ms(block) for block in rest]) ** 2)))

    rng = np.random.default_rng(0)
    random = [error(tuple(BLOCKS[int(i)] for i in rng.choice(len(BLOCKS), 80, replace=False))) for _ in range(5)]
    assert error(CHOSEN) < np.median(random)


# -- how far --------------------------------------------------------------------------------------
def test_80_blocks_rebuild_whole_networks_within_3_percent_and_say_their_error() -> None:
    model = BlockModel(CHOSEN, [ms(block) for block in CHOSEN])
    rest = [block for block in BLOCKS if block not in set(CHOSEN)]
    times, errors = model.predict(rest)
    off = np.abs(np.log(times / [ms(block) for block in rest]))
    assert np.median(off) < 0.05
    assert 0.9 <= np.mean(off < 1.96 * errors) <= 1
    assert np.median(errors) < 0.12
    known = {block: ms(block) for block in CHOSEN} | dict(zip(rest, times, strict=True))
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(50):
        blocks = OFA_MBV3_W10.blocks(OFA_MBV3_W10.sample(rng, int(rng.choice((128, 160, 192, 224)))))
        ratios.append(sum(known[block] for block in blocks) / sum(map(ms, blocks)))
    assert np.mean(np.abs(np.array(ratios) - 1)) < 0.03


def test_blocks_unlike_all_measured_ones_have_the_larger_error() -> None:
    near = [block for block in CHOSEN if block.in_size < 60]
    model = BlockModel(near, [ms(block) for block in near])
    rest = [block for block in BLOCKS if block not in set(CHOSEN)]
    errors = model.predict(rest)[1]
    far = np.array([block.in_size >= 60 for block in rest])
    assert np.median(errors[far]) > 1.3 * np.median(errors[~far])


def test_too_few_blocks_are_no_model() -> None:
    with pytest.raises(ValueError, match="too few"):
        BlockModel(CHOSEN[:11], [1.0] * 11)


# -- in a table -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_quick_table_predicts_every_block_that_it_does_not_measure(tmp_path: Path) -> None:
    work = task(PlanSettings(seed=1, quick=True, networks=8, holdout=6), OFA_LITE0.resolutions)
    plan = make_plan(OFA_LITE0, work.resolutions, work.settings)
    bad = plan.blocks[3].key
    path = tmp_path / "t.jsonl"
    device = device_for(work, crashes=frozenset({bad}), law=Law(quirk=0.1), noise=0.005)
    outcome = profile(path, device, work)
    table = outcome.table
    assert (len(table.blocks), len(table.predicted), list(table.failed.index)) == (79, 174, [bad])
    assert set(table.predicted.index) == {block.key for block in plan.predicted}
    assert outcome.as_json()["blocks"] == {"distinct": 254, "measured": 79, "predicted": 174, "failed": 1}
    assert "missing" not in [problem.code for problem in row_problems(table)]
    assert outcome.held_out is not None
    assert outcome.held_out.mape < 0.03
    assert (table.predicted["error"] > 0).all()
    before = path.read_bytes()
    profile(path, device_for(work, crashes=frozenset({bad})), work, resume=True)
    assert len(LatencyTable.read(path).contents.of("predicted")) == 174
    assert path.read_bytes().startswith(before[: len(before) // 2])
