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
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.layout import OWN_BIAS, array_name, kernels_at, normalised, weight_shapes

Arrays = dict[str, np.ndarray]


def kernel_weight(arrays: Mapping[str, np.ndarray], name: str, kernels: Sequence[int], kernel: int) -> np.ndarray:
    """Depthwise weight (channels, 1, kernel, kernel): the centre of each larger kernel times its transform.

    It starts from the stored weight's own side, which among a single subnet's arrays is the kernel's. The transforms
    are those of Once-for-All (ICLR 2020, sec. 3.3), stored as `<name>.transform_5to3`.
    """
    weight = _get(arrays, f"{name}.weight")
    descending = sorted((k for k in kernels if k <= weight.shape[-1]), reverse=True)
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

    What it gives may be cut again: a subnet of its own arrays is those arrays.

    Raises:
        BadFile: an array is missing.
    """
    result: Arrays = {}
    for layer in space.layers(arch):
        for conv, shape in weight_shapes(layer.block).items():
            name = array_name(layer.path, conv)
            if conv == "depthwise":
                weight = kernel_weight(arrays, name, kernels_at(space, layer), layer.block.kernel)
            else:
                weight = _get(arrays, f"{name}.weight")[:, : shape[1]]
            result[f"{name}.weight"] = weight[: shape[0]]
            if conv in OWN_BIAS:
                result[f"{name}.bias"] = _get(arrays, f"{name}.bias")[: shape[0]]
            elif normalised(layer.block, conv):
                for kind in ("weight", "bias"):
                    result[f"{name}_bn.{kind}"] = _get(arrays, f"{name}_bn.{kind}")[: shape[0]]
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
            if f"{conv}.bias" not in cut:
                result[f"{conv}.bias"] = np.zeros(len(weight), np.float32)
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


def _get(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return arrays[name]
    except KeyError:
        raise BadFile(f"the checkpoint has no array {name}", hint="`ofa-edge supernet info` lists what it is") from None
