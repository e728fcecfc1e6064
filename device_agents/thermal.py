"""How hot the processor is: the kernel's zones and the chips' own inputs.

In: files of /sys under `base` (tests pass a folder). Out: Celsius, None where the system does not tell.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence

from device_agents import readings

_SENSIBLE_C = (-40.0, 150.0)
_CHIPS = ("k10temp", "zenpower", "coretemp", "cpu_thermal", "soc_thermal", "cpu")
_ELSEWHERE = re.compile(r"iwlwifi|wifi|battery|charger|nvme|modem|pch", re.I)
"""Zones that are not the processor's."""


def files(base: str) -> tuple[str, ...]:
    """Those that hold a temperature of the processor: all zones but those that are known to be elsewhere, and its
    chips' own inputs."""
    return tuple(_files(base.rstrip("/")))


def hottest(paths: Iterable[str]) -> float | None:
    """The highest sensible one, Celsius."""
    found = [value / 1000 for value in map(readings.whole, paths) if value is not None]
    return max((value for value in found if _SENSIBLE_C[0] <= value <= _SENSIBLE_C[1]), default=None)


def hwmon(base: str, names: Sequence[str], pattern: str) -> Iterator[str]:
    """Files of the chips with these names."""
    for chip in sorted(glob.glob(f"{glob.escape(base)}/sys/class/hwmon/hwmon*")):
        if readings.text(f"{chip}/name").strip() in names:
            yield from sorted(glob.glob(f"{glob.escape(chip)}/{pattern}"))


def _files(base: str) -> Iterator[str]:
    for zone in sorted(glob.glob(f"{glob.escape(base)}/sys/class/thermal/thermal_zone*")):
        if not _ELSEWHERE.search(readings.text(f"{zone}/type")):
            yield f"{zone}/temp"
    yield from hwmon(base, _CHIPS, "temp*_input")
