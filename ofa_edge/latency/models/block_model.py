"""The time of a block that was not measured, from those that were.

In: measured blocks with their times (ms). Out: times of other blocks, each with the relative error to expect. Rules
kept: a non-negative combination of what a block computes and moves gives the level (relative least squares, so it
carries over to sizes far away); what it misses is carried over from measured blocks that are alike, in the logarithm
(kriging, Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, ch. 2 and 5.4); how alike is alike is
chosen by leaving one out; errors are what cross-validation of both together found, larger for blocks unlike the
measured ones; work that no measured block does is not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_edge.latency.stats import Z
from ofa_edge.space.block import ACTIVATIONS, TYPES, Block, make_divisible
from ofa_edge.space.cost import block_ops, block_weight_bytes

MIN_FITTED = 12  # measured blocks below which the features cannot be fitted
_KERNELS = (3, 5, 7)
_FOLDS = 8
# Candidates for how far apart (in factors of e of size and channels, say) two blocks still tell of each other, and for
# the share of the variance that is a block's own.
_LENGTHS = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0)
_OWN = (0.02, 0.05, 0.1, 0.2, 0.4)
_LEAST_ERROR = 0.005  # what a process does to any block; no prediction is better than a measurement


def features(block: Block) -> np.ndarray:
    """What a block computes and moves, each in millions but for the first and the last.

    A constant (1), pointwise MACs, depthwise MACs for kernels 3, 5 and 7, other convolution MACs, feature-map
    elements read and written, weight bytes, elements through an h-swish, elements of an SE's maps, depthwise MACs of
    stride 2, operators.
    """
    area_in, area_out = block.in_size**2, block.out_size**2
    depthwise = [0.0, 0.0, 0.0]
    pointwise = other = swish = squeezed = strided = 0.0
    moved = float(block.in_channels * area_in + block.out_channels * area_out)
    if block.type == "expanded_conv":
        mid = block.mid_channels
        expands = mid != block.in_channels
        pointwise = float(mid * block.out_channels * area_out + expands * block.in_channels * mid * area_in)
        slot = min(range(len(_KERNELS)), key=lambda i: abs(_KERNELS[i] - block.kernel))
        depthwise[slot] = float(area_out * mid * block.kernel**2)
        strided = depthwise[slot] * (block.stride > 1)
        moved += float((1 + expands) * mid * area_in + 2 * mid * area_out)
        swish = float(mid * (expands * area_in + area_out))
        if block.se:  # the map is read for its mean, read again for the gates, and written
            pointwise += float(2 * mid * make_divisible(mid / 4))
            squeezed = float(3 * mid * area_out)
    elif block.type == "bottleneck":
        mid = block.mid_channels
        pointwise = float(block.in_channels * mid * area_in + mid * block.out_channels * area_out)
        other = float(mid * mid * block.kernel**2 * area_out)
        moved += float(2 * mid * (area_in + area_out) + 3 * block.out_channels * area_out)
        if not block.skip:
            pointwise += float(block.in_channels * block.out_channels * area_out)
            moved += float(block.in_channels * (area_in + area_out))
    elif block.type not in ("AvgPool2D", "MaxPool2D"):
        macs = float(area_out * block.in_channels * block.out_channels * block.kernel**2)
        pointwise, other = (macs, 0.0) if block.kernel == 1 else (0.0, macs)
        swish = float(block.out_channels * area_out)
    swish *= block.activation == "h_swish"
    work = [pointwise, *depthwise, other, moved, float(block_weight_bytes(block)), swish, squeezed, strided]
    return np.array([1.0, *(value / 1e6 for value in work), float(block_ops(block))])


def place(block: Block) -> np.ndarray:
    """Where a block stands among others: blocks that are near behave alike. Sizes and channels are logarithms, what a
    block is (type, kernel, stride, SE, activation, skip) is a step."""
    counts = [block.in_size, block.in_channels, block.out_channels, max(1, block.mid_channels)]
    kind = [block.kernel / 2, block.stride, 2 * block.se, 2.0 * ACTIVATIONS.index(block.activation), 0.5 * block.skip]
    return np.array([*np.log(counts), *kind, 3.0 * TYPES.index(block.type)])


def fit_features(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Non-negative coefficients with the least sum of squared relative errors."""
    from scipy.optimize import nnls

    return np.asarray(nnls(rows / times[:, None], np.ones(len(times)))[0])


class BlockModel:
    """Times of blocks like the measured ones.

    Args:
        blocks, times: measured ones and their ms; at least MIN_FITTED.
        choice: length of likeness and a block's own share, where they are not to be chosen.

    Raises:
        ValueError: too few blocks.
    """

    def __init__(
        self, blocks: Sequence[Block], times: Sequence[float], *, choice: tuple[float, float] | None = None
    ) -> None:
        if len(blocks) < MIN_FITTED:
            raise ValueError(f"{len(blocks)} blocks are too few")
        self._rows = np.stack([features(block) for block in blocks])
        self._places = np.stack([place(block) for block in blocks])
        self._times = np.asarray(times, float)
        self._coefficients = fit_features(self._rows, self._times)
        self._rest = np.log(self._times / self._level(self._rows))
        self._apart = distances(self._places, self._places)
        self._choice = choice or min(((length, own) for length in _LENGTHS for own in _OWN), key=self._left_out)
        self._inverse = np.linalg.inv(self._likeness(self._apart, own=True))
        self._variance = self._cross_validated(blocks) if choice is None else 1.0

    def knows(self, block: Block) -> bool:
        """Whether every kind of work that the block does is done by a measured one."""
        return not (~self._rows.any(axis=0) & (features(block) > 0)).any()

    def predict(self, blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
        """Times in ms, and their relative standard errors."""
        near = self._likeness(distances(np.stack([place(block) for block in blocks]), self._places))
        level = self._level(np.stack([features(block) for block in blocks]))
        left = 1 + self._choice[1] - np.einsum("ij,jk,ik->i", near, self._inverse, near)
        error = np.sqrt(self._variance * np.maximum(left, 0.0))
        return level * np.exp(near @ self._inverse @ self._rest), np.maximum(error, _LEAST_ERROR)

    def _level(self, rows: np.ndarray) -> np.ndarray:
        # A pooling of no cost by the fit still takes a moment.
        return np.asarray(np.maximum(rows @ self._coefficients, 1e-2 * float(self._times.min())))

    def _likeness(self, apart: np.ndarray, *, own: bool = False) -> np.ndarray:
        near = np.asarray(np.exp(-apart / self._choice[0]))
        return np.asarray(near + own * self._choice[1] * np.eye(*near.shape))

    def _left_out(self, choice: tuple[float, float]) -> float:
        """Mean squared error of each rest from all others, in closed form."""
        self._choice = choice
        inverse = np.linalg.inv(self._likeness(self._apart, own=True))
        return float(np.mean((inverse @ self._rest / np.diag(inverse)) ** 2))

    def _cross_validated(self, blocks: Sequence[Block]) -> float:
        """By how much to multiply the variances, so that 95 % of the predictions of blocks left out are within 1.96
        standard errors. A block's other sizes are left out with it: they are no help to a block whose family nobody
        measured. Blocks of a kind of their own, which no prediction will be asked of, are passed over."""
        family = np.unique([block.weights_key for block in blocks], return_inverse=True)[1]
        fold = (np.random.default_rng(0).permutation(int(family.max()) + 1) % _FOLDS)[family]
        ratios: list[float] = []
        for k in range(_FOLDS):
            inner = [block for block, f in zip(blocks, fold, strict=True) if f != k]
            if len(inner) < MIN_FITTED:
                continue
            model = BlockModel(inner, self._times[fold != k].tolist(), choice=self._choice)
            out = [i for i in np.flatnonzero(fold == k).tolist() if model.knows(blocks[i])]
            if out:
                times, errors = model.predict([blocks[i] for i in out])
                ratios += (np.abs(np.log(times / self._times[out])) / errors).tolist()
        return float(np.quantile(ratios, 0.95) / Z) ** 2 if ratios else 1.0


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each of `left` from each of `right`, both (blocks, coordinates) of `place`."""
    return np.asarray(np.sqrt(((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)))
