"""A polynomial of degree two in the columns of archs, as tables: what many archs are scored by in little time.

In: level, slope (p,) and bend (p, p) of score(x) = level + slope x + x' bend x, x being the columns of encoding.encode.
Out: `PairTables`. Every column is a function of one part of an arch: some places of a stage, or its resolution. So the
score is a sum over pairs of parts, and each pair's term is looked up. Rule kept: the expansion is exact but for the
rounding of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import hat, shared_values, stage_columns, stage_width
from ofa_edge.space.arch import Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays, Ints, code_count

Floats = NDArray[np.float64]

# Values of one part: a table of pairs of two such parts stays in the cache. Archs looked up at once.
_VALUES = 128
_ROWS = 1 << 13


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something that an arch has, numbered.

    Attributes:
        of: archs -> (n,) numbers.
        columns: (values, p) what each number adds to an arch's columns.
    """

    of: Callable[[ArchArrays], Ints]
    columns: Floats

    def and_also(self, other: Part) -> Part:
        """Both as one: the numbers are pairs."""
        count, p = other.columns.shape

        def numbers(archs: ArchArrays) -> Ints:
            found: Ints = self.of(archs) * count + other.of(archs)
            return found

        return Part(numbers, (self.columns[:, None] + other.columns).reshape(-1, p))


@dataclass(frozen=True, slots=True, eq=False)
class PairTables:
    """A table for each two parts, (base x base,) in the order of `itertools.combinations`; base is the most values that
    a part has."""

    level: float
    parts: tuple[Part, ...]
    base: int
    tables: tuple[Floats, ...]

    @classmethod
    def of(
        cls, space: Space, resolutions: tuple[int, ...], terms: str, level: float, slope: Floats, bend: Floats
    ) -> PairTables:
        """Of a polynomial in the columns of these resolutions and terms ('one-hot' or 'places')."""
        found = list(_parts(space, resolutions, terms))
        found += [Part(_nothing, np.zeros((1, len(slope))))] * (2 - len(found))
        symmetric = (bend + bend.T) / 2
        alone = [part.columns @ slope + np.sum(part.columns @ symmetric * part.columns, axis=1) for part in found]
        base = max(len(part.columns) for part in found)
        tables = []
        for i, j in combinations(range(len(found)), 2):
            pairs = 2 * found[i].columns @ symmetric @ found[j].columns.T
            if i == 0:  # what a part adds by itself stands in its table with the first
                pairs += alone[j] + (alone[0][:, None] if j == 1 else 0.0)
            table = np.zeros((base, base))
            table[: pairs.shape[0], : pairs.shape[1]] = pairs
            tables.append(table.ravel())
        return cls(level, tuple(found), base, tuple(tables))

    def scores(self, arrays: ArchArrays) -> Floats:
        """(n,) of archs at these resolutions."""
        found = np.empty(len(arrays))
        for first in range(0, len(arrays), _ROWS):
            some = slice(first, first + _ROWS)
            found[some] = self._scores(arrays.take(some))
        return found

    def _scores(self, arrays: ArchArrays) -> Floats:
        numbers = [part.of(arrays) for part in self.parts]
        rows = [number * self.base for number in numbers]
        total, index, term = np.full(len(arrays), self.level), np.empty(len(arrays), np.int64), np.empty(len(arrays))
        for (i, j), table in zip(combinations(range(len(numbers)), 2), self.tables, strict=True):
            np.add(rows[i], numbers[j], out=index)
            table.take(index, out=term, mode="clip")  # no number is beyond its table; the default would copy
            total += term
        return total


# -- parts --------------------------------------------------------------------------------------
def _parts(space: Space, resolutions: tuple[int, ...], terms: str) -> Iterator[Part]:
    """The parts of archs, so that each of encode's columns belongs to one; small neighbours are one part."""
    current: Part | None = None
    for part in _single(space, resolutions, terms):
        if current is not None and len(current.columns) * len(part.columns) <= _VALUES:
            current = current.and_also(part)
            continue
        if current is not None:
            yield current
        current = part
    if current is not None:
        yield current


def _single(space: Space, resolutions: tuple[int, ...], terms: str) -> Iterator[Part]:
    grid, shared = np.array(resolutions), shared_values(space)
    widths = [len(grid), *(stage_width(stage, terms) for stage in space.stages)]
    p, at = sum(widths) + sum(of_value.shape[1] for _, of_value in shared), 0

    def placed(columns: Floats) -> Floats:
        found = np.zeros((len(columns), p))
        found[:, at : at + columns.shape[1]] = columns
        return found

    yield Part(lambda archs: np.searchsorted(grid, archs.resolution), placed(hat(grid, resolutions)))
    for s, stage in enumerate(space.stages):
        at += widths[s]
        for of, columns in _of_stage(s, stage, terms):
            yield Part(of, placed(columns))
    at += widths[-1]
    for place, of_value in shared:
        yield Part(partial(_number_of, place), placed(of_value))
        at += of_value.shape[1]


def _of_stage(s: int, stage: Stage, terms: str) -> Iterator[tuple[Callable[[ArchArrays], Ints], Floats]]:
    """Runs of places, and the depth: with the run that has all places that may be skipped, since that tells it, else by
    itself."""
    always, base = min(stage.depths), code_count(stage)
    runs = [*_runs(0, always, base), *_runs(always, stage.max_depth, base)]
    told = always == stage.max_depth or runs[-1][0] == always
    for first, last in runs:
        code = np.zeros((base ** (last - first), stage.max_depth), dtype=np.int64)
        code[:, first:last] = np.indices((base,) * (last - first)).reshape(last - first, -1).T
        tells = told and last == stage.max_depth
        depth = always + np.count_nonzero(code[:, always:], axis=1) if tells else np.zeros(len(code), dtype=np.int64)
        yield partial(_code_of, s, first, last), stage_columns(stage, StageArrays(stage, depth, code), terms)
    if not told:
        depth = np.arange(stage.max_depth + 1)
        nothing = np.zeros((len(depth), stage.max_depth), dtype=np.int64)
        yield partial(_depth_of, s), stage_columns(stage, StageArrays(stage, depth, nothing), terms)


def _runs(first: int, last: int, base: int) -> list[tuple[int, int]]:
    """Places first..last - 1 in runs, each of at most _VALUES values, or of one place."""
    length = 1
    while base ** (length + 1) <= _VALUES:
        length += 1
    return [(at, min(at + length, last)) for at in range(first, last, length)]


def _code_of(s: int, first: int, last: int, archs: ArchArrays) -> Ints:
    return archs.number(s, first, last)


def _depth_of(s: int, archs: ArchArrays) -> Ints:
    return archs.depth[:, s]


def _number_of(place: int | None, archs: ArchArrays) -> Ints:
    return archs.stem_depth if place is None else archs.widths[:, place]


def _nothing(archs: ArchArrays) -> Ints:
    return np.zeros(len(archs), dtype=np.int64)
