"""Measured rows for fitting, and how well a fit predicts subnets it has not seen.

In: an accuracy table. Out: `Rows`, folds of them, a `Validation`. Rule kept: all resolutions of a subnet are left out
together, so that copies of a subnet never vouch for each other, and the whole fit, with every choice it makes, is
done again without them: the figures of different kinds of predictor can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space

Floats = NDArray[np.float64]

VALIDATION_FOLDS = 5
MIN_SUBNETS = 20
ERROR_GROUP = 60


@dataclass(frozen=True, eq=False)
class Rows:
    """Measured subnets.

    Attributes:
        archs: one per row; the same subnet may come at several resolutions.
        correct, n: right answers and images of each row, (rows,).
        resolutions: rising; all of the table, also where `take` left a part of the rows.
    """

    space: Space
    archs: tuple[Arch, ...]
    correct: Floats
    n: Floats
    resolutions: tuple[int, ...]

    @classmethod
    def of(cls, space: Space, archs: Sequence[Arch], correct: Any, n: Any) -> Rows:
        """Raises UsageError where there are fewer than MIN_SUBNETS different subnets."""
        rows = cls(
            space,
            tuple(archs),
            np.asarray(correct, dtype=np.float64),
            np.asarray(n, dtype=np.float64),
            tuple(sorted({arch.resolution for arch in archs})),
        )
        if rows.subnets < MIN_SUBNETS:
            raise UsageError(
                f"{rows.subnets} different subnets are too few to predict accuracy from; {MIN_SUBNETS} are needed",
                hint="measure more with `ofa-edge evaluate --samples 300 --resume`, or select with --strategy table",
            )
        return rows

    @classmethod
    def of_table(cls, space: Space, table: AccuracyTable) -> Rows:
        """The rows of a table; raises as `of`."""
        frame = table.frame
        return cls.of(space, list(frame["arch"]), frame["correct"], frame["n"])

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def shares(self) -> Floats:
        """Top-1 of each row, (rows,)."""
        return self.correct / self.n

    @property
    def subnets(self) -> int:
        """How many different ones there are, whatever their resolutions."""
        return int(self.numbers.max()) + 1

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each row's subnet, whatever its resolution, (rows,); the order of rows does not matter."""
        keys = [(arch.stages, arch.widths, arch.stem_depth) for arch in self.archs]
        number = {key: i for i, key in enumerate(sorted(set(keys)))}
        return np.array([number[key] for key in keys])

    def folds(self, count: int, seed: int) -> NDArray[np.int64]:
        """The fold of each row, (rows,): subnets are shared out at random, evenly."""
        of_subnet = np.random.default_rng(seed).permutation(self.subnets) % count
        return of_subnet[self.numbers]

    def take(self, chosen: NDArray[np.bool_]) -> Rows:
        """The chosen rows, of which no more is asked than that there are some."""
        archs = tuple(arch for arch, is_chosen in zip(self.archs, chosen, strict=True) if is_chosen)
        return Rows(self.space, archs, self.correct[chosen], self.n[chosen], self.resolutions)


@dataclass(frozen=True, slots=True)
class Validation:
    """How well subnets that were left out of the fit are predicted.

    Attributes:
        rmse: of top-1, a share, over the left-out rows of all folds.
        spearman: rank correlation of predicted and measured top-1 over the same rows.
    """

    folds: int
    rmse: float
    spearman: float

    @classmethod
    def of(cls, folds: int, predicted: Floats, rows: Rows) -> Validation:
        """Args: predicted: of each row by the fit without its fold, shares."""
        rmse = math.sqrt(np.mean((predicted - rows.shares) ** 2))
        return cls(folds, rmse, spearman(predicted, rows.shares))

    def as_json(self) -> dict[str, float | int]:
        """As commands print it: the error in points of top-1."""
        return {"folds": self.folds, "rmse_points": 100 * self.rmse, "spearman": self.spearman}


def left_out(rows: Rows, fit: Callable[[Rows], Callable[[Sequence[Arch]], Floats]], seed: int) -> Floats:
    """Top-1 of every row, predicted by a fit on the rows of the other folds: shares (rows,).

    Args:
        fit: makes a prediction function of measured rows.
    """
    fold = rows.folds(VALIDATION_FOLDS, seed)
    found = np.empty(len(rows))
    for number in range(VALIDATION_FOLDS):
        out = fold == number
        found[out] = fit(rows.take(~out))(rows.take(out).archs)
    return found


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation, ties sharing their mean rank; 0 where one side is constant."""
    ranks = [_ranks(np.asarray(values)) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[place]
    return ranks


def errors_by_score(scores: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Root mean square of the errors in groups of rows with like scores, at each group's mean score.

    No scale makes the errors of 80 % and of 97 % subnets equally large, so one figure for all would be too
    narrow on one side. Groups are at least ERROR_GROUP rows, at most eight.
    """
    parts = np.array_split(np.argsort(scores, kind="stable"), min(8, max(1, len(scores) // ERROR_GROUP)))
    centres = np.array([scores[part].mean() for part in parts])
    return centres, np.array([math.sqrt(np.mean(errors[part] ** 2)) for part in parts])
