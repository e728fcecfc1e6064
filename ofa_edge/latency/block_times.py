"""How long a block runs alone: measured, or filled in from its neighbours and said to be so.

In: medians of measured blocks (ms), blocks a reduced campaign predicted, and failures. Out: a BlockTime for any
block, with the relative error to expect and where it came from. Rules kept: a block that was not measured is
never silently zero, and a block that crashed is never guessed: it takes infinitely long.

A missing block is first looked for at other sizes with the same channels and kernel: the time is taken to be linear
in MACs (for pooling in the area) between two of them, and beyond them as between the last two. Else a non-negative
combination of what it computes and moves, fitted on all measured blocks, gives it, unless none of them does what it
does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.space.block import Block, make_divisible
from ofa_edge.space.cost import block_macs, block_weight_bytes

# Interpolating in the area between sizes 16 px apart costs 2-4 % (the study in docs/); outside them about twice that.
_BETWEEN_ERROR = 0.04
_BEYOND_ERROR = 0.08
_KERNELS = (3, 5, 7)
_MIN_FITTED = 12  # measured blocks below which the features cannot be fitted
_FOLDS = 5
_HINT = "go on with `ofa-edge profile --resume`"


class BlockTime(NamedTuple):
    """`ms` for one run; `error` is its relative standard error on top of the model's (0 where measured)."""

    ms: float
    error: float
    source: str  # measured | predicted | interpolated | analytic | failed


class BlockTimes:
    """Times of blocks by key.

    Args:
        measured: key -> median in ms, drift removed.
        predicted: key -> (ms, relative error) out of the table.
        failed: key -> reason.
    """

    def __init__(
        self,
        measured: Mapping[str, float],
        predicted: Mapping[str, tuple[float, float]] | None = None,
        failed: Mapping[str, str] | None = None,
    ):
        self.measured = dict(measured)
        self.predicted = dict(predicted or {})
        self.failed = dict(failed or {})
        self._filled: dict[str, BlockTime] = {}

    def get(self, block: Block) -> BlockTime:
        """Raises BadFile where nothing measured says anything about the block."""
        key = block.key
        if (ms := self.measured.get(key)) is not None:
            return BlockTime(ms, 0.0, "measured")
        if key in self.failed:
            return BlockTime(math.inf, 0.0, "failed")
        if key in self.predicted:
            return BlockTime(*self.predicted[key], "predicted")
        if key not in self._filled:
            self._filled[key] = self._interpolated(block) or self._analytic(block)
        return self._filled[key]

    # -- other sizes of the same block ------------------------------------------------------------
    @cached_property
    def _sizes(self) -> dict[str, list[tuple[int, float]]]:
        """weights_key -> (work, ms) of its sizes, by work."""
        found: dict[str, list[tuple[int, float]]] = {}
        for key, ms in self.measured.items():
            block = Block.from_key(key)
            found.setdefault(block.weights_key, []).append((_work(block), ms))
        return {weights: sorted(sizes) for weights, sizes in found.items()}

    def _interpolated(self, block: Block) -> BlockTime | None:
        sizes = self._sizes.get(block.weights_key, [])
        if len(sizes) < 2:
            return None
        work = _work(block)
        right = max(1, next((i for i, (w, _) in enumerate(sizes) if w >= work), len(sizes) - 1))
        (w0, t0), (w1, t1) = sizes[right - 1], sizes[right]
        between = w0 <= work <= w1
        ms = t0 + (t1 - t0) * (work - w0) / (w1 - w0)
        if ms <= 0:  # steps of a noisy pair, carried too far
            return None
        return BlockTime(ms, _BETWEEN_ERROR if between else _BEYOND_ERROR, "interpolated")

    # -- what a block computes and moves ----------------------------------------------------------
    def _analytic(self, block: Block) -> BlockTime:
        rows, coefficients, error = self._fitted
        row = features(block)
        if (~rows.any(axis=0) & (row > 0)).any():  # nothing measured says what this kind of work costs
            raise _unknown(block, f"nothing like {block.type} with kernel {block.kernel} was measured")
        return BlockTime(float(row @ coefficients), error, "analytic")

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, np.ndarray, float]:
        """`features` of the measured blocks, their coefficients, and the cross-validated relative error."""
        blocks = [Block.from_key(key) for key in self.measured]
        if len(blocks) < _MIN_FITTED:
            raise BadFile(f"the table measured only {len(blocks)} blocks: others cannot be estimated", hint=_HINT)
        rows = np.stack([features(block) for block in blocks])
        times = np.array(list(self.measured.values()))
        fold = np.random.default_rng(0).permutation(len(blocks)) % _FOLDS
        errors = np.empty(len(blocks))
        for k in range(_FOLDS):
            out = fold == k
            errors[out] = rows[out] @ fit_features(rows[~out], times[~out]) / times[out] - 1
        return rows, fit_features(rows, times), float(np.sqrt(np.mean(errors**2)))


def _unknown(block: Block, reason: str) -> BadFile:
    return BadFile(f"block {block.key} cannot be estimated: {reason}", hint=_HINT, details={"block": block.key})


def features(block: Block) -> np.ndarray:
    """What a block computes and moves, each in millions: a constant (1), pointwise MACs, depthwise MACs for kernels
    3, 5 and 7, other convolution MACs, feature-map elements read and written, weight bytes."""
    area_in, area_out = block.in_size**2, block.out_size**2
    depthwise = [0.0, 0.0, 0.0]
    pointwise = other = 0.0
    moved = float(block.in_channels * area_in + block.out_channels * area_out)
    if block.type == "expanded_conv":
        mid = block.mid_channels
        expands = mid != block.in_channels
        pointwise = float(mid * block.out_channels * area_out + expands * block.in_channels * mid * area_in)
        slot = min(range(len(_KERNELS)), key=lambda i: abs(_KERNELS[i] - block.kernel))
        depthwise[slot] = float(area_out * mid * block.kernel**2)
        moved += float((1 + expands) * mid * area_in + 2 * mid * area_out)
        if block.se:  # the map is read for its mean, read again for the gates, and written
            pointwise += float(2 * mid * make_divisible(mid / 4))
            moved += float(3 * mid * area_out)
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
    rest = np.array([pointwise, *depthwise, other, moved, float(block_weight_bytes(block))]) / 1e6
    return np.concatenate([[1.0], rest])


def fit_features(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Non-negative coefficients with the least sum of squared relative errors."""
    from scipy.optimize import nnls

    return np.asarray(nnls(rows / times[:, None], np.ones(len(times)))[0])


def missing(times: BlockTimes, blocks: Sequence[Block]) -> tuple[str, ...]:
    """Keys, once each, of the blocks that were neither measured nor predicted by the campaign."""
    found = (times.get(block) for block in blocks)
    keys = [b.key for b, t in zip(blocks, found, strict=True) if t.source not in ("measured", "predicted")]
    return tuple(dict.fromkeys(keys))


def _work(block: Block) -> int:
    return block_macs(block) or block.in_size**2
