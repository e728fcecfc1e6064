"""Predicts a subnet's top-1 from a table of measured subnets, additively, so that search can be exact.

In: a Space and measured rows (arch, correct, n). Out: `AdditiveAccuracy`: a score that is a sum of one term
per stage choice and one per resolution, and `Top1` predictions with intervals. Rules kept:

- What is predicted is top-1 on the table's own images. It is a prediction, never an accuracy: a network that
  search picks because its prediction is high is on average a little worse than predicted.
- Additive over stages, not inside them: search enumerates a stage whole, so a term may join the depth of a
  stage with the choices in it (`TERMS`). The score is linear or log-odds of top-1 (`LINKS`), both monotone, so
  the best score is the best top-1.
- Terms, link and ridge strength are the ones that predict left-out subnets best (grouped 10-fold: all
  resolutions of a subnet are left out together). The fit is closed-form and the folds are seeded: same rows,
  same coefficients.
- No extrapolation: resolutions outside those measured are refused; between two measured ones the resolution's
  term is interpolated linearly and the interval widened by the curvature seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space, Stage
from ofa_edge.space.arrays import StageArrays

Floats = NDArray[np.float64]

FOLDS = 10
MIN_SUBNETS = 20
ERROR_GROUP = 60
TERMS = ("places", "depth x places")
RIDGES = tuple(float(r) for r in np.logspace(-2, 3, 11))


@dataclass(frozen=True, slots=True)
class Top1:
    """A predicted or measured top-1, as a share: low and high bound it two-sidedly."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Link:
    """A monotone scale on which effects add up. `forward` takes (correct, n), `inverse` gives a share."""

    forward: Callable[[Floats, Floats], Floats]
    inverse: Callable[[Any], Any]


def _log_odds(share: Floats) -> Floats:
    odds: Floats = np.log(share / (1 - share))
    return odds


LINKS: dict[str, Link] = {
    "linear": Link(lambda correct, n: correct / n, lambda score: np.clip(score, 0.0, 1.0)),
    # Half an image keeps 0 of n and n of n finite. Not added elsewhere: at 99 % of 1,000 it would bias by .05 points.
    "log-odds": Link(
        lambda correct, n: _log_odds(np.clip(correct, 0.5, n - 0.5) / n), lambda score: 1 / (1 + np.exp(-score))
    ),
}


@dataclass(frozen=True, slots=True)
class FitQuality:
    """How the model was chosen and how well it predicts subnets it has not seen.

    Attributes:
        rows, subnets: what it was fitted on; a subnet at three resolutions is three rows.
        link, terms, ridge: the chosen form.
        rmse: of top-1 (a share) over the left-out rows of all folds.
        spearman: rank correlation of predicted and measured top-1 over the same rows.
    """

    rows: int
    subnets: int
    link: str
    terms: str
    ridge: float
    rmse: float
    spearman: float


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveAccuracy:
    """score(arch) = offset(resolution) + sum over stages of a term of the stage's choice.

    Build it with `fit`. Scores are on the link's scale; `top1` turns them into shares.
    """

    space: Space
    resolutions: tuple[int, ...]
    quality: FitQuality
    intercept: float
    mean: Floats
    weights: Floats
    spread: Floats  # (p, p): leverage of a centred row x is 1 / rows + x' spread x
    mean_leverage: float
    errors: tuple[Floats, Floats]  # scores, rising, and the left-out root mean square error around each

    # -- fit ------------------------------------------------------------------------------------
    @classmethod
    def fit(cls, space: Space, table: AccuracyTable, *, seed: int = 0) -> AdditiveAccuracy:
        """Fit on the rows of a table; see `fit_rows`."""
        frame = table.frame
        return cls.fit_rows(space, list(frame["arch"]), frame["correct"], frame["n"], seed=seed)

    @classmethod
    def fit_rows(cls, space: Space, archs: Sequence[Arch], correct: Any, n: Any, *, seed: int = 0) -> AdditiveAccuracy:
        """Fit on measured rows.

        Args:
            archs: one per row; the same subnet may come at several resolutions.
            correct, n: right answers and images of each row.
            seed: of the folds.

        Raises:
            UsageError: fewer than MIN_SUBNETS different subnets.
        """
        groups = {stages: i for i, stages in enumerate(sorted({arch.stages for arch in archs}))}
        if len(groups) < MIN_SUBNETS:
            raise UsageError(
                f"{len(groups)} different subnets are too few to predict accuracy from; {MIN_SUBNETS} are needed",
                hint="measure more with `ofa-edge evaluate --samples 300 --resume`, or select with --strategy table",
            )
        fold_of_group = np.random.default_rng(seed).permutation(len(groups)) % FOLDS
        folds = fold_of_group[[groups[arch.stages] for arch in archs]]
        correct, n = np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
        resolutions = tuple(sorted({arch.resolution for arch in archs}))
        shares = correct / n
        best: tuple[float, str, str, float, Floats, Floats] | None = None
        for terms in TERMS:
            rows = _design(space, archs, resolutions, terms)
            targets = np.stack([link.forward(correct, n) for link in LINKS.values()], axis=1)
            left_out = _left_out(rows, targets, folds)
            for name, scores in zip(LINKS, np.moveaxis(left_out, 2, 0), strict=True):
                errors = np.sqrt(np.mean((LINKS[name].inverse(scores) - shares) ** 2, axis=1))
                i = int(np.argmin(errors))
                if best is None or errors[i] < best[0]:
                    best = float(errors[i]), terms, name, RIDGES[i], rows, scores[i]
        assert best is not None
        return cls._solve(space, resolutions, best, correct, n, len(groups))

    @classmethod
    def _solve(
        cls,
        space: Space,
        resolutions: tuple[int, ...],
        chosen: tuple[float, str, str, float, Floats, Floats],
        correct: Floats,
        n: Floats,
        subnets: int,
    ) -> AdditiveAccuracy:
        rmse, terms, name, ridge, rows, left_out = chosen
        link = LINKS[name]
        target = link.forward(correct, n)
        mean = rows.mean(axis=0)
        x = rows - mean
        gram = x.T @ x
        inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
        spread = inverse @ gram @ inverse
        quality = FitQuality(
            rows=len(rows),
            subnets=subnets,
            link=name,
            terms=terms,
            ridge=ridge,
            rmse=rmse,
            spearman=spearman(link.inverse(left_out), correct / n),
        )
        # Rounded, so that the last bits of a sum, which differ by machine, do not decide between subnets.
        weights = np.round(inverse @ (x.T @ (target - target.mean())), 9)
        mean_leverage = float((np.trace(spread @ gram) + 1) / len(rows))
        errors = _errors_by_score(left_out, left_out - target)
        return cls(space, resolutions, quality, float(target.mean()), mean, weights, spread, mean_leverage, errors)

    # -- scores ---------------------------------------------------------------------------------
    def covers(self, resolution: int) -> bool:
        """Whether this resolution lies within those measured."""
        return self.resolutions[0] <= resolution <= self.resolutions[-1]

    def offset(self, resolution: int) -> float:
        """The part of a score that all subnets at this resolution share.

        Raises:
            UsageError: the resolution lies outside those measured.
        """
        row = _hat(np.array([resolution]), self.resolutions)[0]
        part = self.weights[: len(self.resolutions)]
        return self.intercept - float(self.mean @ self.weights) + float(row @ part)

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats:
        """The terms of these choices of one stage, (n,)."""
        widths = [_width(stage, self.quality.terms) for stage in self.space.stages[: stage_index + 1]]
        start = len(self.resolutions) + sum(widths[:-1])
        rows = _stage_rows(self.space.stages[stage_index], values, self.quality.terms)
        scores: Floats = rows @ self.weights[start : start + widths[-1]]
        return scores

    def score(self, arch: Arch) -> float:
        """offset + the stages' terms: what search maximises."""
        terms = [
            self.stage_scores(s, StageArrays.of(stage, [choice]))[0]
            for s, (stage, choice) in enumerate(zip(self.space.stages, arch.stages, strict=True))
        ]
        return self.offset(arch.resolution) + float(sum(terms))

    def top1(self, score: float) -> float:
        """A score as a share of right answers."""
        return float(LINKS[self.quality.link].inverse(score))

    def estimate(self, arch: Arch, confidence: float = 0.95) -> Top1:
        """Prediction with an interval for a new measurement on the table's images.

        Student's t over the left-out errors of rows with about this score, scaled by the arch's leverage; at
        resolutions that were not measured, widened by the bound on linear interpolation that the curvature of
        the offsets gives.

        Raises:
            UsageError: the arch is not in the space, or its resolution lies outside those measured.
        """
        self.space.check(arch)
        score = self.score(arch)
        row = _design(self.space, [arch], self.resolutions, self.quality.terms)[0]
        x = row - self.mean
        leverage = 1 / self.quality.rows + float(x @ self.spread @ x)
        scale = float(np.interp(score, *self.errors)) * math.sqrt((1 + leverage) / (1 + self.mean_leverage))
        # Rows of one subnet share its error, so the errors count once per subnet.
        half = float(stdtrit(self.quality.subnets - 1, (1 + confidence) / 2)) * scale + self._bend(arch.resolution)
        return Top1(self.top1(score), self.top1(score - half), self.top1(score + half))

    def describe(self) -> str:
        """What the model is, in one line a person can judge."""
        q = self.quality
        return (
            f"top-1 on the accuracy table's images, predicted: additive ridge over {q.terms} and resolution, "
            f"{q.link} scale, {q.rows} rows of {q.subnets} subnets; left-out RMSE {100 * q.rmse:.2f} points, "
            f"Spearman {q.spearman:.3f}"
        )

    # -- resolution -----------------------------------------------------------------------------
    def _bend(self, resolution: int) -> float:
        """Bound on the error of linear interpolation: the greatest second divided difference of the offsets
        beside the gap, times the distances to the gap's ends; 0 at measured resolutions."""
        grid = self.resolutions
        after = int(np.searchsorted(grid, resolution))
        if grid[after] == resolution:
            return 0.0
        y = [self.offset(r) for r in grid]
        slopes = np.diff(y) / np.diff(grid)
        seconds = [
            abs(slopes[i + 1] - slopes[i]) / (grid[i + 2] - grid[i])
            for i in (after - 2, after - 1)
            if 0 <= i < len(grid) - 2
        ]
        # With two measured resolutions no curvature is seen; the step between them bounds a monotone curve.
        if not seconds:
            return float(abs(y[after] - y[after - 1]) / 2)
        return float(max(seconds) * (resolution - grid[after - 1]) * (grid[after] - resolution))


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


def _errors_by_score(scores: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Root mean square of the errors in groups of rows with like scores, at each group's mean score.

    No link makes the errors of 80 % and of 97 % subnets equally large, so one figure for all would be too
    narrow on one side. Groups are at least ERROR_GROUP rows, at most eight.
    """
    parts = np.array_split(np.argsort(scores, kind="stable"), min(8, max(1, len(scores) // ERROR_GROUP)))
    centres = np.array([scores[part].mean() for part in parts])
    return centres, np.array([math.sqrt(np.mean(errors[part] ** 2)) for part in parts])


def _left_out(rows: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """Predictions of every row by the fits without its fold: (len(RIDGES), n, targets).

    Closed form, no refit: with the hat matrix H of all rows, the errors of a left-out fold G are
    (I - H_GG)^-1 (y - H y)_G, which is exact for least squares with a fixed penalty.
    """
    out = np.empty((len(RIDGES), *targets.shape))
    level = targets.mean(axis=0)
    x = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    z = x @ vectors
    part = z.T @ (targets - level)
    members = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
    for i, ridge in enumerate(RIDGES):
        shrink = 1 / (np.maximum(values, 0) + ridge)
        residuals = targets - level - z @ (shrink[:, None] * part)
        for member in members:
            hat = 1 / len(rows) + (z[member] * shrink) @ z[member].T
            errors = np.linalg.solve(np.eye(len(member)) - hat, residuals[member])
            out[i, member] = targets[member] - errors
    return out


def _design(space: Space, archs: Sequence[Arch], resolutions: tuple[int, ...], terms: str) -> Floats:
    """One row per arch: resolution, then each stage's columns."""
    parts = [_hat(np.array([arch.resolution for arch in archs]), resolutions)]
    for s, stage in enumerate(space.stages):
        parts.append(_stage_rows(stage, StageArrays.of(stage, [arch.stages[s] for arch in archs]), terms))
    return np.concatenate(parts, axis=1)


def _hat(resolution: NDArray[np.int64], grid: tuple[int, ...]) -> Floats:
    """Linear interpolation weights on the measured resolutions (one-hot at them): (n, len(grid)).

    Raises:
        UsageError: a resolution outside the grid.
    """
    outside = resolution[(resolution < grid[0]) | (resolution > grid[-1])]
    if len(outside):
        raise UsageError(
            f"resolution {outside[0]} lies outside the accuracy table's {grid[0]}..{grid[-1]}",
            hint=f"measure it: `ofa-edge evaluate --resolutions {outside[0]} --resume`",
        )
    columns = [np.interp(resolution, grid, np.eye(len(grid))[i]) for i in range(len(grid))]
    return np.stack(columns, axis=1)


def _stage_rows(stage: Stage, values: StageArrays, terms: str) -> Floats:
    """The columns of one stage for n choices: depth, and kernel and expand of every active place; with
    'depth x places' also those of every place once per depth. Axes with one value have no column."""
    columns = [values.depth == depth for depth in stage.depths if len(stage.depths) > 1]
    places = []
    for i in range(stage.max_depth):
        places += [values.kernel[:, i] == k for k in stage.kernels if len(stage.kernels) > 1]
        places += [values.expand[:, i] == e for e in stage.expands if len(stage.expands) > 1]
    columns += places
    if terms == "depth x places" and len(stage.depths) > 1:
        per_place = len(places) // stage.max_depth
        for depth in stage.depths:
            columns += [place & (values.depth == depth) for place in places[: depth * per_place]]
    if not columns:
        return np.zeros((len(values), 0))
    return np.stack(columns, axis=1).astype(np.float64)


def _width(stage: Stage, terms: str) -> int:
    return len(_stage_rows(stage, StageArrays.of(stage, []), terms).T)
