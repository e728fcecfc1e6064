"""Which process is that: an identity that a later process with the same number does not have.

In: /proc. Out: Process, a value that a lock file can hold. Rules kept: a number alone proves nothing, so
the boot and the start time go with it; a process that ended but was not collected counts as ended.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process of this device.

    Attributes:
        pid: its number.
        boot: the kernel's random id of the boot it ran in; '' where the system has none.
        started: its start, in clock ticks since that boot; 0 where the system does not tell.
    """

    pid: int
    boot: str
    started: int

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        return cls(pid, boot_id(), _start_ticks(pid) or 0)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        if self.boot != boot_id():
            return False
        if _start_ticks(os.getpid()) is not None:
            return _start_ticks(self.pid) == self.started
        try:  # a system without /proc: the number is all there is
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def boot_id() -> str:
    """The kernel's id of this boot, '' where there is none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None for no such process, or one that has ended (Z, X)."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
        fields = text[text.rindex(b")") + 1 :].split()  # the name before it may hold blanks and brackets
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
