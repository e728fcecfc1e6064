"""What would make a device's numbers better: facts and health -> findings, each with what to type.

In: what the agent says of itself and of its device. Out: Findings, pure values with stable names. Rules kept: nothing
is changed on the device, a person types it; a finding is bad only where nothing can be measured or numbers would be
wrong at this moment (no runtime, under-voltage, throttling); what is not told is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_agents import wire

PERFORMANCE = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
# Cores of this much of the largest capacity count as big: a Cortex-A55 beside an A76 has about a third.
_BIG = 0.8
# Degrees below the throttle point at which a few minutes of load will reach it: a passively cooled board gains 20-30.
_HEADROOM_C = 25.0
# Where the device does not tell its throttle point: a Raspberry Pi's is 80, a PC's rarely below 90.
_USUAL_THROTTLE_C = 80.0
_BUSY_SHARE = 0.2
_PRESSURE = 0.10
# What a campaign needs at most (README), and some room for the system.
_MEMORY_BYTES = 400_000_000
_BITS = ((1, "under-voltage"), (2, "frequency capped"), (4, "throttled"), (8, "soft temperature limit"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact of a device's condition: `ok` False where it should not be measured as it is now; `hint` is what would
    help."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def findings(facts: wire.Facts, health: wire.Health) -> tuple[Finding, ...]:
    """All of them, good ones too, in a fixed order; the names are stable."""
    return (
        _emulated(facts),
        _runtimes(facts),
        _libc(facts),
        _governor(health),
        _pinning(facts, health),
        _turbo(health),
        _cooling(health),
        _supply(health),
        _load(facts, health),
        _memory(health),
        _energy(facts),
    )


def _emulated(facts: wire.Facts) -> Finding:
    if facts.emulated:
        detail = "emulated: its timings say nothing about the real device"
        return Finding("emulated", True, detail, "measure on the device; OFA_EDGE_EMULATED=0 there says it is real")
    return Finding("emulated", True, "no sign of emulation")


def _runtimes(facts: wire.Facts) -> Finding:
    if not facts.runtimes:
        hint = "`ofa-edge devices setup HOST` installs one"
        return Finding("runtimes", False, f"no runtime for Python {facts.python}", hint)
    return Finding("runtimes", True, ", ".join(f"{name} {version}" for name, version in facts.runtimes.items()))


def _libc(facts: wire.Facts) -> Finding:
    hint = "wheels of the runtimes need glibc" if "musl" in facts.libc else ""
    return Finding("libc", True, facts.libc, hint)


def _governor(health: wire.Health) -> Finding:
    if not health.governors:
        return Finding("governor", True, "unknown")
    slow = [name for name in health.governors if name != "performance"]
    detail = ", ".join(health.governors)
    if health.limited is not None and health.limited < 1:
        return Finding(
            "governor",
            True,
            f"{detail}, limited to {health.limited:.0%} of the highest clock",
            "cat cpuinfo_max_freq into scaling_max_freq of each core in /sys/devices/system/cpu/cpu*/cpufreq",
        )
    return Finding("governor", True, detail, f"for steadier numbers: {PERFORMANCE}" if slow else "")


def _pinning(facts: wire.Facts, health: wire.Health) -> Finding:
    """Cores that are isolated, else the big ones where there are small ones too."""
    mask = facts.core_mask
    isolated = [core for core in health.isolated if core in mask]
    if isolated:
        return Finding("pinning", True, f"cores {spelled(isolated)} are isolated", f"--cores {spelled(isolated)}")
    if len(health.capacities) != len(mask) or not mask:
        return Finding("pinning", True, f"cores {spelled(mask)}, their sizes are unknown")
    most = max(health.capacities)
    big = [core for core, size in zip(mask, health.capacities, strict=True) if size >= _BIG * most]
    if len(big) < len(mask):
        return Finding("pinning", True, f"{len(big)} of {len(mask)} cores are big ones", f"--cores {spelled(big)}")
    return Finding("pinning", True, f"cores {spelled(mask)}, all alike")


def _turbo(health: wire.Health) -> Finding:
    hint = "its clock depends on heat and on other cores; --sustained measures where it settles"
    return Finding("turbo", True, health.turbo, hint if health.turbo == "on" else "")


def _cooling(health: wire.Health) -> Finding:
    if health.throttled is not None and health.throttled & ~1:
        detail = f"{_named(health.throttled & ~1)} now" + _celsius(health)
        return Finding("cooling", False, detail, "cool it (heat sink, fan), or profile with --sustained")
    if health.temperature_c is None:
        return Finding("cooling", True, "temperature unknown")
    point = health.throttle_c or _USUAL_THROTTLE_C
    detail = f"{health.temperature_c:.0f} C, slows down at {'about ' if health.throttle_c is None else ''}{point:.0f} C"
    if before := (health.throttled_before or 0) & ~1:
        return Finding("cooling", True, f"{detail}; since its start: {_named(before)}", "cool it (heat sink, fan)")
    near = health.temperature_c > point - _HEADROOM_C
    return Finding("cooling", True, detail, "let it cool, or profile with --sustained" if near else "")


def _supply(health: wire.Health) -> Finding:
    hint = "use a stronger supply and a short cable"
    if health.throttled is None:
        return Finding("supply", True, "unknown")
    if health.throttled & 1:
        return Finding("supply", False, "under-voltage now", hint)
    if (health.throttled_before or 0) & 1:
        return Finding("supply", True, "good now, under-voltage since its start", hint)
    return Finding("supply", True, "good")


def _load(facts: wire.Facts, health: wire.Health) -> Finding:
    busy = [(name, share) for name, share in health.busy if share >= _BUSY_SHARE]
    parts = [f"{name} {share:.0%} of a core" for name, share in busy]
    waiting = health.pressure is not None and health.pressure > _PRESSURE
    if waiting:
        parts.append(f"tasks waited for a core {health.pressure:.0%} of the time")
    if not parts:
        return Finding("load", True, "quiet")
    alone = len(facts.core_mask) > 1 and not waiting
    hint = f"stop {', '.join(name for name, _ in busy) or 'other programs'}"
    return Finding("load", True, "; ".join(parts), f"{hint}, or keep off their cores with --cores" if alone else hint)


def _memory(health: wire.Health) -> Finding:
    if health.memory_available_bytes is None:
        return Finding("memory", True, "unknown")
    detail = f"{health.memory_available_bytes / 1e6:.0f} MB available"
    if health.swap_used_bytes:
        detail += f", {health.swap_used_bytes / 1e6:.0f} MB in swap"
    if health.swapping:
        return Finding("memory", True, f"{detail}, swapping now", "stop other programs on the device")
    few = health.memory_available_bytes < _MEMORY_BYTES
    return Finding("memory", True, detail, "stop other programs on the device" if few else "")


def _energy(facts: wire.Facts) -> Finding:
    if not facts.sensors:
        hint = "on a PC: `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`" if _is_pc(facts) else ""
        return Finding("energy", True, "no counter that can be read: unknown", hint)
    return Finding("energy", True, f"{', '.join(facts.sensors)}; profile --energy uses {facts.sensors[0]}")


def _is_pc(facts: wire.Facts) -> bool:
    return facts.machine in ("x86_64", "i686", "amd64")


def _celsius(health: wire.Health) -> str:
    return "" if health.temperature_c is None else f" at {health.temperature_c:.0f} C"


def _named(bits: int) -> str:
    return ", ".join(name for bit, name in _BITS if bits & bit)


def spelled(cores: Sequence[int]) -> str:
    """Core numbers as --cores takes them: 0-3, 4,5 or 0-1,4."""
    ordered = sorted(set(cores))
    parts: list[list[int]] = []
    for core in ordered:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
