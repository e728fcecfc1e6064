"""Chooses under an accuracy model that is no sum: exact search of its additive part, exchanges on the model, a proof.

In: a Space, a latency model, a pairwise or MLP predictor, a Budget. Out: `Chosen`, or InfeasibleBudget. How: an
additive score is fitted to what the predictor says of subnets all over the space and its exact front searched
(frontier.py); then again fitted to what the predictor says around the front's subnets at the limit, and searched, and
once more. From the best of these at every resolution, moves.py climbs on the predictor itself. Of a pairwise predictor
the optimum is then proven, or bounded, by branch and bound (bound.py); of an MLP a bound comes from its linear
relaxation (network.py).

Rules kept: within the budget as choose.py understands it, with the proportional margin and the subnet's own interval;
the same seed chooses the same subnet; the gap to a true bound is said, and nothing is called optimal without a proof.
Only resolutions that the predictor was measured at are searched: between them it is interpolated, which is no part of
the stated model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa_edge.accuracy.encoding import ONE_HOT, encode_arrays
from ofa_edge.accuracy.family import AccuracyPredictor
from ofa_edge.accuracy.mlp import MlpAccuracy, forward
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import Top1
from ofa_edge.accuracy.ridge import LINKS
from ofa_edge.errors import UsageError
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, excess
from ofa_edge.search.choose import Chosen, infeasible
from ofa_edge.search.costs import BlockLatencies, CostTables, Floats
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.search.nonadditive import bound as bounds
from ofa_edge.search.nonadditive.additive import Additive
from ofa_edge.search.nonadditive.field import Quadratic
from ofa_edge.search.nonadditive.moves import Climber
from ofa_edge.space.arch import Space
from ofa_edge.space.population import ArchArrays, concatenate

# Subnets that the additive score is fitted to: over the space at first, then so many times around the front.
_SAMPLES = 2000
_ROUNDS = 3
# Subnets of the front at the limit that the next fit is around, and the share of their choices that is drawn anew.
_AROUND = 6
_REDRAWN = 0.2
# A gap, as a share of right answers, that is rounding.
PROVEN = 1e-9
# Climbs start at so many of the best subnets at the limit, and of the best drawn ones where no proof follows: an
# additive fit may leave all of the former on one hill. So many of those that climbs saw are kept.
_STARTS = 6
_DRAWN = 3
_KEPT = 64


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        archs: the best subnets within the budget, best first.
        scores: theirs, (n,).
        bound: no subnet within the budget has a higher score.
        how: in words, where the bound is from; '' without one.
    """

    archs: ArchArrays
    scores: Floats
    bound: float
    how: str


def shared_resolutions(latency_resolutions: Sequence[int], predictor: AccuracyPredictor) -> tuple[int, ...]:
    """The resolutions to search at: those at which both latency and accuracy were measured.

    Raises:
        UsageError: there is none.
    """
    shared = tuple(sorted(set(latency_resolutions) & set(predictor.resolutions)))
    if not shared:
        raise UsageError(
            f"the latency table is of resolutions {', '.join(map(str, sorted(latency_resolutions)))}, the predictor of "
            f"{', '.join(map(str, predictor.resolutions))}",
            hint="measure both at the same resolutions, with --resolutions",
        )
    return shared


def choose(
    models: CostModels,
    predictor: AccuracyPredictor,
    budget: Budget,
    *,
    inputs: Mapping[str, str],
    seed: int = 0,
    top: int = 5,
) -> Chosen:
    """The subnet with the highest predicted top-1 within the budget that is found (strategy exact).

    Args:
        models: searched at those of their resolutions that the predictor was measured at; see `shared_resolutions`.
        inputs: hex sha256 by role, for the selection.
        seed: of what the additive scores are fitted to.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no subnet fits.
        UsageError: no resolution is shared.
    """
    start = time.perf_counter()
    models = replace(models, resolutions=shared_resolutions(models.resolutions, predictor))
    found = search(models.space, models.tables, predictor, models.limits(budget), models.resolutions, seed=seed)
    candidates = [] if found is None else _candidates(models, predictor, budget, found, top + 1)
    if found is None or not candidates:
        raise infeasible(models, budget)
    chosen = candidates[0]
    # Held against each other before they are rounded: a bound that is met is the value itself.
    bound = float(score_of(predictor).top1(np.array(found.bound))) if np.isfinite(found.bound) else 1.0
    gap = bound - float(predictor.predict([chosen.arch])[0])
    proven = gap <= PROVEN
    known = None if bound >= 1 else max(chosen.top1.value, round(bound, DIGITS))
    return Chosen.of(
        models,
        candidates,
        budget,
        time.perf_counter() - start,
        strategy="exact",
        model=_model(models, predictor, budget, found.how, gap, bound),
        proven_optimal=proven,
        bound=chosen.top1.value if proven else known,
        inputs=inputs,
        seed=seed,
    )


def search(
    space: Space,
    latency: BlockLatencies,
    predictor: AccuracyPredictor,
    limits: Limits,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    proof: bool = True,
) -> Found | None:
    """The best subnets within the limits, and a bound; None where no subnet keeps them.

    Args:
        sizes: resolutions that the predictor was measured at.
        proof: look for a bound, and for what the moves missed; without it the bound is infinite.

    Raises:
        UsageError: as frontier.exact_front.
    """
    where, score = _Space(space, CostTables.of(space, latency), limits, tuple(sizes)), score_of(predictor)
    climber = Climber(space, where.sizes, score.of, BatchCosts(space, where.tables, sizes).rows, limits)
    rng = np.random.default_rng(seed)
    starts = _starts(where, score, rng)
    if starts is None:
        return None
    starts = _best(starts, score, _STARTS)
    if not isinstance(predictor, PairwiseAccuracy):  # of these the proof finds what the climbs missed
        drawn = ArchArrays.sample(space, rng, _SAMPLES, where.sizes)
        starts = concatenate([starts, _best(drawn.take(np.flatnonzero(climber.keeps(drawn))), score, _DRAWN)])
    climbs = [climber.climb(starts.take(slice(i, i + 1))) for i in range(len(starts))]
    best, top = max(climbs, key=lambda climb: climb[1])
    bound, how = np.inf, ""
    if proof and isinstance(predictor, PairwiseAccuracy):
        bound = _proven(where, predictor, climber, best, _points(score, top))
        how = "bounded by Lagrange multipliers and branch and bound"
    elif proof and isinstance(predictor, MlpAccuracy):
        from ofa_edge.search.nonadditive import network

        bound = network.network_bound(space, where.tables, predictor, limits, sizes, best=top)
        how = "bounded by the network's linear relaxation"
    archs, scores = climber.best(_KEPT)
    return Found(archs, scores, max(bound, float(scores[0])), how)


def _best(archs: ArchArrays, score: Score, count: int) -> ArchArrays:
    return archs.take(np.argsort(-score.of(archs), kind="stable")[:count])


def _proven(where: _Space, predictor: PairwiseAccuracy, climber: Climber, best: ArchArrays, points: float) -> float:
    """The bound of a pairwise predictor; a better subnet than `best` goes to the climber."""
    costs = [*map(where.tables.at, where.sizes)]
    found = bounds.prove(
        Quadratic(*predictor.polynomial), predictor.resolutions, costs, where.limits, climber.keeps, best, points
    )
    climber.climb(found.best)  # so that its neighbours are seen, of which alternatives are taken
    return found.bound


def _points(score: Score, value: float) -> float:
    """Points of top-1 that one unit of score is worth at this score."""
    step = 1e-3
    around = score.top1(np.array([value - step, value + step]))
    return max(1e-3, 100 * float(around[1] - around[0]) / (2 * step))


# -- scores -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What is maximised: it rises with top-1, so the best score is the best top-1.

    Attributes:
        of: scores (n,) of archs at measured resolutions.
        top1: scores as shares of right answers.
    """

    of: Callable[[ArchArrays], Floats]
    top1: Callable[[Floats], Floats]


def score_of(predictor: AccuracyPredictor) -> Score:
    """A predictor on the scale that it adds up on."""
    if isinstance(predictor, PairwiseAccuracy):
        return Score(predictor.scores, LINKS[predictor.quality.link].inverse)
    if isinstance(predictor, MlpAccuracy):
        # Not clipped, so that moves are told apart beyond 100 % too.
        layers, base, sizes = predictor.layers, predictor.base, predictor.resolutions
        return Score(
            lambda archs: base + forward(layers, encode_arrays(archs.space, archs, sizes, ONE_HOT)),
            lambda score: np.clip(score, 0.0, 1.0),
        )
    return Score(predictor.predict_arrays, lambda score: score)


# -- starts -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Space:
    """What is searched for an additive score."""

    space: Space
    tables: CostTables
    limits: Limits
    sizes: tuple[int, ...]

    def at_limit(self, additive: Additive, sizes: Sequence[int], count: int) -> ArchArrays | None:
        """The last points of the exact front within the limits; None where none is."""
        front = exact_front(self.space, self.tables, additive, sizes, self.limits)
        fitting = np.flatnonzero(self.limits.kept(front.costs))[-count:]
        return ArchArrays.of(self.space, [front.arch(int(i)) for i in fitting]) if len(fitting) else None


def _starts(where: _Space, score: Score, rng: np.random.Generator) -> ArchArrays | None:
    """Subnets at the limit that are optimal for additive scores fitted near them; None where no subnet fits."""
    archs = ArchArrays.sample(where.space, rng, _SAMPLES, where.sizes)
    found = []
    for _ in range(_ROUNDS):
        additive = Additive.fit(archs, score.of(archs), where.sizes)
        at_limit = where.at_limit(additive, where.sizes, _AROUND)
        if at_limit is None:
            return None
        found.append(at_limit)
        archs = _around(at_limit, rng, _SAMPLES, where.sizes)
    for size in where.sizes:
        at_limit = where.at_limit(additive, [size], 1)
        if at_limit is not None:
            found.append(at_limit)
    every = concatenate(found)
    return every.take(np.sort(np.unique(every.matrix(), axis=0, return_index=True)[1]))


def _around(archs: ArchArrays, rng: np.random.Generator, count: int, sizes: Sequence[int]) -> ArchArrays:
    """Subnets near these: some choices of each are drawn anew."""
    space = archs.space
    kept = archs.take(np.arange(count) % len(archs))
    drawn = ArchArrays.sample(space, rng, count, sizes)

    def mixed(old: Ints, new: Ints) -> Ints:
        return np.where(rng.random(old.shape) < _REDRAWN, new, old)

    depth = mixed(kept.depth, drawn.depth)
    codes = []
    for s, stage in enumerate(space.stages):
        new = rng.integers(1, len(stage.kernels) * len(stage.expands) + 1, kept.codes[s].shape)
        code = np.where(kept.codes[s] == 0, new, mixed(kept.codes[s], new))
        code[np.arange(stage.max_depth) >= depth[:, s, None]] = 0
        codes.append(code)
    resolution = mixed(kept.resolution, drawn.resolution)
    widths, stem_depth = mixed(kept.widths, drawn.widths), mixed(kept.stem_depth, drawn.stem_depth)
    return ArchArrays(space, resolution, depth, tuple(codes), widths, stem_depth)


# -- words --------------------------------------------------------------------------------------
def _candidates(
    models: CostModels, predictor: AccuracyPredictor, budget: Budget, found: Found, count: int
) -> list[Candidate]:
    """The best of what was found that keep the budget with their own intervals: the margin is a bound over a sample of
    the space, the subnet's own has the last word."""
    candidates: list[Candidate] = []
    for arch in found.archs.archs():
        value, low, high = predictor.intervals([arch], models.confidence)[0].tolist()
        candidate = models.candidate(arch, Top1(value, low, high))
        if excess(candidate, budget) <= 1:
            candidates.append(candidate)
        if len(candidates) == count:
            break
    return candidates


def _model(models: CostModels, predictor: AccuracyPredictor, budget: Budget, how: str, gap: float, bound: float) -> str:
    space, sizes, margin = models.space, models.resolutions, models.margin
    counted = f"latency counted {1 + margin:.3f} times, its {models.confidence:.0%} upper bound for all subnets"
    if margin == 0:
        counted = "latency as predicted, its interval being unknown"
    said = f"no subnet is more than {_up(100 * gap)} points better ({how})"
    if gap <= PROVEN:
        said = f"proven: no subnet is better ({how})"
    elif bound >= 1:
        said = "how much better another may be is not known"
    return (
        f"greatest predicted top-1 found among all {space.count() * len(sizes):,} subnets of {space.name} at"
        f" {', '.join(map(str, sizes))} px within {budget} ({counted}), by exact search of the model's additive part"
        f" and exchanges on the model; {said}; latency: sum over blocks; " + predictor.describe()
    )


def _up(points: float) -> str:
    """Rounded up to a thousandth, so that what is said stays true."""
    return f"{np.ceil(points * 1000) / 1000:.3f}"
