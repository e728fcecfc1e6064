"""Evolution as published, for comparison and for objectives that nothing is known of.

In: a Space, an objective and a constraint, both functions of archs as arrays. Out: `Evolved`: the best arch found, and
how it was found; or, for models and a budget, `Chosen`. Two presets: Once-for-All's (Cai et al., ICLR 2020, and the
code they published) and Single Path One-Shot's (Guo et al., ECCV 2020). The next generation are children of the best
subnets so far: copies with some choices drawn anew, and crossings of two (breeding.py).

Rules kept: no subnet is evaluated that breaks the constraint; it always ends; the same seed gives the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ofa_edge.errors import UsageError
from ofa_edge.search.batch import BatchAccuracy, BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.certificate import nearest
from ofa_edge.search.choose import Chosen, infeasible
from ofa_edge.search.costs import Floats
from ofa_edge.search.exact.frontier import require_energy
from ofa_edge.search.models import CostModels
from ofa_edge.search.sampled.breeding import OFA, PRESETS, SPOS, Breeder, Constraint, Preset, named, some_that_fit
from ofa_edge.search.sampled.genes import Genes, keys
from ofa_edge.search.sampled.within import best_of
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays, Ints

if TYPE_CHECKING:
    from ofa_edge.accuracy.family import AccuracyPredictor

__all__ = ["OFA", "PRESETS", "SPOS", "Evolved", "Preset", "choose_evolution", "evolve", "named"]

Objective = Callable[[ArchArrays], Floats]

# The best subnets that are remembered.
_KEPT = 64


@dataclass(frozen=True, slots=True, eq=False)
class Evolved:
    """What evolution found.

    Attributes:
        arch, value: the best subnet and its objective.
        evaluations: subnets that the objective was asked for.
        history: the best value after each generation.
        best: the best subnets, different ones, best first; of equals the one that came first.
        values: theirs, (n,).
    """

    arch: Arch
    value: float
    evaluations: int
    history: tuple[float, ...]
    best: ArchArrays
    values: Floats


def evolve(
    space: Space,
    objective: Objective,
    fits: Constraint,
    *,
    preset: Preset | str = OFA,
    seed: int = 0,
    resolutions: Sequence[int] | None = None,
    start: Callable[[], ArchArrays] | None = None,
) -> Evolved:
    """Search the subnet with the greatest objective among those that fit.

    Args:
        objective: (n,) of archs, higher is better; nan counts as worst.
        fits: (n,) whether archs keep the constraint.
        resolutions: to search at; the space's where left out.
        start: gives subnets that fit, or raises InfeasibleBudget; asked only where drawing finds too few. Without it
            the smallest subnets and random ones are tried.

    Raises:
        InfeasibleBudget: no subnet that fits was found.
        UsageError: there is no such preset, or no resolution.
    """
    chosen, sizes = named(preset), space.resolutions if resolutions is None else resolutions
    if not sizes:
        raise UsageError("there is no resolution to search at", hint="give tables that share one")
    genes, rng = Genes.of(space, sizes), np.random.default_rng(seed)
    some = start or (lambda: some_that_fit(genes, fits, np.random.default_rng(seed)))
    breeder = Breeder(genes, rng, fits, chosen, some)
    best = _Best(genes)
    parents, worth = np.empty((0, len(genes)), dtype=np.int64), np.empty(0)
    history: list[float] = []
    evaluations = 0
    while len(history) < chosen.generations:
        children = breeder.children(parents) if history else breeder.first()
        if len(children) == 0:  # all that fit were evaluated, as far as bounded drawing finds out
            history += history[-1:] * (chosen.generations - len(history))
            break
        found = _evaluated(objective, genes.archs(children))
        evaluations += len(children)
        best.add(children, found)
        parents, worth = np.concatenate([parents, children]), np.concatenate([worth, found])
        # Of equals the newer first, as the published code has it: what skipped blocks hold may then drift.
        order = np.argsort(worth, kind="stable")[::-1][: chosen.parents]
        parents, worth = parents[order], worth[order]
        history.append(float(worth[0]))
    archs = genes.archs(best.rows)
    return Evolved(archs.arch(0), float(best.values[0]), evaluations, tuple(history), archs, best.values)


def _evaluated(objective: Objective, archs: ArchArrays) -> Floats:
    values = np.asarray(objective(archs), dtype=np.float64)
    return np.where(np.isnan(values), -np.inf, values)


class _Best:
    """The best different subnets so far, best first."""

    def __init__(self, genes: Genes):
        self._genes = genes
        self.rows = np.empty((0, len(genes)), dtype=np.int64)
        self.values = np.empty(0)
        self._keys = np.empty(0, dtype=np.int64)

    def add(self, rows: Ints, values: Floats) -> None:
        if len(self.values) == _KEPT:
            better = values > self.values[-1]
            rows, values = rows[better], values[better]
        if len(rows) == 0:
            return
        rows, values = np.concatenate([self.rows, rows]), np.concatenate([self.values, values])
        numbers = np.concatenate([self._keys, keys(self._genes.archs(rows[len(self.rows) :]))])
        first = np.sort(np.unique(numbers, return_index=True)[1])
        order = first[np.argsort(-values[first], kind="stable")][:_KEPT]
        self.rows, self.values, self._keys = rows[order], values[order], numbers[order]


# -- with models and a budget -------------------------------------------------------------------
def choose_evolution(
    models: CostModels,
    accuracy: AccuracyPredictor,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    preset: Preset | str = OFA,
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 that evolution finds within the budget (strategy evolution).

    Args:
        accuracy: any predictor; between measured resolutions it is interpolated as batch.py says.
        inputs: hex sha256 by role, for the selection.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no subnet fits, as `choose.choose` finds out.
        UsageError: there is no such preset, no resolution, or energy is limited and its model missing.
    """
    begun = time.perf_counter()
    chosen = named(preset)
    space, limits = models.space, models.limits(budget)
    require_energy(limits, models.tables)
    costs = BatchCosts(space, models.tables, models.resolutions)

    def start() -> ArchArrays:
        arch, factor = nearest(models, budget)
        if factor > 1:
            raise infeasible(models, budget)
        return ArchArrays.of(space, [arch])

    evolved = evolve(
        space,
        BatchAccuracy(accuracy, models.resolutions).top1,
        lambda archs: costs.keep(archs, limits),
        preset=chosen,
        seed=seed,
        resolutions=models.resolutions,
        start=start,
    )
    return best_of(
        models,
        accuracy,
        budget,
        evolved.best,
        top,
        begun,
        strategy="evolution",
        model=f"greatest predicted top-1 of the {evolved.evaluations:,} subnets that {chosen.describe()} evaluated, of"
        f" {space.name} at {', '.join(map(str, models.resolutions))} px within {budget} (latency counted"
        f" {1 + models.margin:.3f} times); {accuracy.describe()}",
        inputs=inputs,
        seed=seed,
    )
