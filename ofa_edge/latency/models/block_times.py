"""How long a block runs alone: measured, or filled in from its neighbours and said to be so.

In: medians of measured blocks (ms), blocks a reduced campaign predicted, and failures. Out: a BlockTime for any
block, with the relative error to expect and where it came from. Rules kept: a block that was not measured is
never silently zero, and a block that crashed is never guessed: it takes infinitely long.

A missing block is first looked for at other sizes with the same channels and kernel: the time is taken to be linear
in MACs (for pooling in the area) between two of them, and beyond them as between the last two. Else what is known of
all measured blocks gives it (block_model.py), unless none of them does what it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ofa_edge.errors import BadFile
from ofa_edge.latency.models.block_model import MIN_FITTED, BlockModel
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs

# Interpolating in the area between sizes 16 px apart costs 2-4 % (the study in docs/); outside them about twice that.
_BETWEEN_ERROR = 0.04
_BEYOND_ERROR = 0.08
_MOST_FITTED = 400  # blocks: a likeness of each to each is inverted; more of them say nothing new
_HINT = "go on with `ofa-edge profile --resume`"


class BlockTime(NamedTuple):
    """`ms` for one run; `error` is the relative standard error of guessing it, 0 where it was measured; `own` is that
    of the measurement, 0 where nobody knows it."""

    ms: float
    error: float
    source: str  # measured | predicted | interpolated | analytic | failed
    own: float = 0.0


class BlockTimes:
    """Times of blocks by key.

    Args:
        measured: key -> median in ms, drift removed.
        predicted: key -> (ms, relative error) out of the table.
        failed: key -> reason.
        errors: key -> relative standard error of the measured ones that have one.
    """

    def __init__(
        self,
        measured: Mapping[str, float],
        predicted: Mapping[str, tuple[float, float]] | None = None,
        failed: Mapping[str, str] | None = None,
        errors: Mapping[str, float] | None = None,
    ):
        self.measured = dict(measured)
        self.predicted = dict(predicted or {})
        self.failed = dict(failed or {})
        self.errors = dict(errors or {})
        self._known: dict[Block, BlockTime] = {}

    def get(self, block: Block) -> BlockTime:
        """Raises BadFile where nothing measured says anything about the block."""
        if (known := self._known.get(block)) is None:
            known = self._known[block] = self._found(block)
        return known

    def of(self, blocks: Iterable[Block]) -> list[BlockTime]:
        """One each, in order; raises as get."""
        return [self.get(block) for block in blocks]

    def _found(self, block: Block) -> BlockTime:
        key = block.key
        if (ms := self.measured.get(key)) is not None:
            return BlockTime(ms, 0.0, "measured", self.errors.get(key, 0.0))
        if key in self.failed:
            return BlockTime(math.inf, 0.0, "failed")
        if key in self.predicted:
            return BlockTime(*self.predicted[key], "predicted")
        return self._interpolated(block) or self._analytic(block)

    def knows(self, blocks: Iterable[Block]) -> bool:
        """Whether `get` has an answer for all of them; that one failed is an answer."""
        try:
            self.of(blocks)
        except BadFile:
            return False
        return True

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

    # -- what a block computes and moves, and its likes ---------------------------------------------
    def _analytic(self, block: Block) -> BlockTime:
        model = self.block_model
        if not model.knows(block):
            raise _unknown(block, f"nothing like {block.type} with kernel {block.kernel} was measured")
        (ms,), (error,) = model.predict([block])
        return BlockTime(float(ms), float(error), "analytic")

    @cached_property
    def block_model(self) -> BlockModel:
        """Fitted on all measured blocks (a stated part of very many).

        Raises:
            BadFile: too few were measured.
        """
        if len(self.measured) < MIN_FITTED:
            few = f"the table measured only {len(self.measured)} blocks: others cannot be estimated"
            raise BadFile(few, hint=_HINT)
        keys = sorted(self.measured)
        keys = keys[:: -(-len(keys) // _MOST_FITTED)]
        return BlockModel([Block.from_key(key) for key in keys], [self.measured[key] for key in keys])


def _unknown(block: Block, reason: str) -> BadFile:
    return BadFile(f"block {block.key} cannot be estimated: {reason}", hint=_HINT, details={"block": block.key})


def missing(times: BlockTimes, blocks: Sequence[Block]) -> tuple[str, ...]:
    """Keys, once each, of the blocks that were neither measured nor predicted by the campaign."""
    found = (times.get(block) for block in blocks)
    keys = [b.key for b, t in zip(blocks, found, strict=True) if t.source not in ("measured", "predicted")]
    return tuple(dict.fromkeys(keys))


def _work(block: Block) -> int:
    return block_macs(block) or block.in_size**2
