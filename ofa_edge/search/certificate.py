"""Why a budget cannot be kept: which limits stand in the way, by how much, and what would do.

In: models that are sums over blocks, a Budget that no subnet keeps; or what each of some measured subnets uses
of it. Out: a `Certificate`: of each limit the least that any subnet uses of it, the smallest sets of limits that no
subnet keeps together, and for each limit the subnet that keeps all the others and uses the least of it. Rules kept:
exact: the cheapest subnets of the space (frontier.cheapest) stand for all of them, since whatever a subnet uses, one of
these uses no more of anything; no solver's tolerance is in it, and it takes a fraction of a second.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_edge.search.budget import NAMES, Budget
from ofa_edge.search.costs import Floats
from ofa_edge.search.exact.frontier import Front, cheapest, require_energy
from ofa_edge.search.limits import Limits, growth, uses
from ofa_edge.search.models import CostModels
from ofa_edge.space.arch import Arch


@dataclass(frozen=True, slots=True)
class OneLimit:
    """What stands between one limit of a budget and a subnet.

    Attributes:
        field: of the Budget.
        given: the limit.
        least: that any subnet uses of it; more than `given` where the limit cannot be kept even alone.
        needed: what the limit had to be for a subnet that keeps all other limits as they are; None where the others
            alone cannot be kept. At most `given` where all can be kept.
        nearest: number of that subnet; None likewise.
    """

    field: str
    given: float
    least: float
    needed: float | None
    nearest: int | None

    @property
    def alone(self) -> bool:
        """Whether it cannot be kept, whatever the others."""
        return self.least > self.given

    def as_json(self) -> dict[str, Any]:
        return {
            "limit": self.field,
            "given": self.given,
            "least": self.least,
            "feasible_alone": not self.alone,
            "needed": self.needed,
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """Why a budget cannot be kept.

    Attributes:
        limits: one for each limit of the budget, in its order.
        conflicts: the smallest sets of limits (by field) that no subnet keeps together; a limit that cannot be kept at
            all is a set of one. Empty where the budget can be kept.
    """

    limits: tuple[OneLimit, ...]
    conflicts: tuple[tuple[str, ...], ...]

    def as_json(self) -> list[dict[str, Any]]:
        """The value of `limits` in an error's details."""
        return [
            {**limit.as_json(), "conflicts": [list(c) for c in self.conflicts if limit.field in c]}
            for limit in self.limits
        ]

    def sentence(self) -> str:
        """What stands in the way, for people; empty where nothing does."""
        by_field = {limit.field: limit for limit in self.limits}
        said = []
        for conflict in self.conflicts:
            if len(conflict) == 1:
                limit = by_field[conflict[0]]
                given, least = _told_apart(limit)
                said.append(f"{NAMES[limit.field]} {given} cannot be kept, the least of any subnet is {least}")
            else:
                *most, last = (f"{NAMES[field]} {quantity(field, by_field[field].given)}" for field in conflict)
                said.append(f"{', '.join(most)} and {last} cannot be kept together")
        return "; ".join(said)


def of(models: CostModels, budget: Budget) -> tuple[Certificate, Front]:
    """The certificate of a whole space, and the subnets that its numbers are of.

    Raises:
        UsageError: as `exact_front`.
        BadFile: no subnet can run at all.
    """
    front = _cheapest(models, budget)
    return of_uses(uses(front.costs, budget, *models.margins), budget), front


def nearest(models: CostModels, budget: Budget) -> tuple[Arch, float]:
    """The subnet that fits the least enlarged budget, and by what factor all limits had to grow for it (exact).

    Raises:
        UsageError, BadFile: as `of`.
    """
    front = _cheapest(models, budget)
    factors = growth(front.costs, budget, *models.margins)
    i = int(np.argmin(factors))
    return front.arch(i), float(factors[i])


def _cheapest(models: CostModels, budget: Budget) -> Front:
    limits = Limits.of(budget)
    require_energy(limits, models.tables)
    return cheapest(models.space, models.tables, models.resolutions, limits.columns)


def of_uses(used: Floats, budget: Budget) -> Certificate:
    """The certificate over these subnets.

    Args:
        used: (n, limits) what each uses of each limit, in the order and units of `Budget.searched`.
    """
    given = budget.searched()
    fields, limits = list(given), np.array(list(given.values()), dtype=np.float64)
    keeps = used <= limits
    conflicts: list[tuple[int, ...]] = []
    for size in range(1, len(fields) + 1):
        for several in itertools.combinations(range(len(fields)), size):
            if any(set(known) <= set(several) for known in conflicts):
                continue
            if not keeps[:, several].all(axis=1).any():
                conflicts.append(several)
    found = []
    for j, field in enumerate(fields):
        others = np.flatnonzero(np.delete(keeps, j, axis=1).all(axis=1))
        nearest = int(others[np.argmin(used[others, j])]) if len(others) else None
        needed = None if nearest is None else float(used[nearest, j])
        found.append(OneLimit(field, float(limits[j]), float(used[:, j].min()), needed, nearest))
    return Certificate(tuple(found), tuple(tuple(fields[j] for j in several) for several in conflicts))


def _told_apart(limit: OneLimit) -> tuple[str, str]:
    """The limit and the least use of it, with as many digits as tell them apart."""
    texts = ((quantity(limit.field, limit.given, n), quantity(limit.field, limit.least, n)) for n in range(3, 16))
    return next((pair for pair in texts if pair[0] != pair[1]), (str(limit.given), str(limit.least)))


def quantity(field: str, value: float, digits: int = 3) -> str:
    """A limit's value with so many digits and its unit."""
    if field in ("latency_ms", "energy_mj"):
        return f"{value:.{digits}g} {'ms' if field == 'latency_ms' else 'mJ'}"
    factor, prefix = next(((f, p) for f, p in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if value >= f), (1.0, ""))
    return f"{value / factor:.{digits}g} {prefix}{'' if field == 'macs' else 'B'}".rstrip()
