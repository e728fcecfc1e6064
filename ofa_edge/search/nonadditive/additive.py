"""An additive score: what the exact front needs, made from anything that scores subnets.

In: archs and their scores. Out: `Additive`, a score that is a sum over resolution, places, widths and stem depth. Rule
kept: it is a model of a model, so nothing is claimed of what it finds: that is scored again by what it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.accuracy.encoding import PLACES, encode_arrays, stage_columns, stage_width
from ofa_edge.search.costs import Floats
from ofa_edge.space.arch import Space
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays

# Against columns that the archs hardly tell apart; a score of some share of right answers varies by less.
_RIDGE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Additive:
    """score(arch) = level + weights of the columns that encoding.encode gives it (frontier.StageScores).

    Attributes:
        resolutions: that the first columns are of.
        terms: the columns of stages, see encoding.
        weights: (columns,)
    """

    space: Space
    resolutions: tuple[int, ...]
    terms: str
    level: float
    weights: Floats

    @classmethod
    def fit(cls, archs: ArchArrays, scores: Floats, resolutions: Sequence[int]) -> Additive:
        """Ridge regression of scores (n,) on the columns of archs at these resolutions."""
        sizes = tuple(sorted(resolutions))
        columns = encode_arrays(archs.space, archs, sizes, PLACES)
        mean = columns.mean(axis=0)
        x = columns - mean
        gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ (scores - scores.mean()))
        return cls(archs.space, sizes, PLACES, float(scores.mean() - mean @ weights), weights)

    def offset(self, resolution: int) -> float:
        return self.level + float(self.weights[self.resolutions.index(resolution)])

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats:
        spans = self._spans
        scores: Floats = (
            stage_columns(values.stage, values, self.terms) @ self.weights[spans[stage_index] : spans[stage_index + 1]]
        )
        return scores

    def width_scores(self, place: int) -> Floats:
        start = self._spans[-1]
        for choices in self.space.width_choices[:place]:
            start += len(set(choices)) if len(set(choices)) > 1 else 0
        different = sorted(set(self.space.width_choices[place]))
        if len(different) < 2:
            return np.zeros(len(self.space.width_choices[place]))
        return self.weights[[start + different.index(width) for width in self.space.width_choices[place]]]

    def stem_depth_scores(self) -> Floats:
        depths = len(self.space.stem.depths)
        return self.weights[-depths:] if depths > 1 else np.zeros(1)

    @property
    def _spans(self) -> list[int]:
        """Where the columns of each stage begin, and where those of the last end."""
        widths = [stage_width(stage, self.terms) for stage in self.space.stages]
        return [len(self.resolutions) + sum(widths[:s]) for s in range(len(widths) + 1)]
