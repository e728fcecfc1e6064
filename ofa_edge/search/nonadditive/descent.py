"""Steps down a smooth function: L-BFGS (Nocedal, Math. Comp. 35, 1980), in vector operations alone.

In: a function that gives value and gradient, a place to start. Out: a lower place. scipy's L-BFGS-B takes the same
steps, but calls BLAS so that several threads spin for vectors of some thousand numbers: on a machine with other work it
took thirty times as long. Rule kept: one thread, the same steps for the same input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa_edge.search.costs import Floats

# Steps that the curvature is known from.
_MEMORY = 10
# A step is taken if it falls by this part of what the gradient promises; else it is shortened, so many times.
_SUFFICIENT = 1e-4
_SHORTENED = 20
# Values that differ by less than this part are equal.
_LEAST = 1e-13


def descend(
    function: Callable[[Floats], tuple[float, Floats]],
    x: Floats,
    steps: int,
    enough: Callable[[int, Floats], bool] = lambda step, x: False,
) -> Floats:
    """Take up to so many steps from x (n,).

    Args:
        enough: asked after each step, with how many were taken.
    """
    value, gradient = function(x)
    known: list[tuple[Floats, Floats, float]] = []
    for step in range(1, steps + 1):
        direction = _direction(gradient, known)
        slope = float(gradient @ direction)
        if slope >= 0:  # the curvature that is known is of elsewhere
            known, direction = [], -gradient
            slope = float(gradient @ direction)
        length = 1.0 if known else min(1.0, 1.0 / max(1e-300, float(np.abs(gradient).sum())))
        found = _shortened(function, x, value, direction, slope, length)
        if found is None:
            break
        moved, lower, new = found
        s, y = moved - x, new - gradient
        curvature = float(s @ y)
        if curvature > 1e-12 * float(y @ y):
            known = [*known[-_MEMORY + 1 :], (s, y, 1 / curvature)]
        flat = value - lower <= _LEAST * max(1.0, abs(value))
        x, value, gradient = moved, lower, new
        if flat or enough(step, x):
            break
    return x


def _direction(gradient: Floats, known: list[tuple[Floats, Floats, float]]) -> Floats:
    """Minus the gradient times the inverse curvature that the last steps tell."""
    q = -gradient
    factors = []
    for s, y, inverse in reversed(known):
        factor = inverse * float(s @ q)
        q -= factor * y
        factors.append(factor)
    if known:
        s, y, inverse = known[-1]
        q *= 1 / (inverse * float(y @ y))
    for (s, y, inverse), factor in zip(known, reversed(factors), strict=True):
        q += (factor - inverse * float(y @ q)) * s
    return q


def _shortened(
    function: Callable[[Floats], tuple[float, Floats]],
    x: Floats,
    value: float,
    direction: Floats,
    slope: float,
    length: float,
) -> tuple[Floats, float, Floats] | None:
    """The place, value and gradient after a step that falls enough; None where none does."""
    for _ in range(_SHORTENED):
        moved = x + length * direction
        lower, gradient = function(moved)
        if lower <= value + _SUFFICIENT * length * slope:
            return moved, lower, gradient
        # Where the parabola through both values and the slope is least, neither too near nor too far.
        best = -slope * length**2 / (2 * (lower - value - slope * length))
        length = min(max(best, 0.1 * length), 0.5 * length)
    return None
