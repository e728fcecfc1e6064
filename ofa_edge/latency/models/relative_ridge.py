"""Ridge regression of latencies with relative errors, more columns than networks allowed.

In: columns (networks, p) in ms, latencies in ms, a prior mean and a prior width a column. Out: coefficients, what is
needed for an interval, and how well each network is predicted without itself. Rules kept: strengths are
weighed by how probable they make each network when it is left out, predicted with its own width, so one that predicts
well but promises too narrow intervals counts little; leave-one-out is exact and needs no refit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Variance of the noise over that of a coefficient of width 1.
STRENGTHS = tuple(float(v) for v in np.logspace(-5, 2, 15))


# Ways that are less probable than the best by this factor are left out of the average.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge, averaged over the strengths that the networks leave possible.

    Attributes:
        coefficients: (p,).
        covariance: (p, p) of the coefficients, relative errors in their units.
        residual: relative standard deviation of one measurement.
        errors: (networks,) relative leave-one-out errors, predicted / measured - 1.
        expected: (networks,) standard deviation that each of them was predicted with.
        strength: the most probable.
        effective: number of coefficients that the data, and not the prior, decided.
    """

    coefficients: Floats = field(repr=False)
    covariance: Floats = field(repr=False)
    residual: float
    errors: Floats = field(repr=False)
    expected: Floats = field(repr=False)
    strength: float
    effective: float


@dataclass(frozen=True)
class Way:
    """One choice of widths and strength; `left_out` is measured - predicted, over measured."""

    width: Floats
    strength: float
    coefficients: Floats
    left_out: Floats
    keep: Floats
    variance: float
    evidence: float
    effective: float
    vt: Floats
    shrink: Floats


def fit(
    columns: Floats,
    latencies: Floats,
    mean: Floats,
    widths: Iterable[Floats],
    *,
    possible: Callable[[Floats], bool] = lambda coefficients: True,
) -> RidgeFit:
    """Fit, averaging over widths and strengths by how probable they make each network when it is left out.

    Args:
        columns: (n, p) so that columns @ coefficients is a latency in ms; n >= 2.
        latencies: (n,) in ms.
        mean: (p,) what the coefficients are drawn to.
        widths: candidates of (p,): how far each may go from there, in units that the strength scales; 0 fixes it.
        possible: whether coefficients make sense; where no strength gives such, the greatest does.
    """
    rows = columns / latencies[:, None]
    tried = [way for width in widths for way in ways(rows, mean, width)]
    sensible = [way for way in tried if possible(way.coefficients)] or [max(tried, key=lambda way: way.strength)]
    best = max(sensible, key=lambda way: way.evidence)
    weighed = [(np.exp(way.evidence - best.evidence), way) for way in sensible]
    weighed = [(weight, way) for weight, way in weighed if weight > _NEGLIGIBLE]
    total = sum(weight for weight, _ in weighed)
    shares = [(float(weight / total), way) for weight, way in weighed]
    coefficients = np.asarray(sum(share * way.coefficients for share, way in shares))
    apart = np.stack([math.sqrt(share) * (way.coefficients - coefficients) for share, way in shares])
    return RidgeFit(
        coefficients=coefficients,
        covariance=np.asarray(sum(map(_covariance, _by_width(shares)))) + apart.T @ apart,
        residual=math.sqrt(sum(share * way.variance for share, way in shares)),
        errors=np.asarray(sum(-share * way.left_out for share, way in shares)),
        expected=np.sqrt(sum(share * way.variance / way.keep for share, way in shares)),
        strength=best.strength,
        effective=sum(share * way.effective for share, way in shares),
    )


def _by_width(shares: Sequence[tuple[float, Way]]) -> list[list[tuple[float, Way]]]:
    found: dict[int, list[tuple[float, Way]]] = {}
    for share, way in shares:
        found.setdefault(id(way.width), []).append((share, way))
    return list(found.values())


def _covariance(shares: Sequence[tuple[float, Way]]) -> Floats:
    """Sum over the strengths of one width of share x variance x (widths x (I - V shrink V') x widths) / strength."""
    width, vt = shares[0][1].width, shares[0][1].vt
    factors = [share * way.variance / way.strength for share, way in shares]
    shrink = sum(factor * way.shrink for factor, (_, way) in zip(factors, shares, strict=True))
    inner = sum(factors) * np.eye(len(width)) - (vt.T * shrink) @ vt
    return np.asarray(width[:, None] * inner * width)


def ways(rows: Floats, mean: Floats, width: Floats, strengths: Sequence[float] = STRENGTHS) -> Iterator[Way]:
    """A fit for each strength of one width; `rows` are columns over latencies, so that all aim at 1."""
    aim = 1 - rows @ mean
    u, s, vt = np.linalg.svd(rows * width, full_matrices=False)
    projected = u.T @ aim
    for strength in strengths:
        shrink = s**2 / (s**2 + strength)
        keep = np.clip(1 - np.einsum("ij,j,ij->i", u, shrink, u), 1e-9, None)  # 1 - leverage
        left_out = (aim - u @ (shrink * projected)) / keep
        # Each is predicted with the noise's variance / keep.
        variance = float(np.mean(left_out**2 * keep)) + 1e-18
        yield Way(
            width=width,
            strength=strength,
            coefficients=mean + width * (vt.T @ (s / (s**2 + strength) * projected)),
            left_out=left_out,
            keep=keep,
            variance=variance,
            evidence=0.5 * float(np.sum(np.log(keep))) - 0.5 * len(aim) * math.log(variance),
            effective=float(np.sum(shrink)),
            vt=vt,
            shrink=shrink,
        )
