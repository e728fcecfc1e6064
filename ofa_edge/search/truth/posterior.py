"""What a measured top-1 is worth that was picked because it was the greatest of several.

In: predicted and measured top-1 of a shortlist, the noise of the measurements, the predictor's own error. Out: for
each subnet the accuracy to expect of it (`Corrected`). Rules kept: pure; the same numbers give the same result; a
shortlist of one is not corrected, since nothing was picked.

Why: the greatest of k noisy figures is on average greater than what it measures (the winner's curse; the optimizer's
curse of Smith and Winkler, Management Science 52, 2006). Posterior means have no such bias, however the subnet was
picked (Efron, "Tweedie's formula and selection bias", JASA 106, 2011), if the prior is right; so it is estimated from
the shortlist itself, which is the empirical Bayes of James and Stein (Efron and Morris, JASA 68, 1973; around a
regression instead of a common mean: Morris, JASA 78, 1983):

    measured   y = theta + e,           e ~ N(0, s^2)       s: of the sampling of images
    true       theta = a + b m + d,     d ~ N(0, t^2)       m: predicted; t: the predictor's error
    expected   b m + mean(y - b m) + B (y - b m - mean(y - b m)),      B = t^2 / (t^2 + s^2)

a has a flat prior: it holds what is common to the shortlist (easier images, other batch-norm statistics, the optimism
of having been searched). b is what part of the predicted differences within the shortlist is real, equally likely all
from 0 to 1: a predictor that is right over all subnets (b = 1) is not so among the best within one budget, where much
of what still tells them apart is its error; measured on real accuracies b is .4 to .7 there (benchmarks/picking.py). t
has a half-t prior of _DEGREES whose scale is the predictor's left-out error (Gelman, Bayesian Analysis 1, 2006). Both
are integrated out, weighted by their restricted likelihood, instead of being plugged in: with 20 subnets the estimate
of t is too often 0. One s for all: with the covariance of each pair instead, that of subnets which happened to be right
more often is smaller, and the correction is biased again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ofa_edge.quantiles import student_t

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# A predictor may be wrong about the best subnets three times as much as about drawn ones (one in 25), hardly ever ten
# times.
_DEGREES = 4
# Values of t and of b that are summed over: the middles of so many equally likely parts of their priors.
_ERRORS, _SLOPES = 128, 20
# Of t, a share: a predictor is not believed to be surer than that.
_LEAST_ERROR = 5e-4


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """Top-1 to expect of each subnet of a shortlist.

    Attributes:
        top1: (k,) shares.
        offset: by how much the shortlist is better than predicted, on average.
        slope: b, what part of the predicted differences is believed, 0..1.
        belief: B, what part of a measured difference to the prediction is believed, 0..1.
    """

    top1: Floats
    offset: float
    slope: float
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
    offset = float(np.mean(measured - predicted))
    if k == 1:
        return Corrected(measured, offset, 1.0, 1.0)
    slopes = (np.arange(_SLOPES) + 0.5) / _SLOPES
    parts = (np.arange(_ERRORS) + 0.5) / _ERRORS
    variances = (max(error, _LEAST_ERROR) * np.array([student_t(part, _DEGREES) for part in parts.tolist()])) ** 2
    beliefs = variances / (variances + noise)
    # What is left of each subnet's measurement, without what is common to all: (slopes, k).
    explained = slopes[:, None] * (predicted - predicted.mean())
    left = measured - measured.mean() - explained
    squares = (left**2).sum(axis=1)[:, None]
    likelihood = -0.5 * ((k - 1) * np.log(variances + noise) + squares / (variances + noise))
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    of_slope, believed = weights.sum(axis=1), weights @ beliefs
    top1 = measured.mean() + of_slope @ explained + believed @ left
    return Corrected(np.clip(top1, 0.0, 1.0), offset, float(of_slope @ slopes), float(believed.sum()))


def sampling_noise(right: Bools) -> float:
    """Variance s^2 of a measured top-1 around the truth, but for what is common to all subnets.

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


def predictors_error(half_widths: Floats, confidence: float, sampling: float) -> float:
    """Standard deviation, a share, of predictions around the truth.

    A prediction's interval is for a new measurement on the images it was fitted to, so it holds their sampling too.

    Args:
        half_widths: (k,) of the predictions' two-sided intervals.
        sampling: variance of a measurement on those images, but for what is common to all subnets; 0 where the
            intervals hold none.
    """
    deviations = half_widths / NormalDist().inv_cdf((1 + confidence) / 2)
    return math.sqrt(max(float(np.mean(deviations**2)) - sampling, 0.0))
