"""The BN bank: batch-norm statistics of any subnet, predicted from its arch.

In: a linear model per batch norm. Out: mean and variance per channel, without an image. A subnet's
statistics depend on its own choices and on what runs before it; 2e10 subnets cannot each have theirs
stored, but they are nearly linear in a dozen features of the arch (means as they are, deviations in the
logarithm), and that fits in a megabyte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.weights.layout import batch_norms

# Statistics: name of a batch norm -> (mean, variance), each of shape (channels,)
Statistics = dict[str, tuple[np.ndarray, np.ndarray]]

PREFIX = "bank."

_HINT = "recalibrate with --data, or take another checkpoint"


@dataclass(frozen=True, slots=True)
class Bank:
    """Coefficients by name of the batch norm: mean and log standard deviation, each of shape (features, channels)."""

    coefficients: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def statistics(self, space: Space, arch: Arch) -> Statistics:
        """Predicted statistics of every batch norm the arch runs, cut to its channels.

        Raises:
            BadFile: the bank has no entry for one of them, or one of another shape, or one that gives no numbers.
        """
        result: Statistics = {}
        for name, channels in batch_norms(space, arch):
            if name not in self.coefficients:
                raise BadFile(f"the BN bank has no statistics for {name}", hint=_HINT)
            mean, log_std = self.coefficients[name]
            x = features(space, arch, name)
            if mean.shape[0] != len(x) or mean.shape[1] < channels:
                raise BadFile(
                    f"the BN bank's entry for {name} has shape {mean.shape}, not ({len(x)}, {channels})", hint=_HINT
                )
            with np.errstate(all="ignore"):  # what comes of it is seen below
                predicted = (x @ mean[:, :channels]).astype(np.float32)
                variance = np.exp(2 * (x @ log_std[:, :channels])).astype(np.float32)
            if not (np.isfinite(predicted).all() and np.isfinite(variance).all()):
                raise BadFile(f"the BN bank gives no finite statistics for {name}", hint=_HINT)
            result[name] = predicted, variance
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """The bank as named arrays, to be stored beside the weights."""
        return {
            f"{PREFIX}{name}.{kind}": values
            for name, pair in self.coefficients.items()
            for kind, values in zip(("mean", "log_std"), pair, strict=True)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Bank | None:
        """The bank among a checkpoint's arrays, or None where it has none.

        Raises:
            BadFile: a half of an entry is missing, the halves differ in shape, or a value is not finite.
        """
        names = dict.fromkeys(key[len(PREFIX) :].rpartition(".")[0] for key in arrays if key.startswith(PREFIX))
        if not names:
            return None
        try:
            entries = {n: (arrays[f"{PREFIX}{n}.mean"], arrays[f"{PREFIX}{n}.log_std"]) for n in names}
        except KeyError as error:
            raise BadFile(f"the BN bank is torn: {error} is missing", hint=_HINT) from error
        for name, (mean, log_std) in entries.items():
            if mean.ndim != 2 or mean.shape != log_std.shape:
                raise BadFile(f"the BN bank's entry for {name} has shapes {mean.shape} and {log_std.shape}", hint=_HINT)
            if not (np.isfinite(mean).all() and np.isfinite(log_std).all()):
                raise BadFile(f"the BN bank's entry for {name} holds a value that is not finite", hint=_HINT)
        return cls(entries)


def features(space: Space, arch: Arch, name: str) -> np.ndarray:
    """What a batch norm's statistics are linear in, of shape (features,).

    Always: 1, the resolution and its square. Then the own choices where they matter (the kernel after
    the depthwise convolution; kernel, expand ratio and their product after the projection), and what ran
    before: the last block's choices, the depth of the stage before, the averages of the stage, and the
    input's width where that is elastic.
    """
    path, _, norm = name.rpartition(".")
    low, high = min(space.resolutions), max(space.resolutions)
    resolution = (2 * arch.resolution - low - high) / max(high - low, 1)
    values = [1.0, resolution, resolution**2]
    group, _, place = path.partition(".")
    if group in ("stem", "first"):
        return np.array(values + _stem(space, arch, place))
    s, i = (len(space.stages), 0) if group == "head" else map(int, place.split("."))
    if group != "head":
        values += _own(space, arch, s, i, norm)
    return np.array(values + _before(space, arch, s, i))


def _stem(space: Space, arch: Arch, place: str) -> list[float]:
    """What ran before a convolution of an elastic stem; nothing before its first one, and in a fixed stem."""
    if place in ("", "0"):
        return []
    return _width(space, arch, 0) + (_stem_depth(space, arch) if place == "2" else [])


def _own(space: Space, arch: Arch, s: int, i: int, norm: str) -> list[float]:
    stage, choice = space.stages[s], arch.stages[s][i]
    kernels = [float(choice.kernel == k) for k in stage.kernels[1:]]
    expands = [float(choice.expand == e) for e in stage.expands[1:]]
    if stage.block == "bottleneck":
        return expands if norm in ("conv_bn", "expand_bn") else []
    if norm != "project_bn":
        return kernels if norm == "depthwise_bn" else []
    return kernels + expands + [k * e for k in kernels for e in expands]


def _before(space: Space, arch: Arch, s: int, i: int) -> list[float]:
    """The block before, how deep the stage before went, and the averages of the blocks since its start."""
    values = _width(space, arch, s + 2 if i else s + 1)
    if s == 0 and i == 0:
        return values + _stem_depth(space, arch)
    last_stage = s if i else s - 1
    choices: Sequence[BlockChoice] = arch.stages[s][:i] if i else arch.stages[s - 1]
    values += _relative(space, last_stage, choices[-1:])
    if len(choices) > 1 or not i:
        values += _relative(space, last_stage, choices)
    if s:
        depths, depth = space.stages[s - 1].depths, len(arch.stages[s - 1])
        values += [float(depth == d) for d in depths[1:]]
    return values


def _width(space: Space, arch: Arch, index: int) -> list[float]:
    """An entry of the arch's widths scaled to 0..1, where it is elastic."""
    options = set(space.width_choices[index]) if space.elastic_width else set()
    return [(arch.widths[index] - min(options)) / (max(options) - min(options))] if len(options) > 1 else []


def _stem_depth(space: Space, arch: Arch) -> list[float]:
    return [float(arch.stem_depth == depth) for depth in space.stem.depths[1:]]


def _relative(space: Space, s: int, choices: Sequence[BlockChoice]) -> list[float]:
    """Mean kernel (where elastic) and mean expand ratio of some blocks, each scaled to 0..1."""
    stage = space.stages[s]
    values = []
    for axis, options in (("kernel", stage.kernels), ("expand", stage.expands)):
        if len(options) > 1:
            mean = sum(getattr(c, axis) for c in choices) / len(choices)
            values.append((mean - min(options)) / (max(options) - min(options)))
    return values
