"""Channel sorting: the most important channels first, so that narrow subnets keep them (OFA sec. 3.3).

In: a supernet. Out: the same supernet with its channels in another order. Rules kept: the function of the largest
subnet does not change; inside blocks the order is that of the reference implementation's `re_organize_middle_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ofa_edge.space.arch import Space
from ofa_edge.supernet.blocks import Bottleneck, ConvLayer, InvertedBottleneck
from ofa_edge.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d

# What writes feature maps that share their channels, and the weights (O, I, ...) that read them.
_Stream = tuple[list[tuple[ElasticConv2d, ElasticBatchNorm2d]], list[nn.Parameter]]

# Between groups of channels, far above any sum of weights. It is the reference's number: in single precision it
# rounds the sums within a group, and so decides which channels tie.
_GROUP = 1e5


@torch.no_grad()
def sort_channels(space: Space, network: nn.Module, expand_stage: int = 0) -> None:
    """Order the inner channels of every elastic block by the L1 norm of the weights that read them.

    Args:
        expand_stage: how many of the greatest expand ratios narrower subnets are about to leave behind: the channels
            that only these ratios use stay behind all others, group by group. 0 sorts all together.
    """
    before = max(space.stem.out_channels)
    for s, stage in enumerate(space.stages):
        for i in range(stage.max_depth):
            block = network.get_submodule(f"stages.{s}.{i}")
            expands = sorted(stage.expands, reverse=True)[: expand_stage + 1] if expand_stage else []
            behind = len(stage.expands) - len(expands)
            edges = [stage.mid_channels(before, stage.out_channels, expand) for expand in expands]
            if isinstance(block, Bottleneck):
                _sort_bottleneck(block, edges, behind)
            elif isinstance(block, InvertedBottleneck) and hasattr(block, "expand"):
                _sort_inverted(block, edges, behind)
            before = stage.out_channels


@torch.no_grad()
def sort_widths(space: Space, network: nn.Module) -> None:
    """Order the channels between the blocks, where their number is elastic, by the L1 norm of all that reads them.

    The reference implementation's training calls this `re_organize_outer_weights`, which the package lacks.
    """
    if not space.elastic_width:
        return
    for writers, readers in _streams(space, network):
        importance = torch.stack(
            [reader.abs().reshape(*reader.shape[:2], -1).sum(dim=(0, 2)) for reader in readers]
        ).sum(dim=0)
        order = importance.sort(descending=True).indices
        for conv, norm in writers:
            _select(conv.weight, 0, order)
            _select_norm(norm, order)
        for reader in readers:
            _select(reader, 1, order)


def _streams(space: Space, network: nn.Module) -> Iterator[_Stream]:
    """Each run of feature maps that share their channels: in the stem, behind it, and in each stage."""
    first, *optional, last = (part for part in network.get_submodule("stem").children() if isinstance(part, ConvLayer))
    inner = [first, *optional]
    yield [(part.conv, part.conv_bn) for part in inner], [part.conv.weight for part in (*optional, last)]
    writers = [(last.conv, last.conv_bn)]
    readers: list[nn.Parameter] = []
    for s in range(len(space.stages)):
        blocks = [part for part in network.get_submodule(f"stages.{s}").children() if isinstance(part, Bottleneck)]
        entry, *later = blocks
        yield writers, [*readers, entry.reduce.weight, entry.downsample.weight]
        writers = [(entry.downsample, entry.downsample_bn), *((part.expand, part.expand_bn) for part in blocks)]
        readers = [part.reduce.weight for part in later]
    yield writers, [*readers, network.get_parameter("logits.linear.weight")]


def _order(readers: nn.Parameter, edges: Sequence[int], behind: int) -> Tensor:
    """The channels that `readers` (O, I, k, k) takes, most important first; groups end at `edges`, the last first."""
    importance = readers.abs().sum(dim=(0, 2, 3))
    base, right = -_GROUP * (len(edges) + behind), len(importance)
    for left in edges:
        importance[left:right] += base
        base, right = base + _GROUP, left
    return importance.sort(descending=True).indices


def _sort_inverted(block: InvertedBottleneck, edges: Sequence[int], behind: int) -> None:
    order = _order(block.project.weight, edges, behind)
    _select(block.project.weight, 1, order)
    _select_norm(block.depthwise_bn, order)
    _select(block.depthwise.weight, 0, order)
    _select_norm(block.expand_bn, order)
    _select(block.expand.weight, 0, order)
    if hasattr(block, "se_reduce"):
        _select(block.se_expand.weight, 0, order)
        _select(block.se_expand.bias, 0, order)
        _select(block.se_reduce.weight, 1, order)
        squeezed = _order(block.se_expand.weight, (), 0)
        _select(block.se_expand.weight, 1, squeezed)
        _select(block.se_reduce.weight, 0, squeezed)
        _select(block.se_reduce.bias, 0, squeezed)


def _sort_bottleneck(block: Bottleneck, edges: Sequence[int], behind: int) -> None:
    order = _order(block.expand.weight, edges, behind)
    _select(block.expand.weight, 1, order)
    _select_norm(block.conv_bn, order)
    _select(block.conv.weight, 0, order)
    order = _order(block.conv.weight, edges, behind)
    _select(block.conv.weight, 1, order)
    _select_norm(block.reduce_bn, order)
    _select(block.reduce.weight, 0, order)


def _select_norm(norm: ElasticBatchNorm2d, order: Tensor) -> None:
    _select(norm.weight, 0, order)
    _select(norm.bias, 0, order)


def _select(parameter: nn.Parameter | None, axis: int, order: Tensor) -> None:
    if parameter is not None:
        parameter.copy_(parameter.index_select(axis, order))
