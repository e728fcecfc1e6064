"""Elastic layers: one set of weights, of which a subnet uses the first channels and the inner kernel.

Channel slicing and the kernel transform 7 -> 5 -> 3 are those of Once-for-All (Cai et al., ICLR 2020, sec. 3.3):
a smaller kernel is the centre of the next larger one, times a matrix shared by all channels of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_edge.supernet.ranks import batch_norm_over_ranks


@dataclass(slots=True)
class BatchStatistics:
    """Per-channel mean and variance, each of shape (channels,), over `count` values a channel."""

    mean: Tensor
    var: Tensor
    count: int = 0

    def add(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Pool another batch in (parallel variance of Chan, Golub & LeVeque 1979)."""
        total = self.count + count
        delta = mean - self.mean
        self.var = (self.var * self.count + var * count) / total + delta**2 * (self.count * count / total**2)
        self.mean = self.mean + delta * (count / total)
        self.count = total


class ElasticBatchNorm2d(nn.Module):
    """Batch norm over the first channels of an input of shape (N, C, H, W).

    It keeps no running statistics of its own, since those of one subnet are wrong for the next. It
    normalises by `given` where that is set and by the batch otherwise; `collected`, where set, pools what
    the batches had; `over_ranks` takes the batches of all ranks of a training run for one.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.given: BatchStatistics | None = None
        self.collected: BatchStatistics | None = None
        self.over_ranks = False

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        weight, bias = self.weight[:channels], self.bias[:channels]
        if self.given is not None:
            return F.batch_norm(x, self.given.mean, self.given.var, weight, bias, False, 0.0, self.eps)
        if self.collected is None:
            if self.over_ranks:
                return batch_norm_over_ranks(x, weight, bias, self.eps)
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        # With momentum 1 the kernel leaves this batch's statistics, for which torch.var_mean takes a pass of its own.
        mean, var = torch.zeros_like(weight), torch.ones_like(weight)
        y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, self.eps)
        count = x.numel() // channels
        self.collected.add(mean, var * ((count - 1) / count), count)  # it leaves the unbiased variance
        return y


class ElasticConv2d(nn.Module):
    """Dense convolution of which a subnet uses the first input and output channels; 'same' padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.stride = stride
        self.padding = kernel // 2

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        return F.conv2d(x, corner(self.weight, out_channels, x.shape[1]), None, self.stride, self.padding)


class ElasticPointwise(nn.Module):
    """1x1 convolution of a pooled map (N, C), of which a subnet uses the first inputs and outputs."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        bias = None if self.bias is None else self.bias[:out_channels]
        return F.linear(x, corner(self.weight, out_channels, x.shape[1]).flatten(1), bias)


class _Corner(torch.autograd.Function):
    """Both slices at once: one gradient as large as the weight instead of two."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
        ctx.layout = weight.shape, weight.stride()
        return weight[:out_channels, :in_channels]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0]
        shape, stride = ctx.layout
        whole = torch.empty_strided(shape, stride, dtype=gradient.dtype, device=gradient.device).zero_()
        whole[: gradient.shape[0], : gradient.shape[1]] = gradient
        return whole, None, None


def corner(weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """The first channels of a weight (O, I, ...); itself where it has no more, as a slice costs a copy backward."""
    if weight.shape[0] == out_channels and weight.shape[1] == in_channels:
        return weight
    sliced: Tensor = _Corner.apply(weight, out_channels, in_channels)
    return sliced


class ElasticDepthwiseConv2d(nn.Module):
    """Depthwise convolution, elastic in channels and kernel; transforms start as the identity."""

    def __init__(self, channels: int, kernels: Sequence[int], stride: int):
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        self.weight = nn.Parameter(torch.empty(channels, 1, self.kernels[0], self.kernels[0]))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.stride = stride
        for larger, smaller in pairwise(self.kernels):
            self.register_parameter(f"transform_{larger}to{smaller}", nn.Parameter(torch.eye(smaller**2)))

    def kernel_weight(self, channels: int, kernel: int) -> Tensor:
        """The weight a subnet uses, of shape (channels, 1, kernel, kernel)."""
        weight = corner(self.weight, channels, 1)
        for larger, smaller in pairwise(self.kernels):
            if larger == kernel:
                break
            edge = (larger - smaller) // 2
            centre = weight[:, :, edge:-edge, edge:-edge].reshape(channels, smaller**2)
            weight = (centre @ self.get_parameter(f"transform_{larger}to{smaller}").T).view(
                channels, 1, smaller, smaller
            )
        return weight

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel_weight(channels, kernel), None, self.stride, kernel // 2, 1, channels)
