"""Subnets at one resolution as a chain of links with several limited costs, and the listing of those near a bound.

In: a Space, the costs of several devices at one resolution, limits, a score that is a sum over stages. Out: a
`Problem`: the best subnet at given prices of the limits, and every subnet within the limits whose priced value is at
least some floor, offered to a `Best`. What it is for says common.py.

Rules kept: costs and scores are integers and so are comparisons with limits; prices are floats, and what they drop is
dropped with slack; a listing is bounded in memory: where partial subnets are many, those are dropped that another
beats in score and in every limited cost. No Python loop over subnets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_edge.search.costs import FAILED, LATENCY, PEAK, Costs, Floats, Widths
from ofa_edge.search.exact.frontier import PER_SCORE, Front, StageScores
from ofa_edge.search.exact.pareto import Ints, nondominated
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.arrays import StageArrays

# Pairs of partial subnets that are in memory at once, and partial subnets from which on beaten ones are dropped.
_PAIRS = 1 << 19
_MANY = 1 << 14
# Rounding of sums of values: far above their last bits, far below a difference of scores that matters.
_SLACK = 1e-11


@dataclass(frozen=True, slots=True)
class Column:
    """A limited cost: the column of costs.py, of which of the devices, and the greatest it may be.

    Attributes:
        with_peak: the peak activation counts too (memory).
    """

    device: int
    column: int
    limit: int
    with_peak: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Partial subnets: some neighbouring links of the chain of stem, stages and head.

    Attributes:
        first, last: (n,) numbers of the width before and after; neighbours join where these are equal.
        value: (n,) score less what is paid.
        score: (n,) in 1 / PER_SCORE.
        use: (n, columns), sums.
        peak: (n, columns) bytes, a maximum; 0 where the column counts no peak.
        times: (n, devices) latencies, sums.
        rows: (n, k) as in Front.
    """

    first: Ints
    last: Ints
    value: Floats
    score: Ints
    use: Ints
    peak: Ints
    times: Ints
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, keep: Any) -> Part:
        """Those rows."""
        return Part(*(getattr(self, name)[keep] for name in self.__slots__))

    def then(self, mine: Ints, other: Part, theirs: Ints) -> Part:
        """These rows, each followed by one of the other's."""
        return Part(
            self.first[mine],
            other.last[theirs],
            self.value[mine] + other.value[theirs],
            self.score[mine] + other.score[theirs],
            self.use[mine] + other.use[theirs],
            np.maximum(self.peak[mine], other.peak[theirs]),
            self.times[mine] + other.times[theirs],
            np.concatenate([self.rows[mine], other.rows[theirs]], axis=1),
        )


def _together(parts: Sequence[Part]) -> Part:
    return Part(*(np.concatenate([getattr(part, name) for part in parts]) for name in Part.__slots__))


class Best:
    """The best subnets that were offered: greatest score, or where nothing is scored the least share of the limits.

    Of equals the one with the lower resolution, then the faster, device by device, then the first in the axes' order.
    """

    def __init__(self, count: int, floor: float = -math.inf):
        self._count = count
        self._floor = floor
        self._found: list[tuple[float, int, tuple[int, ...], tuple[int, ...]]] = []

    def __len__(self) -> int:
        return len(self._found)

    @property
    def reached(self) -> float:
        """What a further subnet must reach to be among the best."""
        return -self._found[-1][0] if len(self._found) == self._count else self._floor

    def offer(self, resolution: int, keys: Floats, times: Ints, rows: Ints) -> None:
        """Subnets at one resolution with what they are ordered by, greatest first."""
        good = np.flatnonzero(keys >= self.reached)
        order = np.lexsort((*rows[good].T[::-1], *times[good].T[::-1], -keys[good]))[: self._count]
        for i in good[order]:
            self._found.append((-float(keys[i]), resolution, tuple(times[i].tolist()), tuple(rows[i].tolist())))
        self._found = sorted(self._found)[: self._count]

    def archs(self, space: Space) -> list[tuple[float, Arch]]:
        """Best first, each with what it is ordered by."""
        if not self._found:
            return []
        rows = np.array([rows for *_, rows in self._found], dtype=np.int64)
        sizes = np.array([size for _, size, *_ in self._found], dtype=np.int64)
        front = Front(space, sizes, rows, np.zeros((len(rows), 1), dtype=np.int64))
        return [(-key, front.arch(i)) for i, (key, *_) in enumerate(self._found)]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One subnet: its priced value, its score, and what it uses, sums and peaks (columns,)."""

    value: float
    score: float
    use: Ints
    peak: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """All subnets at one resolution that can run on every device, and limits.

    Attributes:
        widths: how many there are before the stem and after each link.
        scored: whether there is anything to maximise; else the value of a subnet is what it pays, negated.
    """

    resolution: int
    links: tuple[Part, ...]
    widths: tuple[int, ...]
    columns: tuple[Column, ...]
    scored: bool

    @classmethod
    def of(
        cls, space: Space, devices: Sequence[Costs], columns: Sequence[Column], score: StageScores | None
    ) -> Problem | None:
        """None where no subnet can run on all devices."""
        resolution = devices[0].resolution
        tables, scores = _links(space, devices), _scores(space, score, resolution)
        links = tuple(_link(*table, own, columns) for table, own in zip(tables, scores, strict=True))
        if not all(len(link) for link in links):
            return None
        widths = (1, *Widths.of(space).around, 1)
        return cls(resolution, links, widths, tuple(columns), score is not None)

    @property
    def greatest(self) -> float:
        """A score that no subnet exceeds."""
        return sum(int(link.score.max()) for link in self.links) / PER_SCORE

    @property
    def least(self) -> float:
        """A score that every subnet reaches."""
        return sum(int(link.score.min()) for link in self.links) / PER_SCORE

    @property
    def shift(self) -> Ints:
        """(columns,): what every subnet uses besides the sums: of memory, the least peak there is."""
        return np.asarray(np.max([link.peak.min(axis=0) for link in self.links], axis=0))

    @property
    def limits(self) -> Ints:
        """(columns,)"""
        return np.array([column.limit for column in self.columns], dtype=np.int64)

    # -- prices ---------------------------------------------------------------------------------
    def best(self, prices: Floats) -> Seen:
        """The subnet with the greatest score less prices x (share of each limit - 1); where nothing is scored, less
        prices x share."""
        links = self.priced(prices)
        ahead = _ahead(links, self.widths)
        width, rows = 0, []
        for link, before in zip(links[::-1], ahead[-2::-1], strict=True):
            rows.append(int(np.argmax(np.where(link.last == width, before[link.first] + link.value, -np.inf))))
            width = int(link.first[rows[-1]])
        chosen = list(zip(links, rows[::-1], strict=True))
        return Seen(
            float(ahead[-1][0]) + self.free(prices),
            sum(int(link.score[i]) for link, i in chosen) / PER_SCORE,
            np.sum([link.use[i] for link, i in chosen], axis=0),
            np.max([link.peak[i] for link, i in chosen], axis=0),
        )

    def priced(self, prices: Floats) -> list[Part]:
        """The links, with what each row is worth at these prices."""
        per_unit = prices / self.limits
        own = 1 / PER_SCORE if self.scored else 0.0
        return [replace(link, value=link.score * own - link.use @ per_unit) for link in self.links]

    def free(self, prices: Floats) -> float:
        """What sums of values lack."""
        return float(prices.sum() if self.scored else 0.0) - float(prices @ (self.shift / self.limits))

    # -- listing --------------------------------------------------------------------------------
    def list_within(self, prices: Floats, floor: float, found: Best, factor: float = 1.0) -> int:
        """Offer `found` the subnets within `factor` x the limits whose value, as `best` has it, is at least `floor`.

        Of the partial subnets on the way, where they are many, only those that no other beats in everything.

        Returns:
            how many partial subnets the greatest step held.
        """
        listing = _Listing(self, prices, floor, factor, found)
        return listing.run()


class _Listing:
    """One listing: partial subnets grow from both ends, the smaller first, and meet."""

    def __init__(self, problem: Problem, prices: Floats, floor: float, factor: float, found: Best):
        self.problem = problem
        self.prices = prices
        self.found = found
        self.links = problem.priced(prices)
        self.ahead = _ahead(self.links, problem.widths)
        self.behind = _behind(self.links, problem.widths)
        self.floor = floor - problem.free(prices) - _SLACK
        self.limits = problem.limits if factor == 1.0 else np.floor(problem.limits * factor).astype(np.int64)
        self.greatest = 0

    def run(self) -> int:
        parts = []
        for place, link in enumerate(self.links):
            near = self.ahead[place][link.first] + link.value + self.behind[place + 1][link.last] >= self.floor
            parts.append(link.some(near))
        if not all(map(len, parts)):
            return 0
        self.least = np.array([part.use.min(axis=0) for part in parts])
        self.low_peak = np.array([part.peak.min(axis=0) for part in parts])
        left, right, start, end = parts[0], parts[-1], 1, len(parts) - 1
        while start < end and len(left) and len(right):
            if len(left) <= len(right):
                left = self._joined(left, parts[start], 0, start + 1)
                start += 1
            else:
                right = self._joined(parts[end - 1], right, end - 1, len(parts))
                end -= 1
        if len(left) and len(right):
            for pairs in self._pairs(left, right, 0, len(parts)):
                used = pairs.use + pairs.peak
                keys = pairs.score / PER_SCORE
                if not self.problem.scored:
                    keys = -np.max(used / self.problem.limits, axis=1)
                self.found.offer(self.problem.resolution, keys, pairs.times, pairs.rows)
        return self.greatest

    def _joined(self, left: Part, right: Part, start: int, end: int) -> Part:
        found = list(self._pairs(left, right, start, end))
        whole = _together(found) if found else left.then(np.arange(0), right, np.arange(0))
        self.greatest = max(self.greatest, len(whole))
        return self._unbeaten(whole)

    def _pairs(self, left: Part, right: Part, start: int, end: int) -> Iterator[Part]:
        """Rows of left, each with every row of right that it joins and that keeps floor and limits, in slices."""
        floor, whole = self.floor, end - start == len(self.links)
        if whole:  # no value is less than what it is ordered by
            floor = max(floor, self.found.reached - self.problem.free(self.prices) - _SLACK)
        for width in np.unique(left.last):
            mine, theirs = np.flatnonzero(left.last == width), np.flatnonzero(right.first == width)
            a = self.ahead[start][left.first[mine]] + left.value[mine]
            b = right.value[theirs] + self.behind[end][right.last[theirs]]
            order = np.argsort(-b, kind="stable")
            theirs, b = theirs[order], b[order]
            many = np.searchsorted(-b, a - floor, side="right")
            mine, many = mine[many > 0], many[many > 0]
            begin = 0
            while begin < len(mine):
                sums = np.cumsum(many[begin:])
                stop = begin + max(1, int(np.searchsorted(sums, _PAIRS, side="right")))
                count = many[begin:stop]
                offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
                pairs = left.then(np.repeat(mine[begin:stop], count), right, theirs[offset])
                pairs = pairs.some(self._fits(pairs, start, end))
                if len(pairs):
                    yield pairs if whole else self._unbeaten(pairs)
                begin = stop

    def _fits(self, part: Part, start: int, end: int) -> Any:
        """Which rows keep the limits with the cheapest rest."""
        rest = np.concatenate([self.least[:start], self.least[end:]]).sum(axis=0)
        peak = np.concatenate([self.low_peak[:start], self.low_peak[end:]]).max(axis=0, initial=0)
        used = part.use + rest + np.maximum(part.peak, peak)
        return (used <= self.limits).all(axis=1)

    def _unbeaten(self, part: Part) -> Part:
        if len(part) < _MANY:
            return part
        with_peak = [i for i, column in enumerate(self.problem.columns) if column.with_peak]
        costs = np.column_stack([part.use, -part.score, part.peak[:, with_peak]])
        ends = part.first * (int(part.last.max()) + 1) + part.last
        groups = [np.flatnonzero(ends == one) for one in np.unique(ends)]
        return part.some(np.sort(np.concatenate([group[nondominated(costs[group])] for group in groups])))


# -- tables -------------------------------------------------------------------------------------
_Named = Callable[..., tuple[Ints, Ints, list[Ints]]]  # an entry's indices -> its first, last and rows


def _links(space: Space, devices: Sequence[Costs]) -> list[tuple[Ints, _Named]]:
    """Stem, stages and head: tables (devices, ..., COLUMNS), and what their axes are."""
    stages = [
        np.stack([costs.of_stage(s, StageArrays.all(stage)) for costs in devices])
        for s, stage in enumerate(space.stages)
    ]
    return [
        (np.stack([costs.stem for costs in devices]), lambda m, a, d: (0 * a, a, [m, a, d])),
        *((table, lambda b, a, n: (b, a, [n, a])) for table in stages),
        (np.stack([costs.head for costs in devices]), lambda b: (b, 0 * b, [])),
    ]


def _link(table: Ints, named: _Named, score: Ints, columns: Sequence[Column]) -> Part:
    """The entries of a table that can run on all devices."""
    first, last, rows = named(*(index.ravel() for index in np.indices(table.shape[1:-1])))
    flat = table.reshape(len(table), -1, table.shape[-1])
    part = Part(
        first,
        last,
        np.zeros(len(first)),
        score,
        np.stack([flat[c.device, :, c.column] for c in columns], axis=1),
        np.stack([flat[c.device, :, PEAK] * c.with_peak for c in columns], axis=1),
        flat[:, :, LATENCY].T,
        np.stack(rows, axis=1) if rows else np.empty((len(first), 0), dtype=np.int64),
    )
    return part.some((part.times < FAILED).all(axis=1))


def _scores(space: Space, score: StageScores | None, resolution: int) -> list[Ints]:
    """What stem, stages and head add to the score, in the order of their entries."""
    widths = Widths.of(space)
    around = widths.around
    counts = [StageArrays.all(stage) for stage in space.stages]
    if score is None:
        sizes = [widths.middle * around[0] * len(space.stem.depths)]
        sizes += [b * a * len(n) for b, a, n in zip(around, around[1:], counts, strict=False)]
        return [np.zeros(size, dtype=np.int64) for size in (*sizes, around[-1])]
    of_width = [np.zeros(n) for n in (widths.middle, *around)]
    if space.elastic_width:
        of_width = [score.width_scores(place) for place in range(len(of_width))]
    of_depth = score.stem_depth_scores() if len(space.stem.depths) > 1 else np.zeros(1)
    tables = [of_width[0][:, None, None] + of_width[1][:, None] + of_depth]
    for s, values in enumerate(counts):
        alike = np.zeros(around[s])[:, None, None]  # what the width before adds was counted there
        tables.append(alike + of_width[s + 2][:, None] + score.stage_scores(s, values))
    tables.append(np.full(around[-1], score.offset(resolution)))
    return [np.rint(table.ravel() * PER_SCORE).astype(np.int64) for table in tables]


# -- sums along the chain -----------------------------------------------------------------------
def _ahead(links: Sequence[Part], widths: Sequence[int]) -> list[Floats]:
    """The greatest value up to each boundary, by the width there."""
    found = [np.zeros(1)]
    for link, count in zip(links, widths[1:], strict=True):
        best = np.full(count, -np.inf)
        np.maximum.at(best, link.last, found[-1][link.first] + link.value)
        found.append(best)
    return found


def _behind(links: Sequence[Part], widths: Sequence[int]) -> list[Floats]:
    """The greatest value from each boundary on, by the width there."""
    found = [np.zeros(1)]
    for link, count in zip(links[::-1], widths[-2::-1], strict=True):
        best = np.full(count, -np.inf)
        np.maximum.at(best, link.first, found[-1][link.last] + link.value)
        found.append(best)
    return found[::-1]
