"""The layer graph between Blocks and model files: what every writer reads.

Built by build.py, rewritten by passes.py, read by the writers (onnx.py, tflite.py) and by whatever counts over layers.
Rules kept: nodes are in the order they run and every tensor is made before it is read; shapes are NCHW with batch 1;
an activation belongs to the node before it, so that each writer fuses it in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Op(StrEnum):
    """What a node computes."""

    CONV = "conv"  # zero padding on every side by half of what the kernel spans
    MEAN = "mean"  # over H and W, which stay as 1 x 1
    MAX_POOL = "max_pool"  # padded as a convolution; the padding never wins
    AVERAGE_POOL = "average_pool"  # no padding; windows that reach over the edge average what is inside
    SCALE = "scale"  # a feature map times one factor a channel: inputs (map, factors)
    ADD = "add"
    LINEAR = "linear"  # (1, C, 1, 1) -> (1, classes)


class Activation(StrEnum):
    """The function after a node; the first four are those of a Block."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    H_SWISH = "h_swish"  # x * relu6(x + 3) / 6
    H_SIGMOID = "h_sigmoid"  # relu6(x + 3) / 6, the gate of squeeze-and-excitation


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value with its shape, NCHW with N = 1, or (1, classes) after the classifier."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One layer. `weight` and `bias` name entries of the graph's arrays and are '' where the op has none.

    Kernels are square, `kernel` taps a side, but for those that passes.py makes: they have fewer rows (as many as their
    weight), `row_dilation` apart.
    """

    name: str
    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    activation: Activation = Activation.NONE
    weight: str = ""
    bias: str = ""
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    row_dilation: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A network or a single block. `arrays` are float32: OIHW for convolutions, (classes, in) for LINEAR."""

    input: Tensor
    output: Tensor
    nodes: tuple[Node, ...]
    arrays: Mapping[str, np.ndarray]
