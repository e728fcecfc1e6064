"""The groups of layers that a Block names, elastic: what a supernet is put together from.

In: the widest Block of a place. Out: a module called with a feature map and the Block to run as, which uses the
first channels of its weights. Its parameters are named as weights.layout names the block's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_edge.space.block import Block, make_divisible
from ofa_edge.supernet.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    ElasticPointwise,
    corner,
)


def h_swish(x: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6; in place where no gradient is wanted, since its backward pass needs x."""
    return F.hardswish(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


# In place on the batch norm's output, which its backward pass does not need: a third less memory traffic.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "relu6": partial(F.relu6, inplace=True),
    "h_swish": h_swish,
    "none": lambda x: x,
}


class ConvLayer(nn.Module):
    """Convolution, batch norm, activation: stem and head. With a skip its input is added after the activation."""

    def __init__(self, widest: Block, eps: float):
        super().__init__()
        self.conv = ElasticConv2d(widest.in_channels, widest.out_channels, widest.kernel, widest.stride)
        self.conv_bn = ElasticBatchNorm2d(widest.out_channels, eps)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        y = ACTIVATIONS[block.activation](self.conv_bn(self.conv(x, block.out_channels)))
        return x + y if block.skip else y


class FeatureMix(nn.Module):
    """MobileNetV3's Conv_2: a 1x1 convolution of the pooled map without batch norm or bias, and an activation."""

    def __init__(self, widest: Block):
        super().__init__()
        self.conv = ElasticPointwise(widest.in_channels, widest.out_channels, bias=False)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        return ACTIVATIONS[block.activation](self.conv(x, block.out_channels))


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, linear 1x1 projection; elastic in kernel and
    expand ratio."""

    def __init__(self, widest: Block, kernels: Sequence[int], eps: float):
        super().__init__()
        mid = widest.mid_channels
        if mid != widest.in_channels:
            self.expand = ElasticConv2d(widest.in_channels, mid)
            self.expand_bn = ElasticBatchNorm2d(mid, eps)
        self.depthwise = ElasticDepthwiseConv2d(mid, kernels, widest.stride)
        self.depthwise_bn = ElasticBatchNorm2d(mid, eps)
        if widest.se:
            self.se_reduce = ElasticPointwise(mid, make_divisible(mid / 4), bias=True)
            self.se_expand = ElasticPointwise(make_divisible(mid / 4), mid, bias=True)
        self.project = ElasticConv2d(mid, widest.out_channels)
        self.project_bn = ElasticBatchNorm2d(widest.out_channels, eps)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        activate = ACTIVATIONS[block.activation]
        y = x
        if block.mid_channels != block.in_channels:
            y = activate(self.expand_bn(self.expand(y, block.mid_channels)))
        y = activate(self.depthwise_bn(self.depthwise(y, block.kernel)))
        if block.se:
            y = self._excite(y)
        y = self.project_bn(self.project(y, block.out_channels))
        return y.add_(x) if block.skip else y

    def _excite(self, x: Tensor) -> Tensor:
        """Each channel times a gate made from the means of all of them (Hu et al., CVPR 2018), reduced four times."""
        channels = x.shape[1]
        squeezed = F.relu(self.se_reduce(x.mean(dim=(2, 3)), make_divisible(channels / 4)), inplace=True)
        gate = F.hardsigmoid(self.se_expand(squeezed, channels))
        return x * gate[:, :, None, None]


class Bottleneck(nn.Module):
    """ResNet-D's block: 1x1 reduction, 3x3 convolution, linear 1x1 expansion, added to its input or to the input's
    average pooling and 1x1 projection, and an activation after that; elastic in expand ratio and widths."""

    def __init__(self, widest: Block, eps: float):
        super().__init__()
        mid, out = widest.mid_channels, widest.out_channels
        self.reduce = ElasticConv2d(widest.in_channels, mid)
        self.reduce_bn = ElasticBatchNorm2d(mid, eps)
        self.conv = ElasticConv2d(mid, mid, widest.kernel, widest.stride)
        self.conv_bn = ElasticBatchNorm2d(mid, eps)
        self.expand = ElasticConv2d(mid, out)
        self.expand_bn = ElasticBatchNorm2d(out, eps)
        if not widest.skip:
            self.downsample = ElasticConv2d(widest.in_channels, out)
            self.downsample_bn = ElasticBatchNorm2d(out, eps)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        activate, mid = ACTIVATIONS[block.activation], block.mid_channels
        y = activate(self.reduce_bn(self.reduce(x, mid)))
        y = activate(self.conv_bn(self.conv(y, mid)))
        y = self.expand_bn(self.expand(y, block.out_channels))
        if not block.skip:
            x = self.downsample_bn(self.downsample(average_pool(x, block.stride), block.out_channels))
        return activate(y.add_(x))


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Means of windows as wide as the stride; at an odd size the last ones are what is left of the map."""
    return x if stride == 1 else F.avg_pool2d(x, stride, stride, ceil_mode=True)


class MaxPool(nn.Module):
    def forward(self, x: Tensor, block: Block) -> Tensor:
        return F.max_pool2d(x, block.kernel, block.stride, block.kernel // 2)


class GlobalPool(nn.Module):
    """(N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor, block: Block) -> Tensor:
        return x.mean(dim=(2, 3))


class Classifier(nn.Module):
    """(N, C) -> (N, classes), elastic in its input."""

    def __init__(self, widest: Block):
        super().__init__()
        self.linear = nn.Linear(widest.in_channels, widest.out_channels)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        return F.linear(x, corner(self.linear.weight, block.out_channels, x.shape[1]), self.linear.bias)


def elastic(widest: Block, kernels: Sequence[int], eps: float) -> nn.Module:
    """The module for a place whose widest block is this one, and whose depthwise convolution has these kernels."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "Conv": lambda: ConvLayer(widest, eps),
        "Conv_1": lambda: ConvLayer(widest, eps),
        "Conv_2": lambda: FeatureMix(widest),
        "expanded_conv": lambda: InvertedBottleneck(widest, kernels, eps),
        "bottleneck": lambda: Bottleneck(widest, eps),
        "MaxPool2D": MaxPool,
        "AvgPool2D": GlobalPool,
        "Logits": lambda: Classifier(widest),
    }
    return makers[widest.type]()
