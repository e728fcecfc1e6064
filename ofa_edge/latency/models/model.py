"""The latency model: blocks -> Estimate of a whole network's median latency in a fresh process.

In: a LatencyTable. Out: a LatencyModel, additive in blocks. Rules kept (docs/how-the-numbers-are-made.md):

    T = offset + scale x sum of the blocks' isolated medians + rates x (weight bytes, operators, SE blocks)

fitted on the table's own calibration networks, whose leave-one-out errors choose the terms (terms.py). A network's
latency is its ratio to the anchor, measured in the same process, times the anchor's reference: the median of all its
medians in the table. The interval is Student's t with leverage, wider for a network whose blocks are known worse than
those of the calibration networks. Without network records the model is the plain sum and its intervals are unknown
(None), not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.latency import plan, stats
from ofa_edge.latency.judging import combine
from ofa_edge.latency.models import block_times
from ofa_edge.latency.models.block_times import BlockTime, BlockTimes
from ofa_edge.latency.models.terms import ALL_TERMS
from ofa_edge.latency.models.terms import PLAIN_SUM as PLAIN_SUM
from ofa_edge.latency.models.terms import Fit as Fit
from ofa_edge.latency.models.terms import fit_terms as fit_terms
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import decode
from ofa_edge.space.cost import block_ops, block_weight_bytes

# Calibration networks that are enough (the study in docs/: with 8 the held-out error is 1.3 %, with 12 1.2 %).
_ENOUGH_QUIET = 8
_MARGIN_SAMPLE = 400
# Correlation of the errors of blocks that were filled in: measured -.05 to .14, on average .06, over seven choices of
# 80 out of 627 measured blocks (ofa-mbv3-w1.0, x86-64, ONNX Runtime).
_SHARED_ERROR = 0.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its two-sided interval; low and high are None where nothing is known about the error."""

    value: float
    low: float | None = None
    high: float | None = None

    def as_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One arch's latency in ms; `missing` names the blocks that were not measured. `latency` is None where a block of
    the arch failed on the device."""

    arch: Arch
    latency: Estimate | None
    missing: tuple[str, ...]


class LatencyModel:
    """Predicts from blocks: value = offset_ms + sum of block_ms.

    Models of other tables (predictors.py) have their own `offset_ms`, `block_ms`, `half_width`, `missing` and
    `notices`; estimates, margins and predictions are made from these here.

    Args:
        times: isolated times of blocks.
        fit: coefficients.
        space, resolutions: whose archs are predicted; `margin` looks at them.
        reference_ms: the anchor's, None where no network was measured.
        drift: what was removed from the blocks' times.
    """

    def __init__(
        self,
        times: BlockTimes,
        fit: Fit,
        space: Space,
        resolutions: Sequence[int],
        *,
        reference_ms: float | None = None,
        anchor_spread: float = 0.0,
        drift: stats.Drift | None = None,
    ):
        self.times = times
        self.fit = fit
        self.space = space
        self.resolutions = tuple(sorted(resolutions))
        self.reference_ms = reference_ms
        self.anchor_spread = anchor_spread
        self.drift = drift or stats.Drift(1.0)
        self._margins: dict[float, float] = {}
        self._of_block: dict[Block, float] = {}

    @classmethod
    def from_table(cls, table: LatencyTable) -> LatencyModel:
        """Fit the model of a table, finished or not.

        Raises:
            BadFile: the table holds no blocks, or networks that are not in its space.
            UsageError: its space is not known here.
        """
        space = table.space
        if table.blocks.empty:
            raise BadFile(f"{table.path} holds no measured blocks", hint="go on with `ofa-edge profile --resume`")
        drift = combine.drift(table.sentinels)
        times = _block_times(table)
        reference, spread = anchor_reference(table)
        features, latencies, variances = [], [], []
        for arch, latency in calibration(table, space, reference):
            blocks = space.blocks(arch)
            if not times.knows(blocks):  # an unfinished table may have nothing like one of them yet
                continue
            known = times.of(blocks)
            row = _network_features(known, blocks)
            if math.isfinite(row[1]):
                features.append(row)
                latencies.append(latency)
                variances.append(_block_variance(known))
        fit = fit_terms(np.array(features).reshape(-1, len(ALL_TERMS)), np.array(latencies), variances)
        fit = _for_one_process(fit, table)
        return cls(
            times, fit, space, table.header.resolutions, reference_ms=reference, anchor_spread=spread, drift=drift
        )

    @property
    def notices(self) -> tuple[stats.Notice, ...]:
        """What a user should know about where the predictions come from."""
        return ()

    @property
    def anchor(self) -> Arch:
        """The network that `reference_ms` is of, and that a trial of a promise must be interleaved with."""
        return plan.middle(self.space, self.resolutions)

    # -- the additive form ------------------------------------------------------------------------
    @property
    def calibrated(self) -> bool:
        """Whether intervals are known."""
        return self.fit.residual is not None

    @property
    def offset_ms(self) -> float:
        return self.fit.coefficient("offset")

    def block_ms(self, block: Block) -> float:
        """What the block adds to a network's latency; infinite where it failed on the device.

        Raises:
            BadFile: the block was not measured, and too few were to estimate it.
        """
        if block not in self._of_block:
            self._of_block[block] = self._sum_of_terms(block)
        return self._of_block[block]

    def _sum_of_terms(self, block: Block) -> float:
        fit = self.fit
        own = fit.coefficient("scale") * self.times.get(block).ms + fit.coefficient("ops") * block_ops(block)
        return own + fit.coefficient("bytes") * block_weight_bytes(block) / 1e6 + fit.coefficient("se") * block.se

    def missing(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        """Keys of the blocks that the campaign neither measured nor predicted: filled in here, or failed there."""
        return block_times.missing(self.times, blocks)

    # -- estimates --------------------------------------------------------------------------------
    def estimate(self, blocks: Sequence[Block], confidence: float = 0.95) -> Estimate:
        """A network's median latency in ms.

        Raises:
            BadFile: a block failed on the device, or cannot be estimated.
        """
        if failed := [block.key for block in blocks if block.key in self.times.failed]:
            raise BadFile(
                f"block {failed[0]} failed on the device: {self.times.failed[failed[0]]}",
                hint="choose a subnet without it, or measure again with `ofa-edge profile --resume`",
                details={"blocks": failed},
            )
        value = self.offset_ms + sum(self.block_ms(block) for block in blocks)
        half = self.half_width(blocks, value, confidence)
        if half is None:
            return Estimate(value)
        return Estimate(value, max(0.0, value * (1 - half)), value * (1 + half))

    def margin(self, confidence: float = 0.95) -> float:
        """A bound m with high <= value x (1 + m) for the subnets of the space, so that a search that adds up values
        can plan on `high`.

        It is the greatest relative half-width over each resolution's smallest and largest subnet and a fixed random
        sample of 400 of all sizes. 0 where intervals are unknown (see `calibrated`).
        """
        if not self.calibrated:
            return 0.0
        if confidence not in self._margins:
            rng = np.random.default_rng(0)
            archs: list[Arch] = [f(r) for r in self.resolutions for f in (self.space.smallest, self.space.largest)]
            archs += plan.spread_sample(self.space, self.resolutions, _MARGIN_SAMPLE, rng)
            self._margins[confidence] = max(map(self._widths(confidence), archs), default=0.0)
        return self._margins[confidence]

    def predict(self, archs: Iterable[Arch], confidence: float = 0.95) -> list[Prediction]:
        """One Prediction an arch, in order.

        Raises:
            UsageError: an arch is not in the space.
            BadFile: a block cannot be estimated.
        """
        found = []
        for arch in archs:
            blocks = self.space.blocks(arch)
            failed = any(block.key in self.times.failed for block in blocks)
            latency = None if failed else self.estimate(blocks, confidence)
            found.append(Prediction(arch, latency, self.missing(blocks)))
        return found

    def _widths(self, confidence: float) -> Callable[[Arch], float]:
        def width(arch: Arch) -> float:
            blocks = self.space.blocks(arch)
            value = self.offset_ms + sum(self.block_ms(block) for block in blocks)
            return (self.half_width(blocks, value, confidence) or 0.0) if math.isfinite(value) else 0.0

        return width

    def half_width(self, blocks: Sequence[Block], value: float, confidence: float) -> float | None:
        """Relative half-width: Student's t x sqrt(residual^2 x (1 + leverage) + what this network's blocks are known
        worse than those of the calibration networks, whose errors the residual holds)."""
        if self.fit.residual is None:
            return None
        known = self.times.of(blocks)
        row = _network_features(known, blocks)[[ALL_TERMS.index(t) for t in self.fit.terms]] / value
        leverage = float(row @ self.fit.covariance @ row)
        worse = max(0.0, _block_variance(known) - self.fit.block_variance)
        share = self.fit.coefficient("scale") * _total_ms(known) / value
        variance = self.fit.residual**2 * (1 + leverage) + worse * share**2
        return stats.student_t(confidence, self.fit.degrees) * math.sqrt(variance)


def _for_one_process(fit: Fit, table: LatencyTable) -> Fit:
    """Calibrated on medians over several processes of a network, and asked about one: what a process does is added."""
    rows = table.networks[table.networks["ratio_std"].notna()]
    if fit.residual is None or rows.empty:
        return fit
    own = float(np.mean(rows["ratio_std"] ** 2))
    return replace(fit, residual=math.sqrt(fit.residual**2 + own * (1 - float(np.mean(1 / rows["processes"])))))


def calibration(
    table: LatencyTable, space: Space, reference: float | None, role: str = "calibration"
) -> list[tuple[Arch, float]]:
    """The table's networks of a role with their latency in ms: ratio x reference, or raw where there was no anchor.

    Networks that stayed disturbed are left out where enough undisturbed ones are there to do without.

    Raises:
        BadFile: an arch is not in the space.
    """
    found = []
    rows = table.networks[table.networks["role"] == role]
    quiet = rows[~rows["disturbed"]]
    rows = quiet if len(quiet) >= _ENOUGH_QUIET else rows
    for value, raw, ratio in zip(rows["arch"], rows["median"], rows["ratio_median"], strict=True):
        arch = _decode(table, space, value)
        anchored = reference is not None and math.isfinite(ratio)
        found.append((arch, float(ratio) * reference if anchored and reference else float(raw)))
    return found


def _decode(table: LatencyTable, space: Space, value: Mapping[str, Any]) -> Arch:
    from ofa_edge.errors import UsageError

    try:
        return decode(space, value)
    except UsageError as error:
        raise BadFile(f"{table.path} holds a network that is not in {space.name}: {error.message}") from error


def anchor_reference(table: LatencyTable) -> tuple[float | None, float]:
    """The anchor's reference in ms (median of all its medians, hold-outs included) and its relative spread."""
    medians = table.networks["anchor_median"].dropna().tolist()
    return (float(np.median(medians)) if medians else None), stats.spread(medians)


def _block_times(table: LatencyTable) -> BlockTimes:
    predicted = table.predicted
    return BlockTimes(
        dict(zip(table.blocks.index, table.blocks["median"].tolist(), strict=True)),
        {
            key: (float(ms), float(error))
            for key, ms, error in zip(predicted.index, predicted["median"], predicted["error"], strict=True)
        },
        dict(zip(table.failed.index, table.failed["reason"], strict=True)),
        dict(zip(table.blocks.index, (combine.widths(table.blocks) / stats.Z).tolist(), strict=True)),
    )


def _total_ms(known: Sequence[BlockTime]) -> float:
    return math.fsum(time.ms for time in known)


def _network_features(known: Sequence[BlockTime], blocks: Sequence[Block]) -> np.ndarray:
    """(5,): as terms.ALL_TERMS; `known` of the blocks."""
    weights = sum(map(block_weight_bytes, blocks)) / 1e6
    return np.array([1.0, _total_ms(known), weights, sum(map(block_ops, blocks)), sum(block.se for block in blocks)])


def _block_variance(known: Sequence[BlockTime]) -> float:
    """Relative variance of a sum of blocks from their own errors: measured ones are independent, filled-in ones share
    a part of theirs."""
    total = _total_ms(known)
    if not 0 < total < math.inf:
        return 0.0
    alone = math.fsum((time.ms * time.own) ** 2 for time in known)
    filled = [time.ms * time.error for time in known if time.source != "measured"]
    together = (1 - _SHARED_ERROR) * math.fsum(f**2 for f in filled) + _SHARED_ERROR * math.fsum(filled) ** 2
    return (alone + together) / total**2
