"""Exchange moves: the subnets that differ from one in a choice or two, and the climb from subnet to better subnet.

In: a subnet, scores and limits of whole populations. Out: the best subnet that such moves lead to, and all good ones
seen. A move is another code at a place, another depth of a stage (with every choice of the blocks that come new),
another resolution, width or stem depth; an exchange of two joins any two moves that touch different choices, so that
one may pay for the other. Rules kept: no subnet is taken that breaks a limit; the best move is taken, of equals the
first, so the same start climbs the same way. No Python loop over neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ofa_edge.search.costs import FAILED, HELD, LATENCY, PEAK, Floats
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Space
from ofa_edge.space.population import ArchArrays

# Exchanges of two that are scored, of those that promise most; some ten times as many exist.
_PAIRS = 3000
# Estimated uses of two moves together may be this much above a limit: only uses at one resolution add up.
_LOOSE = 1.01
# Blocks that come new with a depth have all their choices up to so many, else they are alike.
_COMBINATIONS = 128
_STEPS = 200
# Of scores: what is less is rounding.
_LEAST = 1e-10
_KEPT = 64


@dataclass
class Climber:
    """Climbs; remembers the best subnets within the limits that it saw.

    Attributes:
        score: (n,) of archs.
        costs: (n, COLUMNS) of archs.
        resolutions: to move between.
        seen: bytes of a row of ArchArrays.matrix -> score.
    """

    space: Space
    resolutions: tuple[int, ...]
    score: Callable[[ArchArrays], Floats]
    costs: Callable[[ArchArrays], Ints]
    limits: Limits
    seen: dict[bytes, float] = field(default_factory=dict)

    def keeps(self, archs: ArchArrays) -> np.ndarray:
        """(n,) whether archs keep all limits."""
        return self._kept(self.costs(archs))

    def climb(self, start: ArchArrays) -> tuple[ArchArrays, float]:
        """From one subnet within the limits to one that no move and no exchange of two that was tried betters."""
        row, score = start.matrix()[0], float(self.score(start)[0])
        self._remember(row[None], np.array([score]))
        for _ in range(_STEPS):
            found = self._step(row, score)
            if found is None:
                break
            row, score = found
        return from_matrix(self.space, row[None]), score

    def best(self, count: int) -> tuple[ArchArrays, Floats]:
        """The best subnets seen, best first, and their scores."""
        rows = sorted(self.seen.items(), key=lambda item: (-item[1], item[0]))[:count]
        matrix = np.array([np.frombuffer(row, dtype=np.int64) for row, _ in rows])
        return from_matrix(self.space, matrix), np.array([score for _, score in rows])

    def _step(self, row: Ints, score: float) -> tuple[Ints, float] | None:
        moved, touched = neighbours(self.space, self.resolutions, row)
        archs = from_matrix(self.space, np.concatenate([row[None], moved]))
        costs, scores = self.costs(archs), self.score(archs)
        found = self._best(moved, costs[1:], scores[1:], score)
        if found is not None:
            return found
        shares = self._shares(costs)
        first, second = np.nonzero(np.triu(touched.astype(np.float64) @ touched.T.astype(np.float64) == 0, k=1))
        gain = scores[1:] - score
        promise = gain[first] + gain[second]
        with np.errstate(divide="ignore", invalid="ignore"):
            together = shares[1:][first] * shares[1:][second] / shares[0]
        promise[~(together <= _LOOSE).all(axis=1)] = -np.inf
        order = np.argsort(-promise, kind="stable")[:_PAIRS]
        order = order[promise[order] > -np.inf]
        both = moved[first[order]] + moved[second[order]] - row
        archs = from_matrix(self.space, both)
        return self._best(both, self.costs(archs), self.score(archs), score)

    def _best(self, rows: Ints, costs: Ints, scores: Floats, least: float) -> tuple[Ints, float] | None:
        """The best row within the limits, if its score is greater than `least`."""
        fits = np.flatnonzero(self._kept(costs))
        if len(fits) == 0:
            return None
        top = fits[np.argsort(-scores[fits], kind="stable")[:_KEPT]]
        self._remember(rows[top], scores[top])
        i = int(top[0])
        return (rows[i], float(scores[i])) if scores[i] > least + _LEAST * max(1.0, abs(least)) else None

    def _kept(self, costs: Ints) -> np.ndarray:
        kept: np.ndarray = self.limits.kept(costs) & (costs[:, LATENCY] < FAILED)
        return kept

    def _shares(self, costs: Ints) -> Floats:
        """(n, limits) what part of each limit is used."""
        found = [costs[:, column] / limit for column, limit in self.limits.sums.items()]
        if self.limits.memory is not None:
            found.append((costs[:, HELD] + costs[:, PEAK]) / self.limits.memory)
        return np.stack([np.ones(len(costs)), *found], axis=1)

    def _remember(self, rows: Ints, scores: Floats) -> None:
        for row, score in zip(rows, scores.tolist(), strict=True):
            self.seen.setdefault(row.astype(np.int64).tobytes(), score)
        if len(self.seen) > 16 * _KEPT:
            self.seen = dict(sorted(self.seen.items(), key=lambda item: (-item[1], item[0]))[:_KEPT])


def from_matrix(space: Space, matrix: Ints) -> ArchArrays:
    """The archs that ArchArrays.matrix makes these rows of."""
    ends = np.cumsum([1, *(stage.max_depth for stage in space.stages), len(space.width_choices)])
    resolution, *codes, widths, stem_depth = np.split(matrix, ends, axis=1)
    depth = np.stack([np.count_nonzero(code, axis=1) for code in codes], axis=1)
    return ArchArrays(space, resolution[:, 0], depth, tuple(codes), widths, stem_depth[:, 0])


def neighbours(space: Space, resolutions: tuple[int, ...], row: Ints) -> tuple[Ints, np.ndarray]:
    """All subnets one move away: rows of ArchArrays.matrix (n, columns), and which columns each move is of."""
    moved, touched = [], []

    def add(first: int, last: int, values: Ints, own: bool) -> None:
        """Put `values` (n, last - first) at these columns; a move is of those it changes, if `own`, else of all."""
        rows = np.repeat(row[None], len(values), axis=0)
        rows[:, first:last] = values
        of = np.zeros(rows.shape, dtype=np.bool_)
        of[:, first:last] = (rows != row)[:, first:last] if own else True
        moved.append(rows)
        touched.append(of)

    add(0, 1, _others(resolutions, row[0]), True)
    first = 1
    for stage in space.stages:
        last = first + stage.max_depth
        code, codes = row[first:last], np.arange(1, len(stage.kernels) * len(stage.expands) + 1)
        depth = int(np.count_nonzero(code))
        for i in range(depth):
            values = np.repeat(code[None], len(codes), axis=0)
            values[:, i] = codes
            add(first, last, values[codes != code[i]], True)
        for other in stage.depths:
            if other != depth:
                add(first, last, _of_depth(code, depth, other, codes), False)
        first = last
    numbers = [len(choices) for choices in space.width_choices]
    for column, count in enumerate([*numbers, len(space.stem.depths)], first):
        add(column, column + 1, _others(range(count), row[column]), True)
    return np.concatenate(moved), np.concatenate(touched)


def _others(values: Sequence[int], value: int) -> Ints:
    """(n, 1) all but the value."""
    return np.array([other for other in values if other != value], dtype=np.int64)[:, None]


def _of_depth(code: Ints, depth: int, other: int, codes: Ints) -> Ints:
    """The stage at another depth, with new blocks of all kinds."""
    new = max(0, other - depth)
    if len(codes) ** new <= _COMBINATIONS:
        kinds = codes[np.indices((len(codes),) * new).reshape(new, -1).T] if new else codes[:1, None][:, :0]
    else:
        kinds = np.repeat(codes[:, None], new, axis=1)
    found = np.zeros((len(kinds), len(code)), dtype=np.int64)
    kept = min(depth, other)
    found[:, :kept] = code[:kept]
    found[:, kept:other] = kinds
    return found
