"""Is this still the same machine? What facts say when they are asked for again.

In: the facts of before and of now. Out: what differs, sorted into three kinds. Rules kept: a fact that a device does
not tell ('unknown') proves nothing; what decides about timings but not about identity (the governor, the cores, a
runtime's version) is a condition, which is compared elsewhere (latency/conditions.py) with an error of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from device_agents import wire
from ofa_edge.errors import ProtocolError

_UNTOLD = ("", "unknown")
_MACHINE = ("serial", "machine", "device_model", "soc", "emulated")
_CONDITIONS = ("governor", "cores", "core_mask", "runtimes", "kernel", "python", "libc", "agent", "sensors")
# Firmware and kernel keep some for themselves, another part with each of their versions.
_MEMORY_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two answers: field -> (before, now).

    Attributes:
        machine: it is another one.
        rebooted: it was started anew between them.
        conditions: it is the same one in another state.
    """

    machine: dict[str, tuple[Any, Any]]
    rebooted: bool
    conditions: dict[str, tuple[Any, Any]]


def changes(before: wire.Facts, now: wire.Facts) -> Changes:
    """Compare two answers of what should be one device."""
    machine = _differing(before, now, _MACHINE)
    if abs(now.memory_bytes - before.memory_bytes) > _MEMORY_SHARE * max(now.memory_bytes, before.memory_bytes):
        machine["memory_bytes"] = (before.memory_bytes, now.memory_bytes)
    return Changes(machine, bool(_differing(before, now, ("boot_id",))), _differing(before, now, _CONDITIONS))


def require_same_machine(before: wire.Facts, now: wire.Facts, *, device: str) -> None:
    """For two answers within one session, which no restart of a device survives.

    Raises:
        ProtocolError: naming the device and each field with both values.
    """
    found = changes(before, now)
    if found.machine or found.rebooted:
        named = found.machine or {"boot_id": (before.boot_id, now.boot_id)}
        raise ProtocolError(
            f"{device} became another machine in the middle of a session: {shown(named)}",
            hint="does its address lead to several devices in turn? Name one of them, and start a table of its own",
        )


def shown(fields: dict[str, tuple[Any, Any]]) -> str:
    """As part of a sentence."""
    return ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in fields.items())


def _differing(before: wire.Facts, now: wire.Facts, names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(before, name), getattr(now, name)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b and a not in _UNTOLD and b not in _UNTOLD}
