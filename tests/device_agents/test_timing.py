"""Timing, with a scripted clock: no test here waits, and none depends on this machine's speed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest

from device_agents import timing

MS = 1_000_000


class ScriptedClock(timing.Clock):
    """Time passes only while a run says so; `busy` is the share of it that counts as CPU time."""

    resolution_ns = 1.0

    def __init__(self, busy: float = 1.0, switches_a_second: float = 0.0):
        self.time = 0
        self.busy = busy
        self.rate = switches_a_second

    def now(self) -> int:
        return self.time

    def cpu(self) -> int:
        return int(self.time * self.busy)

    def switches(self) -> int:
        return int(self.time / 1e9 * self.rate)

    def runs(self, cost_ms: Callable[[], float]) -> Callable[[], None]:
        """A run that takes what `cost_ms` says."""

        def run() -> None:
            self.time += int(cost_ms() * MS)

        return run


def test_a_steady_run_is_timed_exactly_and_quickly() -> None:
    clock = ScriptedClock()
    timed = timing.time_alone(clock.runs(lambda: 0.05), target_rel=0.02, max_seconds=3, clock=clock)
    assert timed.figures.median == pytest.approx(0.05)
    assert (timed.figures.low, timed.figures.high) == (timed.figures.median, timed.figures.median)
    assert timed.figures.n == timing.MIN_SAMPLES
    assert timed.flags == ()
    assert timed.seconds < 0.1


def test_a_batch_is_long_against_the_clock() -> None:
    clock = ScriptedClock()
    assert timing.time_alone(clock.runs(lambda: 0.05), target_rel=0.02, max_seconds=3, clock=clock).batch == 20
    clock.resolution_ns = 10_000.0  # a clock of 10 us needs batches of 10 ms
    assert timing.time_alone(clock.runs(lambda: 0.05), target_rel=0.02, max_seconds=3, clock=clock).batch == 200
    clock = ScriptedClock()
    assert timing.time_alone(clock.runs(lambda: 4.0), target_rel=0.02, max_seconds=3, clock=clock).batch == 1


def test_a_preempted_warm_up_does_not_shorten_batches() -> None:
    clock = ScriptedClock()
    costs = iter([30.0, *[0.05] * 300, 40.0])
    timed = timing.time_alone(clock.runs(lambda: next(costs, 0.05)), target_rel=0.02, max_seconds=3, clock=clock)
    assert timed.batch == 20


def test_warm_up_is_not_part_of_the_figures() -> None:
    clock = ScriptedClock()
    falling = iter([9.0, 9.0, 5.0, 5.0, 3.0, 3.0, 3.0, 2.5, 2.5, 2.5, 2.5])
    timed = timing.time_alone(clock.runs(lambda: next(falling, 2.0)), target_rel=0.02, max_seconds=3, clock=clock)
    assert timed.figures.p90 <= 2.5
    assert "warmup-unsettled" not in timed.flags


def test_a_warm_up_that_never_settles_ends_at_a_third_of_the_limit() -> None:
    clock = ScriptedClock()
    costs: Iterator[float] = iter(1.0 * 1.2**i for i in range(60))
    timed = timing.time_alone(clock.runs(lambda: next(costs, 50_000.0)), target_rel=0.02, max_seconds=3, clock=clock)
    assert "warmup-unsettled" in timed.flags


def test_noise_is_timed_until_the_interval_is_narrow() -> None:
    clock, rng = ScriptedClock(), random.Random(1)
    timed = timing.time_alone(clock.runs(lambda: rng.gauss(2.0, 0.2)), target_rel=0.01, max_seconds=60, clock=clock)
    assert timing.MIN_SAMPLES < timed.figures.n < 10_000
    assert timed.figures.high - timed.figures.median <= 0.01 * timed.figures.median
    assert timed.figures.median - timed.figures.low <= 0.01 * timed.figures.median
    assert timed.figures.low <= 2.0 <= timed.figures.high
    assert "interval-wide" not in timed.flags


def test_the_limit_ends_a_run_that_is_too_noisy_and_says_so() -> None:
    clock, rng = ScriptedClock(), random.Random(1)
    timed = timing.time_alone(clock.runs(lambda: rng.uniform(1, 9)), target_rel=0.001, max_seconds=2, clock=clock)
    assert {"interval-wide", "spread"} <= set(timed.flags)
    assert 2.0 <= timed.seconds <= 2.1


def test_a_run_longer_than_the_limit_still_gives_one_sample_and_says_so() -> None:
    clock = ScriptedClock()
    timed = timing.time_alone(clock.runs(lambda: 5000.0), target_rel=0.02, max_seconds=1, clock=clock)
    assert timed.figures.n == 1
    assert timed.figures.median == 5000.0
    assert {"few-batches", "interval-wide"} <= set(timed.flags)


def test_a_stolen_cpu_and_preemption_are_flagged() -> None:
    starved, preempted = ScriptedClock(busy=0.9), ScriptedClock(switches_a_second=500)
    runs = [
        timing.time_alone(c.runs(lambda: 9.0), target_rel=0.02, max_seconds=3, clock=c) for c in (starved, preempted)
    ]
    assert runs[0].flags == ("cpu-starved",)
    assert runs[0].cpu_over_wall == pytest.approx(0.9, rel=1e-3)
    assert runs[1].flags == ("preempted",)


def test_beside_an_anchor_the_ratio_survives_a_drifting_machine() -> None:
    clock = ScriptedClock()

    def speed() -> float:  # 30 % slower and faster within each two seconds
        return 1 + 0.3 * math.sin(clock.time / 1e9 * math.pi)

    timed = timing.time_beside(
        clock.runs(lambda: 4.0 * speed()),
        clock.runs(lambda: 2.0 * speed()),
        target_rel=0.02,
        max_seconds=30,
        clock=clock,
    )
    assert timed.ratio is not None
    assert timed.ratio.median == pytest.approx(2.0, rel=0.01)
    assert timed.figures.p90 / timed.figures.p10 > 1.3


def test_beside_an_anchor_batches_have_the_length_of_the_method() -> None:
    clock = ScriptedClock()
    timed = timing.time_beside(
        clock.runs(lambda: 5.0), clock.runs(lambda: 3.0), target_rel=0.02, max_seconds=30, clock=clock
    )
    assert timed.batch == 20
    assert timed.ratio is not None
    assert timed.anchor is not None
    assert timed.ratio.n == timing.MIN_PAIRS
    assert timed.figures.n == 20 * timing.MIN_PAIRS
    assert timed.anchor.n == 10 * (timing.MIN_PAIRS + 1)
    assert timed.ratio.median == pytest.approx(5 / 3)
    assert timed.flags == ()


def test_beside_an_anchor_the_interval_comes_from_batches_not_from_single_runs() -> None:
    clock, rng = ScriptedClock(), random.Random(3)
    level = {"now": 1.0, "until": 0}

    def cost() -> float:  # the level changes every 130 ms, runs within it hardly differ
        if clock.time >= level["until"]:
            level["now"], level["until"] = rng.uniform(0.8, 1.2), clock.time + 130 * MS
        return 5.0 * level["now"]

    timed = timing.time_beside(clock.runs(cost), clock.runs(lambda: 3.0), target_rel=0.9, max_seconds=30, clock=clock)
    single_runs = timing.interval_rank(timed.figures.n) / timed.figures.n
    assert single_runs > 0.4  # taken as independent, they would promise the middle tenth
    assert timed.figures.high - timed.figures.low > 0.1 * timed.figures.median


def test_beside_an_anchor_the_limit_holds() -> None:
    clock = ScriptedClock()
    timed = timing.time_beside(
        clock.runs(lambda: 400.0), clock.runs(lambda: 300.0), target_rel=0.02, max_seconds=2, clock=clock
    )
    assert "few-batches" in timed.flags
    assert timed.seconds < 4


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 9, 10, 20, 60, 101, 499, 501, 5000])
def test_the_interval_of_the_median_covers_95_percent(n: int) -> None:
    rank = timing.interval_rank(n)

    def coverage(cut: int) -> float:
        # P(cut < B < n - cut) for B binomial(n, 1/2): the (cut + 1)-th smallest and largest enclose the median
        return 1 - 2 * sum(math.exp(_log_choose(n, k) - n * math.log(2)) for k in range(cut + 1))

    if n >= 6:
        assert coverage(rank) >= 0.95
        assert coverage(rank + 1) < 0.952  # no narrower one would do
    else:
        assert rank == 0


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def test_quantiles_interpolate_linearly() -> None:
    assert [timing.quantile([1.0, 2.0, 4.0], q) for q in (0, 0.25, 0.5, 0.75, 1)] == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert timing.quantile([7.0], 0.9) == 7.0


def test_the_real_clock_moves_forward() -> None:
    clock = timing.Clock()
    before = clock.now(), clock.cpu(), clock.switches()
    sum(range(100_000))
    after = clock.now(), clock.cpu(), clock.switches()
    assert after[0] > before[0]
    assert after[1] >= before[1]
    assert after[2] >= before[2]
    assert clock.resolution_ns > 0
