"""The supernet as a torch module: `network(x, arch)` runs one subnet inside the shared weights.

In: a Space. Out: logits of shape (N, classes) for images of shape (N, 3, H, W). Parameter names are the
array names of a checkpoint, so a state dict and a checkpoint need no translation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticDepthwiseConv2d

# In place on the batch norm's output, which its backward pass does not need: a third less memory traffic.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "relu6": partial(F.relu6, inplace=True),
    "h_swish": F.hardswish,
    "none": lambda x: x,
}


class ConvLayer(nn.Module):
    """Convolution, batch norm, activation: stem and head."""

    def __init__(self, block: Block, eps: float):
        super().__init__()
        self.conv = ElasticConv2d(block.in_channels, block.out_channels, block.kernel, block.stride)
        self.conv_bn = ElasticBatchNorm2d(block.out_channels, eps)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        return _ACTIVATIONS[block.activation](self.conv_bn(self.conv(x, block.out_channels)))


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; elastic in kernel and expand ratio."""

    def __init__(self, widest: Block, kernels: tuple[int, ...], eps: float):
        super().__init__()
        if widest.se:
            raise UsageError("squeeze-and-excitation cannot be trained in this version", hint="use another space")
        if widest.mid_channels != widest.in_channels:
            self.expand = ElasticConv2d(widest.in_channels, widest.mid_channels)
            self.expand_bn = ElasticBatchNorm2d(widest.mid_channels, eps)
        self.depthwise = ElasticDepthwiseConv2d(widest.mid_channels, kernels, widest.stride)
        self.depthwise_bn = ElasticBatchNorm2d(widest.mid_channels, eps)
        self.project = ElasticConv2d(widest.mid_channels, widest.out_channels)
        self.project_bn = ElasticBatchNorm2d(widest.out_channels, eps)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        activate = _ACTIVATIONS[block.activation]
        y = x
        if block.mid_channels != block.in_channels:
            y = activate(self.expand_bn(self.expand(y, block.mid_channels)))
        y = activate(self.depthwise_bn(self.depthwise(y, block.kernel)))
        y = self.project_bn(self.project(y, block.out_channels))
        return x + y if block.skip else y

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Order the mid channels by the L1 norm of their projection, most important first (OFA sec. 3.3).

        The function of the widest block is unchanged; narrower ones then keep the best channels.
        """
        if not hasattr(self, "expand"):
            return
        order = self.project.weight.abs().sum(dim=(0, 2, 3)).argsort(descending=True, stable=True)
        self.project.weight.copy_(self.project.weight[:, order])
        for module in (self.expand, self.expand_bn, self.depthwise, self.depthwise_bn):
            for name, parameter in module.named_parameters(recurse=False):
                if not name.startswith("transform"):
                    parameter.copy_(parameter[order])


class Classifier(nn.Module):
    def __init__(self, in_features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Supernet(nn.Module):
    """All subnets of a space in one set of weights."""

    def __init__(self, space: Space):
        super().__init__()
        self.space = space
        # The modules are as wide as the widest choice of each place, at any resolution.
        stem, first, *_, head, _, logits = space.blocks(space.largest())
        self.stem = ConvLayer(stem, space.bn_eps)
        self.first = InvertedBottleneck(first, (first.kernel,), space.bn_eps)
        self.stages = nn.ModuleList(
            nn.ModuleList(self._widest(s, i) for i in range(stage.max_depth)) for s, stage in enumerate(space.stages)
        )
        self.head = ConvLayer(head, space.bn_eps)
        self.logits = Classifier(logits.in_channels, logits.out_channels)

    def _widest(self, stage_index: int, block_index: int) -> InvertedBottleneck:
        stage = self.space.stages[stage_index]
        choice = self.space.largest().stages[stage_index][block_index]
        block = self.space.stage_block(stage_index, block_index, choice, in_size=1)
        return InvertedBottleneck(block, stage.kernels, self.space.bn_eps)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Run the subnet `arch`; the input's size need not be the arch's resolution (its blocks set no size)."""
        for layer in self.space.layers(arch):
            if layer.path == "pool":
                x = x.mean(dim=(2, 3))
            elif layer.path == "logits":
                x = self.logits(x)
            else:
                x = self.get_submodule(layer.path)(x, layer.block)
        return x

    def batch_norms(self, arch: Arch | None = None) -> Iterator[tuple[str, ElasticBatchNorm2d]]:
        """Names and modules of the batch norms, of all subnets or of one."""
        used = None if arch is None else {layer.path for layer in self.space.layers(arch)}
        for name, module in self.named_modules():
            if isinstance(module, ElasticBatchNorm2d) and (used is None or name.rpartition(".")[0] in used):
                yield name, module

    def sort_channels(self) -> None:
        """Sort the mid channels of every elastic block (see InvertedBottleneck.sort_channels)."""
        for stage in self.stages:
            for block in stage:
                block.sort_channels()
