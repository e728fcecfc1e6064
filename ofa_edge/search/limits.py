"""A budget in the units that searches count in, and what subnets use of it.

In: a Budget, and by what the models' values are raised to their upper bounds. Out: `Limits`, integers that a subnet's
costs (costs.py) are held against; or `uses`, the same costs in the budget's own units. Rule kept: a cost keeps an
integer limit exactly where its value times (1 + margin) is not above the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BYTES, ENERGY, FAILED, HELD, LATENCY, MACS, PEAK, PER_MJ, PER_MS, Floats
from ofa_edge.search.exact.pareto import Ints


@dataclass(frozen=True, slots=True)
class Limits:
    """The greatest integers that still fit, None where there is no limit.

    Attributes:
        latency: ps.
        memory: bytes of weights as they are held, and of the greatest activation, together.
        size: bytes of weights in the file.
        macs: multiply-accumulates.
        energy: nJ.
    """

    latency: int | None = None
    memory: int | None = None
    size: int | None = None
    macs: int | None = None
    energy: int | None = None

    @classmethod
    def of(cls, budget: Budget | None, margin: float = 0.0, energy_margin: float = 0.0) -> Limits:
        """Of a budget; latency counts (1 + margin) times, energy (1 + energy_margin) times."""
        if budget is None:
            return cls()
        return cls(
            None if budget.latency_ms is None else _greatest(budget.latency_ms, PER_MS, margin),
            budget.memory_bytes,
            budget.size_bytes,
            budget.macs,
            None if budget.energy_mj is None else _greatest(budget.energy_mj, PER_MJ, energy_margin),
        )

    @property
    def sides(self) -> Limits:
        """All but latency's."""
        return replace(self, latency=None)

    @property
    def sums(self) -> dict[int, int]:
        """Limits on columns that are sums."""
        found = {LATENCY: self.latency, BYTES: self.size, MACS: self.macs, ENERGY: self.energy}
        return {column: limit for column, limit in found.items() if limit is not None}

    @property
    def columns(self) -> list[int]:
        """Columns of the costs that a limit is on, rising."""
        return sorted({*self.sums, *(() if self.memory is None else (HELD, PEAK))})

    def kept(self, costs: Ints) -> NDArray[np.bool_]:
        """Which subnets keep all limits: (n,) of costs (n, COLUMNS)."""
        kept = np.ones(len(costs), dtype=bool)
        for column, limit in self.sums.items():
            kept &= costs[:, column] <= limit
        if self.memory is not None:
            kept &= costs[:, HELD] + costs[:, PEAK] <= self.memory
        return kept


def uses(costs: Ints, budget: Budget, margin: float = 0.0, energy_margin: float = 0.0) -> Floats:
    """What subnets of these costs (n, COLUMNS) use of each limit of a budget: (n, limits), in the order and in the
    units of `Budget.searched`."""
    found = {
        "latency_ms": costs[:, LATENCY] / PER_MS * (1 + margin),
        "memory_bytes": costs[:, HELD] + costs[:, PEAK],
        "size_bytes": costs[:, BYTES],
        "macs": costs[:, MACS],
        "energy_mj": costs[:, ENERGY] / PER_MJ * (1 + energy_margin),
    }
    return np.stack([np.asarray(found[name], dtype=np.float64) for name in budget.searched()], axis=1)


def growth(costs: Ints, budget: Budget, margin: float = 0.0, energy_margin: float = 0.0) -> Floats:
    """By what factor all limits of a budget would have to grow for each of these subnets, (n,); at most 1 where it
    fits."""
    limits = np.array(list(budget.searched().values()))
    found: Floats = (uses(costs, budget, margin, energy_margin) / limits).max(axis=1)
    return found


def _greatest(limit: float, per: int, margin: float) -> int:
    """The greatest n with n / per x (1 + margin) <= limit, in the same floating point as `uses`; less than FAILED."""
    whole = limit / (1 + margin) * per
    if whole >= FAILED:
        return FAILED - 1
    n = math.floor(whole)
    while (n + 1) / per * (1 + margin) <= limit:
        n += 1
    while n / per * (1 + margin) > limit:
        n -= 1
    return n
