"""What a Raspberry Pi's firmware tells: throttle bits, and power on a Pi 5.

In: files under a base folder, or the program vcgencmd there. Out: numbers, None where there is no such firmware or it
does not answer. Rules kept: the program is called as an argument list with a short timeout, and after it failed a few
times in a row it is not called again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

TIMEOUT_SECONDS = 1.0
PRESENT = 0xF
"""Of the throttle bits: under-voltage, frequency capped, throttled, soft temperature limit, as they are now
(https://www.raspberrypi.com/documentation/computers/os.html#get_throttled); bits 16 to 19 say the same since boot."""

_PLACES = ("usr/bin", "usr/local/bin", "opt/vc/bin", "bin")
_FILES = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
)
"""Of Raspberry Pi's kernel; hexadecimal without 0x."""
_MOST_FAILURES = 3
_MOST_OUTPUT = 1 << 14


class Firmware:
    """The firmware of one device.

    Args:
        base: the root of the file system that is read.
    """

    def __init__(self, base: str = "/"):
        self._file = next((p for p in (os.path.join(base, name) for name in _FILES) if os.access(p, os.R_OK)), None)
        self._program = shutil.which("vcgencmd", path=os.pathsep.join(os.path.join(base, place) for place in _PLACES))
        self._failures = 0

    def throttled(self) -> int | None:
        """All throttle bits, now and since boot."""
        if self._file is not None:
            try:
                with open(self._file, encoding="ascii", errors="replace") as stream:
                    return int(stream.read(64).strip(), 16)
            except (OSError, ValueError):
                pass
        match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", self._ask("get_throttled"))
        return int(match[1], 16) if match else None

    def watts(self) -> float | None:
        """What the rails of a Pi 5's power chip carry together; not the whole board (USB and fan come before it)."""
        found: dict[str, dict[str, float]] = {}
        for rail, unit, value in re.findall(
            r"^\s*([A-Z0-9_]+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", self._ask("pmic_read_adc"), re.M
        ):
            found.setdefault(rail, {})[unit] = float(value)
        pairs = [pair for pair in found.values() if len(pair) == 2]
        return sum(pair["A"] * pair["V"] for pair in pairs) if pairs else None

    def _ask(self, command: str) -> str:
        """What the program prints, '' where it is absent, fails or hangs."""
        if self._program is None or self._failures >= _MOST_FAILURES:
            return ""
        try:
            done = subprocess.run(
                [self._program, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            self._failures += 1
            return ""
        self._failures = 0 if done.returncode == 0 else self._failures + 1
        return done.stdout[:_MOST_OUTPUT].decode("ascii", "replace") if done.returncode == 0 else ""
