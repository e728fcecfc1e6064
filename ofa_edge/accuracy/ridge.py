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
            subnets=len(set(rows.subnets())),
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
    """Centred columns in the basis of their principal axes: (z, values) with z'z = diag(values)."""
    values, vectors = np.linalg.eigh(x.T @ x)
    return x @ vectors, np.maximum(values, 0)


def left_out_scores(z: Floats, values: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """Predictions of every row by the fits without its fold: (len(RIDGES), rows, targets).

    Closed form, no refit: with the hat matrix H of all rows, the errors of a left-out fold G are
    (I - H_GG)^-1 (y - H y)_G, which is exact for least squares with a fixed penalty.
    """
    out = np.empty((len(RIDGES), *targets.shape))
    level = targets.mean(axis=0)
    part = z.T @ (targets - level)
    members = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
    for i, ridge in enumerate(RIDGES):
        shrink = 1 / (values + ridge)
        residuals = targets - level - z @ (shrink[:, None] * part)
        for member in members:
            hat = 1 / len(z) + (z[member] * shrink) @ z[member].T
            errors = np.linalg.solve(np.eye(len(member)) - hat, residuals[member])
            out[i, member] = targets[member] - errors
    return out
