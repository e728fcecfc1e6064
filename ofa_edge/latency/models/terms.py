"""Which terms a table's own networks give the sum of blocks: chosen by leaving one out, and judged honestly.

In: features and latencies (ms) of calibration networks. Out: a Fit. Rules kept: relative least squares, robust against
a network or two that are off (Huber's weights; the choice of terms leaves out the worst sixth of the errors), because
one process is off by several per cent now and then and the smallest network of a space often works otherwise than all
others; two networks a term, and operators or SE blocks only from 12 networks on and where they gain much; scale is
positive, the rates are not negative; what is said about the error comes from networks that neither the coefficients
nor the choice of terms has seen (every network is left out of both in turn), so trying more terms buys no narrower
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ofa_edge.latency import stats

ALL_TERMS = ("offset", "scale", "bytes", "ops", "se")
"""Columns of the features: 1, sum of block medians in ms, weight bytes in millions, operators, SE blocks."""

_BASE = (("scale",), ("offset", "scale"), ("scale", "bytes"), ("offset", "scale", "bytes"))
_EXTRA = (
    ("scale", "ops"), ("offset", "scale", "ops"), ("scale", "bytes", "ops"), ("offset", "scale", "bytes", "ops"),
    ("scale", "bytes", "se"), ("offset", "scale", "bytes", "se"),
)  # fmt: skip
_EXTRA_FROM = 12  # networks; below, ops and se are as random as the fit (the study in docs/)
# Of the best error without them is what the extra terms must come to: with 12 networks operators look better than
# weight bytes by a quarter now and then, and predict others worse (six tables of two runtimes on x86-64, 60 networks).
_EARNED = 0.6
_WORST = 6  # one error of so many is left out when terms are chosen
# Huber's constant, and the least scale: a process repeats to no less. Weights want some degrees of freedom.
_HUBER, _LEAST_SCALE, _HUBER_DEGREES, _TURNS = 1.5, 0.004, 4, 8
_FAR = 2.5  # standard deviations beyond which an unseen network's error counts as so many
_POSITIVE = ("bytes", "ops", "se")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How networks were predicted by fits that had not seen them; errors are relative, `covered` the share of them
    inside its 95 % interval."""

    mape: float
    worst: float
    covered: float


@dataclass(frozen=True)
class Fit:
    """Coefficients of the terms, and what is needed for an interval.

    Attributes:
        terms: those kept, out of offset (ms), scale (a factor), bytes (ms per million weight bytes), ops (ms an
            operator) and se (ms an SE block).
        coefficients: one a term.
        covariance: inverse of the relative normal matrix, in the order of `terms`.
        residual: relative standard deviation of one network; None where no degree of freedom is left.
        loo_error: root mean square of the relative leave-one-out errors; None likewise.
        networks: how many were fitted; 0 is the plain sum.
        degrees: of freedom of `residual`.
        left_out: None where too few networks are there to leave one out.
        tried: (terms, relative leave-one-out error of theirs without the worst sixth) of all sets that were tried.
        block_variance: mean relative variance that the blocks' own errors gave the networks' sums; `residual` holds it.
    """

    terms: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: np.ndarray = field(repr=False)
    residual: float | None
    loo_error: float | None
    networks: int
    degrees: int
    left_out: LeftOut | None = None
    tried: tuple[tuple[tuple[str, ...], float], ...] = ()
    block_variance: float = 0.0

    def coefficient(self, term: str) -> float:
        return dict(zip(self.terms, self.coefficients, strict=True)).get(term, 0.0)

    def as_json(self) -> dict[str, Any]:
        left_out = self.left_out
        return {
            "terms": list(self.terms),
            "coefficients": dict(zip(self.terms, self.coefficients, strict=True)),
            "loo_error_pct": None if self.loo_error is None else 100 * self.loo_error,
            "mape_pct": None if left_out is None else 100 * left_out.mape,
            "worst_pct": None if left_out is None else 100 * left_out.worst,
            "covered": None if left_out is None else left_out.covered,
            "tried": [{"terms": list(terms), "loo_error_pct": 100 * error} for terms, error in self.tried],
            "networks": self.networks,
        }


PLAIN_SUM = Fit(("scale",), (1.0,), np.zeros((1, 1)), None, None, 0, 0)


class _Solved(NamedTuple):
    """One set of terms on some networks; loo_error leaves out the worst sixth of the errors, and is None where a
    network alone decides a coefficient."""

    terms: tuple[str, ...]
    solution: np.ndarray
    covariance: np.ndarray
    loo_error: float | None


def fit_terms(features: np.ndarray, latencies: np.ndarray, block_variances: Sequence[float] = ()) -> Fit:
    """Choose the terms and fit them.

    Args:
        features: (networks, 3 to 5): columns as ALL_TERMS.
        latencies: (networks,) in ms.
        block_variances: relative, of each network's sum, from its blocks' own errors.

    Returns:
        PLAIN_SUM where there are no networks, or where they contradict the blocks.
    """
    count = len(latencies)
    tried = _solve_all(features, latencies)
    best = _best(tried)
    if best is None:
        return PLAIN_SUM
    fit = Fit(best.terms, tuple(best.solution.tolist()), best.covariance, None, None, count, 0)
    if best.loo_error is None:
        return fit
    errors, scaled = _unseen(features, latencies)
    if len(errors) < 2:
        return fit
    scaled = np.clip(scaled, -(far := _FAR * stats.MAD_TO_STD * float(np.median(np.abs(scaled)))), far)
    total = float(np.sum(scaled**2))
    degrees = max(1, len(errors) - len(best.terms) - 1)  # the choice costs one more
    without = np.sqrt((total - scaled**2) / (len(errors) - 1))
    inside = np.abs(scaled) <= stats.student_t(0.95, degrees) * without
    return Fit(
        terms=fit.terms,
        coefficients=fit.coefficients,
        covariance=fit.covariance,
        residual=float(np.sqrt(total / len(errors))),
        loo_error=float(np.sqrt(np.mean(errors**2))),
        networks=count,
        degrees=degrees,
        left_out=LeftOut(float(np.mean(np.abs(errors))), float(np.max(np.abs(errors))), float(np.mean(inside))),
        tried=tuple((s.terms, s.loo_error) for s in tried if s.loo_error is not None),
        block_variance=float(np.mean(block_variances)) if len(block_variances) else 0.0,
    )


def _unseen(features: np.ndarray, latencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of the networks, each predicted by terms chosen and fitted without it; and the same in units of
    what leverage makes of one network's error. Networks without which nothing can be fitted are passed over."""
    errors, scaled = [], []
    for i in range(len(latencies)):
        keep = np.arange(len(latencies)) != i
        best = _best(_solve_all(features[keep], latencies[keep]))
        if best is None:
            continue
        row = features[i, _columns(best.terms)] / latencies[i]
        errors.append(float(row @ best.solution) - 1)
        scaled.append(errors[-1] / np.sqrt(1 + float(row @ best.covariance @ row)))
    return np.array(errors), np.array(scaled)


def _solve_all(features: np.ndarray, latencies: np.ndarray) -> list[_Solved]:
    count, columns = len(latencies), features.shape[1]
    sets = _BASE + (_EXTRA if count + 1 >= _EXTRA_FROM else ())  # the same sets with one left out
    found = []
    for terms in sets:
        # Two networks a term, or the leave-one-out error is as random as the fit.
        if count >= max(1, 2 * len(terms) * (len(terms) > 1)) and max(_columns(terms)) < columns:
            solved = _solve(terms, features[:, _columns(terms)], latencies)
            if solved is not None:
                found.append(solved)
    return found


def _best(solved: Sequence[_Solved]) -> _Solved | None:
    """Least leave-one-out error; extra terms must earn their place."""
    judged = [s for s in solved if s.loo_error is not None]
    if not judged:
        return solved[0] if solved else None

    def error(solved: _Solved) -> float:
        return (solved.loo_error or 0.0) / (_EARNED if solved.terms in _EXTRA else 1.0)

    return min(judged, key=error)


def _solve(terms: tuple[str, ...], columns: np.ndarray, latencies: np.ndarray) -> _Solved | None:
    """Relative least squares; None where the columns are not independent or a coefficient has no sense."""
    rows = columns / latencies[:, None]
    if np.linalg.matrix_rank(rows) < len(terms):
        return None
    weights, covariance, solution = _robust(rows)
    fit = dict(zip(terms, solution.tolist(), strict=True))
    if fit["scale"] <= 0 or any(fit.get(t, 0.0) < 0 for t in _POSITIVE) or (columns @ solution <= 0).any():
        return None
    leverage = weights * np.einsum("ij,jk,ik->i", rows, covariance, rows)
    if (leverage >= 1 - 1e-9).any():
        return _Solved(terms, solution, covariance, None)
    squares = np.sort(((rows @ solution - 1) / (1 - leverage)) ** 2)
    return _Solved(
        terms, solution, covariance, float(np.sqrt(np.mean(squares[: len(squares) - len(squares) // _WORST])))
    )


def _robust(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Huber's weights, the inverse of the weighted normal matrix, and the solution of rows @ solution = 1."""
    weights = np.ones(len(rows))
    turns = _TURNS if len(rows) - rows.shape[1] >= _HUBER_DEGREES else 1
    for turn in range(turns):
        weighted = rows * weights[:, None]
        covariance = np.linalg.inv(weighted.T @ rows)
        solution = covariance @ weighted.sum(axis=0)
        if turn + 1 < turns:
            errors = np.abs(rows @ solution - 1)
            scale = max(stats.MAD_TO_STD * float(np.median(errors)), _LEAST_SCALE)
            weights = np.minimum(1.0, _HUBER * scale / np.maximum(errors, 1e-12))
    return weights, covariance, solution


def _columns(terms: tuple[str, ...]) -> list[int]:
    return [ALL_TERMS.index(term) for term in terms]
