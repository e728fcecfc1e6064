"""The BN bank: statistics for every subnet, features that say the same for the same, torn banks refused."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from ofa_edge.errors import BadFile
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from ofa_edge.weights.bank import PREFIX, Bank, features
from ofa_edge.weights.layout import batch_norms
from tests.families import SMALL_RESNET
from tests.train.tiny import TINY


def some_bank(space: Space = TINY, seed: int = 0) -> Bank:
    rng = np.random.default_rng(seed)
    return Bank(
        {
            name: (
                rng.normal(0, 1, (len(features(space, space.largest(), name)), width)).astype(np.float32),
                rng.normal(0, 0.1, (len(features(space, space.largest(), name)), width)).astype(np.float32),
            )
            for name, width in batch_norms(space, space.largest())
        }
    )


def all_archs(space: Space, resolution: int):
    for stages in itertools.product(*(list(stage.choices()) for stage in space.stages)):
        yield Arch(resolution, stages)


# -- statistics ---------------------------------------------------------------------------------
def test_every_subnet_of_a_space_gets_statistics_of_its_own_shapes() -> None:
    bank, count = some_bank(), 0
    for arch in all_archs(TINY, 24):
        statistics = bank.statistics(TINY, arch)
        assert [(name, len(mean), len(var)) for name, (mean, var) in statistics.items()] == [
            (name, width, width) for name, width in batch_norms(TINY, arch)
        ]
        count += 1
    assert count == TINY.count()


def test_means_and_variances_are_the_stated_function_of_the_features() -> None:
    bank = some_bank()
    for arch in (TINY.largest(), TINY.sample(np.random.default_rng(0))):
        for name, (mean, var) in bank.statistics(TINY, arch).items():
            x, (coefficients, logs) = features(TINY, arch, name), bank.coefficients[name]
            for channel in (0, len(mean) - 1):
                assert mean[channel] == pytest.approx(sum(x * coefficients[:, channel]), rel=1e-5, abs=1e-5)
                assert var[channel] == pytest.approx(np.exp(sum(x * logs[:, channel])) ** 2, rel=1e-5)
            assert mean.dtype == var.dtype == np.float32


def test_norms_are_those_a_subnet_runs() -> None:
    one = Arch(16, ((BlockChoice(3, 1),), (BlockChoice(5, 3), BlockChoice(3, 2))))
    assert batch_norms(TINY, one) == [
        ("stem.conv_bn", 8),
        ("first.depthwise_bn", 8),
        ("first.project_bn", 8),
        ("stages.0.0.depthwise_bn", 8),
        ("stages.0.0.project_bn", 16),
        ("stages.1.0.expand_bn", 48),
        ("stages.1.0.depthwise_bn", 48),
        ("stages.1.0.project_bn", 24),
        ("stages.1.1.expand_bn", 48),
        ("stages.1.1.depthwise_bn", 48),
        ("stages.1.1.project_bn", 24),
        ("head.conv_bn", 32),
    ]


# -- features -----------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [TINY, *SPACES.values()], ids=lambda space: space.name)
def test_features_of_a_batch_norm_are_as_many_and_bounded_for_all_subnets(space: Space) -> None:
    rng = np.random.default_rng(0)
    counts = {name: len(features(space, space.largest(), name)) for name, _ in batch_norms(space, space.largest())}
    for arch in [space.smallest(), *(space.sample(rng) for _ in range(30))]:
        for name, _ in batch_norms(space, arch):
            values = features(space, arch, name)
            assert len(values) == counts[name]
            assert values[0] == 1
            assert np.abs(values).max() <= 1


def test_equal_subnets_written_differently_have_equal_features() -> None:
    """OFA's dicts carry values for blocks that do not run."""
    arch = Arch(16, ((BlockChoice(5, 2),), (BlockChoice(3, 3),)))
    value = codecs.encode(TINY, arch)
    other = codecs.decode(TINY, value | {"ks": [5, 7, 3, 5], "e": [2, 3, 3, 2], "r": [16]})
    for name, _ in batch_norms(TINY, arch):
        assert np.array_equal(features(TINY, arch, name), features(TINY, other, name))


def test_what_runs_after_a_batch_norm_does_not_count() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = OFA_LITE0.sample(rng, 128), OFA_LITE0.sample(rng, 128)
        mixed = Arch(128, one.stages[:3] + two.stages[3:])
        for name, _ in batch_norms(OFA_LITE0, one):
            if name.startswith(("stem", "first", "stages.0", "stages.1", "stages.2")):
                assert np.array_equal(features(OFA_LITE0, one, name), features(OFA_LITE0, mixed, name))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("stages.1.0.expand_bn", Arch(24, ((BlockChoice(3, 2), BlockChoice(7, 2)), (BlockChoice(3, 2),)))),
        ("stages.1.0.expand_bn", Arch(24, ((BlockChoice(3, 2),), (BlockChoice(3, 2),)))),
        ("stages.1.0.depthwise_bn", Arch(24, ((BlockChoice(3, 2), BlockChoice(3, 2)), (BlockChoice(5, 2),)))),
        ("stages.1.0.project_bn", Arch(24, ((BlockChoice(3, 2), BlockChoice(3, 2)), (BlockChoice(3, 3),)))),
        ("head.conv_bn", Arch(24, ((BlockChoice(3, 2), BlockChoice(3, 2)), (BlockChoice(3, 3),)))),
        ("stem.conv_bn", Arch(32, ((BlockChoice(3, 2), BlockChoice(3, 2)), (BlockChoice(3, 2),)))),
    ],
)
def test_what_runs_before_a_batch_norm_and_in_its_block_counts(name: str, other: Arch) -> None:
    arch = Arch(24, ((BlockChoice(3, 2), BlockChoice(3, 2)), (BlockChoice(3, 2),)))
    assert not np.array_equal(features(TINY, arch, name), features(TINY, other, name))


def test_the_widths_before_a_batch_norm_count_and_its_own_does_not() -> None:
    """A channel's statistics come from what it reads, not from how many others there are."""
    space = SMALL_RESNET
    largest = space.largest()
    readers = [
        {"stem.1.conv_bn", "stem.2.conv_bn"},
        {"stages.0.0.reduce_bn", "stages.0.0.conv_bn", "stages.0.0.expand_bn", "stages.0.0.downsample_bn"},
        {f"stages.{s}.{i}.{n}_bn" for s, i in ((0, 1), (1, 0)) for n in ("reduce", "conv", "expand", "downsample")},
        {f"stages.1.{i}.{n}_bn" for i in (1, 2) for n in ("reduce", "conv", "expand")},
    ]
    for place, expected in enumerate(readers):
        widths = [*largest.widths]
        widths[place] = min(space.width_choices[place])
        other = replace(largest, widths=tuple(widths))
        names = [name for name, _ in batch_norms(space, largest)]
        changed = {n for n in names if not np.array_equal(features(space, largest, n), features(space, other, n))}
        assert changed == expected & set(names)


def test_features_of_the_shipped_bank_have_not_changed() -> None:
    """The coefficients in the embedded file are for these."""
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for _ in range(5):
        arch = OFA_LITE0.sample(rng)
        for name, _ in batch_norms(OFA_LITE0, arch):
            digest.update(f"{name} {[round(float(x), 6) + 0.0 for x in features(OFA_LITE0, arch, name)]}".encode())
    assert digest.hexdigest()[:16] == "e1a4ca43220264bf"


# -- arrays -------------------------------------------------------------------------------------
def test_a_bank_survives_its_arrays() -> None:
    bank = some_bank()
    again = Bank.from_arrays(bank.arrays() | {"stem.conv.weight": np.zeros(1)})
    assert again is not None
    assert again.coefficients.keys() == bank.coefficients.keys()
    for name, pair in bank.coefficients.items():
        assert all(np.array_equal(a, b) for a, b in zip(pair, again.coefficients[name], strict=True))


def test_arrays_without_a_bank_have_none() -> None:
    assert Bank.from_arrays({"stem.conv.weight": np.zeros(1)}) is None


@pytest.mark.parametrize("half", ["mean", "log_std"])
def test_a_bank_that_lost_half_an_entry_is_refused(half: str) -> None:
    arrays = some_bank().arrays()
    del arrays[f"{PREFIX}first.project_bn.{half}"]
    with pytest.raises(BadFile, match=rf"torn: .*first\.project_bn\.{half}"):
        Bank.from_arrays(arrays)


def test_a_bank_that_lost_a_whole_entry_is_refused_when_it_is_needed() -> None:
    arrays = {name: value for name, value in some_bank().arrays().items() if "stages.1.1.expand_bn" not in name}
    bank = Bank.from_arrays(arrays)
    assert bank is not None
    bank.statistics(TINY, TINY.smallest())
    with pytest.raises(BadFile, match=r"no statistics for stages\.1\.1\.expand_bn"):
        bank.statistics(TINY, TINY.largest())


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-1],
        lambda value: value[:, :-1],
        lambda value: value[0],
        lambda value: np.where(value == value[0, 0], np.nan, value),
        lambda value: np.where(value == value[0, 0], np.inf, value),
    ],
    ids=["row lost", "column lost", "flat", "nan", "infinite"],
)
@pytest.mark.parametrize("half", ["mean", "log_std"])
def test_a_damaged_entry_is_refused(half: str, damage) -> None:
    arrays = some_bank().arrays()
    name = f"{PREFIX}head.conv_bn.{half}"
    arrays[name] = damage(arrays[name])
    with pytest.raises(BadFile, match=r"entry for head\.conv_bn"):
        Bank.from_arrays(arrays)


@pytest.mark.parametrize(("rows", "columns"), [(-1, None), (None, -1)])
def test_an_entry_of_another_space_is_refused_with_both_shapes(rows: int | None, columns: int | None) -> None:
    bank = some_bank()
    pair = tuple(half[:rows, :columns] for half in bank.coefficients["head.conv_bn"])
    with pytest.raises(BadFile, match=r"head\.conv_bn has shape .*, not \("):
        Bank({**bank.coefficients, "head.conv_bn": pair}).statistics(TINY, TINY.largest())


def test_an_entry_that_gives_no_finite_variance_is_refused() -> None:
    bank = some_bank()
    mean, log_std = bank.coefficients["head.conv_bn"]
    with pytest.raises(BadFile, match=r"no finite statistics for head\.conv_bn"):
        Bank({**bank.coefficients, "head.conv_bn": (mean, np.full_like(log_std, 900.0))}).statistics(
            TINY, TINY.largest()
        )
