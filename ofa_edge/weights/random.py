"""Random folded arrays: a network to time where no trained one is needed.

In: layers and a seed. Out: arrays of the shapes that `layout` gives, scaled so that activations
neither die out nor grow from block to block (no denormal numbers, no overflow: both change timings).
The values do not depend on input sizes, so blocks that share weights share one file. They repeat themselves after
_PERIOD values: a network's 20 MB then travel to a device as a few hundred kB, and time depends on no value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_edge.space.block import Block, Layer
from ofa_edge.weights.layout import array_name, weight_shapes

# Not followed by a rectifier, which halves the mean square of what goes in (He et al. 2015). A bottleneck's is behind
# the sum of two such branches.
_LINEAR = ("project", "linear", "se_expand", "downsample")
_BIAS_STD = 0.05

# Floats after which an array repeats itself: a quarter of deflate's window, and prime, so that rows of a matrix differ.
_PERIOD = 2039


def random_arrays(layers: Sequence[Layer], seed: int) -> dict[str, np.ndarray]:
    """Folded float32 arrays for these layers; equal layers and seed give equal arrays.

    Weights are normal with variance gain / fan-in (gain 2 before a rectifier, 1 elsewhere), biases
    normal with deviation 0.05.

    Raises:
        UsageError: a block type that cannot be built.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for layer in layers:
        for conv, shape in weight_shapes(layer.block).items():
            std = np.sqrt(_gain(layer.block, conv) / np.prod(shape[1:]))
            arrays[array_name(layer.path, conv, "weight")] = _normal(rng, shape, std)
            arrays[array_name(layer.path, conv, "bias")] = _normal(rng, shape[:1], _BIAS_STD)
    return arrays


def _normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    tile = rng.standard_normal(_PERIOD, dtype=np.float32) * np.float32(std)
    return np.resize(tile, shape)


def _gain(block: Block, conv: str) -> float:
    if conv in _LINEAR or (block.type, conv) == ("bottleneck", "expand"):
        # A skip adds its input's variance to the branch's: a quarter keeps a deep stage in range.
        return 0.25 if block.skip and conv in ("project", "expand") else 1.0
    return 1.0 if block.activation == "none" and conv != "se_reduce" else 2.0
