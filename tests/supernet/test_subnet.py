"""A subnet alone: its own weights, and the same outputs and statistics as inside the supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_edge.graph import build, onnx
from ofa_edge.graph import check as graph_check
from ofa_edge.space.arch import Arch, Space
from ofa_edge.supernet.batchnorm import given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights.cut import fold, subnet_arrays
from ofa_edge.weights.layout import arch_shapes
from tests.families import SMALL_SPACES
from tests.static_subnet import Subnet
from tests.train.tiny import arrays_of, random_network

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
def test_a_network_of_one_subnet_is_that_subnet_of_the_whole_one(space: Space) -> None:
    """Its outputs, statistics and weights, which it shares with nothing."""
    network, arch = random_network(0, space), space.sample(np.random.default_rng(4))
    arrays = subnet_arrays(space, arrays_of(network), arch)
    before = {name: value.copy() for name, value in arrays.items()}
    alone = Supernet(space, arch)
    alone.load(arrays)
    x = images(4, arch.resolution)
    torch.testing.assert_close(alone(x, arch), network(x, arch), rtol=1e-4, atol=1e-5)
    found = recalibrate(alone, arch, [x])
    for name, pair in recalibrate(network, arch, [x]).items():
        for one, other in zip(found[name], pair, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in alone.arrays().items()} == arch_shapes(space, arch)
    again = subnet_arrays(space, alone.arrays(), arch)
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(1)
    assert all(np.array_equal(arrays[name], value) for name, value in before.items())
