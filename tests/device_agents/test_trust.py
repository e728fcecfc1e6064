"""What went on beside a measurement, read from folders that look like devices."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import trust, wire
from device_agents.firmware import Firmware
from device_agents.trust import CAPPED, THROTTLED, UNDERVOLTAGE, Machine, Signals

CPU = "sys/devices/system/cpu"


def tree(base: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(base)


def vcgencmd(base: Path, script: str) -> Path:
    """The firmware's program, as a shell script that counts its calls."""
    program = base / "usr/bin/vcgencmd"
    tree(base, {"usr/bin/vcgencmd": f'#!/bin/sh\necho "$1" >> "$(dirname "$0")/calls"\n{script}\n'})
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return base / "usr/bin/calls"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CALM = Machine(0.0, 2, 2, 0, 0.0, 1, 50.0, 1800.0, 0, 5, "performance")


def later(**changes: Any) -> Machine:
    return replace(CALM, seconds=10.0, **changes)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, ()),
        ({"waiting_us": 900_000, "stolen_s": 0.1}, ()),
        ({"waiting_us": 1_100_000}, ("pressure",)),
        ({"stolen_s": 0.3}, ("steal",)),
        ({"runnable": 3}, ()),
        ({"throttled": THROTTLED}, ("throttled",)),
        ({"throttled": CAPPED}, ("throttled",)),
        ({"throttled": UNDERVOLTAGE}, ("undervoltage",)),
        ({"throttled": UNDERVOLTAGE | 8}, ("throttled", "undervoltage")),
        ({"throttle_count": 6}, ("throttled",)),
        ({"frequency_mhz": 1700.0}, ()),
        ({"frequency_mhz": 2400.0}, ()),
        ({"frequency_mhz": 1000.0}, ("clock-changed",)),
        ({"governor": "ondemand"}, ("governor-changed",)),
        ({"governor": "unknown"}, ()),
        ({"temperature_c": 90.0}, ()),
    ],
)
def test_a_disturbed_machine_is_flagged(changes: dict[str, Any], flags: tuple[str, ...]) -> None:
    assert trust.flags(CALM, later(**changes)) == flags
    assert set(flags) <= set(wire.FLAGS)


def test_what_a_device_does_not_tell_raises_nothing_and_is_none() -> None:
    mute = Machine(0.0, 2, 2)
    assert trust.flags(mute, replace(mute, seconds=1.0)) == ()
    assert trust.noise(mute, replace(mute, seconds=1.0)) == wire.Noise()


def test_load_must_be_there_before_and_after() -> None:
    busy = replace(CALM, runnable=3)
    assert trust.flags(busy, later(runnable=3)) == ("load",)
    assert trust.flags(busy, later(runnable=2)) == ()


def test_more_threads_than_cores_wait_for_each_other_which_is_no_disturbance() -> None:
    before = replace(CALM, cores=1, runnable=4)
    after = later(cores=1, runnable=4, waiting_us=9_000_000)
    assert trust.flags(before, after, threads=1) == ("pressure", "load")
    assert trust.flags(before, after, threads=2) == ()
    assert trust.noise(before, after).pressure == pytest.approx(0.9)


def test_noise_says_what_the_flags_were_raised_for() -> None:
    after = later(
        waiting_us=2_000_000, stolen_s=0.5, runnable=4, temperature_c=81.5, frequency_mhz=1000.0,
        throttled=THROTTLED, governor="ondemand",
    )  # fmt: skip
    noise = trust.noise(replace(CALM, throttled=UNDERVOLTAGE), after)
    assert noise == wire.Noise(0.025, 0.2, 4, 81.5, 1000.0, THROTTLED | UNDERVOLTAGE, "ondemand")
    assert wire.Noise.parse(wire.to_wire(noise)) == noise


def test_a_boards_files_are_read(tmp_path: Path) -> None:
    base = tree(
        tmp_path,
        {
            "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\n",
            "proc/stat": "cpu  10 0 20 400 5 0 1 200 0 0\ncpu0 1 2\n",
            "proc/loadavg": "0.5 0.4 0.3 3/120 4711\n",
            "proc/self/stat": "7 (a name) with) R " + " ".join(["0"] * 35) + " 2 0 0\n",
            "sys/class/thermal/thermal_zone0/temp": "61200\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "64500\n",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
            "sys/class/thermal/thermal_zone2/temp": "99000\n",
            "sys/class/thermal/thermal_zone2/type": "iwlwifi_1\n",
            "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
            "sys/class/thermal/cooling_device0/cur_state": "0\n",
            f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "600000\n",
            f"{CPU}/cpu2/cpufreq/scaling_cur_freq": "1800000\n",
            f"{CPU}/cpu1/cpufreq/scaling_governor": "ondemand\n",
        },
    )
    signals = Signals(base)
    found = signals.read((1, 2))
    assert (found.waiting_us, found.runnable, found.cores) == (1234, 3, 2)
    assert found.stolen_s == 200 / os.sysconf("SC_CLK_TCK")
    assert found.temperature_c == 64.5
    assert found.frequency_mhz == 1800.0  # of core 2, that this ran on
    assert (found.governor, found.throttled) == ("ondemand", 0)
    assert signals.read((1,)).frequency_mhz == 600.0
    tree(tmp_path, {"sys/class/thermal/cooling_device0/cur_state": "3\n", "sys/class/thermal/thermal_zone0/temp": "x"})
    found = signals.read((1, 2))
    assert (found.throttled, found.temperature_c) == (CAPPED, 64.5)


def test_a_pc_tells_its_temperature_and_how_often_it_throttled(tmp_path: Path) -> None:
    base = tree(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "nvme\n",
            "sys/class/hwmon/hwmon0/temp1_input": "90000\n",
            "sys/class/hwmon/hwmon3/name": "k10temp\n",
            "sys/class/hwmon/hwmon3/temp1_input": "71250\n",
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
            f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "4\n",
        },
    )
    signals = Signals(base)
    before = signals.read((0,))
    assert (before.temperature_c, before.throttle_count) == (71.25, 7)
    tree(tmp_path, {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "5\n"})
    after = signals.read((0,))
    assert trust.flags(before, after) == ("throttled",)
    assert trust.noise(before, after).throttled == THROTTLED
    assert trust.noise(before, before).throttled == 0


def test_a_device_that_tells_nothing_is_unknown_never_cool(tmp_path: Path) -> None:
    found = Signals(str(tmp_path)).read((0,))
    for name in ("waiting_us", "stolen_s", "runnable", "temperature_c", "frequency_mhz", "throttled", "throttle_count"):
        assert getattr(found, name) is None, name
    assert found.governor == "unknown"


def test_the_firmware_is_asked_at_most_once_a_second(tmp_path: Path) -> None:
    calls = vcgencmd(tmp_path, "echo throttled=0x50005")
    clock = Clock()
    signals = Signals(str(tmp_path), clock)
    for moment in (0.0, 0.5, 0.9):
        clock.now = moment
        assert signals.read((0,)).throttled == UNDERVOLTAGE | THROTTLED
    assert calls.read_text() == "get_throttled\n"
    vcgencmd(tmp_path, "echo throttled=0x50000")
    clock.now = 1.5
    assert signals.read((0,)).throttled == 0


def test_the_kernels_file_is_read_before_the_program_is_started(tmp_path: Path) -> None:
    calls = vcgencmd(tmp_path, "echo throttled=0x0")
    tree(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50001\n"})
    assert Firmware(str(tmp_path)).throttled() == 0x50001
    assert not calls.exists()


@pytest.mark.parametrize(
    "script",
    [
        "echo 'error=1 error_msg=\"Command not registered\"'",
        "exit 1",
        "echo throttled=maybe",
        "head -c 100000 /dev/zero",
    ],
)
def test_a_firmware_that_does_not_answer_is_unknown(tmp_path: Path, script: str) -> None:
    vcgencmd(tmp_path, script)
    assert Firmware(str(tmp_path)).throttled() is None


def test_a_program_that_keeps_failing_or_hangs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_agents.firmware.TIMEOUT_SECONDS", 0.05)
    calls = vcgencmd(tmp_path, "exec sleep 60")
    firmware = Firmware(str(tmp_path))
    assert [firmware.throttled() for _ in range(10)] == [None] * 10
    assert len(calls.read_text().split()) <= 3


def test_the_weak_supply_of_a_mainline_kernel_is_seen(tmp_path: Path) -> None:
    alarm = {"sys/class/hwmon/hwmon1/name": "rpi_volt\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"}
    assert Signals(tree(tmp_path, alarm)).read((0,)).throttled == UNDERVOLTAGE


def test_files_are_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine: a reading opens known files and looks for none."""
    signals = Signals()
    cores = tuple(os.sched_getaffinity(0))
    first = signals.read(cores)

    def refuse(*args: object) -> None:
        raise AssertionError("a reading searched for files")

    monkeypatch.setattr("glob.glob", refuse)
    monkeypatch.setattr("shutil.which", refuse)
    assert signals.read(cores).seconds >= first.seconds
