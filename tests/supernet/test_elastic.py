"""Elastic layers and the supernet: transforms are OFA's, sorting keeps the largest net, names are a checkpoint's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, BlockChoice
from ofa_edge.space.spaces import SPACES
from ofa_edge.supernet.elastic import (
    BatchStatistics,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    corner,
)
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights.cut import kernel_weight
from ofa_edge.weights.layout import supernet_shapes
from tests.train.tiny import TINY, random_network


def images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


# -- kernels ------------------------------------------------------------------------------------
def test_a_3x3_kernel_is_the_matrix_times_the_centre_of_the_5x5_row_by_row() -> None:
    layer = ElasticDepthwiseConv2d(4, (3, 5), stride=1)
    matrix = torch.randn(9, 9)
    with torch.no_grad():
        layer.transform_5to3.copy_(matrix)
    small = layer.kernel_weight(4, 3)
    for channel in range(4):
        centre = [layer.weight[channel, 0, 1 + i, 1 + j] for i in range(3) for j in range(3)]
        for row in range(9):
            expected = sum(matrix[row, k] * centre[k] for k in range(9))
            assert small[channel, 0, row // 3, row % 3].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_3x3_kernel_of_a_7x7_goes_through_the_5x5() -> None:
    layer = ElasticDepthwiseConv2d(2, (3, 5, 7), stride=1)
    with torch.no_grad():
        layer.transform_7to5.normal_()
        layer.transform_5to3.normal_()
    five = layer.kernel_weight(2, 5)
    three = five[:, 0, 1:4, 1:4].reshape(2, 9) @ layer.transform_5to3.T
    torch.testing.assert_close(layer.kernel_weight(2, 3).reshape(2, 9), three)


def test_transforms_start_as_the_identity_and_the_largest_kernel_needs_none() -> None:
    layer = ElasticDepthwiseConv2d(4, (3, 5), stride=2)
    assert torch.equal(layer.kernel_weight(4, 5), layer.weight)
    assert torch.equal(layer.kernel_weight(4, 3), layer.weight[:, :, 1:4, 1:4])
    assert torch.equal(layer.kernel_weight(2, 3), layer.weight[:2, :, 1:4, 1:4])


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_numpy_and_torch_make_the_same_kernel(kernel: int) -> None:
    layer = ElasticDepthwiseConv2d(6, (3, 5, 7), stride=1)
    with torch.no_grad():
        layer.transform_7to5.normal_()
        layer.transform_5to3.normal_()
    arrays = {f"x.{name}": value.numpy() for name, value in layer.state_dict().items()}
    ours = kernel_weight(arrays, "x", (3, 5, 7), kernel)
    np.testing.assert_allclose(ours, layer.kernel_weight(6, kernel).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_subnet_uses_the_first_channels() -> None:
    conv = ElasticConv2d(8, 12)
    x = torch.randn(2, 5, 4, 4)
    expected = torch.einsum("oi,nihw->nohw", conv.weight[:7, :5, 0, 0], x)
    torch.testing.assert_close(conv(x, 7), expected)


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (12, 5), (7, 8), (12, 8)])
def test_the_gradient_of_a_corner_is_0_outside_it(rows: int, columns: int) -> None:
    weight = torch.randn(12, 8, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    factor = torch.randn(rows, columns, 3, 3)
    (corner(weight, rows, columns) * factor).sum().backward()
    expected = torch.zeros(12, 8, 3, 3)
    expected[:rows, :columns] = factor
    assert weight.grad is not None
    assert torch.equal(weight.grad, expected)
    assert weight.grad.stride() == weight.stride()


# -- batch norm ---------------------------------------------------------------------------------
def test_given_statistics_normalise_and_the_batch_does_not_matter() -> None:
    norm = ElasticBatchNorm2d(6, eps=1e-3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    mean, var = torch.randn(4), torch.rand(4) + 0.1
    x = torch.randn(3, 4, 5, 5)
    norm.given = BatchStatistics(mean, var)
    per_channel = [value.reshape(1, -1, 1, 1) for value in (mean, var, norm.weight[:4], norm.bias[:4])]
    expected = (x - per_channel[0]) / torch.sqrt(per_channel[1] + 1e-3) * per_channel[2] + per_channel[3]
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x[:1]), expected[:1])


def test_pooling_batches_gives_the_statistics_of_all_values_together() -> None:
    pooled = BatchStatistics(torch.zeros(()), torch.zeros(()))
    parts = [torch.randn(n, 3) * n + n for n in (4, 1, 9)]
    for part in parts:
        pooled.add(part.mean(0), part.var(0, correction=0), len(part))
    together = torch.cat(parts)
    assert pooled.count == 14
    torch.testing.assert_close(pooled.mean, together.mean(0))
    torch.testing.assert_close(pooled.var, together.var(0, correction=0))


# -- the network --------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [TINY, *SPACES.values()], ids=lambda space: space.name)
def test_parameters_are_named_and_shaped_as_a_checkpoints_arrays(space) -> None:
    state = Supernet(space).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == supernet_shapes(space)


def test_any_subnet_runs_at_any_input_size() -> None:
    network, rng = random_network(0), np.random.default_rng(0)
    for size in (16, 33):
        assert network(images(2, size), TINY.sample(rng)).shape == (2, TINY.classes)


def test_an_arch_outside_the_space_is_refused() -> None:
    wide = Arch(16, ((BlockChoice(3, 6),), (BlockChoice(3, 2),)))
    with pytest.raises(UsageError, match="stage 0 block 0: expand 6"):
        random_network(0)(images(1, 16), wide)


def test_blocks_that_a_subnet_skips_get_no_gradient() -> None:
    network = random_network(0)
    network(images(4, 16), TINY.smallest()).sum().backward()
    got = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("stages.0.0.") for name in got)
    assert not any(name.startswith(("stages.0.1.", "stages.1.1.")) for name in got)


# -- sorting ------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_sorting_keeps_the_largest_nets_outputs(seed: int) -> None:
    network, x = random_network(seed), images(6, 32, seed)
    largest, smallest = TINY.largest(32), TINY.smallest(32)
    with torch.no_grad():
        before, narrow = network(x, largest), network(x, smallest)
        network.sort_channels()
        after = network(x, largest)
        assert (after - before).abs().max() <= 1e-5 * before.abs().max()
        assert not torch.allclose(network(x, smallest), narrow, rtol=0.01)


def test_sorting_puts_the_most_important_channels_first() -> None:
    network = random_network(0)
    importance = {path: network.get_submodule(path).project.weight.abs().sum(dim=(0, 2, 3)) for path in BLOCKS}
    assert any((value.diff() > 0).any() for value in importance.values())
    network.sort_channels()
    for path, before in importance.items():
        after = network.get_submodule(path).project.weight.abs().sum(dim=(0, 2, 3))
        torch.testing.assert_close(after, before.sort(descending=True).values)


BLOCKS = [f"stages.{s}.{i}" for s, stage in enumerate(TINY.stages) for i in range(stage.max_depth)]
