"""One subnet as a static torch module, as anybody would write it: what elastic layers and exports are held against.

In: a Space, an arch, the arrays and statistics that weights.cut and a checkpoint give. Out: logits of shape
(N, classes) for images of shape (N, 3, H, W). Names are those of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.supernet.blocks import ACTIVATIONS, average_pool
from ofa_edge.supernet.network import place
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.layout import OWN_BIAS, normalised, weight_shapes


class Subnet(nn.Module):
    """`arch` of `space`, alone. Its weights are drawn until `load` gives it others."""

    def __init__(self, space: Space, arch: Arch):
        super().__init__()
        self.space, self.arch = space, arch
        self._sequence: list[nn.Module] = []  # the same modules, in the order they run
        for layer in space.layers(arch):
            module = _MODULES[layer.block.type](layer.block, space.bn_eps)
            place(self, layer.path, module)
            self._sequence.append(module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self._sequence:
            x = module(x)
        return x

    def batch_norms(self) -> dict[str, nn.BatchNorm2d]:
        """By name, in the order they run."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.BatchNorm2d)}

    def load(self, arrays: Mapping[str, np.ndarray], statistics: Statistics) -> None:
        """Take weights as `weights.cut.subnet_arrays` gives them, and statistics for every batch norm."""
        given = dict(arrays)
        for name, (mean, var) in statistics.items():
            given |= {f"{name}.running_mean": mean, f"{name}.running_var": var}
        state = {name: torch.tensor(value) for name, value in given.items()}
        state |= {f"{name}.num_batches_tracked": torch.tensor(0) for name in statistics}
        self.load_state_dict(state)

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the weights, named as a checkpoint's."""
        return {name: _copy(value) for name, value in self.named_parameters()}

    def statistics(self) -> Statistics:
        """Copies of the running statistics."""
        return {
            name: (_copy(norm.get_buffer("running_mean")), _copy(norm.get_buffer("running_var")))
            for name, norm in self.batch_norms().items()
        }


def _copy(value: Tensor) -> np.ndarray:
    return value.numpy(force=True).copy()


# -- blocks -------------------------------------------------------------------------------------
class _Block(nn.Module):
    """The convolutions and batch norms of a Block, named as weights.layout does."""

    def __init__(self, block: Block, eps: float):
        super().__init__()
        self.block, self.activate = block, ACTIVATIONS[block.activation]
        for conv, shape in weight_shapes(block).items():
            stride = block.stride if conv in ("conv", "depthwise") else 1
            groups = shape[0] if conv == "depthwise" else 1
            self.add_module(conv, _layer(shape, stride, groups, bias=conv in OWN_BIAS))
            if normalised(block, conv):
                self.add_module(f"{conv}_bn", nn.BatchNorm2d(shape[0], eps))


def _layer(shape: tuple[int, ...], stride: int, groups: int, *, bias: bool) -> nn.Module:
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    kernel = shape[2]
    conv = nn.Conv2d(shape[1] * groups, shape[0], kernel, stride, kernel // 2, groups=groups, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _Conv(_Block):
    conv: nn.Conv2d
    conv_bn: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        y = self.activate(self.conv_bn(self.conv(x)))
        return x + y if self.block.skip else y


class _FeatureMix(_Block):
    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x))


class _InvertedBottleneck(_Block):
    expand: nn.Conv2d
    expand_bn: nn.BatchNorm2d
    depthwise: nn.Conv2d
    depthwise_bn: nn.BatchNorm2d
    se_reduce: nn.Conv2d
    se_expand: nn.Conv2d
    project: nn.Conv2d
    project_bn: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.block.mid_channels != self.block.in_channels:
            y = self.activate(self.expand_bn(self.expand(y)))
        y = self.activate(self.depthwise_bn(self.depthwise(y)))
        if self.block.se:
            squeezed = F.relu(self.se_reduce(y.mean(dim=(2, 3), keepdim=True)), inplace=True)
            y = y * F.hardsigmoid(self.se_expand(squeezed))
        y = self.project_bn(self.project(y))
        return y.add_(x) if self.block.skip else y


class _Bottleneck(_Block):
    reduce: nn.Conv2d
    reduce_bn: nn.BatchNorm2d
    conv: nn.Conv2d
    conv_bn: nn.BatchNorm2d
    expand: nn.Conv2d
    expand_bn: nn.BatchNorm2d
    downsample: nn.Conv2d
    downsample_bn: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        y = self.activate(self.reduce_bn(self.reduce(x)))
        y = self.activate(self.conv_bn(self.conv(y)))
        y = self.expand_bn(self.expand(y))
        if not self.block.skip:
            x = self.downsample_bn(self.downsample(average_pool(x, self.block.stride)))
        return self.activate(y.add_(x))


class _MaxPool(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.block.kernel, self.block.stride, self.block.kernel // 2)


class _GlobalPool(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class _Classifier(_Block):
    linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


_MODULES: dict[str, type[_Block]] = {
    "Conv": _Conv,
    "Conv_1": _Conv,
    "Conv_2": _FeatureMix,
    "expanded_conv": _InvertedBottleneck,
    "bottleneck": _Bottleneck,
    "MaxPool2D": _MaxPool,
    "AvgPool2D": _GlobalPool,
    "Logits": _Classifier,
}
