"""A subnet alone: its own weights, and the same outputs and statistics as inside the supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_edge.errors import BadFile
from ofa_edge.graph import build, onnx
from ofa_edge.graph import check as graph_check
from ofa_edge.space.arch import Arch, Space
from ofa_edge.supernet.batchnorm import given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.supernet.subnet import Subnet
from ofa_edge.weights.cut import fold, subnet_arrays
from ofa_edge.weights.layout import arch_shapes
from tests.families import SMALL_RESNET, SMALL_SPACES
from tests.train.tiny import TINY, arrays_of, random_network, random_statistics

CASES = [
    pytest.param(space, arch, id=f"{space.name}-{name}")
    for space in SMALL_SPACES
    for name, arch in (
        ("largest", space.largest()),
        ("smallest", space.smallest()),
        *((f"random{i}", space.sample(np.random.default_rng(i))) for i in range(3)),
    )
]


def images(count: int, size: int) -> torch.Tensor:
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return x * torch.linspace(0.2, 3, count).reshape(count, 1, 1, 1)


def alone(network: Supernet, arch: Arch, seed: int = 0) -> Subnet:
    subnet = Subnet(network.space, arch)
    statistics = random_statistics(arch, seed, network.space)
    subnet.load(subnet_arrays(network.space, arrays_of(network), arch), statistics)
    return subnet


@pytest.mark.parametrize(("space", "arch"), CASES)
def test_a_subnet_alone_is_the_subnet_in_the_supernet(space: Space, arch: Arch) -> None:
    """By given statistics, by the batch's, with their gradients, and folded into an ONNX model."""
    network, x = random_network(0, space), images(4, arch.resolution)
    statistics = recalibrate(network, arch, [images(8, arch.resolution)])
    subnet = Subnet(space, arch)
    subnet.load(subnet_arrays(space, arrays_of(network), arch), statistics)
    with torch.no_grad(), given_statistics(network, statistics):
        inside = network(x, arch)
    torch.testing.assert_close(subnet.eval()(x), inside, rtol=1e-4, atol=1e-5)
    folded = fold(space, arrays_of(network), arch, statistics)
    found = graph_check.parity(onnx.to_bytes(build.network(space.layers(arch), folded)), x.numpy(), inside.numpy())
    assert found.rel < 1e-4
    losses = [network(x, arch).square().sum(), subnet.train()(x).square().sum()]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    first = space.layers(arch)[0].path + ".conv.weight"
    theirs, ours = network.get_parameter(first).grad, subnet.get_parameter(first).grad
    assert theirs is not None
    assert ours is not None
    width = len(ours)
    assert (ours - theirs[:width]).abs().max() < 1e-3 * ours.abs().max()


@pytest.mark.parametrize("space", SMALL_SPACES, ids=lambda space: space.name)
def test_what_is_loaded_comes_out_again_and_is_cut_to_itself(space: Space) -> None:
    network, arch = random_network(0, space), space.sample(np.random.default_rng(4))
    arrays = subnet_arrays(space, arrays_of(network), arch)
    statistics = random_statistics(arch, 0, space)
    subnet = Subnet(space, arch)
    subnet.load(arrays, statistics)
    found = subnet.arrays()
    assert {name: value.shape for name, value in found.items()} == arch_shapes(space, arch)
    again = subnet_arrays(space, found, arch)
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())
    for name, pair in subnet.statistics().items():
        assert all(np.array_equal(one, two) for one, two in zip(pair, statistics[name], strict=True))


def test_a_subnet_shares_nothing_with_what_it_was_cut_from() -> None:
    network, arch = random_network(0), TINY.smallest()
    arrays = arrays_of(network)
    before = {name: value.copy() for name, value in arrays.items()}
    subnet = Subnet(TINY, arch)
    subnet.load(subnet_arrays(TINY, arrays, arch), random_statistics(arch, 0))
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.add_(1)
    subnet.train()(images(4, 16))
    assert all(np.array_equal(arrays[name], value) for name, value in before.items())


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "statistics"])
def test_weights_of_another_subnet_are_refused(change: str) -> None:
    arch, arrays = TINY.smallest(), subnet_arrays(TINY, arrays_of(random_network(0)), TINY.smallest())
    statistics = random_statistics(arch, 0)
    name = "head.conv.weight"
    if change == "missing":
        del arrays[name]
    elif change == "extra":
        name = "stages.9.0.expand.weight"
        arrays[name] = np.zeros(1)
    elif change == "shape":
        arrays[name] = arrays[name][1:]
    else:
        name = "stem.conv_bn.running_mean"
        del statistics["stem.conv_bn"]
    with pytest.raises(BadFile, match=name):
        Subnet(TINY, arch).load(arrays, statistics)


@pytest.mark.parametrize("space", [TINY, SMALL_RESNET], ids=lambda space: space.name)
def test_recalibration_is_that_of_the_supernet(space: Space) -> None:
    network, arch = random_network(0, space), space.sample(np.random.default_rng(4))
    batches = [images(8, arch.resolution), images(5, arch.resolution)]
    expected = recalibrate(network, arch, batches)
    subnet = alone(network, arch).eval()
    found = subnet.recalibrate(batches)
    assert not subnet.training
    assert found.keys() == expected.keys()
    for name, (mean, var) in expected.items():
        np.testing.assert_allclose(found[name][0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name][1], var, rtol=1e-4, atol=1e-5)
    assert {norm.momentum for norm in subnet.batch_norms().values()} == {0.1}
