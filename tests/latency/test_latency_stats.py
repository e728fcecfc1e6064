"""Intervals cover as often as they say; trends are found where there are some and only there."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.latency import stats
from ofa_edge.latency.stats import Quality, Sentinel, Verdict


def sentinels(medians: np.ndarray, session: int = 0, every: float = 10.0) -> list[Sentinel]:
    return [Sentinel(session, every * i, float(m)) for i, m in enumerate(medians)]


@pytest.mark.parametrize("n", [6, 15, 40])
def test_the_median_interval_covers_the_true_median_of_a_skewed_distribution(n: int) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        interval = stats.median_interval(rng.lognormal(0.0, 1.0, n).tolist())
        assert interval is not None
        hits += interval[0] <= 1.0 <= interval[1]
    assert 0.945 <= hits / 2000 <= 0.985


def test_the_median_interval_has_the_textbook_ranks() -> None:
    # Conover, Practical Nonparametric Statistics, table A3: n = 10 gives ranks 2 and 9 (97.9 %), n = 20: 6 and 15.
    assert stats.median_interval(range(1, 11)) == (2, 9)
    assert stats.median_interval(range(1, 21)) == (6, 15)


def test_five_values_are_too_few_for_95_percent() -> None:
    assert stats.median_interval([1, 2, 3, 4, 5]) is None
    assert stats.median_interval([]) is None
    assert stats.median_interval([1, 2, 3, 4, 5], confidence=0.9) == (1, 5)


def test_values_around_zero_which_only_a_file_can_hold_have_a_spread() -> None:
    assert stats.spread([0.0, 0.0, 1e-300]) == 1.0
    assert stats.spread([-1.0, 1.0]) == 1.0


def test_spread_is_the_standard_deviation_of_normal_values_and_ignores_an_outlier() -> None:
    values = np.random.default_rng(2).normal(10, 0.3, 4000)
    assert stats.spread(values.tolist()) == pytest.approx(0.03, rel=0.05)
    assert stats.spread([10.0, 10.1, 9.9, 10.0, 100.0]) < 0.02


def test_a_linear_drift_is_found_and_removed() -> None:
    rng = np.random.default_rng(3)
    true = 1 + 0.10 * np.arange(20) / 19  # 10 % slower at the end
    drift = stats.drift(sentinels(2.0 * true * rng.normal(1, 0.01, 20)))
    assert drift.largest_change == pytest.approx(0.10, abs=0.02)
    factors = [drift.factor(0, 10.0 * i) for i in range(20)]
    np.testing.assert_allclose(factors / np.mean(factors), true / np.mean(true), atol=0.012)
    assert drift.spread < 0.02


def test_noise_alone_is_no_drift() -> None:
    rng = np.random.default_rng(4)
    found = sum(stats.drift(sentinels(rng.normal(2, 0.05, 20))).largest_change != 0 for _ in range(500))
    assert found <= 12  # a test at 1 % finds five of 500


def test_a_drift_too_small_to_matter_is_left_alone() -> None:
    assert stats.drift(sentinels(2.0 * (1 + 0.005 * np.arange(20) / 19))).largest_change == 0


def test_one_outlier_makes_no_drift() -> None:
    medians = np.full(12, 2.0) * np.random.default_rng(5).normal(1, 0.003, 12)
    medians[-1] = 9.0
    assert stats.drift(sentinels(medians)).factor(0, 110.0) == 1.0


def test_a_session_on_a_slower_day_is_brought_to_the_common_level() -> None:
    slow, fast = np.full(6, 2.4), np.full(6, 2.0)
    drift = stats.drift([*sentinels(fast, 0), *sentinels(slow, 1)])
    assert drift.factor(1, 30.0) / drift.factor(0, 30.0) == pytest.approx(1.2)


def test_a_session_without_sentinels_keeps_factor_one() -> None:
    assert stats.drift([]).factor(0, 5.0) == 1.0
    assert stats.drift(sentinels(np.full(6, 2.0))).factor(7, 5.0) == 1.0


QUIET = Quality(
    rows=300, disturbed=3, failed=0, sentinel_spread=0.01, drift_change=0, anchor_spread=0.03, networks=12,
    loo_error=0.015,
)  # fmt: skip


def test_a_quiet_campaign_is_good_without_notices() -> None:
    assert stats.judge(QUIET) == (Verdict.GOOD, ())


@pytest.mark.parametrize(
    ("change", "verdict", "code"),
    [
        ({"disturbed": 60}, Verdict.NOISY, "disturbed"),
        ({"disturbed": 200}, Verdict.UNUSABLE, "disturbed"),
        ({"sentinel_spread": 0.1}, Verdict.NOISY, "sentinel-spread"),
        ({"anchor_spread": 0.3}, Verdict.UNUSABLE, "anchor-spread"),
        ({"loo_error": 0.2}, Verdict.UNUSABLE, "loo-error"),
        ({"loo_error": None}, Verdict.GOOD, "uncalibrated"),
        ({"failed": 1}, Verdict.GOOD, "failed"),
        ({"drift_change": -0.03}, Verdict.GOOD, "drift"),
    ],
)
def test_each_trouble_is_named(change: dict[str, float], verdict: Verdict, code: str) -> None:
    from dataclasses import replace

    result, notices = stats.judge(replace(QUIET, **change))
    assert result is verdict
    assert [notice.code for notice in notices] == [code]


def test_the_worst_trouble_decides() -> None:
    from dataclasses import replace

    assert stats.judge(replace(QUIET, disturbed=290, loo_error=0.06))[0] is Verdict.UNUSABLE
