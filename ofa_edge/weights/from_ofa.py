"""Once-for-All's published weights into our array names.

In: the state dict of a supernet of the reference implementation (OFAMobileNetV3, OFAProxylessNASNets, OFAResNets). Out:
arrays named as a checkpoint's, and the running statistics that came with them. Rules kept: every tensor is accounted
for by name and shape; all that is missing or extra is named.

Their names come in variants, all of which the reference implementation loads: a dynamic layer wraps a static one of the
same name (`bn.bn`, `conv.conv`, `linear.linear`), and older files call a block's `conv` `mobile_inverted_conv`. A name
without its repetitions is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Layer
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.layout import array_name, normalised, require_names, supernet_shapes, weight_shapes

_HINT = "give the state dict of the supernet that --space names, as its authors published or `ofa` saved it"

# Their parts of a block, by ours.
_MOBILE = {"expand": "inverted_bottleneck", "depthwise": "depth_conv", "project": "point_linear"}
_EXCITATION = {"se_reduce": "depth_conv.se.fc.reduce", "se_expand": "depth_conv.se.fc.expand"}
_RESNET = {"reduce": "conv1", "conv": "conv2", "expand": "conv3", "downsample": "downsample"}
_RUNNING = {"running_mean": "mean", "running_var": "var"}


@dataclass(frozen=True, slots=True)
class Published:
    """Arrays of a supernet and the statistics of its batch norms, for `space`, whose classes are the file's."""

    space: Space
    arrays: dict[str, np.ndarray]
    running: Statistics


def from_ofa(state: Mapping[str, np.ndarray], space: Space) -> Published:
    """Read a state dict of the reference implementation's supernet of this space, for any number of classes.

    Raises:
        BadFile: tensors are missing, extra, given twice, of another shape, or hold what is no weight or variance.
    """
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            plain = canonical(name)
            if plain in found:
                raise BadFile(f"the file holds {plain} twice, once as {name}", hint=_HINT)
            found[plain] = value
    names = their_names(space)
    require_names(found.keys(), names.keys(), f"not the weights of a supernet of {space.name}", _HINT)
    bias = found["classifier.linear.bias"]
    space = space.with_classes(len(bias)) if bias.ndim == 1 and len(bias) else space
    arrays = {ours: found[theirs] for theirs, ours in names.items()}
    _check(space, arrays, {ours: theirs for theirs, ours in names.items()})
    arrays = {ours: np.array(value, np.float32) for ours, value in arrays.items()}
    norms = [name.removesuffix("/mean") for name in arrays if name.endswith("/mean")]
    running = {norm: (arrays.pop(f"{norm}/mean"), arrays.pop(f"{norm}/var")) for norm in norms}
    return Published(space, arrays, running)


def canonical(name: str) -> str:
    """A tensor's name without what variants repeat: `blocks.1.mobile_inverted_conv.depth_conv.bn.bn.weight` is
    `blocks.1.conv.depth_conv.bn.weight`."""
    parts = name.replace("mobile_inverted_conv", "conv").split(".")
    return ".".join(part for part, _ in groupby(parts))


def their_names(space: Space) -> dict[str, str]:
    """Canonical name of each of their tensors -> name of our array; a statistic's is `<batch norm>/mean` or `/var`."""
    names: dict[str, str] = {}
    transforms = [name for name in supernet_shapes(space) if ".transform_" in name]
    for layer, prefix in _places(space):
        for conv in weight_shapes(layer.block):
            ours = array_name(layer.path, conv)
            theirs, norm = _parts(layer, prefix, conv)
            names[f"{theirs}.weight"] = f"{ours}.weight"
            if norm:
                names |= {f"{norm}.{kind}": f"{ours}_bn.{kind}" for kind in ("weight", "bias")}
                names |= {f"{norm}.{kind}": f"{ours}_bn/{value}" for kind, value in _RUNNING.items()}
            elif layer.block.type != "Conv_2":
                names[f"{theirs}.bias"] = f"{ours}.bias"
            for transform in transforms:
                if transform.startswith(f"{ours}."):
                    names[f"{theirs}.{transform.rpartition('_')[2]}_matrix"] = transform
    return names


def _places(space: Space) -> Iterator[tuple[Layer, str]]:
    """The layers of the largest subnet with weights, each with the canonical prefix of its tensors."""
    heads = {"head": "feature_mix_layer", "features": "feature_mix_layer", "logits": "classifier"}
    if space.head.features:
        heads["head"] = "final_expand_layer"
    index = 0
    for layer in space.layers(space.largest()):
        group, _, place = layer.path.partition(".")
        if group in heads:
            yield layer, heads[group]
        elif group == "stem":
            yield layer, f"input_stem.{place}" if place else "first_conv"
        elif group in ("first", "stages"):
            yield layer, f"blocks.{index}"
            index += 1


def _parts(layer: Layer, prefix: str, conv: str) -> tuple[str, str]:
    """Canonical prefixes of a convolution's weight and of its batch norm, '' where it has none."""
    if layer.block.type == "Logits":
        return f"{prefix}.linear", ""
    if conv in _EXCITATION:
        return f"{prefix}.conv.{_EXCITATION[conv]}", ""
    if layer.block.type == "expanded_conv":
        prefix = f"{prefix}.conv.{_MOBILE[conv]}"
    elif layer.block.type == "bottleneck":
        prefix = f"{prefix}.{_RESNET[conv]}"
    elif layer.block.skip:  # a residual block around the convolution
        prefix = f"{prefix}.conv"
    return canonical(f"{prefix}.conv"), f"{prefix}.bn" if normalised(layer.block, conv) else ""


def _check(space: Space, arrays: Mapping[str, np.ndarray], theirs: Mapping[str, str]) -> None:
    shapes = supernet_shapes(space)
    for name, value in arrays.items():
        norm, _, statistic = name.partition("/")
        wanted = shapes[f"{norm}.weight"] if statistic else shapes[name]
        if value.shape != wanted:
            raise BadFile(
                f"{theirs[name]} has shape {value.shape}, {space.name} needs {wanted}",
                hint=_HINT,
                details={"tensor": theirs[name]},
            )
        if not np.isfinite(value).all() or (statistic == "var" and (value < 0).any()):
            raise BadFile(
                f"{theirs[name]} holds a value that is {'no variance' if statistic == 'var' else 'not finite'}",
                hint="take another file, this one is damaged or its training diverged",
                details={"tensor": theirs[name]},
            )
