"""Whether a subnet keeps a budget, and the random baseline of every search.

In: a Space, a Budget, models. Out: a predicate for drawing (space/sampling.py), or `Chosen`. Rules kept: what counts is
the upper bound of a subnet's latency, by the margin while searching and by its own interval in the end, as everywhere;
random search promises nothing but the best of what it drew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.graph.stored import PLAIN, Stored
from ofa_edge.search.batch import BatchAccuracy, BatchCosts, estimates, greatest
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, Latency, excess, excess_of_counts
from ofa_edge.search.certificate import nearest
from ofa_edge.search.choose import Chosen, infeasible
from ofa_edge.search.exact.frontier import require_energy
from ofa_edge.search.models import CostModels
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays, concatenate
from ofa_edge.space.sampling import ATTEMPTS

if TYPE_CHECKING:
    from ofa_edge.accuracy.family import AccuracyPredictor

# Archs drawn at once.
_DRAWS = 250


def fits_within(
    space: Space, budget: Budget, latency: Latency | None = None, confidence: float = 0.95, stored: Stored = PLAIN
) -> Callable[[Arch], bool]:
    """A predicate: does a subnet keep the budget?

    Raises:
        UsageError: the budget limits latency, and there is no latency model.
    """
    if budget.latency_ms is not None and latency is None:
        raise UsageError(
            "a latency budget needs a latency table",
            hint="name one with --latency-table, or limit macs, size or memory",
        )

    def fits(arch: Arch) -> bool:
        blocks = space.blocks(arch)
        if latency is None or budget.latency_ms is None:
            return excess_of_counts(stored.cost(blocks), budget) <= 1
        if not all(np.isfinite(latency.block_ms(block)) for block in blocks):
            return False
        models = CostModels(space, latency, (), confidence, stored=stored)
        return excess(models.candidate(arch, Top1(0.0, 0.0, 1.0)), budget) <= 1

    return fits


def choose_random(
    models: CostModels,
    accuracy: AccuracyPredictor,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    samples: int,
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 of `samples` drawn within the budget (strategy random).

    The baseline of Single Path One-Shot (Guo et al., ECCV 2020). Of subnets with equal predictions the first drawn is
    taken. Where ATTEMPTS draws in a row find none that fits, drawing ends with those found before.

    Args:
        accuracy: any predictor; between measured resolutions it is interpolated as batch.py says.

    Raises:
        InfeasibleBudget: no subnet fits, as `choose.choose` finds out; or drawing finds none of those that do.
        UsageError: energy is limited and its model missing.
    """
    start = time.perf_counter()
    archs = _drawn(models, budget, samples, seed)
    _, first = np.unique(archs.matrix(), axis=0, return_index=True)
    different = archs.take(np.sort(first))
    predicted = BatchAccuracy(accuracy, models.resolutions).top1(different)
    ranked = different.take(np.argsort(-np.round(predicted, DIGITS), kind="stable"))
    return best_of(
        models,
        accuracy,
        budget,
        ranked,
        top,
        start,
        strategy="random",
        model=f"greatest predicted top-1 of {len(archs):,} subnets drawn at random, {len(different):,} of them"
        f" different, from those of {models.space.name} at {', '.join(map(str, models.resolutions))} px that fit"
        f" {budget} (latency counted {1 + models.margin:.3f} times); {accuracy.describe()}",
        inputs=inputs,
        seed=seed,
    )


def best_of(
    models: CostModels,
    accuracy: AccuracyPredictor,
    budget: Budget,
    ranked: ArchArrays,
    top: int,
    begun: float,
    *,
    strategy: str,
    model: str,
    inputs: Mapping[str, str],
    seed: int,
) -> Chosen:
    """The first of these archs that keeps the budget, and `top` alternatives: what searches end with that drew them.

    Args:
        ranked: best first.
        begun: when the search did, of time.perf_counter.

    Raises:
        InfeasibleBudget: none of them keeps it.
    """
    found = _keeping(models, accuracy, budget, ranked, top + 1)
    if not found:
        raise infeasible(models, budget)
    return Chosen.of(
        models,
        found,
        budget,
        time.perf_counter() - begun,
        strategy=strategy,
        model=model,
        proven_optimal=False,
        bound=greatest(accuracy, models.resolutions),
        inputs=inputs,
        seed=seed,
    )


def _keeping(
    models: CostModels, accuracy: AccuracyPredictor, budget: Budget, archs: ArchArrays, count: int
) -> list[Candidate]:
    """The first so many of these archs whose own intervals keep the budget: margins are bounds over a sample of the
    space, and have not the last word."""
    found: list[Candidate] = []
    for row in range(len(archs)):
        arch = archs.arch(row)
        (top1,) = estimates(accuracy, [arch], models.confidence)
        candidate = models.candidate(arch, top1)
        if excess(candidate, budget) <= 1:
            found.append(candidate)
        if len(found) == count:
            break
    return found


def _drawn(models: CostModels, budget: Budget, samples: int, seed: int) -> ArchArrays:
    """Subnets within the budget, in the order they were drawn; the first of them do not depend on how many are asked
    for."""
    space, sizes, limits = models.space, models.resolutions, models.limits(budget)
    require_energy(limits, models.tables)
    rng, costs = np.random.default_rng(seed), BatchCosts(space, models.tables, sizes)
    found: list[ArchArrays] = []
    count = misses = 0
    while count < samples and misses < ATTEMPTS:
        archs = ArchArrays.sample(space, rng, _DRAWS, sizes)
        found.append(archs.take(costs.keep(archs, limits)))
        count += len(found[-1])
        misses = 0 if len(found[-1]) else misses + _DRAWS
    if count == 0:
        _, factor = nearest(models, budget)
        if factor > 1:
            raise infeasible(models, budget)
        raise InfeasibleBudget(
            f"none of {misses:,} drawn subnets of {space.name} fits {budget}, though some do",
            hint="use --strategy exact, which finds them, or loosen the budget",
        )
    return concatenate(found).take(slice(samples))
