"""Whether a subnet keeps a budget, and the random baseline of every search.

In: a Space, a Budget, models. Out: a predicate for drawing (space/sampling.py), or `Chosen`. Rules kept: what counts is
the upper bound of a subnet's own latency, as everywhere; random search promises nothing but the best of what it drew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.errors import UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import DIGITS, Chosen, Latency, candidate_of, excess, excess_of_counts
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import cost
from ofa_edge.space.sampling import sample_within


def fits_within(
    space: Space, budget: Budget, latency: Latency | None = None, confidence: float = 0.95
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
            return excess_of_counts(cost(blocks), budget) <= 1
        if not all(np.isfinite(latency.block_ms(block)) for block in blocks):
            return False
        return excess(candidate_of(space, latency, arch, Top1(0.0, 0.0, 1.0), confidence), budget) <= 1

    return fits


def choose_random(
    space: Space,
    latency: Latency,
    accuracy: AdditiveAccuracy,
    budget: Budget,
    *,
    resolutions: Sequence[int],
    inputs: Mapping[str, str],
    samples: int,
    confidence: float = 0.95,
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 of `samples` drawn within the budget (strategy random).

    The baseline of Single Path One-Shot (Guo et al., ECCV 2020). Of subnets with equal predictions the first drawn is
    taken.

    Raises:
        InfeasibleBudget: drawing finds none that fits.
    """
    start = time.perf_counter()
    sizes = tuple(sorted(set(resolutions)))
    fits = fits_within(space, budget, latency, confidence)
    rng = np.random.default_rng(seed)
    at_these = replace(space, resolutions=sizes)
    drawn = list(dict.fromkeys(sample_within(at_these, rng, fits) for _ in range(samples)))
    order = np.argsort(-np.round(accuracy.predict(drawn), DIGITS), kind="stable")[: top + 1]
    found = [candidate_of(space, latency, drawn[i], accuracy.estimate(drawn[i], confidence), confidence) for i in order]
    chosen = found[0]
    selection = Selection(
        space=space,
        arch=chosen.arch,
        top1=chosen.top1,
        latency_ms=chosen.latency_ms,
        cost=chosen.cost,
        budget=budget,
        strategy="random",
        confidence=confidence,
        model=f"greatest predicted top-1 of {samples:,} subnets drawn at random, {len(drawn):,} of them different, from"
        f" those of {space.name} at {', '.join(map(str, sizes))} px that fit {budget}; " + accuracy.describe(),
        proven_optimal=False,
        bound=round(accuracy.top1(accuracy.greatest_score(sizes)), DIGITS),
        inputs=dict(inputs),
        seed=seed,
    )
    return Chosen(selection, tuple(found[1:]), time.perf_counter() - start)
