"""Where the power comes from: batteries that feed the device, their charge, and whether they are all there is.

In: files of /sys/class/power_supply under `base` (tests pass a folder). Out: plain values, None where the system does
not tell. Rules kept: the battery of a mouse is not the device's; a supply that does not say whether it gives is none.
"""

from __future__ import annotations

import glob
import os

from device_agents import readings

_OUTSIDE = ("Mains", "USB", "Wireless", "UPS")


def batteries(base: str) -> list[str]:
    """The folders of the batteries that feed the device."""
    return [supply for supply in _supplies(base) if _kind(supply) == "Battery"]


def charge(base: str) -> float | None:
    """Percent of the full charge, the mean of all batteries that tell."""
    found = [readings.whole(f"{battery}/capacity") for battery in batteries(base)]
    known = [value for value in found if value is not None and 0 <= value <= 100]
    return sum(known) / len(known) if known else None


def on_battery(base: str) -> bool | None:
    """Whether the device lives on its batteries now: nothing outside gives power, or nothing outside is known and a
    battery says that it is discharged."""
    feeding = batteries(base)
    if not feeding:
        return None
    outside = [readings.whole(f"{s}/online") for s in _supplies(base) if _kind(s).startswith(_OUTSIDE)]
    known = [value for value in outside if value is not None]
    if known:
        return not any(known)
    said = [readings.text(f"{battery}/status").strip() for battery in feeding]
    return "Discharging" in said if any(said) else None


def _supplies(base: str) -> list[str]:
    found = sorted(glob.glob(os.path.join(glob.escape(base), "sys/class/power_supply/*")))
    return [supply for supply in found if readings.text(f"{supply}/scope").strip() != "Device"]


def _kind(supply: str) -> str:
    return readings.text(f"{supply}/type").strip()
