"""The energy model: blocks -> Estimate of the energy of one run of a whole network, in mJ above idling.

In: the `energy` rows of a LatencyTable (`ofa-edge profile --energy`) and its latency model. Out: an EnergyModel,
additive in blocks, so that search can limit energy as it limits latency. Rules kept:

    E = offset + scale x sum of e(block)

e(block) is what was measured of the block alone; few blocks are, so of the others it is their latency times the power
(mJ per ms) of their likes: the median over the measured blocks of their type, else over all of them, else over the
networks. Offset and scale are fitted on the networks' energy rows as latency's are on their latencies (terms.py), and
the interval is theirs: unknown (None), not zero, where too few networks have a row. A table without energy rows is
refused. What a coarse counter gives as nothing or less counts as not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ofa_edge.errors import BadFile
from ofa_edge.latency import plan, stats
from ofa_edge.latency.campaign.energy import BLOCK
from ofa_edge.latency.models.model import Estimate, LatencyModel
from ofa_edge.latency.models.terms import ALL_TERMS, fit_terms
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Arch
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import decode

_MARGIN_SAMPLE = 400
_HINT = "measure it: `ofa-edge profile --energy --resume --out {path}` with the options the table was begun with"


class EnergyModel:
    """Predicts from blocks: value = offset_mj + sum of block_mj.

    Args:
        latency: of the same table.
        blocks: key -> measured mJ.
        networks: archs and their measured mJ.
    """

    def __init__(
        self,
        latency: LatencyModel,
        blocks: Mapping[str, float],
        networks: Sequence[tuple[Arch, float]],
    ):
        self.latency = latency
        self.blocks = dict(blocks)
        self.networks = tuple(networks)
        self._own: dict[Block, float] = {}
        self._margins: dict[float, float] = {}
        rows = [(self._features(latency.space.blocks(arch)), mj) for arch, mj in self.networks]
        rows = [(row, mj) for row, mj in rows if math.isfinite(row[1])]
        features = np.array([row for row, _ in rows]).reshape(-1, 2)
        self.fit = fit_terms(features, np.array([mj for _, mj in rows]))

    @classmethod
    def from_table(cls, table: LatencyTable, latency: LatencyModel) -> EnergyModel:
        """Fit the model of a table; where several sensors were read, of the one with the most rows.

        Raises:
            BadFile: the table has no energy row that says anything, or a damaged one, or a network not in its space.
        """
        rows = [_checked(table, row) for row in table.contents.of("energy")]
        archs = dict(zip(table.networks["key"], table.networks["arch"], strict=True))
        sensors = [row["sensor"] for row in rows if row["mj"] > 0 and (row["role"] == BLOCK or row["key"] in archs)]
        if not sensors:
            raise BadFile(
                f"{table.path} holds no energy measurements, so an energy limit cannot be held against it",
                hint=_HINT.format(path=table.path),
            )
        sensor = max(dict.fromkeys(sensors), key=sensors.count)
        found = {(row["key"], row["role"]): float(row["mj"]) for row in rows if row["sensor"] == sensor}
        found = {key: mj for key, mj in found.items() if mj > 0}
        blocks = {key: mj for (key, role), mj in found.items() if role == BLOCK}
        networks = [
            (decode(latency.space, archs[key]), mj)
            for (key, role), mj in found.items()
            if role != BLOCK and key in archs
        ]
        return cls(latency, blocks, networks)

    # -- the additive form ------------------------------------------------------------------------
    @property
    def offset_mj(self) -> float:
        return self.fit.coefficient("offset")

    def block_mj(self, block: Block) -> float:
        """What the block adds to a network's energy; infinite where it failed on the device.

        Raises:
            BadFile: the block has no energy row, and its latency cannot be estimated.
        """
        return self.fit.coefficient("scale") * self.own_mj(block)

    def own_mj(self, block: Block) -> float:
        """Of the block alone, measured or from its likes; raises as `block_mj`."""
        if block not in self._own:
            ms = self.latency.block_ms(block)
            own = self.blocks.get(block.key, ms * self._watts.get(block.type, self._usual_watts))
            self._own[block] = own if math.isfinite(ms) else math.inf
        return self._own[block]

    # -- estimates --------------------------------------------------------------------------------
    def estimate(self, blocks: Sequence[Block], confidence: float = 0.95) -> Estimate:
        """A network's energy in mJ; low and high are None where the error is unknown."""
        value = self.offset_mj + sum(map(self.block_mj, blocks))
        half = self._half_width(self._features(blocks), confidence)
        if half is None:
            return Estimate(value)
        return Estimate(value, max(0.0, value * (1 - half)), value * (1 + half))

    def margin(self, confidence: float = 0.95) -> float:
        """A bound m with high <= value x (1 + m) for the subnets of the space, as LatencyModel.margin; 0 where
        intervals are unknown.

        The width depends on a network's sum alone, and is widest at one end of the sums: those of the smallest, the
        largest and 400 other subnets.
        """
        if confidence not in self._margins:
            space, sizes = self.latency.space, self.latency.resolutions
            archs: list[Arch] = [f(r) for r in sizes for f in (space.smallest, space.largest)]
            archs += plan.spread_sample(space, sizes, _MARGIN_SAMPLE, np.random.default_rng(0))
            rows = [row for row in (self._features(space.blocks(arch)) for arch in archs) if math.isfinite(row[1])]
            ends = (min(rows, key=lambda row: row[1]), max(rows, key=lambda row: row[1])) if rows else ()
            self._margins[confidence] = max((self._half_width(row, confidence) or 0.0 for row in ends), default=0.0)
        return self._margins[confidence]

    # -- parts ------------------------------------------------------------------------------------
    def _features(self, blocks: Sequence[Block]) -> np.ndarray:
        """(2,): 1 and the sum of the blocks' own mJ."""
        return np.array([1.0, math.fsum(map(self.own_mj, blocks))])

    def _half_width(self, features: np.ndarray, confidence: float) -> float | None:
        """Relative: Student's t x residual x sqrt(1 + leverage)."""
        if self.fit.residual is None:
            return None
        value = self.offset_mj + self.fit.coefficient("scale") * features[1]
        row = features[[ALL_TERMS.index(term) for term in self.fit.terms]] / value
        leverage = float(row @ self.fit.covariance @ row)
        return stats.student_t(confidence, self.fit.degrees) * self.fit.residual * math.sqrt(1 + leverage)

    @cached_property
    def _watts(self) -> dict[str, float]:
        """Median mJ per ms of the measured blocks of each type."""
        found: dict[str, list[float]] = {}
        for key, mj in self.blocks.items():
            block = Block.from_key(key)
            if 0 < (ms := self.latency.block_ms(block)) < math.inf:
                found.setdefault(block.type, []).append(mj / ms)
        return {kind: float(np.median(watts)) for kind, watts in found.items()}

    @cached_property
    def _usual_watts(self) -> float:
        """Median over all measured blocks, else over the networks."""
        if self._watts:
            keys = [(mj, self.latency.block_ms(Block.from_key(key))) for key, mj in self.blocks.items()]
            return float(np.median([mj / ms for mj, ms in keys if 0 < ms < math.inf]))
        space = self.latency.space
        found = []
        for arch, mj in self.networks:
            ms = self.latency.offset_ms + math.fsum(map(self.latency.block_ms, space.blocks(arch)))
            if 0 < ms < math.inf:
                found.append(mj / ms)
        return float(np.median(found)) if found else math.inf


def _checked(table: LatencyTable, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, if its fields are what they should be; raises BadFile."""
    mj = row.get("mj")
    texts = all(isinstance(row.get(name), str) for name in ("key", "role", "sensor"))
    if not texts or isinstance(mj, bool) or not isinstance(mj, (int, float)) or not math.isfinite(mj):
        raise BadFile(
            f"{table.path} holds a damaged energy row of {str(row.get('key'))[:60]}",
            hint="restore the file or measure again",
        )
    return row
