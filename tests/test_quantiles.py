"""Student's t is the textbooks' and scipy's, without scipy."""

from __future__ import annotations

import math

import pytest
from scipy.special import stdtrit

from ofa_edge.quantiles import student_t

CONFIDENCES = (0.01, 0.1, 0.5, 0.6827, 0.8, 0.9, 0.95, 0.99, 0.999)
DEGREES = (*range(1, 40), 99, 100, 431, 1000, 1999, 2000, 2161, 100_000, 10**9)


def test_student_t_is_the_textbooks() -> None:
    assert student_t(0.95, 9) == pytest.approx(2.2622, abs=1e-4)
    assert student_t(0.99, 1) == pytest.approx(63.657, abs=1e-3)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_student_t_is_scipys(confidence: float) -> None:
    for degrees in DEGREES:
        assert student_t(confidence, degrees) == pytest.approx(float(stdtrit(degrees, (1 + confidence) / 2)), rel=2e-12)


def test_more_degrees_never_widen_an_interval_and_end_at_the_normal() -> None:
    found = [student_t(0.95, degrees) for degrees in (*DEGREES, 10**400)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(1.959963984540054, rel=1e-15)


def test_without_degrees_of_freedom_nothing_is_known() -> None:
    assert math.isnan(student_t(0.95, 0))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, float("nan")])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        student_t(confidence, 9)
