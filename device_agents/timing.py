"""How long does a run take: the statistics of timed batches, alone or beside an anchor network.

In: functions that run a model once, limits, a clock. Out: Timed, a value. Rules kept: no other clock is read
than the one given, so every decision here is tested with a scripted one; warm-up ends when two windows
agree; a batch is long against the clock; timing stops when the interval of the median is narrow enough or
at the limit; what makes a result doubtful is a flag, never a silent repair.

Beside an anchor (the main error of whole-network timings is the machine's own drift over seconds; the ratio
to a network of the same family timed in between cancels it): ~30 ms of the anchor, ~100 ms of the target,
in turns, at least 10 times.
"""

from __future__ import annotations

import math
import resource
import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable

from device_agents.wire import Figures

Run = Callable[[], object]

_MS = 1_000_000  # ns

WINDOW_NS = 10 * _MS
WARM_REL = 0.05  # two windows agree within this
WARM_SHARE = 1 / 3  # of the limit that warm-up may take

MIN_BATCH_NS = 1 * _MS
RESOLUTION_STEPS = 1000  # a batch lasts at least this many steps of the clock
MAX_BATCH = 20_000  # runs
MIN_SAMPLES = 20
MAX_SAMPLES = 50_000

TARGET_NS = 100 * _MS
ANCHOR_NS = 30 * _MS
MIN_PAIRS = 10
MAX_PAIRS = 1000
MAX_RUNS = 5000  # of one interleaved batch

CPU_OVER_WALL = 0.95
SWITCHES_A_SECOND = 5.0
MEDIAN_OVER_MIN = 1.25


class Clock:
    """What timing needs of the machine; a double scripts it.

    `resolution_ns` is the smallest step of `now`.
    """

    resolution_ns: float = time.get_clock_info("perf_counter").resolution * 1e9

    def now(self) -> int:
        """Monotonic, ns."""
        return time.perf_counter_ns()

    def cpu(self) -> int:
        """CPU time of all threads of this process, ns."""
        return time.process_time_ns()

    def switches(self) -> int:
        """Involuntary context switches of this process so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@dataclass(frozen=True)
class Timed:
    """The fields of wire.Measured that timing knows."""

    figures: Figures
    anchor: Figures | None
    ratio: Figures | None
    batch: int
    seconds: float
    cpu_over_wall: float
    involuntary_switches: int
    flags: tuple[str, ...]


class _Watch:
    """Elapsed and CPU time of one measurement, and its limit."""

    def __init__(self, clock: Clock, max_seconds: float):
        self.clock = clock
        self.limit = max_seconds * 1e9
        self.began = clock.now()
        self.flags: list[str] = []
        self.timing_from()

    def timing_from(self) -> None:
        """Warm-up is over: CPU time and switches count from here."""
        self._wall, self._cpu, self._switches = self.clock.now(), self.clock.cpu(), self.clock.switches()

    @property
    def elapsed(self) -> float:
        return self.clock.now() - self.began

    def timed(self, figures: Figures, anchor: Figures | None, ratio: Figures | None, batch: int) -> Timed:
        wall = max(1, self.clock.now() - self._wall)
        share = (self.clock.cpu() - self._cpu) / wall
        switches = self.clock.switches() - self._switches
        if share < CPU_OVER_WALL:
            self.flags.append("cpu-starved")
        if switches > SWITCHES_A_SECOND * max(1.0, wall / 1e9):
            self.flags.append("preempted")
        if figures.median > MEDIAN_OVER_MIN * figures.min:
            self.flags.append("spread")
        return Timed(
            figures, anchor, ratio, batch, self.elapsed / 1e9, max(0.0, share), max(0, switches), tuple(self.flags)
        )


def time_alone(run: Run, *, target_rel: float, max_seconds: float, clock: Clock) -> Timed:
    """Time one model in batches; a sample is a batch's time over its runs, in ms.

    Args:
        target_rel: stop when the interval of the median is within +- this share of it.
        max_seconds: or after this long; the batch in flight is finished.
    """
    watch = _Watch(clock, max_seconds)
    once = _warm_up(run, watch)
    shortest = max(MIN_BATCH_NS, RESOLUTION_STEPS * clock.resolution_ns)
    batch = max(1, min(MAX_BATCH, math.ceil(shortest / once)))
    watch.timing_from()
    samples: list[float] = []
    check_at = MIN_SAMPLES
    while len(samples) < MAX_SAMPLES:
        start = clock.now()
        for _ in range(batch):
            run()
        insort(samples, (clock.now() - start) / batch / _MS)
        if len(samples) >= check_at:
            if _narrow(samples, target_rel):
                break
            check_at = max(check_at + 5, int(check_at * 1.1))
        if watch.elapsed >= watch.limit:
            break
    _flag_stop(watch, samples, MIN_SAMPLES, target_rel)
    return watch.timed(figures_of(samples), None, None, batch)


def time_beside(run: Run, anchor: Run, *, target_rel: float, max_seconds: float, clock: Clock) -> Timed:
    """Time a model and, in turns with it, an anchor network; `target_rel` is about their ratio.

    A sample of the ratio is the median of a target batch over the mean of the medians of the anchor batches
    before and after it, which cancels a linear drift.
    """
    watch = _Watch(clock, max_seconds)
    anchor_runs = _runs_in(ANCHOR_NS, _warm_up(anchor, watch))
    target_runs = _runs_in(TARGET_NS, _warm_up(run, watch))
    watch.timing_from()
    before = _single_runs(anchor, anchor_runs, clock)
    anchors: list[list[float]] = [before]
    targets: list[list[float]] = []
    ratios: list[float] = []
    check_at = MIN_PAIRS
    while len(ratios) < MAX_PAIRS:
        target = _single_runs(run, target_runs, clock)
        after = _single_runs(anchor, anchor_runs, clock)
        targets.append(target)
        anchors.append(after)
        insort(ratios, quantile(target, 0.5) / ((quantile(before, 0.5) + quantile(after, 0.5)) / 2))
        before = after
        if len(ratios) >= check_at:
            if _narrow(ratios, target_rel):
                break
            check_at += 2
        if watch.elapsed >= watch.limit:
            break
    _flag_stop(watch, ratios, MIN_PAIRS, target_rel)
    return watch.timed(_pooled(targets), _pooled(anchors), figures_of(ratios), target_runs)


def _warm_up(run: Run, watch: _Watch) -> float:
    """Run until two windows agree; returns ns a run.

    A window's value is its median: a preempted run in it would make later batches too short.
    """
    now = watch.clock.now
    limit = watch.elapsed + watch.limit * WARM_SHARE
    last = 0.0
    while True:
        marks = [now()]
        while len(marks) == 1 or (marks[-1] - marks[0] < WINDOW_NS and len(marks) <= MAX_BATCH):
            run()
            marks.append(now())
        once = max(1.0, quantile(sorted(b - a for a, b in zip(marks, marks[1:])), 0.5))
        if last and abs(once - last) <= WARM_REL * last:
            return once
        if watch.elapsed >= limit:
            if "warmup-unsettled" not in watch.flags:
                watch.flags.append("warmup-unsettled")
            return once
        last = once


def _runs_in(span_ns: float, once_ns: float) -> int:
    return max(1, min(MAX_RUNS, round(span_ns / once_ns)))


def _single_runs(run: Run, runs: int, clock: Clock) -> list[float]:
    """Times of single runs in ms, sorted."""
    now = clock.now
    marks = [now()]
    for _ in range(runs):
        run()
        marks.append(now())
    return sorted((b - a) / _MS for a, b in zip(marks, marks[1:]))


def _flag_stop(watch: _Watch, samples: Sequence[float], wanted: int, target_rel: float) -> None:
    if len(samples) < wanted:
        watch.flags.append("few-batches")
    if not _narrow(samples, target_rel):
        watch.flags.append("interval-wide")


# ---------------------------------------------------------------------------------------- statistics


def quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between the order statistics around (n - 1) * q."""
    place = (len(ordered) - 1) * q
    below = int(place)
    if below + 1 >= len(ordered):
        return ordered[-1]
    low, high = ordered[below], ordered[below + 1]
    return min(high, low + (high - low) * (place - below))


@lru_cache(maxsize=4096)
def interval_rank(n: int) -> int:
    """How many of n order statistics may be cut off at each end of a 95 % interval of the median.

    The interval runs from the (rank + 1)-th smallest to the (rank + 1)-th largest sample: P(fewer than
    rank + 1 of n fair coins) <= .025. 0 for n < 9 (for n < 6 even the extremes cover less than 95 %).
    """
    if n > 500:  # the normal approximation is exact to a rank there
        return max(0, int((n - 1.959964 * math.sqrt(n)) / 2) - 1)
    tail, rank = 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) * 0.5**n
        if tail > 0.025:
            break
        rank = k
    return rank


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    rank = interval_rank(len(ordered))
    return ordered[rank], ordered[len(ordered) - 1 - rank]


def _narrow(ordered: Sequence[float], target_rel: float) -> bool:
    low, high = _interval(ordered)
    middle = quantile(ordered, 0.5)
    return len(ordered) >= 6 and high - middle <= target_rel * middle and middle - low <= target_rel * middle


def figures_of(ordered: Sequence[float]) -> Figures:
    """Figures of sorted samples."""
    low, high = _interval(ordered)
    return _figures(ordered, low, high)


def _pooled(batches: Sequence[list[float]]) -> Figures:
    """Figures of all single runs; the interval comes from the batches' medians, because runs within one batch
    are not independent (the machine drifts over seconds) and would promise too narrow a one."""
    low, high = _interval(sorted(quantile(batch, 0.5) for batch in batches))
    ordered = sorted(t for batch in batches for t in batch)
    median = quantile(ordered, 0.5)
    return _figures(ordered, min(low, median), max(high, median))


def _figures(ordered: Sequence[float], low: float, high: float) -> Figures:
    n = len(ordered)
    mean = math.fsum(ordered) / n
    variance = math.fsum((t - mean) ** 2 for t in ordered) / (n - 1) if n > 1 else 0.0
    p10, median, p90 = (quantile(ordered, q) for q in (0.1, 0.5, 0.9))
    return Figures(n, ordered[0], p10, median, p90, low, high, mean, math.sqrt(variance))
