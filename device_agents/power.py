"""Energy of a run: counters of energy and power that a device has, and the difference between running and idling.

In: files under `base` (tests pass a folder), a Pi 5's firmware, NVIDIA's library; a function that runs a model once; a
clock. Out: wire.Energy. Rules kept: a sensor is one that has just been read, not one whose file is there; idle and
running windows take turns, so that a drift of the idle power cancels; each window begins with a while that does not
count; no other clock is read than the one given; a sensor that fails or does not move costs windows, and too few of
them are an error.
"""

from __future__ import annotations

import ctypes
import glob
import os
import re
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from device_agents import readings, supply, wire
from device_agents.firmware import Firmware
from device_agents.timing import interval_rank

Read = Callable[[], Optional[float]]

SETTLE_SHARE = 0.2
"""Of a window, on top of it: caches fill, clocks rise, a sensor that averages (INA219: up to 68 ms) forgets."""
SAMPLE_SECONDS = 0.05
SLOW_SAMPLE_SECONDS = 0.2
"""Between readings of power; slower where a reading starts a program (it costs power itself, in idle windows too)."""
MIN_WINDOWS = 2

_INA = ("ina209", "ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina237", "ina238", "ina3221")
_NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Sensor:
    """One way to read energy: `joules`, a counter from any start, or else `watts` of the moment; None: it failed.

    Args:
        every: seconds between readings of power.
    """

    name: str
    joules: Read | None = None
    watts: Read | None = None
    every: float = SAMPLE_SECONDS

    def works(self) -> bool:
        read = self.joules or self.watts
        return read is not None and read() is not None


class Clock:
    """What measuring energy needs of the machine, in seconds; a double scripts it."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def sensors(base: str = "/", nvml: str = _NVML) -> Mapping[str, Sensor]:
    """Those that can be read now, by name, the ones that say most about the processor first."""
    firmware = Firmware(base)
    candidates = [
        *_rapl(base),
        Sensor("pi5-pmic", watts=firmware.watts, every=SLOW_SAMPLE_SECONDS),
        *_ina(base),
        *_batteries(base),
        *(_nvidia(nvml) if base == "/" else ()),
    ]
    found: dict[str, Sensor] = {}
    for sensor in candidates:
        if sensor.works():
            name = sensor.name if sensor.name not in found else f"{sensor.name}-{len(found)}"
            found[name] = sensor
    return found


# -------------------------------------------------------------------------------------- measuring


class Meter:
    """Joules since any start, from either kind of sensor. A power sensor is sampled by a thread between enter and
    exit, and whenever it is asked; the area under its samples is the energy.

    Args:
        threaded: False leaves the sampling to whoever calls `sample`.
    """

    def __init__(self, sensor: Sensor, clock: Clock, *, threaded: bool = True):
        self._sensor = sensor
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last: tuple[float, float] | None = None  # time, watts
        self._sum = 0.0
        self._thread: threading.Thread | None = None
        if threaded and sensor.joules is None:
            self._thread = threading.Thread(target=self._keep_sampling, daemon=True)

    def __enter__(self) -> Meter:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def joules(self) -> float | None:
        """None: it cannot be read just now."""
        if self._sensor.joules is not None:
            return self._sensor.joules()
        return self._sum if self.sample() else None

    def sample(self) -> bool:
        """Take one sample of a power sensor."""
        with self._lock:
            watts = None if self._sensor.watts is None else self._sensor.watts()
            if watts is None:
                return False
            now = self._clock.now()
            if self._last is not None:
                self._sum += (now - self._last[0]) * (watts + self._last[1]) / 2
            self._last = (now, watts)
            return True

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self._sensor.every):
            self.sample()


@dataclass(frozen=True)
class _Window:
    joules: float
    seconds: float
    runs: int = 0

    @property
    def watts(self) -> float:
        return self.joules / self.seconds


def measure(
    run: Callable[[], object], meter: Meter, *, key: str, sensor: str, seconds: float, windows: int, clock: Clock
) -> wire.Energy:
    """Energy of one run: each running window less the mean power of the idle windows around it.

    Args:
        seconds: that a window counts for.
        windows: running ones; there is one idle one more.

    Raises:
        AgentError: 'failed' where fewer than MIN_WINDOWS could be read.
    """
    idle: list[_Window | None] = [_idle(meter, seconds, clock)]
    busy: list[_Window | None] = []
    for _ in range(windows):
        busy.append(_busy(run, meter, seconds, clock))
        idle.append(_idle(meter, seconds, clock))
    counted: list[_Window] = []
    samples: list[float] = []
    for before, window, after in zip(idle, busy, idle[1:]):
        # A busy window of no energy is one in which a coarse counter did not tick.
        if before is None or window is None or after is None or window.joules <= 0:
            continue
        counted.append(window)
        samples.append(1000 * (window.joules - (before.watts + after.watts) / 2 * window.seconds) / window.runs)
    if len(samples) < MIN_WINDOWS:
        raise wire.AgentError(
            "failed", f"sensor {sensor} could be read, and moved, in {len(samples)} of {windows} windows only"
        )
    samples.sort()
    rank = interval_rank(len(samples))
    resting = [window.watts for window in idle if window is not None]
    return wire.Energy(
        key=key,
        sensor=sensor,
        idle_w=max(0.0, statistics.fmean(resting)),
        busy_w=sum(window.joules for window in counted) / sum(window.seconds for window in counted),
        mj=statistics.median(samples),
        low=samples[rank],
        high=samples[-1 - rank],
        runs=sum(window.runs for window in counted),
        windows=len(samples),
    )


def _idle(meter: Meter, seconds: float, clock: Clock) -> _Window | None:
    clock.sleep(SETTLE_SHARE * seconds)
    start, first = clock.now(), meter.joules()
    clock.sleep(seconds)
    return _window(start, first, clock.now(), meter.joules(), 0)


def _busy(run: Callable[[], object], meter: Meter, seconds: float, clock: Clock) -> _Window | None:
    _run_for(run, SETTLE_SHARE * seconds, clock)
    start, first = clock.now(), meter.joules()
    runs = _run_for(run, seconds, clock)
    return _window(start, first, clock.now(), meter.joules(), runs)


def _run_for(run: Callable[[], object], seconds: float, clock: Clock) -> int:
    end = clock.now() + seconds
    runs = 0
    while runs == 0 or clock.now() < end:
        run()
        runs += 1
    return runs


def _window(start: float, first: float | None, end: float, last: float | None, runs: int) -> _Window | None:
    if first is None or last is None or last < first or end <= start:
        return None
    return _Window(last - first, end - start, runs)


# ---------------------------------------------------------------------------------------- sensors


class Counter:
    """Sum of counters in microjoules that wrap; files are (value, value at which it wraps)."""

    def __init__(self, files: Sequence[tuple[str, str]]):
        self._files = files
        self._last: dict[str, int] = {}
        self._sum = 0

    def __call__(self) -> float | None:
        """Joules since the first reading."""
        for path, limit in self._files:
            value = readings.whole(path)
            if value is None:
                return None
            grown = value - self._last.get(path, value)
            if grown < 0:
                most = readings.whole(limit)
                if most is None or grown + most < 0:
                    return None
                grown += most
            self._last[path] = value
            self._sum += grown
        return self._sum / 1e6


def _rapl(base: str) -> list[Sensor]:
    """Whole packages (intel-rapl:N; AMD's are called so too). Since Linux 5.10 only root may read them."""
    files = []
    for zone in _found(base, "sys/class/powercap/intel-rapl:*"):
        package = re.fullmatch(r"intel-rapl:\d+", os.path.basename(zone))
        if package and readings.text(f"{zone}/name").startswith("package"):
            files.append((f"{zone}/energy_uj", f"{zone}/max_energy_range_uj"))
    return [Sensor("rapl", joules=Counter(files))] if files else []


def _ina(base: str) -> list[Sensor]:
    """Monitors of a supply: microwatts, or millivolts of the bus times milliamperes."""
    found = []
    for chip in _found(base, "sys/class/hwmon/hwmon*"):
        name = readings.text(f"{chip}/name").strip()
        if name in _INA:
            direct, product = (
                _scaled((f"{chip}/power1_input",), 1e-6),
                _scaled((f"{chip}/in1_input", f"{chip}/curr1_input"), 1e-6),
            )
            found.append(Sensor(name, watts=direct if direct() is not None else product))
    return found


def _batteries(base: str) -> list[Sensor]:
    """What a battery gives, for as long as it is not charged; some count that as negative."""
    found = []
    for battery in supply.batteries(base):
        direct, product = (
            _scaled((f"{battery}/power_now",), 1e-6),
            _scaled((f"{battery}/current_now", f"{battery}/voltage_now"), 1e-12),
        )
        chosen = direct if direct() is not None else product
        found.append(Sensor("battery", watts=_discharging(battery, chosen)))
    return found


def _discharging(battery: str, watts: Read) -> Read:
    return lambda: watts() if readings.text(f"{battery}/status").strip() == "Discharging" else None


def _scaled(paths: Sequence[str], unit: float) -> Read:
    """The product of the files' numbers, in units of `unit`."""

    def read() -> float | None:
        product = unit
        for path in paths:
            value = readings.whole(path)
            if value is None:
                return None
            product *= abs(value)
        return product

    return read


def _nvidia(library: str) -> list[Sensor]:
    """The first GPU's energy counter (mJ), on older ones its power (mW), out of NVIDIA's management library."""
    try:
        nvml = ctypes.CDLL(library)
        device = ctypes.c_void_p()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return []
        total, power = nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetPowerUsage
    except (OSError, AttributeError):
        return []

    def joules() -> float | None:
        value = ctypes.c_ulonglong()
        return None if total(device, ctypes.byref(value)) else value.value / 1000

    def watts() -> float | None:
        value = ctypes.c_uint()
        return None if power(device, ctypes.byref(value)) else value.value / 1000

    return [Sensor("nvml", joules=joules) if joules() is not None else Sensor("nvml", watts=watts)]


def _found(base: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(base), pattern)))
