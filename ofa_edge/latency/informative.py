"""Which blocks tell most about all others: pure.

In: the blocks of a space. Out: as many of them as may be measured. Rules kept: every kind of block (type, kernel,
stride, SE, activation) is chosen from before any is chosen from again; within that the next one is the block that the
chosen ones say least about, which is the greedy D-optimal design (a pivoted Cholesky factor) of the same two parts
that block_model predicts with: analytic features relative to a prior time, and likeness; no draw is made, so tables
of all seeds measure the same blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_edge.latency.models.block_model import distances, features, place
from ofa_edge.space.block import Block

MOST = 80
"""Blocks that a quick campaign measures at most: half a minute, and FINDINGS' figure for a tabled device."""

# Ms for a million of each of `features` on a core of some 20 GMACs a second. Only their ratios matter, and little: they
# say what a block spends its time on before anything was measured.
_PRIOR_MS = np.array([0.003, 0.02, 0.05, 0.06, 0.08, 0.03, 0.05, 0.005, 0.02, 0.02, 0.01, 0.002])
# How much blocks differ by their features against by themselves, over what distance blocks are alike, and which share
# of a block's time is its own.
_BY_FEATURES, _LENGTH, _OWN = 0.1, 1.8, 0.05


def choose(blocks: Sequence[Block], count: int = MOST, *, given: Sequence[Block] = ()) -> tuple[Block, ...]:
    """`count` of `blocks`, which differ, in the order of choice, `given` ones first; all where there are no more."""
    if count >= len(blocks):
        return tuple(blocks)
    unknown = _prior(blocks)
    kinds = [_kind(block) for block in blocks]
    chosen = [blocks.index(block) for block in given][:count]
    factors = np.zeros((count, len(blocks)))
    left = np.diag(unknown).copy()
    for step in range(count):
        if step >= len(chosen):
            chosen.append(_next(left, kinds, chosen))
        pivot = chosen[step]
        rest = unknown[pivot] - factors[:step].T @ factors[:step, pivot]
        factors[step] = rest / np.sqrt(rest[pivot] + _OWN)
        left -= factors[step] ** 2
    return tuple(blocks[i] for i in chosen)


def _next(left: np.ndarray, kinds: Sequence[tuple[object, ...]], chosen: Sequence[int]) -> int:
    """The least known block, of the kinds that have none where there are such."""
    seen = {kinds[i] for i in chosen}
    fresh = np.array([kind not in seen for kind in kinds])
    score = np.where(fresh, left, -np.inf) if fresh.any() else left.copy()
    score[list(chosen)] = -np.inf
    return int(np.argmax(score))


def _kind(block: Block) -> tuple[object, ...]:
    return block.type, block.kernel, block.stride, block.se, block.activation


def _prior(blocks: Sequence[Block]) -> np.ndarray:
    """Covariance of relative times before anything is measured."""
    rows = np.stack([features(block) for block in blocks]) * _PRIOR_MS
    shares = rows / rows.sum(axis=1, keepdims=True)
    scale = np.sqrt(np.mean(shares**2, axis=0))
    shares = shares / np.where(scale > 0, scale, 1.0)
    places = np.stack([place(block) for block in blocks])
    return np.asarray(_BY_FEATURES * shares @ shares.T + np.exp(-distances(places, places) / _LENGTH))
