"""A space at one resolution as a mixed-integer program: what is chosen, what it costs, what must hold.

In: Costs of a resolution, a PlaceScores, Limits. Out: `Program`: one 0/1 variable for every choice, its row of costs
and its score, and the equations of the space. Rules kept: the program is compact, with variables for places, not for
stages: a stage's first block by the widths before and after it, the others by the width after, all by the stage's
depth, on which the places' scores may depend; choices that no subnet within the limits can make have no variable.

Where w is a width, z the depth of a stage and x a block of one of its places:

    sum of w = 1     sum over depths of z = w after     sum over blocks of x = z     sum of first x = w before
    sum of cost x <= limit, of each cost that is a sum     sum of bytes + p <= memory     peak of each place's x <= p

The first line is a network of flows, so without limits its corners are subnets, and its relaxation's bound is the one
of Lagrange's multipliers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from ofa_edge.search.costs import COLUMNS, FAILED, HELD, LATENCY, PEAK, Costs, Floats, Widths
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.arrays import StageArrays

# Limits are scaled to this, so that the solver's tolerance of 1e-6 is 1e-8 of a limit; finer ones make it repair what
# it finds and try again.
SCALE = 100.0

# Kinds of variables: the stem (middle width, width after, depth); a width (place, number); a stage's depth (stage,
# number of the depth, width after); a block (stage, number of the depth, place, code, width before, width after).
STEM, WIDTH, DEPTH, BLOCK = range(4)


@dataclass(frozen=True, eq=False)
class Layout:
    """The variables and equations of a space, the same at all resolutions.

    Attributes:
        kind: (n,)
        at: (n, 6) what the kind is indexed by, 0 where it needs fewer.
        place: (n,) number of the place that a block or the stem or the head is at, in the order of the network; -1 for
            depths and for widths other than the last, which cost nothing.
        equations: (rows, n) of which the first equals 1, the others 0.
    """

    space: Space
    kind: Ints
    at: Ints
    place: Ints
    equations: Any

    @classmethod
    def of(cls, space: Space) -> Layout:
        columns = list(_variables(space))
        kind = np.array([kind for kind, _, _ in columns])
        at = np.array([[*index, *(0,) * (6 - len(index))] for _, index, _ in columns])
        place = np.array([place for _, _, place in columns])
        numbers = {(kind, *index): j for j, (kind, index, _) in enumerate(columns)}
        return cls(space, kind, at, place, _equations(space, numbers))

    @property
    def right(self) -> Floats:
        """What the equations equal."""
        right = np.zeros(self.equations.shape[0])
        right[0] = 1
        return right


@dataclass(frozen=True, eq=False)
class Program:
    """The variables that can be chosen at one resolution.

    Attributes:
        variables: (m,) their numbers in the layout.
        rows: (m, COLUMNS) what each costs; LOSS is 0.
        scores: (m,)
        constant: the score that all subnets share.
        limits: on the whole subnet.
        least_peak: bytes that no subnet's greatest activation is below.
    """

    layout: Layout
    resolution: int
    variables: Ints
    rows: Ints
    scores: Floats
    constant: float
    limits: Limits
    least_peak: int

    @classmethod
    def of(cls, layout: Layout, costs: Costs, scores: PlaceScores, limits: Limits) -> Program:
        rows = _rows(layout, costs)
        runs = rows[:, LATENCY] < FAILED
        least_peak = _least_peak(layout, rows, runs)
        if limits.memory is not None:
            # Whatever needs more than the memory with the fewest weights is out: the relaxation would not see it.
            runs &= rows[:, PEAK] <= limits.memory - _least_held(costs)
        constant = float(scores.of_resolution[scores.resolutions.index(costs.resolution)])
        variables = np.flatnonzero(runs)
        own = _scores(layout, scores)
        return cls(layout, costs.resolution, variables, rows[runs], own[runs], constant, limits, least_peak)

    def __len__(self) -> int:
        return len(self.variables)

    def take(self, keep: NDArray[np.bool_]) -> Program:
        """The same program with fewer choices."""
        return replace(self, variables=self.variables[keep], rows=self.rows[keep], scores=self.scores[keep])

    @property
    def equations(self) -> Any:
        """(rows, m + 1): the last column is that of the greatest activation p."""
        found = self.layout.equations[:, self.variables]
        found.resize((found.shape[0], len(self) + 1))
        return found

    @property
    def inequalities(self) -> tuple[Any, Floats]:
        """(rows, m + 1) and what they are not to exceed, scaled."""
        dense, right = [], []
        for column, limit in self.limits.sums.items():
            scale = SCALE / max(limit, 1)
            dense.append(np.append(self.rows[:, column] * scale, 0.0))
            right.append(limit * scale)
        if self.limits.memory is not None:
            scale = SCALE / self.limits.memory
            dense.append(np.append(self.rows[:, HELD] * scale, 1.0))
            right.append(SCALE)
            places = self.layout.place[self.variables]
            for place in np.unique(places[self.rows[:, PEAK] > self.least_peak]):
                dense.append(np.append(np.where(places == place, self.rows[:, PEAK] * scale, 0.0), -1.0))
                right.append(0.0)
        return csr_array(np.array(dense).reshape(len(dense), len(self) + 1)), np.array(right)

    @property
    def peak_bounds(self) -> tuple[float, float]:
        """Of the variable p, scaled; (0, 0) where nothing asks for it."""
        if self.limits.memory is None:
            return 0.0, 0.0
        return self.least_peak * SCALE / self.limits.memory, SCALE

    def costs_of(self, chosen: Ints) -> Ints:
        """(1, COLUMNS) of the subnet that these of the variables are, in exact integers."""
        rows = self.rows[chosen]
        total: Ints = rows.sum(axis=0, keepdims=True)
        total[:, PEAK] = rows[:, PEAK].max()
        return total

    def arch(self, chosen: Ints) -> Arch:
        """The subnet that these of the variables are."""
        space, layout = self.layout.space, self.layout
        numbers = self.variables[chosen]
        kinds, at = layout.kind[numbers], layout.at[numbers]
        middle, _, stem_depth = at[kinds == STEM][0, :3]
        around = {int(place): int(n) for place, n in at[kinds == WIDTH][:, :2]}
        blocks = at[kinds == BLOCK]
        stages = []
        for s, stage in enumerate(space.stages):
            own = blocks[blocks[:, 0] == s]
            code = np.zeros((1, stage.max_depth), dtype=np.int64)
            code[0, own[:, 2]] = own[:, 3]
            stages.append(StageArrays(stage, np.array([len(own)]), code).choice(0))
        picked = (middle, *(around[place] for place in sorted(around)))
        widths = tuple(choices[n] for choices, n in zip(space.width_choices, picked, strict=False))
        return Arch(self.resolution, tuple(stages), widths, space.stem.depths[int(stem_depth)])


# -- variables and equations --------------------------------------------------------------------
def _variables(space: Space) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """(kind, index, place) of each variable, in order."""
    widths = Widths.of(space)
    for index in np.ndindex(widths.middle, widths.around[0], len(space.stem.depths)):
        yield STEM, index, 0
    last = 1 + sum(stage.max_depth for stage in space.stages)
    for p, count in enumerate(widths.around):
        for n in range(count):
            yield WIDTH, (p, n), last if p == len(space.stages) else -1
    first = 1
    for s, stage in enumerate(space.stages):
        before, after = widths.around[s : s + 2]
        codes = len(stage.kernels) * len(stage.expands)
        for d, depth in enumerate(stage.depths):
            for a in range(after):
                yield DEPTH, (s, d, a), -1
            for i, code, b, a in np.ndindex(depth, codes, before, after):
                if i == 0 or b == 0:
                    yield BLOCK, (s, d, i, code + 1, b, a), first + i
        first += stage.max_depth


def _equations(space: Space, numbers: dict[tuple[int, ...], int]) -> Any:
    """(rows, variables): the first equals 1, the others 0."""
    rows: dict[tuple[Any, ...], list[tuple[int, float]]] = {("one",): []}

    def enter(row: tuple[Any, ...], variable: tuple[int, ...], value: float) -> None:
        rows.setdefault(row, []).append((numbers[variable], value))

    for kind, *index in numbers:
        variable = (kind, *index)
        if kind == WIDTH:
            if index[0] == 0:
                enter(("one",), variable, 1.0)
                enter(("stem", index[1]), variable, -1.0)
            else:
                enter(("depths", index[0] - 1, index[1]), variable, -1.0)
            if index[0] < len(space.stages):
                enter(("before", *index), variable, -1.0)
        elif kind == STEM:
            enter(("stem", index[1]), variable, 1.0)
        elif kind == DEPTH:
            s, d, a = index
            enter(("depths", s, a), variable, 1.0)
            for i in range(space.stages[s].depths[d]):
                enter(("blocks", s, d, i, a), variable, -1.0)
        else:
            s, d, i, _code, b, a = index
            enter(("blocks", s, d, i, a), variable, 1.0)
            if i == 0:
                enter(("before", s, b), variable, 1.0)
    entries = [(i, j, value) for i, row in enumerate(rows.values()) for j, value in row]
    at, variables, values = zip(*entries, strict=True)
    return csc_array((values, (at, variables)), shape=(len(rows), len(numbers)))


# -- what variables cost ------------------------------------------------------------------------
def _rows(layout: Layout, costs: Costs) -> Ints:
    """(n, COLUMNS) of all variables."""
    rows = np.zeros((len(layout.kind), len(COLUMNS)), dtype=np.int64)
    stem = layout.kind == STEM
    rows[stem] = costs.stem[tuple(layout.at[stem, :3].T)]
    last = (layout.kind == WIDTH) & (layout.at[:, 0] == len(costs.stages))
    rows[last] = costs.head[layout.at[last, 1]]
    for s, table in enumerate(costs.stages):
        own = (layout.kind == BLOCK) & (layout.at[:, 0] == s)
        _, _, place, code, before, after = layout.at[own].T
        rows[own] = table[before, after, place, code]
    return rows


def _scores(layout: Layout, scores: PlaceScores) -> Floats:
    """(n,) of all variables."""
    found = np.zeros(len(layout.kind))
    stem, width = layout.kind == STEM, layout.kind == WIDTH
    found[stem] = scores.of_stem_depth[layout.at[stem, 2]]
    if scores.of_width:
        found[stem] += scores.of_width[0][layout.at[stem, 0]]
        for place, of_width in enumerate(scores.of_width[1:]):
            own = width & (layout.at[:, 0] == place)
            found[own] = of_width[layout.at[own, 1]]
    for s in range(len(layout.space.stages)):
        own = (layout.kind == DEPTH) & (layout.at[:, 0] == s)
        found[own] = scores.of_depth[s][layout.at[own, 1]]
        own = (layout.kind == BLOCK) & (layout.at[:, 0] == s)
        found[own] = scores.of_place[s][tuple(layout.at[own, 1:4].T)]
    return found


def _least_peak(layout: Layout, rows: Ints, runs: NDArray[np.bool_]) -> int:
    """The greatest over the places that every subnet has of their least activation."""
    always = [0, int(layout.place.max())]
    first = 1
    for stage in layout.space.stages:
        always += range(first, first + min(stage.depths))
        first += stage.max_depth
    peaks = [rows[runs & (layout.place == place), PEAK] for place in always]
    return max((int(peak.min()) for peak in peaks if len(peak)), default=0)


def _least_held(costs: Costs) -> int:
    """Weight bytes that no subnet is below."""
    total = int(costs.stem[..., HELD].min()) + int(costs.head[:, HELD].min())
    for stage, table in zip(costs.space.stages, costs.stages, strict=True):
        least = table[:, :, :, 1:, HELD].min(axis=(0, 1, 3))
        total += min(int(least[:depth].sum()) for depth in stage.depths)
    return total
