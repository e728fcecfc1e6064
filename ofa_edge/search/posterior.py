"""What a measured top-1 is worth that was picked because it was the greatest of several.

In: predicted and measured top-1 of a shortlist, the noise of the measurements, the predictor's own error. Out: for
each subnet the accuracy to expect of it (`Corrected`). Rules kept: pure; the same numbers give the same result; a
shortlist of one is not corrected, since nothing was picked.

Why: the greatest of k noisy figures is on average greater than what it measures (the winner's curse; the optimizer's
curse of Smith and Winkler, Management Science 52, 2006). Posterior means have no such bias, however the subnet was
picked (Efron, "Tweedie's formula and selection bias", JASA 106, 2011), if the prior is right; so it is estimated from
the shortlist itself, which is the empirical Bayes of James and Stein (Efron and Morris, JASA 68, 1973; around a
prediction instead of a common mean: Morris, JASA 78, 1983):

    measured   y = theta + c + e,     e ~ N(0, s^2)     c: by how much the images are easier, the same for all
    true       theta = m + b + d,     d ~ N(0, t^2)     m: predicted; b: common to all; t: the predictor's error
    expected   m + mean(y - m) + B (y - m - mean(y - m)),      B = t^2 / (t^2 + s^2)

b is what the predictor is off for all of the shortlist (other images, other batch-norm statistics, the optimism of
having been searched); it has a flat prior and takes c with it. t has a half-Cauchy prior whose scale is the predictor's
left-out error (Gelman, Bayesian Analysis 1, 2006), and is integrated out, weighted by its restricted likelihood,
instead of being plugged in: with 20 subnets its estimate is too often 0. One s for all: with the covariance of each
pair instead, that of subnets which happened to be right more often is smaller, and the correction is biased again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Values of t that are summed over: the middles of so many equally likely parts of its prior.
_POINTS = 256
# Of t, a share: a predictor is not believed to be surer than that.
_LEAST_ERROR = 5e-4


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """Top-1 to expect of each subnet of a shortlist.

    Attributes:
        top1: (k,) shares.
        offset: b + c, by how much the shortlist is better than predicted.
        belief: B, what part of a measured difference to the prediction is believed, 0..1.
    """

    top1: Floats
    offset: float
    belief: float


def corrected(predicted: Floats, measured: Floats, noise: float, error: float) -> Corrected:
    """Posterior means of top-1 after measuring.

    Args:
        predicted, measured: shares (k,).
        noise: s^2; see `sampling_noise`.
        error: standard deviation of the predictor's error around the truth, a share.

    Raises:
        ValueError: the shapes do not fit (a mistake in the caller).
    """
    k = len(measured)
    if k == 0 or predicted.shape != (k,):
        raise ValueError(f"{predicted.shape} predicted and {measured.shape} measured")
    better = measured - predicted
    offset = float(better.mean())
    if k == 1:
        return Corrected(measured, offset, 1.0)
    parts = (np.arange(_POINTS) + 0.5) / _POINTS
    variances = (max(error, _LEAST_ERROR) * np.tan(np.pi / 2 * parts)) ** 2
    seen = variances + noise
    likelihood = -0.5 * ((k - 1) * np.log(seen) + ((better - offset) ** 2).sum() / seen)
    weights = np.exp(likelihood - likelihood.max())
    belief = float(weights @ (variances / seen) / weights.sum())
    return Corrected(np.clip(predicted + offset + belief * (better - offset), 0.0, 1.0), offset, belief)


def sampling_noise(right: Bools) -> float:
    """Variance s^2 of a measured top-1 around the truth, but for what all subnets have in common.

    The binomial p (1 - p) / n, less the covariance of two of them, averaged over the shortlist: subnets of one supernet
    err on the same images, so two of them are told apart far better than their own intervals say.

    Args:
        right: (k, n) which images each subnet gets right.
    """
    k, n = map(int, right.shape)
    shares = right.mean(axis=1)
    own: float = np.mean(shares * (1 - shares)).item()
    if k == 1:
        return own / n
    # The variance of the sum is k x own + k (k - 1) x what two share.
    shared: float = (right.sum(axis=0).var().item() - k * own) / (k * (k - 1))
    return max(own - shared, 0.0) / n


def predictors_error(top1: Floats, half_widths: Floats, confidence: float, n: float) -> float:
    """Standard deviation, a share, of predictions around the truth.

    A prediction's interval is made for a new measurement on n images, so it holds the sampling of these as well.

    Args:
        top1, half_widths: (k,) of the predictions and their two-sided intervals.
        n: images of each row the predictor was fitted on; infinite where the interval holds no sampling.
    """
    deviations = half_widths / NormalDist().inv_cdf((1 + confidence) / 2)
    variance: float = np.mean(deviations**2 - top1 * (1 - top1) / n).item()
    return math.sqrt(max(variance, 0.0))
