"""Linear relaxations of a space's programs: what no subnet within the limits exceeds, and what each choice costs of it.

In: Programs (program.py). Out: `Relaxed`: a bound on the score at a resolution, and for every choice how far below the
bound a subnet with it is at least; these losses add up. Rule kept: bounds and losses are taken from the solver's
multipliers in a way that holds for any multipliers, so whatever its tolerances (Neumaier and Shcherbina, Math. Program.
99, 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog

from ofa_edge.errors import UsageError
from ofa_edge.search.costs import BlockLatencies, CostTables, Floats
from ofa_edge.search.exact.frontier import require_energy
from ofa_edge.search.exact.program import Layout, Program
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Space

_SOLVE: Any = linprog  # its stubs know neither sparse matrices nor arrays of bounds

# The greatest score counts so much for the solvers, so that an absolute gap of 1e-6 is 1e-11 of it.
_SCORES = 1e5
# Choices whose bound is this little under a threshold stay, for the roundings of sums.
SLACK = 1e-9


@dataclass(eq=False)
class Relaxed:
    """A program and what its relaxation says.

    Attributes:
        bound: on the score of its subnets.
        losses: (m,) what a subnet with this choice is at least below the bound.
        most: the least bound that is known, from integer programs too.
    """

    program: Program
    bound: float
    losses: Floats
    most: float = math.inf

    def __post_init__(self) -> None:
        self.most = min(self.most, self.bound)

    def loss_of(self, core: int) -> float:
        """A loss that so many of the choices that lose at all stay under; 0 where there are no more, so that all may
        stay."""
        positive = self.losses[self.losses > SLACK]
        return float(np.partition(positive, core)[core]) if len(positive) > core else 0.0

    def above(self, threshold: float) -> Program:
        """With the choices that a subnet of at least this score can have."""
        return self.program.take(self.bound - self.losses >= threshold - SLACK * (1 + abs(threshold)))


def relaxations(
    space: Space,
    latency: BlockLatencies,
    scores: PlaceScores,
    limits: Limits,
) -> list[Relaxed]:
    """Of all of the scores' resolutions, the greatest bound first; -inf where no subnet keeps the limits.

    Raises:
        UsageError: no resolution is given, or energy is limited and its model missing.
    """
    if not scores.resolutions:
        raise UsageError("there is no resolution to search at", hint="give tables that share one")
    tables = CostTables.of(space, latency)
    require_energy(limits, tables)
    layout = Layout.of(space)
    found = []
    for resolution in scores.resolutions:
        found.append(relax(Program.of(layout, tables.at(resolution), scores, limits)))
    return sorted(found, key=lambda relaxed: -relaxed.bound)


def relax(program: Program) -> Relaxed:
    """Solve the linear relaxation, and turn its multipliers into bounds that hold."""
    factor = factor_of(program)
    equations, (inequalities, right) = program.equations, program.inequalities
    costs = np.append(-program.scores * factor, 0.0)
    bounds = np.zeros((len(program) + 1, 2))
    bounds[:-1, 1] = np.inf
    bounds[-1] = program.peak_bounds
    sums = program.layout.right
    if bounds[-1, 0] > bounds[-1, 1] or not len(program):
        return Relaxed(program, -math.inf, np.zeros(len(program)))
    found = _SOLVE(costs, A_ub=inequalities, b_ub=right, A_eq=equations, b_eq=sums, bounds=bounds, method="highs")
    if found.status == 2:
        return Relaxed(program, -math.inf, np.zeros(len(program)))
    if found.status != 0:  # no multipliers: those of the equations alone give a bound too
        found = _SOLVE(costs, A_eq=equations, b_eq=sums, bounds=bounds, method="highs")
        inequalities, right = inequalities[:0], right[:0]
    of_sums = np.asarray(found.eqlin.marginals)
    of_limits = np.minimum(np.asarray(found.ineqlin.marginals), 0.0) if len(right) else np.zeros(0)
    reduced = costs - equations.T @ of_sums - inequalities.T @ of_limits
    peak = reduced[-1] * (bounds[-1, 0] if reduced[-1] > 0 else bounds[-1, 1])
    least = float(sums @ of_sums + right @ of_limits + np.minimum(reduced[:-1], 0.0).sum() + peak)
    return Relaxed(program, program.constant - least / factor, np.maximum(reduced[:-1], 0.0) / factor)


def factor_of(program: Program) -> float:
    """What scores are multiplied by for the solver."""
    greatest = float(np.abs(program.scores).max(initial=0.0))
    return _SCORES / greatest if greatest > 0 else 1.0
