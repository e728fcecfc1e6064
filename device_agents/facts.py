"""What this device is: model, chip, cores, memory, and whether it is an emulation.

In: plain files of /proc and /sys under `base` (tests pass a folder), the environment. Out: wire.Facts. What is
not told is 'unknown'; text is cleaned, it will be printed by the host.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence

from device_agents import cores, wire

UNKNOWN = "unknown"
EMULATED_VARIABLE = "OFA_EDGE_EMULATED"
"""'1' marks a device as emulated, '0' says it is not, where the signs below err."""

_X86 = ("x86_64", "i686", "i386", "amd64")
_NO_MODEL = ("", "none", "default string", "system product name", "to be filled by o.e.m.", "standard")


def collect(runtimes: Mapping[str, str], *, sensors: Sequence[str] = (), child: int = 0, base: str = "/") -> wire.Facts:
    """The facts of this machine.

    Args:
        runtimes: what the worker's probe found.
        sensors: of energy, that it could read.
        child: process id of a child of ours; under user-mode emulation its /proc entry shows the emulator.
        base: the root of the file system that is read.
    """
    cpuinfo = _read(base, "proc/cpuinfo", 1 << 18)
    machine = platform.machine() or UNKNOWN
    mask = cores.usable()
    model = _model(base, cpuinfo)
    return wire.Facts(
        device_model=model,
        soc=_soc(base, cpuinfo),
        machine=_shown(machine),
        kernel=_shown(f"{platform.system()} {platform.release()}"),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        core_mask=mask,
        governor=_shown(_read(base, f"sys/devices/system/cpu/cpu{mask[0]}/cpufreq/scaling_governor")),
        memory_bytes=_memory(base),
        emulated=is_emulated(machine, cpuinfo, model, child=child, base=base),
        runtimes=dict(runtimes),
        serial=_serial(base, cpuinfo),
        boot_id=_shown(_read(base, "proc/sys/kernel/random/boot_id")),
        agent=wire.AGENT_VERSION,
        libc=_shown(" ".join(platform.libc_ver())),
        sensors=tuple(sensors),
    )


def is_emulated(machine: str, cpuinfo: str, model: str, *, child: int = 0, base: str = "/") -> bool:
    """Does another kind of processor pretend to be this one?

    Signs: the environment says so; a child runs inside an emulator's binary (user-mode emulation hides only
    the process' own entry); /proc/cpuinfo is another architecture's; TCG's names in the CPU or the board.
    A board whose files were copied from a real one, under full emulation, cannot be told: set the variable.
    """
    marked = os.environ.get(EMULATED_VARIABLE, "")
    if marked in ("0", "1"):
        return marked == "1"
    try:
        if child and os.path.basename(os.readlink(os.path.join(base, f"proc/{child}/exe"))).startswith("qemu-"):
            return True
    except OSError:
        pass
    is_x86 = machine.lower() in _X86
    shows_x86 = re.search(r"^(vendor_id|model name)\s*:.*(Intel|AMD|QEMU)", cpuinfo, re.M) is not None
    shows_arm = re.search(r"^CPU implementer\s*:", cpuinfo, re.M) is not None
    if (is_x86 and shows_arm) or (not is_x86 and shows_x86):
        return True
    return "TCG" in _field(cpuinfo, "model name") or model == "linux,dummy-virt"


def _model(base: str, cpuinfo: str) -> str:
    """Device tree, then DMI, then the CPU's name: a board is known by its name, a server by its processor."""
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if text := _read(base, path):
            return _shown(text)
    vendor, product = (_read(base, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    if product.lower() not in _NO_MODEL:
        return _shown(f"{vendor} {product}")
    return _shown(_field(cpuinfo, "Model") or _field(cpuinfo, "model name") or platform.processor())


def _soc(base: str, cpuinfo: str) -> str:
    """The device tree's last 'compatible' entry (the chip), else the CPU's name."""
    compatible = _read(base, "proc/device-tree/compatible") or _read(base, "sys/firmware/devicetree/base/compatible")
    if compatible:
        return _shown(compatible.split("\0")[-1])
    return _shown(_field(cpuinfo, "Hardware") or _field(cpuinfo, "model name"))


def _serial(base: str, cpuinfo: str) -> str:
    return _shown(_read(base, "proc/device-tree/serial-number") or _field(cpuinfo, "Serial"))


def _memory(base: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(base, "proc/meminfo"), re.M)
    return int(match[1]) * 1024 if match else 0


def _field(cpuinfo: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:[ \t]*(.*)$", cpuinfo, re.M)
    return match[1].strip() if match else ""


def _shown(text: str) -> str:
    return wire.clean(text.replace("\0", " ").strip(), 200).strip() or UNKNOWN


def _read(base: str, path: str, limit: int = 1 << 16) -> str:
    try:
        with open(os.path.join(base, path), encoding="utf-8", errors="replace") as stream:
            return stream.read(limit).strip("\0\n ")
    except OSError:
        return ""
