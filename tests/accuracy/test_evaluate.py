"""Evaluation: the counts are those of a direct run, a second run measures nothing, a failure costs one subnet."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_edge.accuracy.evaluate import Evaluator, fill_table
from ofa_edge.accuracy.recalibrate import Recalibrator
from ofa_edge.accuracy.samples import spread_sample
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arch import Arch, Preprocess, Space
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.supernet.batchnorm import fit_statistics, given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import batches, images
from ofa_edge.weights.bank import Bank, Statistics
from ofa_edge.weights.checkpoint import Checkpoint, Metadata
from tests.train.tiny import TINY, arrays_of, image_set, random_network


def impartial_network(space: Space = TINY) -> Supernet:
    """Random, but with no liking for one class: what pictures have in common cancels out in the classifier."""
    network = random_network(5, space)
    with torch.no_grad():
        network.head.conv_bn.weight.fill_(1)
        network.head.conv_bn.bias.zero_()
        network.logits.linear.weight.sub_(network.logits.linear.weight.mean(dim=1, keepdim=True))
        network.logits.linear.bias.zero_()
    return network


NETWORK = impartial_network()
IMAGES = image_set(23, seed=2)
ARCHS = [TINY.largest(), TINY.smallest(), *(TINY.sample(np.random.default_rng(i)) for i in range(3))]


def views(space: Space, resolution: int) -> torch.Tensor:
    """All images as the network takes them, (23, 3, R, R)."""
    return batches.normalise(images.centre_crops(IMAGES, resolution, space.preprocess), space.preprocess)


def measured(arch: Arch) -> Statistics:
    """The subnet's statistics on all images, under which it tells them apart."""
    return recalibrate(NETWORK, arch, [views(TINY, arch.resolution)])


@functools.cache
def bank() -> Bank:
    rng = np.random.default_rng(0)
    drawn = [TINY.sample(rng) for _ in range(25)]
    return fit_statistics(TINY, [(arch, recalibrate(NETWORK, arch, [views(TINY, arch.resolution)])) for arch in drawn])


def checkpoint(with_bank: bool = True) -> Checkpoint:
    metadata = Metadata("tiny", ("a", "b", "c"), "random", "none", {}, {}, {})
    return Checkpoint(TINY, arrays_of(NETWORK), bank() if with_bank else None, metadata, "c" * 64)


def direct(network: Supernet, arch: Arch, statistics: Statistics) -> np.ndarray:
    """Predictions of the elastic net itself, all images at once."""
    with torch.no_grad(), given_statistics(network, statistics):
        return network(views(network.space, arch.resolution), arch).argmax(dim=1).numpy()


# -- one subnet ---------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ARCHS, ids=range(len(ARCHS)))
def test_counts_are_those_of_a_direct_run_with_the_bank(arch: Arch) -> None:
    found = checkpoint()
    assert found.bank is not None
    expected = direct(NETWORK, arch, found.bank.statistics(TINY, arch))
    evaluator = Evaluator(found, IMAGES)
    assert len(set(expected)) > 1, "images that are told apart"
    assert np.array_equal(evaluator.predictions(arch), expected)
    assert evaluator.correct(arch) == (expected == IMAGES.labels).sum()


def test_counts_are_those_of_a_direct_run_with_given_statistics() -> None:
    evaluator = Evaluator(checkpoint(with_bank=False), IMAGES, measured)
    for arch in ARCHS:
        found = evaluator.predictions(arch)
        assert np.array_equal(found, direct(NETWORK, arch, measured(arch)))
        assert len(set(found)) > 1, "images that are told apart"


def test_images_are_prepared_as_the_checkpoints_space_says() -> None:
    other = replace(TINY, preprocess=Preprocess(mean=115.0, std=140.0, crop=0.5))
    network = impartial_network(other)
    evaluator = Evaluator(replace(checkpoint(), space=other), IMAGES, measured)
    changed = 0
    for arch in ARCHS:
        found = evaluator.predictions(arch)
        assert np.array_equal(found, direct(network, arch, measured(arch)))
        changed += (found != direct(NETWORK, arch, measured(arch))).sum()
    assert changed > 5


@pytest.mark.parametrize("workers", [1, 2, 40])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    found = Evaluator(checkpoint(), IMAGES, workers=workers).predictions(TINY.smallest())
    assert found.dtype == np.int64
    assert np.array_equal(found, Evaluator(checkpoint(), IMAGES, workers=1).predictions(TINY.smallest()))


def test_recalibrated_statistics_are_those_of_shuffled_training_images() -> None:
    source, arch = image_set(40, seed=7), TINY.smallest()
    made = Recalibrator(checkpoint(), source, count=30, seed=1)(arch)
    chosen = source.subset(np.random.default_rng(1).permutation(40)[:30])
    views = images.centre_crops(chosen, arch.resolution, TINY.preprocess)
    expected = recalibrate(NETWORK, arch, [batches.normalise(views, TINY.preprocess)])
    assert made.keys() == expected.keys()
    for name, (mean, var) in expected.items():
        np.testing.assert_allclose(made[name][0], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(made[name][1], var, rtol=1e-5, atol=1e-6)
    assert 0 <= Evaluator(checkpoint(False), IMAGES, Recalibrator(checkpoint(False), source, 30)).correct(arch) <= 23


# -- a table ------------------------------------------------------------------------------------
def header() -> AccuracyHeader:
    return AccuracyHeader.of(TINY, checkpoint="c" * 64, data="23 pictures", bn="bank", seed=0)


def fill(path: Path, evaluator: Evaluator, archs: list[Arch]) -> tuple[int, list[Arch]]:
    """Fill a table, resuming it; how many subnets were measured, and which were told of."""
    told: list[Arch] = []
    with AccuracyWriter.open(path, TINY, header(), resume=True) as writer:
        measured = fill_table(evaluator, archs, writer, told.append)
        writer.finish()
    return measured, told


def test_a_second_run_measures_nothing_and_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    assert fill(path, Evaluator(checkpoint(), IMAGES), ARCHS) == (5, ARCHS)
    before = path.read_bytes()

    def never(arch: Arch) -> Statistics:
        raise AssertionError("measured again")

    assert fill(path, Evaluator(checkpoint(), IMAGES, never), ARCHS) == (0, ARCHS)
    assert path.read_bytes() == before
    table = AccuracyTable.read(path, TINY)
    evaluator = Evaluator(checkpoint(), IMAGES)
    assert list(table.frame["correct"]) == [evaluator.correct(arch) for arch in ARCHS]
    assert set(table.frame["n"]) == {len(IMAGES)}


def test_a_run_that_was_interrupted_keeps_what_it_measured_and_adds_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    seen: list[Arch] = []

    def interrupted(arch: Arch) -> Statistics:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(arch)
        return bank().statistics(TINY, arch)

    with pytest.raises(KeyboardInterrupt):
        fill(path, Evaluator(checkpoint(), IMAGES, interrupted), ARCHS)
    assert list(AccuracyTable.read(path, TINY).frame["arch"]) == ARCHS[:2]
    assert fill(path, Evaluator(checkpoint(), IMAGES), ARCHS)[0] == 3
    whole = tmp_path / "at-once.jsonl"
    fill(whole, Evaluator(checkpoint(), IMAGES), ARCHS)
    assert path.read_bytes() == whole.read_bytes()


class RuntimesOwnError(Exception):
    """As ONNX Runtime's: of no base that another library shares."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadFile("no statistics for x"), "no statistics for x"),
        (RuntimesOwnError("no memory"), "RuntimesOwnError: no memory"),
    ],
)
def test_a_subnet_that_fails_is_written_down_and_costs_nothing_else(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    def failing(arch: Arch) -> Statistics:
        if arch == ARCHS[1]:
            raise error
        return bank().statistics(TINY, arch)

    path = tmp_path / "tiny.jsonl"
    assert fill(path, Evaluator(checkpoint(), IMAGES, failing), ARCHS) == (4, ARCHS)
    table = AccuracyTable.read(path, TINY)
    assert dict(table.failed) == {ARCHS[1]: reason}
    assert list(table.frame["arch"]) == [ARCHS[0], *ARCHS[2:]]
    assert fill(path, Evaluator(checkpoint(), IMAGES), ARCHS)[0] == 1
    assert not AccuracyTable.read(path, TINY).failed


def test_outputs_that_are_no_numbers_are_a_failure_and_not_class_0(tmp_path: Path) -> None:
    def overflowing(arch: Arch) -> Statistics:
        statistics = bank().statistics(TINY, arch)
        mean, var = statistics["head.conv_bn"]
        return statistics | {"head.conv_bn": (mean, np.full_like(var, 1e-38))}

    found = checkpoint()
    found.arrays["logits.linear.weight"] = np.full_like(found.arrays["logits.linear.weight"], 3e38)
    fill(tmp_path / "x.jsonl", Evaluator(found, IMAGES, overflowing), ARCHS[:1])
    assert dict(AccuracyTable.read(tmp_path / "x.jsonl", TINY).failed) == {
        ARCHS[0]: "the subnet's outputs are not finite"
    }


# -- which subnets ------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_is_of_different_subnets_with_the_largest_and_smallest_first(seed: int) -> None:
    found = spread_sample(OFA_LITE0, 40, (96, 160), seed)
    assert len(found) == len(set(found)) == 80
    assert len({arch.stages for arch in found}) == 40
    assert found[:4] == [OFA_LITE0.largest(96), OFA_LITE0.largest(160), OFA_LITE0.smallest(96), OFA_LITE0.smallest(160)]
    for arch in found:
        OFA_LITE0.check(arch)
    assert found == spread_sample(OFA_LITE0, 40, (96, 160), seed)
    assert found[4:] != spread_sample(OFA_LITE0, 40, (96, 160), seed + 1)[4:]


def test_a_longer_sample_begins_with_the_shorter_one() -> None:
    assert spread_sample(OFA_LITE0, 30, (128,), 0)[:10] == spread_sample(OFA_LITE0, 10, (128,), 0)


def test_a_sample_may_be_the_whole_space_and_no_more() -> None:
    small = replace(TINY, stages=tuple(replace(s, depths=(1,), kernels=(3,)) for s in TINY.stages))
    assert len({arch.stages for arch in spread_sample(small, 6, (16,), 0)}) == small.count() == 6
    with pytest.raises(UsageError, match="has 6 subnets, 7 were asked for"):
        spread_sample(small, 7, (16,), 0)
