"""The arrays of a folded block and of a whole supernet: names and shapes, no values.

In: a Block, or a Space. Out: for each convolution, in the order they run, the name and the weight's shape.
The one definition that checkpoints, the cutter, the graph builder and the random weights agree on.
"""

from __future__ import annotations

from itertools import pairwise

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block, make_divisible

_SINGLE = {"Conv": "conv", "Conv_1": "conv", "Conv_2": "conv", "Logits": "linear"}


def weight_shapes(block: Block) -> dict[str, tuple[int, ...]]:
    """Shape of each weight, by the name of its convolution; every one has a bias of `shape[0]` entries.

    Convolutions are OIHW, a depthwise one (mid, 1, k, k), the classifier's (classes, in). An
    expanded_conv has `expand` only where mid differs from in channels, and `se_reduce` and `se_expand`
    between `depthwise` and `project` where it has squeeze-and-excitation (reduction 4, MobileNetV3's).

    Raises:
        UsageError: this version knows no such block type.
    """
    if block.type == "AvgPool2D":
        return {}
    k = block.kernel
    if name := _SINGLE.get(block.type):
        shape = (block.out_channels, block.in_channels)
        return {name: shape if block.type == "Logits" else (*shape, k, k)}
    if block.type != "expanded_conv":
        raise UsageError(
            f"blocks of type {block.type!r} cannot be built in this version",
            hint=f"types that can: {', '.join([*_SINGLE, 'AvgPool2D', 'expanded_conv'])}",
        )
    mid = block.mid_channels
    shapes: dict[str, tuple[int, ...]] = {}
    if mid != block.in_channels:
        shapes["expand"] = (mid, block.in_channels, 1, 1)
    shapes["depthwise"] = (mid, 1, k, k)
    if block.se:
        squeezed = make_divisible(mid / 4)
        shapes["se_reduce"] = (squeezed, mid, 1, 1)
        shapes["se_expand"] = (mid, squeezed, 1, 1)
    shapes["project"] = (block.out_channels, mid, 1, 1)
    return shapes


def supernet_shapes(space: Space) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a supernet, by its name in a checkpoint; no statistics.

    The weights are those of the largest subnet. A convolution has no bias but a batch norm's weight and bias
    (channels,), the classifier has a bias; an elastic kernel has a matrix for each step to a smaller one.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in space.layers(space.largest()):
        for conv, shape in weight_shapes(layer.block).items():
            name = array_name(layer.path, conv)
            shapes[f"{name}.weight"] = shape
            if conv == "linear":
                shapes[f"{name}.bias"] = shape[:1]
            else:
                shapes[f"{name}_bn.weight"] = shapes[f"{name}_bn.bias"] = shape[:1]
    for s, stage in enumerate(space.stages):
        for larger, smaller in pairwise(sorted(stage.kernels, reverse=True)):
            for i in range(stage.max_depth):
                shapes[f"stages.{s}.{i}.depthwise.transform_{larger}to{smaller}"] = (smaller**2, smaller**2)
    return shapes


def array_name(path: str, *parts: str) -> str:
    """`<path>.<conv>.<kind>`, kind being weight or bias; without the first part for a block alone (path '')."""
    return ".".join((path, *parts) if path else parts)
