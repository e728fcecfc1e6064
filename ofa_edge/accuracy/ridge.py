"""Ridge regression of top-1, shared by the predictors that are linear in their columns.

In: centred columns in the basis of their principal axes, measured rows. Out: the scale and the ridge strength that
predict left-out subnets best. Rules kept: folds are grouped by subnet and seeded; the left-out predictions are exact
without a refit; the scales (`LINKS`) are monotone, so the best score is the best top-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.validation import Rows, spearman

Floats = NDArray[np.float64]

FOLDS = 10
# Of the greatest variance along an axis; what is less is rounding.
_RANK = 1e-12
RIDGES = tuple(float(r) for r in np.logspace(-2, 3, 11))


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
class Form:
    """A scale and a ridge strength, with the left-out scores (rows,) they give and the error of these in top-1."""

    link: str
    ridge: float
    rmse: float
    left_out: Floats

    def quality(self, rows: Rows, terms: str) -> FitQuality:
        """Of a model of these terms, chosen on these rows."""
        return FitQuality(
            rows=len(rows),
            subnets=rows.subnets,
            link=self.link,
            terms=terms,
            ridge=self.ridge,
            rmse=self.rmse,
            spearman=spearman(LINKS[self.link].inverse(self.left_out), rows.shares),
        )


def best_form(z: Floats, values: Floats, rows: Rows, seed: int) -> Form:
    """The form that predicts left-out subnets best.

    Args:
        z: (rows, k) centred columns with z'z = diag(values).
        seed: of the folds.
    """
    targets = np.stack([link.forward(rows.correct, rows.n) for link in LINKS.values()], axis=1)
    scores = left_out_scores(z, values, targets, rows.folds(FOLDS, seed))
    best: Form | None = None
    for name, found in zip(LINKS, np.moveaxis(scores, 2, 0), strict=True):
        errors = np.sqrt(np.mean((LINKS[name].inverse(found) - rows.shares) ** 2, axis=1))
        i = int(np.argmin(errors))
        if best is None or errors[i] < best.rmse:
            best = Form(name, RIDGES[i], float(errors[i]), found[i])
    assert best is not None
    return best


def principal(x: Floats) -> tuple[Floats, Floats]:
    """Centred columns in the basis of their principal axes: (z, values) with z'z = diag(values).

    Without the axes along which nothing varies: choices of a place exclude each other, so of the columns they give half
    say nothing new.
    """
    values, vectors = np.linalg.eigh(x.T @ x)
    varies = values > _RANK * max(values.max(), 1.0)
    return x @ vectors[:, varies], values[varies]


def left_out_scores(z: Floats, values: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """Predictions of every row by the fits without its fold: (len(RIDGES), rows, targets).

    Without fold G the normal equations are those of all rows less G's own, A - B_G'B_G with B the columns and a 1 for
    the level, which is solved where the columns are fewer than the fold's rows. Elsewhere, with the hat matrix H of all
    rows, the errors of G are (I - H_GG)^-1 (y - H y)_G. Both are exact for least squares with a fixed penalty.
    """
    out = np.empty((len(RIDGES), *targets.shape))
    level = targets.mean(axis=0)
    part = z.T @ (targets - level)
    penalties = values + np.asarray(RIDGES)[:, None]
    for fold in range(FOLDS):
        member = np.flatnonzero(folds == fold)
        own = z[member]
        if z.shape[1] < len(member):
            with_level = np.column_stack([np.ones(len(own)), own])
            gram = with_level.T @ with_level
            equations = np.repeat(-gram[None], len(RIDGES), axis=0)
            equations[:, 0, 0] += len(z)
            places = np.arange(1, len(gram))
            equations[:, places, places] += penalties
            sums = np.concatenate([np.zeros_like(level)[None], part])  # of all rows; targets less their mean sum to 0
            sums -= with_level.T @ (targets[member] - level)
            out[:, member] = level + with_level @ np.linalg.solve(equations, sums)
            continue
        for i, shrink in enumerate(1 / penalties):
            residuals = targets[member] - level - own @ (shrink[:, None] * part)
            hat = 1 / len(z) + (own * shrink) @ own.T
            out[i, member] = targets[member] - np.linalg.solve(np.eye(len(member)) - hat, residuals)
    return out
