"""An independent reference of the layers: PyTorch in double precision, straight from the block's fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from ofa_edge.space.block import Block, Layer

Arrays = Mapping[str, np.ndarray]
Reference = Callable[[Sequence[Layer], Arrays, np.ndarray], np.ndarray]

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "h_swish": functional.hardswish,
}


def _block(block: Block, arrays: Arrays, prefix: str, x: torch.Tensor) -> torch.Tensor:
    def of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.from_numpy(arrays[f"{prefix}{name}.{kind}"]).double() for kind in ("weight", "bias"))

    act = _ACTIVATIONS[block.activation]
    if block.type == "AvgPool2D":
        return functional.adaptive_avg_pool2d(x, 1)
    if block.type == "Logits":
        return functional.linear(x.flatten(1), *of("linear"))
    if block.type == "MaxPool2D":
        return functional.max_pool2d(x, 3, 2, 1)
    if block.type == "bottleneck":
        y = act(functional.conv2d(x, *of("reduce")))
        y = functional.conv2d(act(functional.conv2d(y, *of("conv"), stride=block.stride, padding=1)), *of("expand"))
        if not block.skip:
            pooled = functional.avg_pool2d(x, block.stride, block.stride, 0, ceil_mode=True)
            x = functional.conv2d(pooled, *of("downsample"))
        return act(y + x)
    if block.type != "expanded_conv":
        y = act(functional.conv2d(x, *of("conv"), stride=block.stride, padding=block.kernel // 2))
        return x + y if block.skip else y
    y = x if block.mid_channels == block.in_channels else act(functional.conv2d(x, *of("expand")))
    padding = block.kernel // 2
    y = act(functional.conv2d(y, *of("depthwise"), stride=block.stride, padding=padding, groups=block.mid_channels))
    if block.se:
        gate = functional.relu(functional.conv2d(functional.adaptive_avg_pool2d(y, 1), *of("se_reduce")))
        y = y * functional.hardsigmoid(functional.conv2d(gate, *of("se_expand")))
    y = functional.conv2d(y, *of("project"))
    return x + y if block.skip else y


def _reference(layers: Sequence[Layer], arrays: Arrays, x: np.ndarray) -> np.ndarray:
    y = torch.from_numpy(x).double()
    for layer in layers:
        y = _block(layer.block, arrays, f"{layer.path}." if layer.path else "", y)
    return y.numpy()


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Outputs of layers for an input (N, C, H, W), computed by PyTorch."""
    return _reference
