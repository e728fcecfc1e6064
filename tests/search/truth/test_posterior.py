"""Correcting a picked maximum: right on average where the maximum itself is not, and no more than that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from ofa_edge.search.truth.posterior import corrected, predictors_error, sampling_noise

# Errors of means over this many repetitions are taken to be within so many of their standard errors.
ERRORS = 4.0


def picked(
    seed: int,
    *,
    repeats: int,
    k: int,
    spread: float | np.ndarray,
    noise: float,
    believed: float,
    slope: float | np.ndarray = 0.5,
) -> tuple[np.ndarray, ...]:
    """(repeats,) each: measured less true top-1 of the greatest measured; corrected less true, of the greatest
    corrected; and of what was picked, by how much it is truly better than what the measurement alone would pick."""
    rng = np.random.default_rng(seed)
    predicted = 0.9 + rng.normal(0, 0.002, (repeats, k))
    true = 0.88 + slope * (predicted - 0.9) + rng.normal(0, spread, (repeats, k))
    measured = true + rng.normal(0, noise, (repeats, k))
    found = np.stack([corrected(m, y, noise**2, believed).top1 for m, y in zip(predicted, measured, strict=True)])
    row = np.arange(repeats)
    greatest, best = measured.argmax(axis=1), found.argmax(axis=1)
    return (
        measured[row, greatest] - true[row, greatest],
        found[row, best] - true[row, best],
        true[row, best] - true[row, greatest],
    )


@pytest.mark.parametrize(("spread", "noise"), [(0.004, 0.004), (0.002, 0.006), (0.008, 0.003)])
def test_the_corrected_maximum_is_right_on_average_and_the_raw_one_is_not(spread: float, noise: float) -> None:
    raw, fixed, _ = picked(0, repeats=2000, k=20, spread=spread, noise=noise, believed=spread)
    assert raw.mean() > ERRORS * 2 * raw.std() / 2000**0.5
    # At one fixed spread and slope, which the prior holds only among others, a twentieth of the bias may be left.
    assert abs(fixed.mean()) < ERRORS * fixed.std() / 2000**0.5 + raw.mean() / 20


def test_where_the_prior_holds_there_is_no_bias_at_all() -> None:
    repeats, error = 4000, 0.003
    rng = np.random.default_rng(9)
    spread, slope = error * np.abs(rng.standard_t(4, (repeats, 1))), rng.random((repeats, 1))
    raw, fixed, _ = picked(6, repeats=repeats, k=8, spread=spread, noise=0.004, believed=error, slope=slope)
    assert raw.mean() > ERRORS * 2 * raw.std() / repeats**0.5
    assert abs(fixed.mean()) < ERRORS * fixed.std() / repeats**0.5


def test_a_predictor_that_misjudges_itself_costs_little_of_the_correction() -> None:
    for believed in (0.001, 0.012):
        raw, fixed, _ = picked(1, repeats=1000, k=20, spread=0.004, noise=0.004, believed=believed)
        assert abs(fixed.mean()) < raw.mean() / 3


def test_what_is_picked_is_on_average_better_than_the_greatest_measured() -> None:
    *_, gain = picked(2, repeats=1500, k=20, spread=0.002, noise=0.006, believed=0.002)
    assert gain.mean() > ERRORS * gain.std() / 1500**0.5


def test_it_is_right_on_average_on_images_that_all_subnets_share() -> None:
    """Whether a subnet is right depends mostly on the image, as for subnets of one supernet."""
    rng = np.random.default_rng(3)
    repeats, k, n, shared = 400, 12, 600, 0.8
    raw, fixed = np.empty(repeats), np.empty(repeats)
    for i in range(repeats):
        predicted = 0.85 + rng.normal(0, 0.004, k)
        true = 0.85 + (predicted - 0.85) / 2 + rng.normal(0, 0.008, k)
        ease = shared**0.5 * rng.normal(size=n) + (1 - shared) ** 0.5 * rng.normal(size=(k, n))
        right = ease < ndtri(true)[:, None]
        measured = right.mean(axis=1)
        found = corrected(predicted, measured, sampling_noise(right), 0.008).top1
        # What the images are easier than others is common to all, and no correction can know it.
        level = (measured - true).mean()
        raw[i] = measured.max() - true[measured.argmax()] - level
        fixed[i] = found.max() - true[found.argmax()] - level
    assert raw.mean() > ERRORS * 2 * raw.std() / repeats**0.5
    assert abs(fixed.mean()) < ERRORS * fixed.std() / repeats**0.5


def test_the_noise_is_what_tells_two_subnets_apart() -> None:
    """Half the variance of a difference, averaged over pairs: 0 for copies, the binomial's where nothing is shared."""
    rng = np.random.default_rng(5)
    right = rng.random((4, 300)) < np.array([0.7, 0.8, 0.75, 0.9])[:, None]
    pairs = [(right[i].astype(int) - right[j]).var() / 2 / 300 for i in range(4) for j in range(i)]
    assert sampling_noise(right) == pytest.approx(np.mean(pairs))
    assert sampling_noise(np.repeat(right[:1], 3, axis=0)) == pytest.approx(0, abs=1e-12)
    share = right[0].mean()
    assert sampling_noise(right[:1]) == pytest.approx(share * (1 - share) / 300)
    alone = rng.random((5, 20_000)) < 0.9
    assert sampling_noise(alone) == pytest.approx(0.09 / 20_000, rel=0.05)


SHARES = st.lists(st.floats(0.3, 0.7), min_size=2, max_size=8)


@given(predicted=SHARES, seed=st.integers(0, 10**6), error=st.floats(0.001, 0.05), off=st.floats(-0.2, 0.2))
def test_what_all_have_in_common_changes_nothing_between_them(
    predicted: list[float], seed: int, error: float, off: float
) -> None:
    rng, k = np.random.default_rng(seed), len(predicted)
    m, y, noise = np.array(predicted), rng.uniform(0.3, 0.7, k), rng.uniform(1e-7, 1e-3)
    found = corrected(m, y, noise, error)
    shifted = corrected(m + off, y, noise, error)
    np.testing.assert_allclose(shifted.top1, found.top1, atol=1e-9)
    assert shifted.offset == pytest.approx(found.offset - off, abs=1e-9)
    assert found.top1.mean() == pytest.approx(y.mean())
    assert 0 < found.belief < 1
    assert 0 < found.slope < 1
    order = rng.permutation(k)
    np.testing.assert_allclose(corrected(m[order], y[order], noise, error).top1, found.top1[order], atol=1e-9)


def test_one_subnet_was_not_picked_and_is_not_corrected() -> None:
    found = corrected(np.array([0.5]), np.array([0.8]), 1e-4, 0.01)
    assert found.top1 == pytest.approx([0.8])


def test_the_noisier_the_measurement_the_less_it_is_believed() -> None:
    predicted, measured = np.array([0.90, 0.91, 0.92, 0.93]), np.array([0.93, 0.91, 0.92, 0.90])
    few, many = (corrected(predicted, measured, 0.09 / n, 0.01) for n in (50, 50_000))
    assert few.belief < many.belief
    assert np.abs(many.top1 - measured).max() < 0.002
    assert few.top1.argmax() == 3
    assert many.top1.argmax() == 0


def test_subnets_that_are_right_on_the_same_images_are_no_division_by_zero() -> None:
    right = np.ones((3, 50), dtype=bool)
    found = corrected(np.array([0.9, 0.8, 0.7]), right.mean(axis=1), sampling_noise(right), 0.0)
    assert np.isfinite(found.top1).all()
    assert (found.top1 <= 1).all()


def test_a_predictions_interval_holds_the_sampling_of_what_it_was_fitted_to() -> None:
    halves = 1.959964 * np.hypot(0.006, 0.004) * np.ones(3)
    assert predictors_error(halves, 0.95, 0.004**2) == pytest.approx(0.006, rel=1e-5)
    assert predictors_error(halves, 0.95, 0.0) == pytest.approx(np.hypot(0.006, 0.004), rel=1e-5)
    assert predictors_error(halves, 0.95, 1.0) == 0


def test_shapes_that_do_not_fit_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="predicted"):
        corrected(np.array([0.9, 0.8]), np.array([0.9]), 1e-4, 0.01)
