"""The network-wise model: whole networks -> what each block adds, for runtimes that cannot run a block alone.

In: a LatencyTable that holds networks and no blocks. Out: a NetworkModel, additive in blocks as every LatencyModel, so
that search stays exact. Rules kept:

    T = offset + sum over blocks of b(block) x (1 + own(block)),    b = analytic cost of what it computes and moves

The analytic costs (block_model.features) start from those of a usual CPU times one speed; `own` is a sum of deviations,
one for each choice that a block has made (its stage, kernel, expand ratio, the size of its map, and all of them
together). All of them are a ridge's coefficients, drawn to 1 and to 0, under which left-out networks are most
probable. The interval is the ridge's posterior with Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.latency import stats
from ofa_edge.latency.models import block_model, model, relative_ridge
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import Fit, LatencyModel
from ofa_edge.latency.models.relative_ridge import Floats
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block

# ms for one unit of each of block_model.features on a usual CPU core; only their proportions matter.
_USUAL = np.array([0.001, 0.03, 0.12, 0.12, 0.12, 0.05, 0.15, 0.02, 0.05, 0.1, 0.03, 0.001])
# How far coefficients go, relative to each other: costs of the whole runtime, and deviations of single choices.
_WIDE = 1.0
_NARROW = (1.0, 0.3, 0.1, 0.03)
_OFFSET = 0.1  # of the mean latency
_FEWEST = 4  # networks below which there is nothing to leave one out of
# Degrees of freedom are the networks less the two numbers that were chosen and the speed.
_CHOSEN = 3


@dataclass(frozen=True)
class NetworkFit(Fit):
    """A Fit of many coefficients, reported by their kinds."""

    ridge: float = 0.0
    effective: float = 0.0
    mape: float | None = None
    worst: float | None = None
    covered: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "terms": list(self.terms),
            "coefficients": dict(zip(self.terms, self.coefficients, strict=True)),
            "loo_error_pct": None if self.loo_error is None else 100 * self.loo_error,
            "networks": self.networks,
            "loo_mape_pct": None if self.mape is None else 100 * self.mape,
            "loo_worst_pct": None if self.worst is None else 100 * self.worst,
            "loo_covered": self.covered,
            "ridge": self.ridge,
            "effective": self.effective,
        }


class Columns:
    """The encoding of blocks: one column an analytic cost, one a choice that a block can make.

    Args:
        blocks: all that can be met; a choice that none of them makes has no column.
        speed: factor on the usual costs.
    """

    def __init__(self, blocks: Iterable[Block], speed: float = 1.0):
        choices = dict.fromkeys(choice for block in blocks for choice in _choices(block))
        self._place = {choice: len(_USUAL) + i for i, choice in enumerate(choices)}
        self._speed = speed
        self._rows: dict[str, Floats] = {}

    def __len__(self) -> int:
        return len(_USUAL) + len(self._place)

    def analytic(self, block: Block) -> float:
        """ms by the usual costs."""
        return self._speed * float(_USUAL @ block_model.features(block))

    def block(self, block: Block) -> Floats:
        """(p,) in ms."""
        if (row := self._rows.get(block.key)) is None:
            row = np.zeros(len(self))
            row[: len(_USUAL)] = self._speed * _USUAL * block_model.features(block)
            own = row[: len(_USUAL)].sum()
            for choice in _choices(block):
                if (place := self._place.get(choice)) is not None:
                    row[place] = own
            self._rows[block.key] = row
        return row

    def network(self, blocks: Sequence[Block]) -> Floats:
        """(p,) in ms."""
        return np.asarray(sum((self.block(block) for block in blocks), np.zeros(len(self))))

    def mean(self) -> Floats:
        """What the coefficients are drawn to."""
        return np.concatenate([np.ones(len(_USUAL)), np.zeros(len(self._place))])

    def widths(self, narrow: float) -> Floats:
        return np.concatenate([np.full(len(_USUAL), _WIDE), np.full(len(self._place), narrow)])


def _choices(block: Block) -> list[Hashable]:
    """What a block has chosen, from the general to the particular."""
    expand = round(block.mid_channels / block.in_channels, 2)
    stage = (block.type, block.in_channels, block.out_channels, block.stride)
    return [
        ("type", block.type, block.se, block.activation),
        ("kernel", block.type, block.kernel, block.stride),
        ("size", block.in_size),
        ("stage", *stage),
        ("stage kernel", *stage, block.kernel),
        ("stage expand", *stage, expand),
        ("block", block.weights_key),
    ]


class NetworkModel(LatencyModel):
    """Predicts from whole networks: value = offset_ms + sum of block_ms, as LatencyModel, and nothing is missing.

    Args:
        columns, fitted: the encoding, and what was fitted in it: the offset's column first.
    """

    def __init__(
        self,
        space: Space,
        resolutions: Sequence[int],
        columns: Columns,
        fitted: relative_ridge.RidgeFit,
        *,
        reference_ms: float | None,
        anchor_spread: float,
    ):
        degrees = max(1, len(fitted.errors) - _CHOSEN)
        values = (
            (b.key, float(columns.block(b) @ fitted.coefficients[1:])) for b in space.distinct_blocks(resolutions)
        )
        super().__init__(
            BlockTimes({}, {key: (ms, 0.0) for key, ms in values}),
            _reported(fitted, degrees),
            space,
            resolutions,
            reference_ms=reference_ms,
            anchor_spread=anchor_spread,
        )
        self._columns = columns
        self._ridge = fitted

    @classmethod
    def from_table(cls, table: LatencyTable) -> NetworkModel:
        """Fit the model of a table of networks, finished or not.

        Raises:
            BadFile: the table holds too few networks, or networks that are not in its space.
            UsageError: its space is not known here.
        """
        space = table.space
        reference, spread = model.anchor_reference(table)
        measured = model.calibration(table, space, reference)
        if len(measured) < _FEWEST:
            raise BadFile(
                f"{table.path} holds {len(measured)} measured networks, and the fewest to predict from are {_FEWEST}",
                hint="go on with `ofa-edge profile --resume`",
            )
        blocks = [space.blocks(arch) for arch, _ in measured]
        latencies = np.array([latency for _, latency in measured])
        columns, fitted = fit(space.distinct_blocks(table.header.resolutions), blocks, latencies)
        return cls(space, table.header.resolutions, columns, fitted, reference_ms=reference, anchor_spread=spread)

    @property
    def offset_ms(self) -> float:
        return float(self._ridge.coefficients[0])

    def block_ms(self, block: Block) -> float:
        """What the block adds to a network's latency."""
        return float(self._columns.block(block) @ self._coefficients)

    @cached_property
    def _coefficients(self) -> Floats:
        return self._ridge.coefficients[1:]

    def missing(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        """None: no block was measured, and all are predicted alike."""
        return ()

    def half_width(self, blocks: Sequence[Block], value: float, confidence: float) -> float | None:
        """As LatencyModel.half_width."""
        row = np.concatenate([[1.0], self._columns.network(blocks)]) / value
        own = float(row @ self._ridge.covariance @ row)
        return stats.student_t(confidence, self.fit.degrees) * math.sqrt(self._ridge.residual**2 + own)


def fit(
    every: Iterable[Block], networks: Sequence[Sequence[Block]], latencies: Floats
) -> tuple[Columns, relative_ridge.RidgeFit]:
    """Fit measured networks.

    Args:
        every: the blocks that will be asked for.
        networks: the blocks of each measured one.
        latencies: (n,) in ms.

    Returns:
        the encoding, and the ridge in its columns with the offset's (in ms) before them.
    """
    rough = Columns([])
    shares = np.array([sum(map(rough.analytic, blocks)) for blocks in networks]) / latencies
    every = list(every)
    columns = Columns(every, speed=float(shares.sum() / (shares @ shares)))
    alone = np.stack([columns.block(block) for block in every])
    rows = np.stack([np.concatenate([[1.0], columns.network(blocks)]) for blocks in networks])
    mean = np.concatenate([[0.0], columns.mean()])
    offset = [_OFFSET * float(np.mean(latencies))]
    widths = (np.concatenate([offset, columns.widths(narrow)]) for narrow in _NARROW)
    return columns, relative_ridge.fit(
        rows, latencies, mean, widths, possible=lambda found: bool((alone @ found[1:] > 0).all())
    )


def _reported(fitted: relative_ridge.RidgeFit, degrees: int) -> NetworkFit:
    inside = np.abs(fitted.errors) <= stats.student_t(0.95, degrees) * fitted.expected
    return NetworkFit(
        terms=("offset", "analytic", "choices"),
        coefficients=(
            float(fitted.coefficients[0]),
            float(np.mean(fitted.coefficients[1 : 1 + len(_USUAL)])),
            float(np.sqrt(np.mean(fitted.coefficients[1 + len(_USUAL) :] ** 2))),
        ),
        covariance=fitted.covariance,
        residual=fitted.residual,
        loo_error=float(np.sqrt(np.mean(fitted.errors**2))),
        networks=len(fitted.errors),
        degrees=degrees,
        ridge=fitted.strength,
        effective=fitted.effective,
        mape=float(np.mean(np.abs(fitted.errors))),
        worst=float(np.max(np.abs(fitted.errors))),
        covered=float(np.mean(inside)),
    )
