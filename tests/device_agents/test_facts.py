"""What a device says about itself, read from folders that look like devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_agents import facts, wire

PI_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Serial\t\t: 10000000deadbeef
Model\t\t: Raspberry Pi 4 Model B Rev 1.5
"""
PC_CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz
"""


def tree(base: Path, **files: str) -> str:
    """A folder with files; '__' in a name is a slash."""
    for name, text in files.items():
        path = base / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(base)


def test_a_pi_is_known_by_its_device_tree(tmp_path: Path) -> None:
    base = tree(
        tmp_path,
        **{
            "proc__cpuinfo": PI_CPUINFO,
            "proc__meminfo": "MemTotal:        3884256 kB\n",
            "proc__device-tree__model": "Raspberry Pi 4 Model B Rev 1.5\0",
            "proc__device-tree__compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
            "proc__sys__kernel__random__boot_id": "abc\n",
        },
    )
    for core in os.sched_getaffinity(0):
        tree(tmp_path, **{f"sys__devices__system__cpu__cpu{core}__cpufreq__scaling_governor": "ondemand\n"})
    found = facts.collect({"onnxruntime": "1.2"}, base=base)
    assert found.device_model == "Raspberry Pi 4 Model B Rev 1.5"
    assert found.soc == "brcm,bcm2711"
    assert found.governor == "ondemand"
    assert found.serial == "10000000deadbeef"
    assert found.memory_bytes == 3884256 * 1024
    assert found.boot_id == "abc"
    assert found.runtimes == {"onnxruntime": "1.2"}
    assert wire.Facts.parse(wire.to_wire(found)) == found


def test_a_pc_is_known_by_its_board_and_else_by_its_processor(tmp_path: Path) -> None:
    base = tree(tmp_path, proc__cpuinfo=PC_CPUINFO)
    assert facts.collect({}, base=base).device_model == "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz"
    tree(tmp_path, sys__class__dmi__id__sys_vendor="LENOVO\n", sys__class__dmi__id__product_name="20L6S0\n")
    assert facts.collect({}, base=base).device_model == "LENOVO 20L6S0"


def test_a_device_that_tells_nothing_still_has_facts(tmp_path: Path) -> None:
    found = facts.collect({}, base=str(tmp_path))
    assert found.governor == found.boot_id == found.serial == "unknown"
    assert found.memory_bytes == 0
    assert wire.Facts.parse(wire.to_wire(found)) == found


def test_terminal_escapes_in_a_model_name_are_removed(tmp_path: Path) -> None:
    base = tree(tmp_path, **{"proc__device-tree__model": "Pi\x1b[2J\0"})
    assert facts.collect({}, base=base).device_model == "Pi [2J"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "model", "emulated"),
    [
        ("aarch64", PI_CPUINFO, "Raspberry Pi 4 Model B", False),
        ("x86_64", PC_CPUINFO, "LENOVO", False),
        ("aarch64", PC_CPUINFO, "LENOVO", True),
        ("armv7l", PC_CPUINFO.replace("GenuineIntel", "AuthenticAMD"), "x", True),
        ("x86_64", PI_CPUINFO, "x", True),
        ("x86_64", "model name\t: QEMU TCG CPU version 2.5+\n", "QEMU Standard PC", True),
        ("aarch64", PI_CPUINFO, "linux,dummy-virt", True),
        ("riscv64", "", "unknown", False),
    ],
)
def test_an_emulated_processor_is_noticed(
    machine: str, cpuinfo: str, model: str, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts.is_emulated(machine, cpuinfo, model) is emulated
    monkeypatch.setenv("OFA_EDGE_EMULATED", "0" if emulated else "1")
    assert facts.is_emulated(machine, cpuinfo, model) is not emulated


def test_user_mode_emulation_shows_in_a_child(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert facts.is_emulated("aarch64", PI_CPUINFO, "Pi", child=7, base=str(tmp_path))
    assert not facts.is_emulated("aarch64", PI_CPUINFO, "Pi", child=8, base=str(tmp_path))
