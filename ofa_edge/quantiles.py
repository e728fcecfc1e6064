"""Quantiles of Student's t, which every interval here is made of.

In: a confidence and degrees of freedom. Out: the two-sided quantile. Rule kept: the standard library alone. scipy has
the same number to 13 digits, and takes longer to import than a whole selection has time (tests hold them together).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

# From so many degrees on the series in 1 / degrees is as exact as the sums of that many terms.
_MANY = 2000
_STEPS = 60


@lru_cache(maxsize=1024)
def student_t(confidence: float, degrees: int) -> float:
    """P(|t| <= result) = confidence.

    NaN where there is no degree of freedom, so nothing is known.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if degrees < 1:
        return math.nan
    if degrees == 1:
        return math.tan(math.pi * confidence / 2)
    if degrees >= _MANY:
        return _expanded(NormalDist().inv_cdf((1 + confidence) / 2), degrees)
    # For the angle a of tan a = t / sqrt(degrees) the probability is a finite sum, whose slope is c cos(a)^(degrees-1):
    # it rises and is bent downwards, so Newton's steps from below stay below and end.
    scale = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    angle = 0.0
    for _ in range(_STEPS):
        step = (confidence - _within(angle, degrees)) / (scale * math.cos(angle) ** (degrees - 1))
        angle += step
        if abs(step) <= 1e-15 * angle:
            break
    return math.sqrt(degrees) * math.tan(angle)


def _within(angle: float, degrees: int) -> float:
    """P(|t| <= sqrt(degrees) tan(angle)), Abramowitz and Stegun 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    terms = []
    for k in range(2 + odd, degrees + 1, 2):
        terms.append(term)
        term *= cosine * cosine * (k - 1) / k
    total = sine * math.fsum(terms)
    return 2 / math.pi * (angle + total) if odd else total


def _expanded(x: float, degrees: int) -> float:
    """From the normal quantile x, Abramowitz and Stegun 26.7.5."""
    y = x * x
    parts = (
        (y + 1) / 4,
        ((5 * y + 16) * y + 3) / 96,
        (((3 * y + 19) * y + 17) * y - 15) / 384,
        ((((79 * y + 776) * y + 1482) * y - 1920) * y - 945) / 92160,
    )
    return x * (1 + math.fsum(part * (1 / degrees) ** i for i, part in enumerate(parts, 1)))
