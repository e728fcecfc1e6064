"""The steady state of a device: it is kept busy until its speed no longer changes, then measured as it is.

In: a device, the anchor network on it, a clock. Out: samples of its speed on the way there, for the table, and the
Steady that they say. Rules kept: heating uses the same runtime, threads and cores as the measurements; it ends when the
speed is steady or after ten minutes; what is measured afterwards follows without a pause, and throttling is not a
disturbance of it but its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from device_agents import wire
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.stats import told
from ofa_edge.latency.workload import Device, Model, Relay, timing_job

# Phones and boards with passive cooling reach their steady temperature within 5 to 10 minutes of load.
MOST_SECONDS = 600.0
# Steady: the medians of the two halves of the last two minutes are this close. Shorter windows see the firmware's own
# cycles of heating and cooling, which take tens of seconds.
WINDOW_SECONDS = 120.0
STEADY_REL = 0.02
# Of one sample; with nothing between two, the cores are busy for all but a few percent of the time.
SAMPLE_SECONDS = 5.0

# Flags that say that the device is hot, which it is meant to be.
HEAT = frozenset({"throttled", "clock-changed"})


@dataclass(frozen=True, slots=True)
class Sample:
    """The anchor's median in ms at a time in s since the heating began, and what went on beside it."""

    at: float
    median: float
    noise: wire.Noise

    def row(self, first: float) -> dict[str, Any]:
        """The fields of a `sustained` row; `ratio` is to the first sample's median."""
        told = {name: getattr(self.noise, name) for name in ("temperature_c", "frequency_mhz", "throttled")}
        return {"at": round(self.at, 3), "median": self.median, "ratio": round(self.median / first, 6), **told}


@dataclass(frozen=True, slots=True)
class Steady:
    """What heating a device showed.

    Attributes:
        seconds: it took.
        slower: how much longer a run takes than when it was cold (.25: a quarter).
        reached: the speed was steady at the end.
        temperature_c: at the end, None where it is not told.
    """

    seconds: float
    slower: float
    reached: bool
    temperature_c: float | None

    def as_json(self) -> dict[str, Any]:
        """The value of `sustained` in `ofa-edge profile --json`."""
        return {
            "seconds": self.seconds,
            "slower_pct": 100 * self.slower,
            "steady": self.reached,
            "temperature_c": self.temperature_c,
        }


class Warm(Relay):
    """A device that is meant to be hot: its results lose the flags of HEAT, the values beside them stay."""

    def passed(self, measured: wire.Measured) -> wire.Measured:
        return replace(measured, flags=tuple(flag for flag in measured.flags if flag not in HEAT))


def heat(
    device: Device, anchor: Model, runs_on: RunsOn, clock: Callable[[], float], deadline: float | None = None
) -> Iterator[Sample]:
    """Keep the device busy; each sample is given as it comes. A failure of the anchor ends it.

    Args:
        deadline: on the clock, beside MOST_SECONDS.
    """
    # As long as it may: no interval is so narrow.
    job = timing_job("heat", anchor, runs_on, rel=0.001, seconds=SAMPLE_SECONDS)
    began = clock()
    end = began + MOST_SECONDS if deadline is None else min(began + MOST_SECONDS, deadline)
    samples: list[Sample] = []
    while clock() < end and not is_steady(samples):
        (result,) = device.measure([job], fresh=False)
        if isinstance(result, wire.Failed):
            return
        samples.append(Sample(clock() - began, result.figures.median, result.noise))
        yield samples[-1]


def is_steady(samples: Sequence[Sample]) -> bool:
    """Whether the last two minutes are; never before there are two."""
    if not samples or samples[-1].at < WINDOW_SECONDS:
        return False
    halves = _halves([(sample.at, sample.median) for sample in samples])
    return all(halves) and abs(float(np.median(halves[1]) / np.median(halves[0])) - 1) <= STEADY_REL


def steady(rows: Sequence[Mapping[str, Any]]) -> Steady | None:
    """What the last session's `sustained` rows say; None for none, or for rows that are damaged."""
    last_session = [row for row in rows if row.get("session") == rows[-1].get("session")]
    found = [row for row in last_session if all((told(row.get(n)) or 0) > 0 for n in ("at", "median", "ratio"))]
    if not found:
        return None
    last = found[-1]
    halves = _halves([(row["at"], row["ratio"]) for row in found])
    samples = [Sample(row["at"], row["median"], wire.Noise()) for row in found]
    return Steady(
        seconds=last["at"],
        slower=float(np.median(halves[1])) - 1,
        reached=is_steady(samples),
        temperature_c=told(last.get("temperature_c")),
    )


def _halves(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Values of the minute before the last, and of the last."""
    end = points[-1][0]
    middle, start = end - WINDOW_SECONDS / 2, end - WINDOW_SECONDS
    return [v for at, v in points if start < at <= middle], [v for at, v in points if at > middle]
