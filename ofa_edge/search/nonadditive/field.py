"""A quadratic score of a space at one resolution as a field: a variable for each place, a potential for every two.

In: a Space, a `Quadratic`, Costs of a resolution, Limits. Out: `Field`: for each variable what each of its labels adds
to the score, for each two variables what two labels add together, and what they use of each limit. A label of a place
is its code, 0 where it is inactive; where widths are elastic the first place of a stage also says how wide the stage
is, and the stem is one variable more. A depth is no variable: it is told by which places are active, and labels that
tell no depth forbid each other.

Rules kept: scores and uses of a field are those of the subnets, exactly. What a field leaves out (of a limit on memory
the activations but for a few places) only lets more subnets in, so a bound over a field holds for all subnets within
the limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import PLACES, hat, shared_columns, stage_columns, stage_width
from ofa_edge.search.costs import FAILED, HELD, LATENCY, PEAK, Costs, Floats
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays

# Places whose activations a limit on memory is held against, besides the least that every subnet has.
_PEAKS = 4

# Less than any sum of scores, and finite, so that sums and differences of it stay numbers.
NEVER = -1e9


class Quadratic(NamedTuple):
    """score = level + slope x + x' bend x, for the columns x of encoding.encode(..., PLACES): what
    PairwiseAccuracy.polynomial gives."""

    level: float
    slope: Floats
    bend: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The variables of a space: what each label of each variable means.

    Attributes:
        stem: (labels, 3) middle width, width after and depth where any of these is elastic (the first variable then);
            else (0, 3).
        places: (stage, place, meaning (labels, 2): code and width after), in order; the width is 0 but for the first
            place of a stage, and counts in `Space.width_choices`.
    """

    space: Space
    stem: Ints
    places: tuple[tuple[int, int, Ints], ...]

    @classmethod
    def of(cls, space: Space) -> Places:
        around = [len(choices) for choices in space.width_choices] or [1] * (len(space.stages) + 2)
        of_stem = (around[0], around[1], len(space.stem.depths))
        stem = np.indices(of_stem).reshape(3, -1).T if max(of_stem) > 1 else np.zeros((0, 3), dtype=np.int64)
        found = []
        for s, stage in enumerate(space.stages):
            for i in range(stage.max_depth):
                codes = np.arange(i < min(stage.depths), len(stage.kernels) * len(stage.expands) + 1)
                widths = np.arange(around[s + 2] if i == 0 else 1)
                meaning = np.stack(np.meshgrid(codes, widths, indexing="ij"), axis=-1).reshape(-1, 2)
                found.append((s, i, meaning))
        return cls(space, stem, tuple(found))

    @property
    def first(self) -> int:
        """The number of the first place's variable."""
        return int(len(self.stem) > 0)

    @property
    def counts(self) -> list[int]:
        """How many labels each variable has."""
        return [*([len(self.stem)] * self.first), *(len(meaning) for _, _, meaning in self.places)]

    def archs(self, resolution: int, labels: Ints) -> ArchArrays:
        """The subnets of labels (n, variables)."""
        space, n = self.space, len(labels)
        codes = [np.zeros((n, stage.max_depth), dtype=np.int64) for stage in space.stages]
        widths, stem_depth = np.zeros((n, len(space.width_choices)), dtype=np.int64), np.zeros(n, dtype=np.int64)
        if self.first:
            of_stem = self.stem[labels[:, 0]]
            stem_depth = of_stem[:, 2]
            if space.elastic_width:
                widths[:, :2] = of_stem[:, :2]
        for v, (s, i, meaning) in enumerate(self.places, self.first):
            codes[s][:, i] = meaning[labels[:, v], 0]
            if i == 0 and space.elastic_width:
                widths[:, s + 2] = meaning[labels[:, v], 1]
        depth = np.stack([np.count_nonzero(code, axis=1) for code in codes], axis=1)
        return ArchArrays(space, np.full(n, resolution), depth, tuple(codes), widths, stem_depth)

    def labels(self, archs: ArchArrays) -> Ints:
        """(n, variables), of which `archs` makes the same subnets."""
        found = []
        if self.first:
            widths = archs.widths[:, :2] if self.space.elastic_width else np.zeros((len(archs), 2), dtype=np.int64)
            found.append(_number(self.stem, np.column_stack([widths, archs.stem_depth])))
        for s, i, meaning in self.places:
            own = i == 0 and self.space.elastic_width
            width = archs.widths[:, s + 2] if own else np.zeros(len(archs), dtype=np.int64)
            found.append(_number(meaning, np.column_stack([archs.codes[s][:, i], width])))
        return np.stack(found, axis=1)

    def features(self, terms: str = PLACES) -> tuple[Floats, list[Floats]]:
        """The columns of a subnet behind those of its resolution: what all share, (p,), plus those of each variable's
        label, (labels, p).

        Args:
            terms: of encoding, without joint ones.
        """
        space = self.space
        spans = np.cumsum([0, *(stage_width(stage, terms) for stage in space.stages)])
        none = _shared(space, np.zeros((1, len(space.width_choices)), dtype=np.int64), np.zeros(1, dtype=np.int64))[0]
        found = []
        if self.first:
            widths = np.zeros((len(self.stem), len(space.width_choices)), dtype=np.int64)
            if space.elastic_width:
                widths[:, :2] = self.stem[:, :2]
            shared = _shared(space, widths, self.stem[:, 2]) - none
            found.append(np.concatenate([np.zeros((len(self.stem), spans[-1])), shared], axis=1))
        for s, i, meaning in self.places:
            widths = np.zeros((len(meaning), len(space.width_choices)), dtype=np.int64)
            if i == 0 and space.elastic_width:
                widths[:, s + 2] = meaning[:, 1]
            own = np.zeros((len(meaning), spans[-1]))
            own[:, spans[s] : spans[s + 1]] = _place(space.stages[s], i, meaning[:, 0], terms)
            shared = _shared(space, widths, np.zeros(len(meaning), dtype=np.int64)) - none
            found.append(np.concatenate([own, shared], axis=1))
        return np.concatenate([np.zeros(spans[-1]), none]), found

    def forbids(self) -> NDArray[np.bool_]:
        """(variables, labels, variables, labels): labels of neighbouring places that tell no depth."""
        counts = self.counts
        found = np.zeros((len(counts), max(counts)) * 2, dtype=np.bool_)
        for v, ((s, i, before), (other, _, after)) in enumerate(itertools.pairwise(self.places), self.first):
            if s != other:
                continue
            active, next_active = before[:, :1] > 0, after[:, 0] > 0
            wrong = ~active & next_active
            if i + 1 not in self.space.stages[s].depths:
                wrong = active != next_active
            found[v, : len(before), v + 1, : len(after)] = wrong
            found[v + 1, : len(after), v, : len(before)] = wrong.T
        return found


def _number(rows: Ints, wanted: Ints) -> Ints:
    """Which of `rows` each of `wanted` is, (n,)."""
    found: Ints = (rows == wanted[:, None]).all(axis=2).argmax(axis=1)
    return found


def _shared(space: Space, widths: Ints, stem_depth: Ints) -> Floats:
    n, no_stages = len(stem_depth), np.zeros((len(stem_depth), len(space.stages)), dtype=np.int64)
    return shared_columns(ArchArrays(space, np.zeros(n, dtype=np.int64), no_stages, (), widths, stem_depth))


def _place(stage: Stage, i: int, codes: Ints, terms: str) -> Floats:
    """What the columns of a stage gain from place `i` with these codes: its own, and a depth in place of another."""
    before = (np.arange(stage.max_depth) < i).astype(np.int64)[None]
    with_it = np.repeat(before, len(codes), axis=0)
    with_it[:, i] = np.maximum(codes, 1)
    deeper = stage_columns(stage, StageArrays(stage, np.full(len(codes), i + 1), with_it), terms)
    shallower = stage_columns(stage, StageArrays(stage, np.full(1, i), before), terms)
    return np.where(codes[:, None] > 0, deeper - shallower, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """score(labels) = level + sum over variables of unary + sum over pairs of variables of pair.

    Attributes:
        unary: (variables, labels); NEVER where a label is none, or cannot run.
        pair: (variables, labels, variables, labels), symmetric, 0 within a variable.
        forbids: as pair: which labels exclude each other.
        use: (limits, variables, labels) as shares of each limit.
        pair_use: (limits, variables, labels, variables, labels) where widths are elastic, else None.
        room: (limits,) what the uses of a subnet within the limits add up to at most.
    """

    resolution: int
    level: float
    unary: Floats
    pair: Floats
    forbids: NDArray[np.bool_]
    use: Floats
    pair_use: Floats | None
    room: Floats

    @classmethod
    def of(cls, places: Places, quadratic: Quadratic, sizes: Sequence[int], costs: Costs, limits: Limits) -> Field:
        """The field at the resolution of `costs`.

        Args:
            sizes: the resolutions that the quadratic's first columns are of.
        """
        shared, features = places.features()
        known = np.concatenate([hat(np.array([costs.resolution]), tuple(sizes))[0], shared])
        counts, forbids = places.counts, places.forbids()
        n = max(counts)
        columns = np.zeros((len(counts), n, len(known)))
        exists = np.zeros((len(counts), n), dtype=np.bool_)
        for v, own in enumerate(features):
            columns[v, : len(own), len(sizes) :] = own
            exists[v, : len(own)] = True
        curved = columns @ quadratic.bend
        unary = columns @ quadratic.slope + 2 * curved @ known + np.einsum("vlp,vlp->vl", curved, columns)
        pair = 2 * np.einsum("vlp,wmp->vlwm", curved, columns, optimize=True)
        pair[np.arange(len(counts)), :, np.arange(len(counts))] = 0.0
        level = quadratic.level + float(known @ quadratic.slope) + float(known @ quadratic.bend @ known)
        use, pair_use, room, runs, both_run = uses_of(places, costs, limits)
        return cls(
            costs.resolution,
            level,
            np.where(exists & runs, unary, NEVER),
            pair,
            forbids if both_run is None else forbids | ~both_run,
            use,
            pair_use,
            room,
        )

    def scores(self, labels: Ints) -> Floats:
        """(n,) of labels (n, variables) that do not forbid each other."""
        v = np.arange(len(self.unary))
        both = self.pair[v[:, None], labels[:, :, None], v, labels[:, None, :]]
        found: Floats = self.level + self.unary[v, labels].sum(axis=1) + both.sum(axis=(1, 2)) / 2
        return found


_Uses = tuple[Floats, Floats | None, Floats, NDArray[np.bool_], NDArray[np.bool_] | None]


def uses_of(places: Places, costs: Costs, limits: Limits) -> _Uses:
    """use, pair_use and room of a Field; which labels can run, (variables, labels), and which pairs of them."""
    caps = _caps(costs, limits)
    columns = [*caps, LATENCY]  # the last one tells what cannot run
    counts = places.counts
    use = np.zeros((len(columns), len(counts), max(counts)))
    pair_use = np.zeros((len(columns), *((len(counts), max(counts)) * 2))) if places.space.elastic_width else None
    fixed = np.zeros(len(columns))
    if places.first:
        of_stem = costs.stem[tuple(places.stem.T)][:, columns].T
        use[:, 0, : of_stem.shape[1]] = of_stem
    else:
        fixed += costs.stem[0, 0, 0, columns]
    widths_before, before = places.stem[:, 1], 0  # of the variable that says the width before, and its number
    for v, (s, i, meaning) in enumerate(places.places, places.first):
        table, (code, width) = costs.stages[s], meaning.T
        if pair_use is None:
            use[:, v, : len(code)] = table[0, 0, i, code][:, columns].T
            continue
        # The first block of a stage costs by the widths before and after it, the others by that after: the first's.
        if i == 0:
            both = table[widths_before[:, None], width, 0, code]
        else:
            both = table[0, widths_before[:, None], i, code]
        pair_use[:, before, : len(widths_before), v, : len(code)] = np.moveaxis(both[..., columns], -1, 0)
        pair_use[:, v, : len(code), before] = np.moveaxis(pair_use[:, before, :, v, : len(code)], 1, 2)
        if i == 0:
            widths_before, before = width, v
    if places.space.elastic_width:
        use[:, before, : len(widths_before)] += costs.head[widths_before][:, columns].T
    else:
        fixed += costs.head[0, columns]
    runs, both_run = use[-1] < FAILED, None if pair_use is None else pair_use[-1] < FAILED
    greatest = np.array([*map(float, caps.values())])[:, None]
    use = np.where(runs, use, 0.0)[:-1] / greatest[:, :, None]
    if pair_use is not None and both_run is not None:
        pair_use = np.where(both_run, pair_use, 0.0)[:-1] / greatest[:, :, None, None, None]
    room = 1.0 - fixed[:-1] / greatest[:, 0]
    if limits.memory is not None and pair_use is None:
        of_bytes = [*caps].index(HELD)
        more = _peak_uses(places, costs, use[of_bytes] * greatest[of_bytes], fixed[of_bytes], limits.memory)
        use, room = np.concatenate([use, more[0]]), np.concatenate([room, more[1]])
    return use, pair_use, room, runs, both_run


def _caps(costs: Costs, limits: Limits) -> dict[int, int]:
    """The limits as limits on sums: weights have to leave room for the least peak that any subnet has."""
    caps = dict(limits.sums)
    if limits.memory is not None:
        caps[HELD] = limits.memory - _least_peak(costs)
    return {column: max(1, cap) for column, cap in caps.items()}


def _least_peak(costs: Costs) -> int:
    """Bytes that no subnet's greatest activation is below."""
    peak = max(int(costs.stem[..., PEAK].min()), int(costs.head[..., PEAK].min()))
    for stage, table in zip(costs.space.stages, costs.stages, strict=True):
        least = table[:, :, : min(stage.depths), 1:, PEAK].min(axis=(0, 1, 3))
        peak = max(peak, int(least.max()))
    return peak


def _peak_uses(places: Places, costs: Costs, of_bytes: Floats, fixed: float, memory: int) -> tuple[Floats, Floats]:
    """use and room of a limit on memory once more for each of the places with the greatest activations: all weights and
    the activation of that place have to fit, which is a sum again."""
    least = _least_peak(costs)
    above = np.zeros(of_bytes.shape)
    for v, (s, i, meaning) in enumerate(places.places, places.first):
        above[v, : len(meaning)] = costs.stages[s][0, 0, i, meaning[:, 0], PEAK] - least
    above = np.maximum(above, 0)
    greatest = above.max(axis=1)
    chosen = [int(v) for v in np.argsort(-greatest, kind="stable")[:_PEAKS] if greatest[v] > 0]
    cap = max(1, memory - least)
    use = np.repeat(of_bytes[None], len(chosen), axis=0)
    use[np.arange(len(chosen)), chosen] += above[chosen]
    return use / cap, np.full(len(chosen), 1 - fixed / cap)
