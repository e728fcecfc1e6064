"""Another unit of the same model, or the same one later: one factor on all that a table says.

In: a LatencyTable that was started from a prior of the same conditions. Out: a UnitModel:

    T = unit x (the prior's prediction)

Rules kept: `unit` is the mean, weighted by certainty, of what the networks and the prior's sentinel block say, on the
scale of logarithms; where the two contradict each other its interval is widened by as much; two campaigns on one unit
differ a little too, so no interval is narrower than that. A unit whose interval leaves out 1 is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.latency import stats
from ofa_edge.latency.conditions import UNKNOWN, Prior
from ofa_edge.latency.models import model
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import Fit, LatencyModel
from ofa_edge.latency.models.relative_ridge import Floats
from ofa_edge.latency.stats import Notice
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.block import Block

# Two campaigns of the same unit under the same conditions differ by about so much; a unit is not named for less.
_CAMPAIGNS = 0.01
# One block speaks for all: how far a kind of work may be from the others in its speed.
_ONE_BLOCK = 0.02
# Where nothing is known: a network's error in a prior without networks, and one process' (docs/).
_UNKNOWN_RESIDUAL = 0.02
_ONE_PROCESS = 0.038


@dataclass(frozen=True)
class Factor:
    """How much slower this unit is (1.08: 8 %), with its two-sided 95 % interval; `error` is of its logarithm."""

    value: float
    low: float
    high: float
    error: float
    degrees: int

    @property
    def sure(self) -> bool:
        """Whether the unit differs from the prior's."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class UnitFit(Fit):
    """A Fit of one factor."""

    factor: Factor | None = None

    def as_json(self) -> dict[str, Any]:
        value = super().as_json()
        if self.factor is not None:
            value["unit"] = {"value": self.factor.value, "low": self.factor.low, "high": self.factor.high}
        return value


class UnitModel(LatencyModel):
    """The prior's prediction times this unit's factor.

    Args:
        table: started from the prior.
        times: the prior's.

    Raises:
        BadFile, UsageError: as transfer.from_table.
    """

    def __init__(self, table: LatencyTable, prior: Prior, times: BlockTimes):
        space = table.space
        reference, spread = model.anchor_reference(table)
        rows = table.networks[table.networks["role"] == "calibration"]
        measured = [(space.blocks(arch), ms) for arch, ms in model.calibration(table, space, reference)]
        shares = np.array([ms / (prior.offset_ms + sum(times.get(b).ms for b in blocks)) for blocks, ms in measured])
        shares = shares[shares > 0]  # a network with a block that failed on the prior's device tells nothing
        anchors = rows["anchor_median"].dropna().to_numpy(float)
        self.factor = unit_factor(shares, anchors, table.sentinels["median"].to_numpy(float), prior)
        self.prior = prior
        old, new = prior.provenance, table.header.provenance
        self.same_unit = old.serial == new.serial != UNKNOWN
        errors = _left_out(shares)
        own = float(np.sqrt(np.mean(errors**2))) if len(errors) > 1 else None
        known = prior.residual is not None or own is not None
        fit = UnitFit(
            terms=("unit",),
            coefficients=(self.factor.value,),
            covariance=np.zeros((1, 1)),
            residual=max(prior.residual or 0.0, own or 0.0) if known else None,
            loo_error=own,
            networks=len(errors),
            degrees=prior.degrees if prior.residual is not None else max(1, len(errors) - 1),
            factor=self.factor,
        )
        super().__init__(times, fit, space, table.header.resolutions, reference_ms=reference, anchor_spread=spread)

    @property
    def offset_ms(self) -> float:
        return self.factor.value * self.prior.offset_ms

    def block_ms(self, block: Block) -> float:
        """What the block adds to a network's latency; infinite where it failed on the prior's device."""
        return self.factor.value * self.times.get(block).ms

    def half_width(self, blocks: Sequence[Block], value: float, confidence: float) -> float | None:
        """As LatencyModel.half_width."""
        if self.fit.residual is None:
            return None
        own = stats.student_t(confidence, self.fit.degrees) * self.fit.residual
        of_unit = stats.student_t(confidence, self.factor.degrees) * self.factor.error
        return math.hypot(own, of_unit)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Whether this unit is as the one that the prior was made on."""
        factor = self.factor
        who = "this device" if self.same_unit else "this unit"
        whom = "when the prior was made" if self.same_unit else "the one the prior was made on"
        interval = f"{factor.low - 1:+.1%} to {factor.high - 1:+.1%}"
        if not factor.sure:
            text = f"the prior's table fits {who} as it is: {factor.value - 1:+.1%} ({interval})"
            return (Notice("unit-equal", text),)
        way = "slower" if factor.value > 1 else "faster"
        text = f"{who} is {abs(factor.value - 1):.1%} {way} than {whom}, beyond its interval ({interval})"
        return (Notice(f"unit-{way}", f"{text}; all times were corrected by it"),)


def unit_factor(shares: Floats, anchors: Floats, sentinels: Floats, prior: Prior) -> Factor:
    """This unit's factor.

    Args:
        shares: (n,) of networks: measured / predicted by the prior.
        anchors: medians of the anchor in ms, one a process: how much processes differ.
        sentinels: medians of the prior's sentinel block in ms.
    """
    witnesses: list[_Witness] = []
    if len(shares):
        spread = stats.error_of_mean(np.log(anchors)) if len(anchors) > 1 else _ONE_PROCESS
        noise = (prior.residual or _UNKNOWN_RESIDUAL) / math.sqrt(len(shares))
        error = math.hypot(noise, spread, prior.reference_error, _CAMPAIGNS)
        witnesses.append(_Witness(float(np.mean(np.log(shares))), error, max(1, len(shares) - 1)))
    if prior.sentinel_ms is not None and len(sentinels) > 1:
        error = math.hypot(stats.error_of_mean(np.log(sentinels)), prior.sentinel_error, _CAMPAIGNS, _ONE_BLOCK)
        logarithm = math.log(float(np.median(sentinels)) / prior.sentinel_ms)
        witnesses.append(_Witness(logarithm, error, len(sentinels) - 1))
    if not witnesses:
        raise BadFile("no network that can run was measured", hint="go on with `ofa-edge profile --resume`")
    return _combined(witnesses)


class _Witness(NamedTuple):
    """What the factor's logarithm is said to be, its standard error, degrees of freedom."""

    value: float
    error: float
    degrees: int


def _combined(witnesses: Sequence[_Witness]) -> Factor:
    """Mean weighted by 1 / error squared; the error grows by Birge's ratio where they contradict each other."""
    values = np.array([witness.value for witness in witnesses])
    weights = np.array([witness.error**-2 for witness in witnesses])
    mean = float(weights @ values / weights.sum())
    error = float(weights.sum() ** -0.5)
    if len(values) > 1:
        error *= max(1.0, math.sqrt(float(weights @ (values - mean) ** 2) / (len(values) - 1)))
    degrees = sum(witness.degrees for witness in witnesses)
    half = stats.student_t(0.95, degrees) * error
    return Factor(math.exp(mean), math.exp(mean - half), math.exp(mean + half), error, degrees)


def _left_out(shares: Floats) -> Floats:
    """Relative errors of networks whose factor comes from the others."""
    if len(shares) < 2:
        return np.zeros(len(shares))
    others = (shares.sum() - shares) / (len(shares) - 1)
    return np.asarray(others / shares - 1)
