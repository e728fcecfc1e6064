"""The best subnet of a pairwise accuracy model within a budget, with the proof: branch and bound on a Lagrangian bound.

In: a Space, a `Quadratic`, Costs of each resolution, Limits, a good subnet. Out: `Proof`: the best subnet found and a
score that no subnet within the limits exceeds; where the two meet the subnet is proven optimal.

How: each resolution is a field (field.py) whose bound is lowered (dual.py) until it is no greater than the best score
known, or it does not fall any more. The bound also says what a subnet with a certain label loses at least, and so with
some labels together: where that takes it down to the best score, all subnets with these labels are left out. What
remains is enumerated variable by variable, many partial choices at once, deepest and most promising first.

Rules kept: nothing is left out but by a true bound; limits hold exactly, in integers; effort is counted in steps and
partial choices, never in seconds, so the same input gives the same proof; what the effort does not suffice for stays in
the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.search.costs import Costs, Floats
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.limits import Limits
from ofa_edge.search.nonadditive.dual import Dual, Potentials
from ofa_edge.search.nonadditive.field import NEVER, Field, Places, Quadratic
from ofa_edge.space.population import ArchArrays

# Partial choices that are looked at before giving up, at one resolution.
NODES = 2_000_000
# (temperature in points, steps), partial choices to look at then: a step takes as long as some 500 of them, so a small
# tree is tried early. From the first resolution's cold start, and from multipliers of another resolution.
COLD = ((0.003, 100), 0), ((0.001, 100), 5_000), ((0.0003, 200), 50_000)
WARM = ((0.001, 100), 5_000), ((0.0003, 100), 20_000)
# And then, each time the tree is too large.
FINER = ((0.0003, 100), 80_000), ((0.0001, 200), 200_000), ((0.0001, 500), NODES)
# Partial choices that are expanded at once.
_CHUNK = 2048
# Of a whole limit, in points: where the search for multipliers begins.
PRICE = 10.0
# In points; sums of some hundred numbers err by much less.
ROUNDING = 1e-9

# Whether subnets keep all limits, (n,).
Keeps = Callable[[ArchArrays], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What is known of the best subnet.

    Attributes:
        best: the subnet (one row), and its score.
        bound: no subnet within the limits has a higher score.
        exact: the two are one, but for rounding.
        nodes: partial choices that were looked at.
    """

    best: ArchArrays
    score: float
    bound: float
    exact: bool
    nodes: int


def prove(
    quadratic: Quadratic,
    sizes: Sequence[int],
    costs: Sequence[Costs],
    limits: Limits,
    keeps: Keeps,
    best: ArchArrays,
    points: float,
    *,
    nodes: int = NODES,
) -> Proof:
    """Search all subnets at the resolutions of `costs` for one that is better than `best`, which keeps the limits.

    Args:
        sizes: the resolutions that the quadratic's first columns are of.
        points: of top-1 that one unit of score is worth near the best subnet; the temperatures are in points.
        nodes: partial choices to look at, at each resolution.
    """
    places = Places.of(best.space)
    start = int(best.resolution[0])
    order = sorted(costs, key=lambda own: (abs(own.resolution - start), own.resolution))
    search = _Search(places, points, keeps, best, -np.inf)
    z: Floats | None = None
    left: list[float] = []
    for own in order:
        field = Field.of(places, quadratic, sizes, own, limits)
        if own.resolution == start:
            search.score = points * float(field.scores(places.labels(best))[0])
        z, bound = search.resolution(Dual(field, points), z, nodes)
        left.append(bound)
    bound = max(search.score, *left)
    exact = bound <= search.score + 2 * ROUNDING
    return Proof(search.best, search.score / points, (bound + ROUNDING) / points, exact, search.nodes)


@dataclass
class _Search:
    """The best subnet so far, over all resolutions; scores in points.

    Attributes:
        nodes: partial choices looked at.
    """

    places: Places
    points: float
    keeps: Keeps
    best: ArchArrays
    score: float
    nodes: int = 0

    def resolution(self, dual: Dual, z: Floats | None, nodes: int) -> tuple[Floats, float]:
        """Search one resolution: multipliers for the next, and a bound on what is left unseen here."""
        stages = (*(COLD if z is None else WARM), *FINER)
        z = dual.start(self.places.labels(self.best)[0], PRICE) if z is None else z
        for (temperature, steps), effort in stages:
            z, bound = dual.descend(z, temperature, steps, self.score)
            if bound > self.score + ROUNDING and effort:
                bound = min(bound, _Tree(self, dual.field, dual.at(z)).search(min(effort, nodes)))
            if bound <= self.score + ROUNDING:
                break
        return z, bound


class _Tree:
    """Enumerates the labels of a field that a bound does not leave out, of variables with few such labels first."""

    def __init__(self, search: _Search, field: Field, found: Potentials):
        self._search, self._field, self._bound = search, field, found.bound
        variables, n = found.unary.shape
        single = found.unary - found.unary.max(axis=1, keepdims=True)
        i, j = np.triu_indices(variables, 1)
        loss = found.pair - found.pair.max(axis=(1, 2), keepdims=True)
        pair = np.zeros((variables, n, variables, n))
        pair[i, :, j, :], pair[j, :, i, :] = loss, loss.transpose(0, 2, 1)
        for _ in range(2):  # what is left out of one variable can leave out more of another
            least = single + pair.max(axis=3).sum(axis=2)
            gone = self._bound + least <= search.score + ROUNDING
            single[gone] = NEVER
            pair[gone] = NEVER
            pair[:, :, gone] = NEVER
        self._order = np.argsort((~gone).sum(axis=1), kind="stable")
        self._single = single[self._order]
        self._pair = np.ascontiguousarray(pair[self._order][:, :, self._order])
        # The least that pairs of variables lose which come after the k-th.
        both = np.triu(np.maximum(self._pair.max(axis=(1, 3)), NEVER), 1)
        self._after = np.array([both[k:, k:].sum() for k in range(variables + 1)])

    def search(self, effort: int) -> float:
        """Look at up to so many partial choices: a bound on those that were not seen, -inf where all were."""
        search, nodes = self._search, 0
        stack = [_Partials(np.zeros((1, 0), dtype=np.int64), np.zeros(1), self._single[None], np.array([self._bound]))]
        while stack:
            if nodes >= effort:
                search.nodes += nodes
                return max(float(partials.bound.max()) for partials in stack)
            children = self._expanded(stack.pop())
            nodes += len(children)
            if len(children) == 0:
                continue
            if children.labels.shape[1] == len(self._order):
                self._leaves(children.labels)
                continue
            starts = range(0, len(children), _CHUNK)
            stack += [children.some(slice(start, start + _CHUNK)) for start in reversed(starts)]
        search.nodes += nodes
        return -np.inf

    def _expanded(self, partials: _Partials) -> _Partials:
        """With one more variable's labels, but for those that the bound leaves out; most promising first."""
        least = self._search.score + ROUNDING
        partials = partials.some(partials.bound > least)
        k = partials.labels.shape[1]
        here, rest = partials.gain[:, 0], partials.gain[:, 1:]
        known = self._bound + self._after[k + 1]
        most = known + partials.loss[:, None] + here + rest.max(axis=2).sum(axis=1)[:, None]
        parent, label = np.nonzero(most > least)
        loss = partials.loss[parent] + here[parent, label]
        gain = rest[parent] + self._pair[k, label, k + 1 :]
        bound = known + loss + gain.max(axis=2, initial=NEVER).sum(axis=1)
        keep = np.flatnonzero(bound > least)
        keep = keep[np.argsort(-bound[keep], kind="stable")]
        labels = np.concatenate([partials.labels[parent[keep]], label[keep, None]], axis=1)
        return _Partials(labels, loss[keep], gain[keep], bound[keep])

    def _leaves(self, ordered: Ints) -> None:
        """Whole choices of labels: is one within the limits better than the best?"""
        search = self._search
        labels = np.empty_like(ordered)
        labels[:, self._order] = ordered
        scores = search.points * self._field.scores(labels)
        labels, scores = labels[scores > search.score], scores[scores > search.score]
        if len(labels) == 0:
            return
        archs = search.places.archs(self._field.resolution, labels)
        scores[~search.keeps(archs)] = -np.inf
        i = int(np.argmax(scores))
        if scores[i] > search.score:
            search.best, search.score = archs.take(slice(i, i + 1)), float(scores[i])


@dataclass(frozen=True, slots=True, eq=False)
class _Partials:
    """Choices of labels for the first k variables.

    Attributes:
        labels: (n, k).
        loss: (n,) against the bound, of the variables that are chosen.
        gain: (n, variables - k, labels) the same of each label of the others, with the chosen ones.
        bound: (n,) on the score of every subnet with these labels.
    """

    labels: Ints
    loss: Floats
    gain: Floats
    bound: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, rows: slice | np.ndarray) -> _Partials:
        return _Partials(self.labels[rows], self.loss[rows], self.gain[rows], self.bound[rows])
