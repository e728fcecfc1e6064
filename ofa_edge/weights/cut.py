"""Cutting a subnet's arrays out of a supernet's, in numpy: the one implementation.

In: a checkpoint's arrays and an arch. Out: the arrays of that subnet alone, either as they are
(`subnet_arrays`) or with batch norm folded into the convolutions (`fold`), named `<path>.<conv>.weight|bias`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.weights.bank import Statistics

Arrays = dict[str, np.ndarray]


def kernel_weight(arrays: Mapping[str, np.ndarray], name: str, kernels: Sequence[int], kernel: int) -> np.ndarray:
    """Depthwise weight (channels, 1, kernel, kernel): the centre of each larger kernel times its transform.

    The transforms are those of Once-for-All (ICLR 2020, sec. 3.3), stored as `<name>.transform_5to3`.
    """
    weight = _get(arrays, f"{name}.weight")
    descending = sorted(kernels, reverse=True)
    for larger, smaller in pairwise(descending):
        if larger == kernel:
            break
        edge = (larger - smaller) // 2
        centre = weight[:, :, edge:-edge, edge:-edge].reshape(len(weight), smaller**2)
        transform = _get(arrays, f"{name}.transform_{larger}to{smaller}")
        weight = (centre @ transform.T).reshape(len(weight), 1, smaller, smaller)
    return weight


def subnet_arrays(space: Space, arrays: Mapping[str, np.ndarray], arch: Arch) -> Arrays:
    """The subnet's own weights and batch-norm scales, named as the supernet's, without statistics.

    Raises:
        BadFile: an array is missing.
    """
    result: Arrays = {}
    for layer in space.layers(arch):
        path, block = layer.path, layer.block
        if block.type == "expanded_conv":
            _cut_bottleneck(result, space, arrays, path, block)
        elif block.type in ("Conv", "Conv_1"):
            result[f"{path}.conv.weight"] = _get(arrays, f"{path}.conv.weight")
            _cut_norm(result, arrays, f"{path}.conv_bn", block.out_channels)
        elif block.type == "Logits":
            for kind in ("weight", "bias"):
                result[f"{path}.linear.{kind}"] = _get(arrays, f"{path}.linear.{kind}")
    return result


def fold(space: Space, arrays: Mapping[str, np.ndarray], arch: Arch, statistics: Statistics) -> Arrays:
    """The subnet's folded arrays: float32, a weight (OIHW) and a bias for each convolution.

    Raises:
        BadFile: an array or a statistic is missing.
    """
    cut = subnet_arrays(space, arrays, arch)
    result: Arrays = {}
    for name, weight in cut.items():
        conv, _, kind = name.rpartition(".")
        if conv.endswith("_bn"):
            continue
        if f"{conv}_bn.weight" not in cut:
            result[name] = np.ascontiguousarray(weight, np.float32)
        elif kind == "weight":
            if f"{conv}_bn" not in statistics:
                raise BadFile(
                    f"there are no batch-norm statistics for {conv}_bn",
                    hint="use a checkpoint with a BN bank, or recalibrate with --data",
                )
            mean, var = statistics[f"{conv}_bn"]
            scale = cut[f"{conv}_bn.weight"] / np.sqrt(var + space.bn_eps)
            result[name] = np.ascontiguousarray(weight * scale[:, None, None, None], np.float32)
            result[f"{conv}.bias"] = np.asarray(cut[f"{conv}_bn.bias"] - mean * scale, np.float32)
    return result


def _cut_bottleneck(result: Arrays, space: Space, arrays: Mapping[str, np.ndarray], path: str, block: Block) -> None:
    mid = block.mid_channels
    if mid != block.in_channels:
        result[f"{path}.expand.weight"] = _get(arrays, f"{path}.expand.weight")[:mid, : block.in_channels]
        _cut_norm(result, arrays, f"{path}.expand_bn", mid)
    kernels = (block.kernel,) if path == "first" else space.stages[int(path.split(".")[1])].kernels
    result[f"{path}.depthwise.weight"] = kernel_weight(arrays, f"{path}.depthwise", kernels, block.kernel)[:mid]
    _cut_norm(result, arrays, f"{path}.depthwise_bn", mid)
    result[f"{path}.project.weight"] = _get(arrays, f"{path}.project.weight")[: block.out_channels, :mid]
    _cut_norm(result, arrays, f"{path}.project_bn", block.out_channels)


def _cut_norm(result: Arrays, arrays: Mapping[str, np.ndarray], name: str, channels: int) -> None:
    for kind in ("weight", "bias"):
        result[f"{name}.{kind}"] = _get(arrays, f"{name}.{kind}")[:channels]


def _get(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return arrays[name]
    except KeyError:
        raise BadFile(f"the checkpoint has no array {name}", hint="`ofa-edge supernet info` lists what it is") from None
