"""Tables started from another one: few-shot transfer to another device, and the correction of another unit.

In: the prior, a latency table of any kind with its model, and a few whole networks measured on this device. Out: a
LatencyModel. Rules kept: the new table needs the prior's file no more: it holds the prior's block values as `predicted`
rows and what else counts in its header (conditions.Prior). Another device, or other conditions (transfer):

    T = offset + speed x sum over blocks of prior(block) x (1 + own(kind of work)) + rates x (weight bytes, operators)

where own and the rates are a ridge's coefficients, drawn to 0, and the shares of a block's kinds of work (pointwise,
depthwise by kernel, gates and activations, the rest) come from a non-negative fit on the prior's values. The same
conditions, another unit: unit.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency import stats
from ofa_edge.latency.conditions import Conditions, Prior, mismatches
from ofa_edge.latency.models import block_model, model, relative_ridge
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import Fit, LatencyModel
from ofa_edge.latency.models.relative_ridge import Floats
from ofa_edge.latency.models.unit import UnitModel
from ofa_edge.latency.stats import Notice
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_ops, block_weight_bytes

# Networks to measure where nobody says how many.
NETWORKS = {"transfer": 10, "unit": 4}

# Kinds of work: columns of block_model.features; what is left is the rest.
_KINDS = {"pointwise": (1,), "depthwise 3": (2,), "depthwise 5": (3,), "depthwise 7": (4,), "gates": (8, 9)}
# How far the rates (of the mean latency) and the kinds (of their own time) may go, relative to the speed's 1.
_RATE_WIDTHS = (0.3, 0.1, 0.03, 0.0)
_KIND_WIDTHS = (1.0, 0.3, 0.1, 0.0)
_CHOSEN = 3  # the speed, and the two numbers that were chosen
_FEWEST = 2
FROM_PRIOR = "on the prior's device"  # where a failed row's reason begins so, the block was not tried here


# -- what is taken over ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Start:
    """What a new table is started from.

    Attributes:
        header: for the new table's own.
        blocks: key -> (ms, relative error) of every block of the space, as the prior predicts it in a network.
        failed: key -> reason: blocks that cannot run on the prior's device are not tried on this one.
        sentinel: to compare this unit's speed by; None where the prior has none, or is of another device.
    """

    header: Prior
    blocks: Mapping[str, tuple[float, float]]
    failed: Mapping[str, str]
    sentinel: Block | None


def start_from(
    table: LatencyTable, prior: LatencyModel, space: Space, resolutions: Sequence[int], now: Conditions
) -> Start:
    """What a table of `space` at `resolutions`, measured under the conditions `now`, takes over.

    Args:
        prior: the model of `table`.

    Raises:
        UsageError: the table is of another space, or does not cover a resolution.
        BadFile: a block of the space cannot be estimated from it.
    """
    require_cover(table, space, resolutions)
    blocks, failed = {}, {}
    for block in space.distinct_blocks(sorted(resolutions)):
        ms = prior.block_ms(block)
        if math.isfinite(ms):
            blocks[block.key] = (ms, prior.times.get(block).error)
        else:
            failed[block.key] = f"{FROM_PRIOR}: {prior.times.failed.get(block.key, 'it failed')}"
    same = not mismatches(table.conditions, now)
    sentinels = table.sentinels["median"].to_numpy(float) if same else np.array([])
    found = None if len(sentinels) == 0 else Block.from_key(str(table.sentinels["key"].iloc[-1]))
    anchors = table.networks["anchor_median"].dropna().to_numpy(float)
    header = Prior(
        sha256=table.sha256,
        kind="unit" if same else "transfer",
        conditions=table.conditions,
        provenance=table.header.provenance,
        offset_ms=prior.offset_ms,
        residual=prior.fit.residual,
        degrees=prior.fit.degrees,
        reference_ms=prior.reference_ms,
        reference_error=stats.error_of_median(anchors),
        sentinel=None if found is None else found.key,
        sentinel_ms=None if found is None else float(np.median(sentinels)),
        sentinel_error=stats.error_of_median(sentinels),
    )
    return Start(header, blocks, failed, found)


def require_cover(table: LatencyTable, space: Space, resolutions: Sequence[int]) -> None:
    """Raises UsageError where a table of `space` at `resolutions` cannot be started from this one."""
    if table.space != space:
        raise UsageError(
            f"the prior {table.path} is of space {table.header.space}, not of {space.name}",
            hint=f"give --space {table.header.space}, or a prior of {space.name}",
        )
    if absent := sorted(set(resolutions) - set(table.header.resolutions)):
        raise UsageError(
            f"the prior {table.path} does not cover resolution {absent[0]}",
            hint=f"use --resolutions {','.join(map(str, table.header.resolutions))}, or some of these",
        )


# -- the model of a table with a prior ------------------------------------------------------------
def from_table(table: LatencyTable) -> LatencyModel:
    """The model of a table whose header has a prior, finished or not.

    Raises:
        BadFile: the table lacks the prior's blocks, or too few networks were measured.
        UsageError: its space is not known here.
    """
    prior = table.header.prior
    if prior is None or table.predicted.empty:
        raise BadFile(f"{table.path} lacks the block values of its prior", hint="profile again with --prior TABLE")
    if table.networks.empty:
        raise BadFile(f"{table.path} holds no measured networks", hint="go on with `ofa-edge profile --resume`")
    if prior.kind == "unit":
        return UnitModel(table, prior, carried_times(table))
    return TransferredModel.of(table, prior)


def carried_times(table: LatencyTable) -> BlockTimes:
    """The prior's values; those that it measured count as such, so that neighbours of theirs can be filled in."""
    rows = {
        key: (float(ms), float(error))
        for key, ms, error in zip(
            table.predicted.index, table.predicted["median"], table.predicted["error"], strict=True
        )
    }
    known = {key: ms for key, (ms, error) in rows.items() if error == 0}
    return BlockTimes(known, {key: row for key, row in rows.items() if row[1] > 0}, table.failed_blocks)


class Encoding:
    """Columns of blocks on the prior's values.

    Args:
        times: the prior's, in ms.
    """

    def __init__(self, times: BlockTimes):
        self._times = times
        keys = [*times.measured, *times.predicted]
        blocks = [Block.from_key(key) for key in keys]
        rows = np.stack([block_model.features(block) for block in blocks])
        values = np.array([times.get(block).ms for block in blocks])
        self._costs = block_model.fit_features(rows, values)
        self._rows: dict[str, Floats] = {}

    def block(self, block: Block) -> Floats:
        """(8,): time in ms, as it is and by kind; weight bytes in millions; operators."""
        if (row := self._rows.get(block.key)) is None:
            parts = self._costs * block_model.features(block)
            whole = float(parts.sum()) or 1.0
            shares = [float(parts[list(places)].sum()) / whole for places in _KINDS.values()]
            ms = self._times.get(block).ms
            row = np.array([ms, *(ms * share for share in shares), block_weight_bytes(block) / 1e6, block_ops(block)])
            self._rows[block.key] = row
        return row

    def network(self, blocks: Sequence[Block]) -> Floats:
        """(9,): the offset's 1, and the sum of its blocks."""
        return np.concatenate([[1.0], np.sum([self.block(block) for block in blocks], axis=0)])


class TransferredModel(LatencyModel):
    """Predicts from another device's blocks: see the module."""

    def __init__(
        self,
        times: BlockTimes,
        space: Space,
        resolutions: Sequence[int],
        encoding: Encoding,
        fitted: relative_ridge.RidgeFit,
        prior: Prior,
        *,
        reference_ms: float | None = None,
        anchor_spread: float = 0.0,
    ):
        names = ("offset", "scale", *_KINDS, "bytes", "ops")
        known = len(fitted.errors) >= _FEWEST
        fit = Fit(
            terms=names,
            coefficients=tuple(fitted.coefficients.tolist()),
            covariance=fitted.covariance,
            residual=fitted.residual if known else None,
            loo_error=float(np.sqrt(np.mean(fitted.errors**2))) if known else None,
            networks=len(fitted.errors),
            degrees=max(1, len(fitted.errors) - _CHOSEN),
        )
        super().__init__(times, fit, space, resolutions, reference_ms=reference_ms, anchor_spread=anchor_spread)
        self._encoding = encoding
        self.prior = prior

    @classmethod
    def of(cls, table: LatencyTable, prior: Prior) -> TransferredModel:
        space, times = table.space, carried_times(table)
        reference, spread = model.anchor_reference(table)
        encoding = Encoding(times)
        measured = [(space.blocks(arch), ms) for arch, ms in model.calibration(table, space, reference)]
        rows = np.stack([encoding.network(blocks) for blocks, _ in measured])
        latencies = np.array([ms for _, ms in measured])
        usable = np.isfinite(rows).all(axis=1)
        return cls(
            times,
            space,
            table.header.resolutions,
            encoding,
            fit_transfer(rows[usable], latencies[usable]),
            prior,
            reference_ms=reference,
            anchor_spread=spread,
        )

    @property
    def offset_ms(self) -> float:
        return float(self.fit.coefficients[0])

    def block_ms(self, block: Block) -> float:
        """What the block adds to a network's latency; infinite where it failed on the prior's device."""
        if block.key in self.times.failed:
            return math.inf
        return float(self._encoding.block(block) @ np.array(self.fit.coefficients[1:]))

    def half_width(self, blocks: Sequence[Block], value: float, confidence: float) -> float | None:
        """As LatencyModel.half_width."""
        if self.fit.residual is None:
            return None
        row = self._encoding.network(blocks) / value
        own = float(row @ self.fit.covariance @ row)
        return stats.student_t(confidence, self.fit.degrees) * math.sqrt(self.fit.residual**2 + own)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """From where the blocks' values are."""
        theirs = self.prior.conditions
        text = (
            f"the blocks' times are those of {theirs.device_model} (runtime {theirs.runtime} {theirs.runtime_version}, "
            f"precision {theirs.precision}, threads {theirs.threads}; made {self.prior.provenance.created}), brought "
            f"to this device by {self.fit.networks} whole networks"
        )
        return (Notice("transferred", text),)


def fit_transfer(rows: Floats, latencies: Floats) -> relative_ridge.RidgeFit:
    """Fit what Encoding.network gives of each measured network.

    Raises:
        BadFile: there is none.
    """
    if len(latencies) == 0:
        raise BadFile("no network that can run was measured", hint="go on with `ofa-edge profile --resume`")
    share = rows[:, 1] / latencies
    speed = float(share.sum() / (share @ share))
    mean = np.zeros(rows.shape[1])
    mean[1] = speed
    level = float(np.mean(latencies))
    rates = np.array([level, level / rows[:, -2].mean(), level / rows[:, -1].mean()])
    if len(latencies) < _FEWEST:  # the speed alone, which nothing judges
        widths = [np.zeros(rows.shape[1])]
    else:
        widths = [
            np.concatenate([rate * rates[:1], [speed], np.full(len(_KINDS), kind * speed), rate * rates[1:]])
            for rate, kind in itertools.product(_RATE_WIDTHS, _KIND_WIDTHS)
        ]
    return relative_ridge.fit(rows, latencies, mean, widths)
