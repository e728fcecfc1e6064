"""Batch-norm statistics: recalibration pools all images, given ones are taken back, the bank finds a linear law."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.supernet.batchnorm import fit_statistics, given_statistics, recalibrate
from ofa_edge.weights.bank import features
from ofa_edge.weights.layout import batch_norms
from tests.families import SMALL_SPACES
from tests.train.tiny import TINY, random_network, random_statistics

ARCHS = [TINY.largest(), TINY.smallest(), *(TINY.sample(np.random.default_rng(i)) for i in range(4))]


def batches(*sizes: int, side: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, 3, side, side, generator=generator) * (1 + size / 8) + size / 8 for size in sizes]


# -- recalibration ------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ARCHS, ids=range(len(ARCHS)))
def test_recalibration_pools_every_image_of_unequal_batches(arch: Arch) -> None:
    network = random_network(1)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, norm in network.batch_norms():
        norm.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].double())
        )
    statistics = recalibrate(network, arch, batches(7, 2, 12))
    assert [(name, len(mean)) for name, (mean, _) in statistics.items()] == batch_norms(TINY, arch)
    for name, (mean, var) in statistics.items():
        values = torch.cat([part.transpose(0, 1).flatten(1) for part in seen[name]], dim=1)
        np.testing.assert_allclose(mean, values.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(var, values.var(1, correction=0), rtol=1e-4, atol=1e-6)


def test_with_its_own_statistics_given_one_batch_gives_the_same_outputs() -> None:
    network, (batch,) = random_network(2), batches(9)
    for arch in ARCHS:
        statistics = recalibrate(network, arch, [batch])
        with torch.no_grad(), given_statistics(network, statistics):
            torch.testing.assert_close(network(batch[:4], arch), network(batch, arch)[:4], rtol=1e-4, atol=1e-5)
        with torch.no_grad(), given_statistics(network, statistics):
            given = network(batch, arch)
        torch.testing.assert_close(given, network(batch, arch).detach(), rtol=1e-3, atol=1e-4)


def test_an_expansion_that_the_subnet_goes_without_has_no_statistics() -> None:
    narrow = Arch(16, ((BlockChoice(3, 1), BlockChoice(3, 1)), (BlockChoice(3, 2),)))
    statistics = recalibrate(random_network(0), narrow, batches(4))
    assert "stages.0.0.expand_bn" not in statistics
    assert list(statistics) == [name for name, _ in batch_norms(TINY, narrow)]


def test_recalibration_leaves_nothing_behind_even_when_it_fails() -> None:
    network = random_network(0)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    recalibrate(network, TINY.largest(), batches(3))

    def broken():
        yield from batches(3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recalibrate(network, TINY.largest(), broken())
    assert all(norm.collected is None and norm.given is None for _, norm in network.batch_norms())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_no_images_give_no_statistics() -> None:
    assert recalibrate(random_network(0), TINY.smallest(), []) == {}


# -- given --------------------------------------------------------------------------------------
def test_given_statistics_are_taken_back_also_after_an_error() -> None:
    network, (batch,) = random_network(3), batches(5)
    arch = TINY.largest()
    with torch.no_grad():
        before = network(batch, arch)
        with given_statistics(network, random_statistics(arch, 0)):
            inside = network(batch, arch)
        with pytest.raises(ZeroDivisionError), given_statistics(network, random_statistics(arch, 0)):
            raise ZeroDivisionError
        assert not torch.allclose(inside, before, rtol=0.01)
        assert torch.equal(network(batch, arch), before)


def test_only_the_named_batch_norms_are_given() -> None:
    network = random_network(0)
    statistics = random_statistics(TINY.largest(), 0)
    with given_statistics(network, {"first.depthwise_bn": statistics["first.depthwise_bn"]}):
        assert [name for name, norm in network.batch_norms() if norm.given] == ["first.depthwise_bn"]


# -- the bank's fit -----------------------------------------------------------------------------
def linear_statistics(space: Space, rng: np.random.Generator):
    """A law that is linear in the features: arch -> statistics."""
    law = {}
    for name, width in batch_norms(space, space.largest()):
        count = len(features(space, space.largest(), name))
        law[name] = (rng.normal(0, 1, (count, width)), rng.normal(0, 0.2, (count, width)))

    def of(arch: Arch):
        found = {}
        for name, width in batch_norms(space, arch):
            x = features(space, arch, name)
            mean, log_std = law[name]
            found[name] = (x @ mean[:, :width], np.exp(2 * (x @ log_std[:, :width])))
        return found

    return of


@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: space.name)
def test_statistics_that_are_linear_in_the_features_are_recovered_on_other_subnets(space: Space) -> None:
    rng = np.random.default_rng(0)
    law = linear_statistics(space, rng)
    drawn = [space.sample(rng) for _ in range(150)]
    bank = fit_statistics(space, [(arch, law(arch)) for arch in drawn])
    errors: dict[str, list[float]] = {"mean": [], "log_std": []}
    for arch in [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(20))]:
        true, predicted = law(arch), bank.statistics(space, arch)
        assert list(true) == list(predicted)
        for name, (mean, var) in true.items():
            errors["mean"].extend(np.abs(predicted[name][0] - mean))
            errors["log_std"].extend(np.abs(np.log(predicted[name][1] / var)) / 2)
    # The ridge shrinks every effect by about a percent; the effects have deviations 1 and .2.
    assert np.mean(errors["mean"]) < 0.03
    assert np.max(errors["mean"]) < 0.3
    assert np.mean(errors["log_std"]) < 0.006
    assert np.max(errors["log_std"]) < 0.06


def test_channels_that_narrow_subnets_lack_are_fitted_on_wide_ones_alone() -> None:
    """Were the narrow ones padded, their zeros would pull the mean of 5 down and the variance of 1 with it."""
    rng = np.random.default_rng(1)
    measured = [
        (arch, {name: (np.full(width, 5.0), np.ones(width)) for name, width in batch_norms(TINY, arch)})
        for arch in (TINY.sample(rng) for _ in range(120))
    ]
    mean, var = fit_statistics(TINY, measured).statistics(TINY, TINY.largest())["stages.1.1.expand_bn"]
    assert len(mean) == 72
    np.testing.assert_allclose(mean, 5.0, atol=1e-3)
    np.testing.assert_allclose(var, 1.0, atol=1e-3)


def test_too_few_subnets_are_refused_by_the_name_of_what_they_miss() -> None:
    law = linear_statistics(TINY, np.random.default_rng(0))
    with pytest.raises(UsageError, match=r"has stages\.0\.0\.expand_bn at its full width"):
        fit_statistics(TINY, [(TINY.smallest(), law(TINY.smallest()))])


def test_the_bank_of_a_network_predicts_what_recalibration_measures() -> None:
    """Far from exact with a random network, but much nearer than the average over subnets."""
    network, rng = random_network(4), np.random.default_rng(4)
    images = batches(12, side=16)
    drawn = [TINY.sample(rng, 16) for _ in range(50)]
    bank = fit_statistics(network.space, [(arch, recalibrate(network, arch, images)) for arch in drawn])
    measured = [recalibrate(network, arch, images) for arch in drawn]
    errors = spread = 0.0
    for arch in [TINY.sample(rng, 16) for _ in range(10)]:
        predicted = bank.statistics(TINY, arch)
        for name, (mean, _) in recalibrate(network, arch, images).items():
            others = [found[name][0] for found in measured if name in found]
            average = np.mean([other[: len(mean)] for other in others if len(other) >= len(mean)], axis=0)
            errors += np.mean((predicted[name][0] - mean) ** 2)
            spread += np.mean((average - mean) ** 2)
    assert errors < 0.5 * spread
