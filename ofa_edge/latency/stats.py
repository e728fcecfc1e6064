"""Statistics of measurements: intervals of a median, drift, spread, and whether a campaign can be trusted.

In: medians (milliseconds) and when they were taken. Out: plain numbers and frozen values; no IO, no clock.
Rules kept: the statistic is the median; a trend is removed only where it is both certain and large enough
to matter; what is wrong with a campaign is data (Notice), put into words once, here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import numpy as np

from ofa_edge.quantiles import student_t as student_t

Z = 1.959964
"""Half-widths of 95 % intervals are so many standard errors, where these are known well."""
MAD_TO_STD = 1.4826
"""Scale of the median absolute deviation that makes it the standard deviation of a normal distribution."""
_MEDIAN_TO_MEAN = 1.25  # what the standard error of a normal's median is more than its mean's
# Two-sided 1 % of a normal: how sure a trend must be before it is removed.
_TREND_Z = 2.576
_TREND_MIN_SAMPLES = 6  # below, Mann-Kendall cannot reach that certainty
_TREND_MIN_CHANGE = 0.01  # relative change over a session; less is within the blocks' own +-2 %
_LEVEL_MIN_SAMPLES = 3
_ABSURD = 1e15  # of whatever unit; also keeps infinities, NaN and integers that are no double out
# Values up to which the binomial of a median's ranks is summed exactly; beyond, the normal's ranks are one off at most,
# and n over k is no double.
_EXACT_RANKS = 1000


# -- intervals ------------------------------------------------------------------------------------
def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Order-statistic interval of the median, free of any assumption on the distribution.

    The number of values below the true median is binomial(n, 1/2); the interval is the narrowest
    symmetric pair of order statistics that covers with at least `confidence`. None where even the
    extremes do not (n < 6 at 95 %).
    """
    ordered = sorted(values)
    n = len(ordered)
    tail = (1 - confidence) / 2
    if n > _EXACT_RANKS:
        rank = int((n - NormalDist().inv_cdf(1 - tail) * math.sqrt(n)) / 2)
        return ordered[rank - 1], ordered[n - rank]
    below = 0.0
    rank = 0  # order statistics 1..rank may be cut off at each end
    for k in range(n // 2):
        below += math.comb(n, k) * 0.5**n
        if below > tail:
            break
        rank = k + 1
    if rank == 0:
        return None
    return ordered[rank - 1], ordered[n - rank]


def spread(values: Sequence[float]) -> float:
    """Robust relative spread: scaled median absolute deviation over the median; 0 for fewer than two values, 1 for
    values around 0, which no measurement gives but a file may hold."""
    if len(values) < 2:
        return 0.0
    array = np.asarray(values, float)
    middle = float(np.median(array))
    return MAD_TO_STD * float(np.median(np.abs(array - middle))) / middle if middle > 0 else 1.0


def error_of_mean(values: np.ndarray) -> float:
    """Standard error of the mean of two values or more, in their unit."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def error_of_median(values: np.ndarray) -> float:
    """Relative standard error of a median, from the robust spread; 0 for fewer than two values."""
    return _MEDIAN_TO_MEAN * spread(values.tolist()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


# -- values out of files ---------------------------------------------------------------------------
def told(value: Any) -> float | None:
    """A field of a row that may hold anything: the number, None where it is none or not a sensible one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _ABSURD:
        return None
    return float(value)


# -- drift ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Sentinel:
    """One measurement of the sentinel block: which session, seconds since its start, median in ms."""

    session: int
    seconds: float
    median: float


@dataclass(frozen=True, slots=True)
class Trend:
    """Level of the sentinel over one session, in ms: `level` at `middle` seconds, changing by `slope` ms a second."""

    level: float
    slope: float
    middle: float
    change: float  # relative, over the whole session; 0 where no trend is removed

    def at(self, seconds: float) -> float:
        return self.level + self.slope * (seconds - self.middle)


@dataclass(frozen=True, slots=True)
class Drift:
    """What the sentinels say about the machine: a factor by which to divide a block's median.

    Attributes:
        reference: median of all sentinels in ms; the speed everything is brought to.
        trends: by session; sessions with too few sentinels have none and keep factor 1.
        spread: robust relative spread of the sentinels around their trends.
    """

    reference: float
    trends: Mapping[int, Trend] = field(default_factory=dict)
    spread: float = 0.0

    def factor(self, session: int, seconds: float) -> float:
        trend = self.trends.get(session)
        return 1.0 if trend is None else trend.at(seconds) / self.reference

    @property
    def largest_change(self) -> float:
        """Greatest relative change removed within a session, signed."""
        return max((trend.change for trend in self.trends.values()), key=abs, default=0.0)


def drift(sentinels: Sequence[Sentinel]) -> Drift:
    """Fit each session's level and, where Mann-Kendall's test is sure (1 %) and the change exceeds 1 %, its
    Theil-Sen slope. One session without a trend gives factor 1 everywhere."""
    if not sentinels:
        return Drift(reference=1.0)
    reference = float(np.median([s.median for s in sentinels]))
    sessions = sorted({s.session for s in sentinels})
    trends: dict[int, Trend] = {}
    residuals: list[float] = []
    for session in sessions:
        own = [s for s in sentinels if s.session == session]
        trend = _trend(own)
        if trend is not None and (trend.slope or len(sessions) > 1):
            trends[session] = trend
        level = trend or Trend(reference, 0.0, 0.0, 0.0)
        residuals += [s.median / level.at(s.seconds) for s in own]
    return Drift(reference, trends, spread(residuals))


def _trend(samples: Sequence[Sentinel]) -> Trend | None:
    n = len(samples)
    if n < _LEVEL_MIN_SAMPLES:
        return None
    times = np.array([s.seconds for s in samples])
    medians = np.array([s.median for s in samples])
    middle = float(np.median(times))
    level = float(np.median(medians))
    flat = Trend(level, 0.0, middle, 0.0)
    if n < _TREND_MIN_SAMPLES:
        return flat
    first, second = np.triu_indices(n, 1)
    apart = times[second] - times[first]
    gain = medians[second] - medians[first]
    score = float(np.sum(np.sign(gain) * np.sign(apart)))
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)  # of the score where there is no trend
    if (abs(score) - 1) / deviation < _TREND_Z or not apart.any():
        return flat
    slope = float(np.median(gain[apart != 0] / apart[apart != 0]))
    change = slope * float(np.ptp(times)) / level
    if abs(change) < _TREND_MIN_CHANGE:
        return flat
    return Trend(float(np.median(medians - slope * (times - middle))), slope, middle, change)


# -- verdicts -------------------------------------------------------------------------------------
class Verdict(StrEnum):
    """How far a campaign can be trusted; `--strict` accepts only good."""

    GOOD = "good"
    NOISY = "noisy"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Notice:
    """One fact a user should know about a campaign: a stable code, a sentence, the value behind it (None where there is
    none), and what to do or type ('' where nothing helps)."""

    code: str
    text: str
    value: float | str | None = None
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "text": self.text, "value": self.value, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class Quality:
    """What a campaign's rows say about how it went; shares and spreads are relative (0.05 = 5 %).

    Attributes:
        rows, disturbed, failed: numbers of measured rows, of rows still flagged after their repeats, of failures.
        sentinel_spread, drift_change: from `drift`.
        anchor_spread: robust spread of the anchor's medians over the network rows.
        networks: calibration networks used.
        loo_error: root mean square of the leave-one-out errors, None without a fit.
    """

    rows: int
    disturbed: int
    failed: int
    sentinel_spread: float
    drift_change: float
    anchor_spread: float
    networks: int
    loo_error: float | None


# Share of disturbed measurements above which a campaign is not good.
DISTURBED = 0.10
_QUIETER = "stop other programs on the device and profile again; `ofa-edge doctor --host HOST` says what else helps"


def judge(quality: Quality) -> tuple[Verdict, tuple[Notice, ...]]:
    """The verdict of a campaign and the facts behind it."""
    q, loo = quality, quality.loo_error or 0.0
    disturbed = f"{q.disturbed} of {q.rows} measurements stayed disturbed by other work"
    more = "profile on a quiet device, with more networks: --networks 20"
    verdict = Verdict.GOOD
    notices = []
    # Noisy and unusable above. On the quiet machine of the study in docs/ the anchor's spread is 3.8 %, the held-out
    # error 1.2-1.5 %; under load medians are off by up to 50 %.
    for code, value, noisy, unusable, text, hint in (
        ("disturbed", q.disturbed / q.rows if q.rows else 1.0, DISTURBED, 0.50, disturbed, _QUIETER),
        ("sentinel-spread", q.sentinel_spread, 0.05, 0.25, "the sentinel block varied by {:.1%}", _QUIETER),
        (
            "anchor-spread",
            q.anchor_spread,
            0.08,
            0.25,
            "the anchor network varied by {:.1%} between processes",
            _QUIETER,
        ),
        ("loo-error", loo, 0.05, 0.15, "whole networks are predicted with an error of {:.1%} (leave-one-out)", more),
    ):
        if value > noisy:
            notices.append(Notice(code, text.format(value), value, hint))
            worst = Verdict.UNUSABLE if value > unusable else Verdict.NOISY
            verdict = worst if verdict is not Verdict.UNUSABLE else verdict
    if quality.failed:
        text = f"{quality.failed} blocks or networks could not be measured"
        notices.append(Notice("failed", text, quality.failed, "`ofa-edge table check` names them and their reasons"))
    if quality.drift_change:
        text = f"a drift of {quality.drift_change:+.1%} over a session was removed"
        notices.append(Notice("drift", text, quality.drift_change))
    if quality.loo_error is None:
        text = "too few whole networks were measured: intervals are unknown"
        notices.append(Notice("uncalibrated", text, quality.networks, "profile with --networks 12 or more"))
    return verdict, tuple(notices)
