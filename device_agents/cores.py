"""Which cores a process may use, and keeping it to some of them; systems without affinity use all of theirs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from device_agents.wire import AgentError

_CAN_PIN = hasattr(os, "sched_setaffinity")


def usable() -> tuple[int, ...]:
    """CPU numbers this process may run on, sorted."""
    if _CAN_PIN:
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin(cores: Iterable[int]) -> None:
    """Keep this process, and the threads it starts from now on, to `cores`.

    Raises:
        AgentError: 'usage' where the system cannot do that and `cores` are not all of them.
    """
    if _CAN_PIN:
        os.sched_setaffinity(0, cores)
    elif set(cores) != set(usable()):
        raise AgentError("usage", "this system cannot keep a process to chosen cores")
