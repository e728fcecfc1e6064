"""A score that is a sum over places, as tables: what mixed-integer programs and whole populations add up.

In: a Space, resolutions, a score that at any fixed depth of a stage is a sum over its places (AdditiveAccuracy is).
Out: `PlaceScores`. Rule kept: the terms are read off the score itself, one place changed at a time, so what is fitted
there is what is summed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ofa_edge.search.costs import Floats
from ofa_edge.search.exact.frontier import StageScores
from ofa_edge.space.arch import Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays, code_count

# Archs scored at once, and choices of a stage that have a table of their own: both stay in the cache.
_ROWS = 1 << 13
_VALUES = 1 << 17


@dataclass(frozen=True, eq=False)
class PlaceScores:
    """score(arch) = of_resolution + sum over stages of of_depth + sum over places of of_place + widths + stem depth.

    Attributes:
        resolutions: rising; the rows of `of_resolution`, (resolutions,).
        of_depth: for each stage (depths,), in the order of `Stage.depths`.
        of_place: for each stage (depths, max_depth, codes), 0 at code 0 and at inactive places.
        of_width: for each of `Space.width_choices` (choices,).
        of_stem_depth: (stem depths,).
    """

    space: Space
    resolutions: tuple[int, ...]
    of_resolution: Floats
    of_depth: tuple[Floats, ...]
    of_place: tuple[Floats, ...]
    of_width: tuple[Floats, ...]
    of_stem_depth: Floats

    @classmethod
    def of(cls, space: Space, score: StageScores, resolutions: Sequence[int]) -> PlaceScores:
        sizes = tuple(sorted(set(resolutions)))
        found = [_terms(score, s, stage) for s, stage in enumerate(space.stages)]
        depths = space.stem.depths
        return cls(
            space,
            sizes,
            np.array([score.offset(r) for r in sizes]),
            tuple(of_depth for of_depth, _ in found),
            tuple(of_place for _, of_place in found),
            tuple(score.width_scores(place) for place in range(len(space.width_choices))),
            score.stem_depth_scores() if len(depths) > 1 else np.zeros(1),
        )

    def scores(self, archs: ArchArrays) -> Floats:
        """(n,); the archs' resolutions are among `resolutions`."""
        found = np.empty(len(archs))
        for first in range(0, len(archs), _ROWS):
            some = slice(first, first + _ROWS)
            found[some] = self._scores(archs.take(some))
        return found

    def _scores(self, archs: ArchArrays) -> Floats:
        total = self.of_resolution.take(np.searchsorted(self.resolutions, archs.resolution))
        if len(self.of_stem_depth) > 1:
            total += self.of_stem_depth.take(archs.stem_depth)
        for place, scores in enumerate(self.of_width):
            total += scores.take(archs.widths[:, place])
        for s, stage in enumerate(self.space.stages):
            if (table := self._tables[s]) is not None:
                total += table.take(archs.number(s, 0, stage.max_depth))
                continue
            number = (archs.depth[:, s, None] == np.asarray(stage.depths)).argmax(axis=1)
            places = np.arange(stage.max_depth)
            total += self.of_depth[s][number]
            total += self.of_place[s][number[:, None], places, archs.codes[s]].sum(axis=1)
        return total

    @cached_property
    def _tables(self) -> tuple[Floats | None, ...]:
        """For each stage the scores of its choices by `ArchArrays.number` of all places, None where these are many."""
        of_stages = zip(self.space.stages, self.of_depth, self.of_place, strict=True)
        return tuple(_table(*of_stage) for of_stage in of_stages)


def _table(stage: Stage, of_depth: Floats, of_place: Floats) -> Floats | None:
    count = code_count(stage)
    if count**stage.max_depth > _VALUES:
        return None
    found = np.zeros((count,) * stage.max_depth)
    for depth, score, places in zip(stage.depths, of_depth, of_place, strict=True):
        summed = np.array(score)
        for place in range(depth):
            summed = summed[..., None] + places[place, 1:]
        found[(slice(1, None),) * depth + (0,) * (stage.max_depth - depth)] = summed
    return found.ravel()


def _terms(score: StageScores, s: int, stage: Stage) -> tuple[Floats, Floats]:
    codes = len(stage.kernels) * len(stage.expands)
    of_depth = np.zeros(len(stage.depths))
    of_place = np.zeros((len(stage.depths), stage.max_depth, codes + 1))
    for d, depth in enumerate(stage.depths):
        # One row with code 1 at every place, then each place in turn with each code.
        code = np.zeros((1 + depth * codes, stage.max_depth), dtype=np.int64)
        code[:, :depth] = 1
        for i in range(depth):
            code[1 + i * codes : 1 + (i + 1) * codes, i] = np.arange(1, codes + 1)
        found = score.stage_scores(s, StageArrays(stage, np.full(len(code), depth), code))
        of_depth[d] = found[0]
        of_place[d, :depth, 1:] = found[1:].reshape(depth, codes) - found[0]
    return of_depth, of_place
