"""One deployment at a time: a lock file that a living process holds.

In: the lock's path and who wants it. Out: held or refused, with holder and age. Rules kept:

- The lock is held while its record names a process that still runs. A holder that died, or a reboot,
  leaves a record that holds nothing, and the next taker says whom it took over from.
- The file is never removed, so that all takers meet on it: each changes the record only under flock,
  which the kernel gives back whatever happens. A record torn by a kill is nobody's. The same flock keeps
  processes that need no deployment lock (modes.py) out of each other's way, for the moment of one change.
- Ages come from the clock since boot: a device without a battery clock knows no better time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device_agents.disk import Disk, chunks_of
from device_agents.errors import AgentError
from device_agents.process import Process
from device_agents.strict_json import Fields, WireError, dumps, loads

_MAX_RECORD = 4096
_BUSY_TRIES, _BUSY_WAIT = 100, 0.02  # others keep the flock for a few writes only


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: the process on the device, the person and host it works for, and since when (s since boot)."""

    process: Process
    name: str
    since: float

    def as_json(self, disk: Disk) -> dict[str, object]:
        """What a host is told: `alive` is false for a holder whose lock the next deployment takes over."""
        alive = self.process == disk.me or disk.alive(self.process)
        return {
            "holder": self.name,
            "pid": self.process.pid,
            "age_s": round(max(0.0, time.monotonic() - self.since), 1) if alive else None,
            "alive": alive,
            "mine": self.process == disk.me,
        }


def holder(path: Path) -> Holder | None:
    """The holder the record names, living or not; None for no record or a torn one."""
    try:
        return _parse(b"".join(chunks_of(path, _MAX_RECORD)))
    except AgentError as error:
        if error.kind == "bad-file":  # missing, or larger than any record
            return None
        raise


def take(disk: Disk, path: Path, name: str) -> Holder | None:
    """Hold the lock; returns the dead holder it was taken over from, if any. Holding it already is fine.

    Raises:
        AgentError: `lock-held`, by another process that still runs.
    """
    with exclusive(path) as descriptor:
        before = _parse(os.pread(descriptor, _MAX_RECORD, 0))
        if before is not None:
            if before.process == disk.me:
                return None
            if disk.alive(before.process):
                raise _held(before, disk)
        disk.effect("lock", path)
        _record(descriptor, Holder(disk.me, name, time.monotonic()))
        return before


def release(disk: Disk, path: Path) -> bool:
    """Give the lock back; False where this process did not hold it."""
    if not os.path.lexists(path):
        return False
    with exclusive(path) as descriptor:
        before = _parse(os.pread(descriptor, _MAX_RECORD, 0))
        if before is None or before.process != disk.me:
            return False
        disk.effect("unlock", path)
        _record(descriptor, None)
        return True


def require(disk: Disk, path: Path) -> None:
    """Raises AgentError unless this process holds the lock."""
    now = holder(path)
    if now is None or now.process != disk.me:
        raise AgentError("refused", "this needs the deployment lock, which this session does not hold")


def _held(other: Holder, disk: Disk) -> AgentError:
    facts = other.as_json(disk)
    return AgentError(
        "lock-held",
        f"{other.name} is deploying (process {other.process.pid} on the device, for {facts['age_s']} s)",
    )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """The lock file's descriptor while nobody else is in here: for changes of the record, the journal, the mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for attempt in range(_BUSY_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 == _BUSY_TRIES:
                    raise AgentError("lock-held", f"{path} is busy: another process is changing it") from None
                time.sleep(_BUSY_WAIT)
        yield descriptor
    finally:
        os.close(descriptor)


def _record(descriptor: int, new: Holder | None) -> None:
    os.ftruncate(descriptor, 0)
    if new is not None:
        process = new.process
        value = {"pid": process.pid, "boot": process.boot, "started": process.started}
        os.pwrite(descriptor, dumps({**value, "name": new.name, "since": new.since}).encode(), 0)
    os.fsync(descriptor)


def _parse(data: bytes) -> Holder | None:
    try:
        f = Fields("lock", loads(data))
        process = Process(f.whole("pid", 1), f.text("boot", limit=100), f.whole("started"))
        return Holder(process, f.text("name", limit=200), f.number("since"))
    except WireError:
        return None
