"""The steps go down, and where scipy's go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ofa_edge.search.nonadditive.descent import descend


def softened(seed, n=30, rows=60):
    """A log-sum-exp of drawn lines and a little square: smooth, convex, with one lowest place."""
    rng = np.random.default_rng(seed)
    lines, levels = rng.normal(size=(rows, n)), rng.normal(size=rows)

    def function(x):
        values = lines @ x + levels
        most = values.max()
        shares = np.exp(values - most)
        total = shares.sum()
        return most + np.log(total) + 0.005 * x @ x, lines.T @ (shares / total) + 0.01 * x

    return function


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_it_ends_as_low_as_scipy_does(seed):
    function, start = softened(seed), np.random.default_rng(seed).normal(size=30)
    found = descend(function, start, 500)
    known = minimize(function, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-14})
    assert function(found)[0] == pytest.approx(known.fun, abs=1e-6)


@given(seed=st.integers(0, 10**6), steps=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_no_step_goes_up(seed, steps):
    function, start = softened(seed), np.random.default_rng(seed).normal(size=30)
    values = [function(start)[0]]

    def note(step, x):
        assert step == len(values)
        values.append(function(x)[0])
        return False

    found = descend(function, start, steps, note)
    assert values == sorted(values, reverse=True)
    assert function(found)[0] == values[-1]
    assert len(values) - 1 <= steps


def test_enough_is_enough():
    function, start = softened(1), np.ones(30)
    third = descend(function, start, 3)
    assert np.array_equal(descend(function, start, 500, lambda step, x: step == 3), third)
    assert np.array_equal(start, np.ones(30))  # what was given is not written to


def test_a_place_that_is_lowest_stays():
    place = descend(lambda x: (float(x @ x), 2 * x), np.zeros(5), 10)
    assert np.array_equal(place, np.zeros(5))


def test_a_function_that_is_not_convex_is_followed_down():
    """Rosenbrock's valley, whose curvature changes its sign on the way."""

    def valley(x):
        a, b = x
        gradient = np.array([-400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)])
        return 100 * (b - a * a) ** 2 + (1 - a) ** 2, gradient

    assert descend(valley, np.array([-1.2, 1.0]), 300) == pytest.approx(np.ones(2), abs=1e-4)
