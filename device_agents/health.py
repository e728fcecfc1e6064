"""How fit a device is to be measured: what its settings are and what else it does, read without changing anything.

In: files of /proc and /sys under `base` (tests pass a folder), a Raspberry Pi's firmware, a second of waiting in which
processes show their CPU time. Out: wire.Health. What is not told is None, empty or 'unknown'.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Sequence
from typing import Callable

from device_agents import cores, readings, wire
from device_agents.firmware import PRESENT, Firmware
from device_agents.trust import Signals

WATCH_SECONDS = 1.0
_BUSIEST = 5
_LEAST_SHARE = 0.02
"""Of one core: less is what any system does at rest."""


def collect(
    *, base: str = "/", sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> wire.Health:
    """The health of this machine; takes WATCH_SECONDS."""
    base = base.rstrip("/")
    mask = cores.usable()
    cpus = f"{base}/sys/devices/system/cpu"
    signals = Signals(base)
    bits = Firmware(base).throttled()
    began, before, swapped = clock(), _cpu_seconds(base), _swapped(base)
    sleep(WATCH_SECONDS)
    span = max(clock() - began, 1e-3)
    busy = _busiest(base, before, span)
    now = signals.read(mask)
    swapped_now = _swapped(base)
    meminfo = readings.text(f"{base}/proc/meminfo")
    return wire.Health(
        governors=tuple(sorted({signals.governor(core) for core in mask} - {"unknown"})),
        capacities=_capacities(cpus, mask),
        isolated=_listed(readings.text(f"{cpus}/isolated")),
        limited=_limited(cpus, mask),
        turbo=_turbo(cpus),
        temperature_c=now.temperature_c,
        throttle_c=_throttle_point(base),
        throttled=now.throttled,
        throttled_before=None if bits is None else bits >> 16 & PRESENT,
        busy=busy,
        pressure=_pressure(base),
        memory_available_bytes=_kilobytes(meminfo, "MemAvailable"),
        swap_used_bytes=_difference(_kilobytes(meminfo, "SwapTotal"), _kilobytes(meminfo, "SwapFree")),
        swapping=None if swapped is None or swapped_now is None else swapped_now > swapped,
    )


def _capacities(cpus: str, mask: Sequence[int]) -> tuple[int, ...]:
    """Of each core of `mask`, relative: the scheduler's own (Arm), else the highest clock; () where not all tell."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        found = [readings.whole(f"{cpus}/cpu{core}/{name}") for core in mask]
        if all(value is not None and value > 0 for value in found):
            return tuple(value for value in found if value is not None)
    return ()


def _limited(cpus: str, mask: Sequence[int]) -> float | None:
    """The highest clock that settings allow, as a share of what the hardware can: the least of all cores."""
    shares = []
    for core in mask:
        allowed = readings.whole(f"{cpus}/cpu{core}/cpufreq/scaling_max_freq")
        possible = readings.whole(f"{cpus}/cpu{core}/cpufreq/cpuinfo_max_freq")
        if allowed is not None and possible:
            shares.append(min(1.0, max(0.0, allowed / possible)))
    return min(shares, default=None)


def _turbo(cpus: str) -> str:
    off = readings.whole(f"{cpus}/intel_pstate/no_turbo")
    if off is not None:
        return "off" if off else "on"
    boost = readings.whole(f"{cpus}/cpufreq/boost")
    return "unknown" if boost is None else "on" if boost else "off"


def _throttle_point(base: str) -> float | None:
    """The lowest temperature at which the kernel slows the processor (trip points of kind passive or hot)."""
    found = []
    for zone in glob.glob(f"{glob.escape(base)}/sys/class/thermal/thermal_zone*"):
        for kind in glob.glob(f"{glob.escape(zone)}/trip_point_*_type"):
            value = readings.whole(kind[: -len("type")] + "temp")
            if readings.text(kind).strip() in ("passive", "hot") and value is not None and 30_000 <= value <= 150_000:
                found.append(value / 1000)
    return min(found, default=None)


def _cpu_seconds(base: str) -> dict[int, tuple[str, float]]:
    """Of every process but this one and those that it started: name, CPU seconds so far."""
    tick = os.sysconf("SC_CLK_TCK")
    own = os.getpid()
    found = {}
    for path in glob.glob(f"{glob.escape(base)}/proc/[0-9]*/stat"):
        match = re.match(r"(\d+) \((.*)\) \S (\d+)((?: \S+){9}) (\d+) (\d+) ", readings.text(path), re.S)
        if match and int(match[1]) != own and int(match[3]) != own:
            found[int(match[1])] = (match[2], (int(match[5]) + int(match[6])) / tick)
    return found


def _busiest(base: str, before: dict[int, tuple[str, float]], span: float) -> tuple[tuple[str, float], ...]:
    """Names of the processes that computed most since `before`, and their share of one core."""
    shares = []
    for number, (name, seconds) in _cpu_seconds(base).items():
        if number in before and before[number][0] == name:
            share = (seconds - before[number][1]) / span
            if share >= _LEAST_SHARE:
                shares.append((wire.clean(name, 40).strip() or "unknown", round(min(share, 4096.0), 3)))
    return tuple(sorted(shares, key=lambda item: -item[1])[:_BUSIEST])


def _pressure(base: str) -> float | None:
    match = re.search(r"some avg10=(\d+\.\d+)", readings.text(f"{base}/proc/pressure/cpu"))
    return min(1.0, float(match[1]) / 100) if match else None


def _swapped(base: str) -> int | None:
    """Pages that went to or came from swap so far."""
    found = re.findall(r"^pswp(?:in|out) (\d+)$", readings.text(f"{base}/proc/vmstat"), re.M)
    return sum(map(int, found)) if found else None


def _kilobytes(meminfo: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", meminfo, re.M)
    return int(match[1]) * 1024 if match else None


def _difference(total: int | None, free: int | None) -> int | None:
    return None if total is None or free is None else max(0, total - free)


def _listed(text: str) -> tuple[int, ...]:
    """The kernel's form of a list of CPUs: 2-3,5."""
    found: list[int] = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match:
            found += range(int(match[1]), min(4096, int(match[2] or match[1])) + 1)
    return tuple(sorted(set(found)))
