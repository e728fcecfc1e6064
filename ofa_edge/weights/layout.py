"""The arrays of a folded block and of a whole supernet: names and shapes, no values.

In: a Block, or a Space. Out: for each convolution, in the order they run, the name and the weight's shape.
The one definition that checkpoints, the cutter, the graph builder and the random weights agree on.
"""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block, Layer, make_divisible

_SINGLE = {"Conv": "conv", "Conv_1": "conv", "Conv_2": "conv", "Logits": "linear"}

_POOLING = ("AvgPool2D", "MaxPool2D")

# These have a bias of their own in a checkpoint; all others but Conv_2, which has neither, have a batch norm.
OWN_BIAS = ("linear", "se_reduce", "se_expand")


def weight_shapes(block: Block) -> dict[str, tuple[int, ...]]:
    """Shape of each weight, by the name of its convolution, in the order they run.

    Once batch norm is folded, every one has a bias of `shape[0]` entries. Convolutions are OIHW, a depthwise
    one (mid, 1, k, k), the classifier's (classes, in). An expanded_conv has `expand` only where mid differs
    from in channels, and `se_reduce` and `se_expand` between `depthwise` and `project` where it has
    squeeze-and-excitation (reduction 4, MobileNetV3's). A bottleneck has `downsample` where it has no skip.

    Raises:
        UsageError: this version knows no such block type.
    """
    if block.type in _POOLING:
        return {}
    k, mid = block.kernel, block.mid_channels
    if name := _SINGLE.get(block.type):
        shape = (block.out_channels, block.in_channels)
        return {name: shape if block.type == "Logits" else (*shape, k, k)}
    if block.type == "bottleneck":
        shapes: dict[str, tuple[int, ...]] = {"reduce": (mid, block.in_channels, 1, 1), "conv": (mid, mid, k, k)}
        shapes["expand"] = (block.out_channels, mid, 1, 1)
        if not block.skip:
            shapes["downsample"] = (block.out_channels, block.in_channels, 1, 1)
        return shapes
    if block.type != "expanded_conv":
        raise UsageError(
            f"blocks of type {block.type!r} cannot be built in this version",
            hint=f"types that can: {', '.join([*_SINGLE, *_POOLING, 'expanded_conv', 'bottleneck'])}",
        )
    shapes = {}
    if mid != block.in_channels:
        shapes["expand"] = (mid, block.in_channels, 1, 1)
    shapes["depthwise"] = (mid, 1, k, k)
    if block.se:
        squeezed = make_divisible(mid / 4)
        shapes["se_reduce"] = (squeezed, mid, 1, 1)
        shapes["se_expand"] = (mid, squeezed, 1, 1)
    shapes["project"] = (block.out_channels, mid, 1, 1)
    return shapes


def kernels_at(space: Space, layer: Layer) -> tuple[int, ...]:
    """The kernels that the depthwise weight of this place may be made into."""
    kind, _, place = layer.path.partition(".")
    return space.stages[int(place.split(".")[0])].kernels if kind == "stages" else (layer.block.kernel,)


def normalised(block: Block, conv: str) -> bool:
    """Whether a batch norm follows this convolution of a block."""
    return conv not in OWN_BIAS and block.type != "Conv_2"


def batch_norms(space: Space, arch: Arch) -> list[tuple[str, int]]:
    """Name and width in channels of every batch norm an arch runs, in order."""
    return [
        (f"{array_name(layer.path, conv)}_bn", shape[0])
        for layer in space.layers(arch)
        for conv, shape in weight_shapes(layer.block).items()
        if normalised(layer.block, conv)
    ]


def supernet_shapes(space: Space) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a supernet, by its name in a checkpoint; no statistics.

    The weights are those of the largest subnet. A convolution has a batch norm's weight and bias (channels,) and no
    bias of its own, but for those of `OWN_BIAS`; an elastic kernel has a matrix for each step to a smaller one.
    """
    shapes = arch_shapes(space, space.largest())
    for s, stage in enumerate(space.stages):
        for larger, smaller in pairwise(sorted(stage.kernels, reverse=True)):
            for i in range(stage.max_depth):
                shapes[f"stages.{s}.{i}.depthwise.transform_{larger}to{smaller}"] = (smaller**2, smaller**2)
    return shapes


def arch_shapes(space: Space, arch: Arch) -> dict[str, tuple[int, ...]]:
    """Shape of every array of one subnet alone, by its name in a checkpoint; no statistics."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in space.layers(arch):
        for conv, shape in weight_shapes(layer.block).items():
            name = array_name(layer.path, conv)
            shapes[f"{name}.weight"] = shape
            if conv in OWN_BIAS:
                shapes[f"{name}.bias"] = shape[:1]
            elif normalised(layer.block, conv):
                shapes[f"{name}_bn.weight"] = shapes[f"{name}_bn.bias"] = shape[:1]
    return shapes


def require_names(found: Set[str], wanted: Set[str], refusal: str, hint: str) -> None:
    """Raises BadFile, saying `refusal` and what is missing or extra, unless a file holds just the wanted names."""
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        raise BadFile(
            f"{refusal}: missing {missing[:5]}, extra {extra[:5]}",
            hint=hint,
            details={"missing": missing, "extra": extra},
        )


def array_name(path: str, *parts: str) -> str:
    """`<path>.<conv>.<kind>`, kind being weight or bias; without the first part for a block alone (path '')."""
    return ".".join((path, *parts) if path else parts)
