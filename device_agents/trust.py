"""Signals of what else went on while a measurement ran: other work, heat, clocks, the supply.

In: files of /proc and /sys under `base` (tests pass a folder), a Raspberry Pi's firmware. Out: flags out of wire.FLAGS
and wire.Noise. Rules kept: what a system does not tell gives no flag and is None, never a good value; files are found
once, so that a reading costs well under a millisecond; what our own threads do raises nothing.
"""

from __future__ import annotations

import glob
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from device_agents import readings, thermal, wire
from device_agents.firmware import PRESENT, Firmware

PRESSURE = 0.10
"""Share of the time in which some task waited for a CPU (docs/how-the-numbers-are-made.md)."""
STOLEN = 0.01
"""Share of the time: one tick of a short measurement would be noise, so a hundredth must be gone."""
SLOWER = 0.10
"""A clock that is lower by more than this share afterwards was changed: a step between operating points is 10-20 %
(a Raspberry Pi 4 goes 1800, 1700 ... or to 1000 MHz when throttled), what APERF/MPERF readings jitter by is less."""
FIRMWARE_SECONDS = 1.0
"""The firmware is asked at most this often: starting its program takes 5-10 ms."""

UNDERVOLTAGE, CAPPED, THROTTLED = 1, 2, 4

_COOLING = re.compile(r"thermal-cpufreq|cpufreq|Processor$", re.I)
"""Cooling devices that slow the processor; their state is 0 as long as they do nothing."""


@dataclass(frozen=True)
class Machine:
    """The machine at one moment; None (for the governor 'unknown') where the system does not tell.

    Args:
        seconds: monotonic time of reading.
        cores: that the worker may use; online: all.
        waiting_us: total time some task waited for a CPU.
        stolen_s: total time the hypervisor took, over all cores.
        runnable: tasks that run or want to, now.
        temperature_c: of the hottest zone.
        frequency_mhz: of the core that read this, else of the slowest the worker may use.
        throttled: UNDERVOLTAGE, CAPPED, THROTTLED and 8 (soft temperature limit) as they are now.
        throttle_count: how often the processor slowed itself so far.
    """

    seconds: float
    cores: int
    online: int
    waiting_us: int | None = None
    stolen_s: float | None = None
    runnable: int | None = None
    temperature_c: float | None = None
    frequency_mhz: float | None = None
    throttled: int | None = None
    throttle_count: int | None = None
    governor: str = "unknown"


class Signals:
    """Reads them; one a process, for its paths and what the firmware said last are remembered.

    Args:
        base: the root of the file system that is read.
        clock: monotonic seconds.
    """

    def __init__(self, base: str = "/", clock: Callable[[], float] = time.monotonic):
        self._base = base.rstrip("/")
        self._clock = clock
        self._firmware = Firmware(base)
        self._asked: tuple[float, int | None] = (float("-inf"), None)
        self._temperatures = thermal.files(base)
        self._cooling = tuple(_cooling_files(base))
        self._supply_alarm = next(thermal.hwmon(base, ("rpi_volt",), "in0_lcrit_alarm"), None)
        self._counts: dict[tuple[int, ...], tuple[str, ...]] = {}

    def read(self, cores: Sequence[int]) -> Machine:
        """The machine now; `cores` are those the worker may use."""
        proc = f"{self._base}/proc"
        waiting = re.search(r"some .*total=(\d+)", readings.text(f"{proc}/pressure/cpu"))
        ticks = readings.text(f"{proc}/stat").split("\n", 1)[0].split()
        runnable = re.search(r" (\d+)/\d+ ", readings.text(f"{proc}/loadavg"))
        return Machine(
            seconds=self._clock(),
            cores=len(cores),
            online=os.cpu_count() or 1,
            waiting_us=int(waiting[1]) if waiting else None,
            stolen_s=int(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 and ticks[8].isdigit() else None,
            runnable=int(runnable[1]) if runnable else None,
            temperature_c=self.temperature(),
            frequency_mhz=self._frequency(cores),
            throttled=self._throttled(),
            throttle_count=_total(self._count_files(cores)),
            governor=self.governor(cores[0]) if cores else "unknown",
        )

    def temperature(self) -> float | None:
        """Of the hottest zone, Celsius."""
        return thermal.hottest(self._temperatures)

    def governor(self, core: int) -> str:
        told = readings.text(f"{self._cpu(core)}/cpufreq/scaling_governor")
        return wire.clean(told.strip(), 200).strip() or "unknown"

    def _frequency(self, cores: Sequence[int]) -> float | None:
        """Idle cores may have clocks of their own, so the one that this thread runs on says most."""
        here = readings.text(f"{self._base}/proc/self/stat").rpartition(")")[2].split()
        if len(here) > 36 and here[36].isdigit() and int(here[36]) in cores:
            mhz = readings.whole(f"{self._cpu(int(here[36]))}/cpufreq/scaling_cur_freq")
            if mhz is not None:
                return mhz / 1000
        found = [readings.whole(f"{self._cpu(core)}/cpufreq/scaling_cur_freq") for core in cores]
        return min((value / 1000 for value in found if value is not None), default=None)

    def _throttled(self) -> int | None:
        """The firmware's word, else the supply's alarm and the kernel's cooling devices."""
        if self._clock() - self._asked[0] >= FIRMWARE_SECONDS:
            self._asked = (self._clock(), self._firmware.throttled())
        if self._asked[1] is not None:
            return self._asked[1] & PRESENT
        states = [value for value in map(readings.whole, self._cooling) if value is not None]
        alarm = None if self._supply_alarm is None else readings.whole(self._supply_alarm)
        if not states and alarm is None:
            return None
        return (CAPPED if any(state > 0 for state in states) else 0) | (UNDERVOLTAGE if alarm else 0)

    def _count_files(self, cores: Sequence[int]) -> tuple[str, ...]:
        key = tuple(cores)
        if key not in self._counts:
            names = ("core_throttle_count", "package_throttle_count")
            paths = [f"{self._cpu(core)}/thermal_throttle/{name}" for core in key for name in names]
            self._counts[key] = tuple(filter(os.path.exists, paths))
        return self._counts[key]

    def _cpu(self, core: int) -> str:
        return f"{self._base}/sys/devices/system/cpu/cpu{core}"


def flags(before: Machine, after: Machine, *, threads: int = 1) -> tuple[str, ...]:
    """What the two readings say about the time between them.

    Args:
        threads: of the worker. Where they are more than its cores they wait for each other, so that waiting says
            nothing about other work.
    """
    span = max(after.seconds - before.seconds, 1e-6)
    found = []
    if _grown(before.stolen_s, after.stolen_s) / span / after.online > STOLEN:
        found.append("steal")
    if threads <= after.cores:
        if _grown(before.waiting_us, after.waiting_us) / 1e6 / span > PRESSURE:
            found.append("pressure")
        # Both readings: for an instant there is always some kernel thread beside the one that reads.
        if min(before.runnable or 0, after.runnable or 0) > after.online:
            found.append("load")
    bits = (before.throttled or 0) | (after.throttled or 0)
    if bits & ~UNDERVOLTAGE or _grown(before.throttle_count, after.throttle_count) > 0:
        found.append("throttled")
    if bits & UNDERVOLTAGE:
        found.append("undervoltage")
    if (after.frequency_mhz or math.inf) < (1 - SLOWER) * (before.frequency_mhz or 0.0):
        found.append("clock-changed")
    if before.governor != after.governor and "unknown" not in (before.governor, after.governor):
        found.append("governor-changed")
    return tuple(found)


def noise(before: Machine, after: Machine) -> wire.Noise:
    """What the two readings say, as values."""
    span = max(after.seconds - before.seconds, 1e-6)

    def share(first: float | None, last: float | None, unit: float) -> float | None:
        return None if first is None or last is None else min(1.0, max(0.0, (last - first) / unit / span))

    known = [bits for bits in (before.throttled, after.throttled) if bits is not None]
    if before.throttle_count is not None and after.throttle_count is not None:
        known.append(THROTTLED if after.throttle_count > before.throttle_count else 0)
    throttled = None
    for bits in known:
        throttled = (throttled or 0) | bits
    clocks = [mhz for mhz in (before.frequency_mhz, after.frequency_mhz) if mhz is not None]
    return wire.Noise(
        steal=share(before.stolen_s, after.stolen_s, after.online),
        pressure=share(before.waiting_us, after.waiting_us, 1e6),
        runnable=after.runnable,
        temperature_c=after.temperature_c,
        frequency_mhz=min(clocks, default=None),
        throttled=throttled,
        governor=after.governor,
    )


# ----------------------------------------------------------------------------------------- files


def _cooling_files(base: str) -> Iterator[str]:
    for device in sorted(glob.glob(f"{glob.escape(base)}/sys/class/thermal/cooling_device*")):
        if _COOLING.match(readings.text(f"{device}/type").strip()):
            yield f"{device}/cur_state"


def _total(paths: Sequence[str]) -> int | None:
    found = [value for value in map(readings.whole, paths) if value is not None]
    return int(sum(found)) if found else None


def _grown(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before
