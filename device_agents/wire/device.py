"""What a device says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Optional

from device_agents.strict_json import Fields, WireError
from device_agents.wire import values as v
from device_agents.wire.values import Value


@dataclass(frozen=True)
class Facts(Value, what="facts"):
    """What a device is. 'unknown' stands for text the device does not tell.

    Args:
        machine: instruction set as the kernel names it, e.g. aarch64.
        core_mask: CPU numbers the agent may run on; `cores` counts all online ones.
        governor: of the first usable core.
        emulated: timings here say nothing about a real device.
        runtimes: name -> version, only those that really load.
        libc: name and version of the C library, e.g. "glibc 2.36".
        sensors: counters of energy or power that can be read, by name.
        serial, boot_id: provenance; compared only to notice that another machine answers.
    """

    device_model: v.Words
    soc: v.Words
    machine: v.Words
    kernel: v.Words
    python: v.Words
    cores: Annotated[int, v.whole(1, 4096)]
    core_mask: Annotated[tuple[int, ...], v.wholes(4096, 0, 4096)]
    governor: v.Words
    memory_bytes: v.Count
    emulated: v.Flag
    runtimes: Annotated[Mapping[str, str], v.named(v.text(limit=100))]
    serial: v.Words
    boot_id: v.Words
    agent: v.Words
    libc: v.Words = "unknown"
    sensors: Annotated[tuple[str, ...], v.each(v.text(r"[A-Za-z0-9_.:-]{1,100}"), v.MAX_NAMES)] = ()

    def agrees(self) -> bool:
        """The mask names every usable core once."""
        return bool(self.core_mask) and len(set(self.core_mask)) == len(self.core_mask)


def _process(f: Fields, name: str) -> tuple[str, float]:
    value: Any = f.take(name)
    if not isinstance(value, list) or len(value) != 2:
        raise WireError("health: a process is not a name and a share")
    both = Fields("process", {"name": value[0], "share": value[1]})
    return both.text("name", limit=200), both.number("share", 0.0, 4096.0)


@dataclass(frozen=True)
class Health(Value, what="health"):
    """How fit a device is to be measured; None, () and 'unknown' stand for what it does not tell.

    Args:
        governors: of the cores the agent may use, each once.
        capacities: of those cores, in the order of Facts.core_mask, in any unit.
        isolated: cores that the scheduler leaves alone.
        limited: the highest clock that settings allow over what the hardware can.
        turbo: on or off.
        throttle_c: where the kernel begins to slow the processor.
        throttled, throttled_before: as Noise.throttled, now and since it was started.
        busy: the processes beside the agent that computed most in the last second, and their share of one core.
        pressure: share of the last ten seconds in which some task waited for a CPU.
        swapping: pages went to or came from swap in the last second.
    """

    governors: Annotated[tuple[str, ...], v.each(v.text(limit=200), v.MAX_NAMES)] = ()
    capacities: Annotated[tuple[int, ...], v.wholes(4096)] = ()
    isolated: Annotated[tuple[int, ...], v.wholes(4097, 0, 4096)] = ()
    limited: v.Share = None
    turbo: Annotated[str, v.text("on|off|unknown")] = "unknown"
    temperature_c: v.Celsius = None
    throttle_c: v.Celsius = None
    throttled: v.Throttled = None
    throttled_before: v.Throttled = None
    busy: Annotated[tuple[tuple[str, float], ...], v.each(_process, v.MAX_NAMES)] = ()
    pressure: v.Share = None
    memory_available_bytes: v.MaybeCount = None
    swap_used_bytes: v.MaybeCount = None
    swapping: Annotated[Optional[bool], v.maybe(Fields.flag)] = None
