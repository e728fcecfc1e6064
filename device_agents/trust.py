"""Signals that something else ran on the machine while a measurement did.

In: /proc. Out: flags out of wire.FLAGS. What a system does not tell gives no flag. Thresholds
(docs/how-the-numbers-are-made.md): time stolen at all, tasks waiting for a CPU more than 10 % of the time, more
runnable tasks than cores.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from device_agents import wire

PRESSURE = 0.10
STOLEN = 0.01
"""Share of the time: one tick of a short measurement would be noise, so a hundredth must be gone."""


@dataclass(frozen=True)
class Machine:
    """Counters at one moment; None where the system does not tell.

    Args:
        seconds: monotonic time of reading.
        waiting_us: total time some task waited for a CPU.
        stolen_s: total time the hypervisor took, over all cores.
        runnable: tasks that run or want to, now.
        cores: online.
    """

    seconds: float
    waiting_us: int | None
    stolen_s: float | None
    runnable: int | None
    cores: int

    @classmethod
    def read(cls, proc: str = "/proc") -> Machine:
        waiting = re.search(r"some .*total=(\d+)", _text(f"{proc}/pressure/cpu"))
        ticks = _text(f"{proc}/stat").split("\n", 1)[0].split()
        runnable = re.search(r" (\d+)/\d+ ", _text(f"{proc}/loadavg"))
        return cls(
            seconds=time.monotonic(),
            waiting_us=int(waiting[1]) if waiting else None,
            stolen_s=int(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 and ticks[8].isdigit() else None,
            runnable=int(runnable[1]) if runnable else None,
            cores=os.cpu_count() or 1,
        )


def flags(before: Machine, after: Machine) -> tuple[str, ...]:
    """What the two readings say about the time between them."""
    span = max(after.seconds - before.seconds, 1e-6)
    found = []
    if _grown(before.stolen_s, after.stolen_s) / span / after.cores > STOLEN:
        found.append("steal")
    if _grown(before.waiting_us, after.waiting_us) / 1e6 / span > PRESSURE:
        found.append("pressure")
    if after.runnable is not None and after.runnable > after.cores:
        found.append("load")
    return tuple(found)


def noise(before: Machine, after: Machine) -> wire.Noise:
    """What the two readings say, as values."""
    span = max(after.seconds - before.seconds, 1e-6)

    def share(first: float | None, last: float | None, unit: float) -> float | None:
        return None if first is None or last is None else min(1.0, max(0.0, (last - first) / unit / span))

    return wire.Noise(
        steal=share(before.stolen_s, after.stolen_s, after.cores),
        pressure=share(before.waiting_us, after.waiting_us, 1e6),
        runnable=after.runnable,
    )


def _grown(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(1 << 16)
    except OSError:
        return ""
