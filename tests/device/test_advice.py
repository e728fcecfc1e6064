"""What doctor says of a device: each finding from files that look like one, with what to type."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import health, wire
from ofa_edge.cli import app
from ofa_edge.device.advice import Finding, findings, spelled
from ofa_edge.device.opening import open_session
from tests.device import fake

FACTS = replace(fake.FACTS, libc="glibc 2.36", sensors=("rapl",))
GOOD = wire.Health(
    governors=("performance",), capacities=(1, 1, 1, 1), limited=1.0, turbo="off", temperature_c=45.0, throttle_c=80.0,
    throttled=0, throttled_before=0, pressure=0.01, memory_available_bytes=2_000_000_000, swap_used_bytes=0,
    swapping=False,
)  # fmt: skip
NAMES = (
    "emulated", "runtimes", "libc", "governor", "pinning", "turbo", "cooling", "supply", "load", "memory", "energy",
)  # fmt: skip


def found(name: str, facts: wire.Facts = FACTS, **changes: Any) -> Finding:
    (one,) = [f for f in findings(facts, replace(GOOD, **changes)) if f.name == name]
    return one


def test_a_good_device_needs_nothing_and_the_names_are_stable() -> None:
    all_of_them = findings(FACTS, GOOD)
    assert tuple(f.name for f in all_of_them) == NAMES
    assert all(f.ok and not f.hint for f in all_of_them)


def test_a_device_that_tells_nothing_is_unknown_never_good() -> None:
    mute = findings(replace(FACTS, sensors=(), libc="unknown"), wire.Health())
    for name in ("governor", "pinning", "turbo", "cooling", "supply", "memory", "energy"):
        (one,) = [f for f in mute if f.name == name]
        assert one.ok
        assert "unknown" in one.detail, name


@pytest.mark.parametrize(
    ("name", "changes", "ok", "detail", "hint"),
    [
        ("governor", {"governors": ("ondemand",)}, True, "ondemand", "scaling_governor"),
        ("governor", {"limited": 0.6}, True, "limited to 60% of the highest clock", "scaling_max_freq"),
        ("pinning", {"capacities": (300, 300, 1024, 1000)}, True, "2 of 4 cores are big", "--cores 2-3"),
        ("pinning", {"isolated": (3,)}, True, "cores 3 are isolated", "--cores 3"),
        ("pinning", {"isolated": (9,)}, True, "cores 0-3, all alike", ""),
        ("turbo", {"turbo": "on"}, True, "on", "--sustained"),
        ("cooling", {"throttled": 4}, False, "throttled now at 45 C", "heat sink"),
        ("cooling", {"temperature_c": 60.0}, True, "60 C, slows down at 80 C", "--sustained"),
        ("cooling", {"throttle_c": None}, True, "45 C, slows down at about 80 C", ""),
        ("cooling", {"throttled_before": 6}, True, "since its start: frequency capped, throttled", "heat sink"),
        ("supply", {"throttled": 1}, False, "under-voltage now", "stronger supply"),
        ("supply", {"throttled_before": 1}, True, "under-voltage since its start", "stronger supply"),
        ("load", {"busy": (("ffmpeg", 0.9), ("sshd", 0.03))}, True, "ffmpeg 90% of a core", "stop ffmpeg, or keep"),
        ("load", {"pressure": 0.4}, True, "waited for a core 40% of the time", "stop other programs"),
        ("memory", {"memory_available_bytes": 90_000_000}, True, "90 MB available", "stop other programs"),
        ("memory", {"swap_used_bytes": 5_000_000, "swapping": True}, True, "5 MB in swap, swapping now", "stop"),
    ],
)
def test_each_finding_says_what_was_found_and_what_to_type(
    name: str, changes: dict[str, Any], ok: bool, detail: str, hint: str
) -> None:
    one = found(name, **changes)
    assert one.ok is ok
    assert detail in one.detail
    assert hint in one.hint
    assert bool(one.hint) == bool(hint)


def test_facts_give_findings_too() -> None:
    assert "devices setup" in found("runtimes", replace(FACTS, runtimes={})).hint
    assert not found("runtimes", replace(FACTS, runtimes={})).ok
    assert "nothing about the real device" in found("emulated", replace(FACTS, emulated=True)).detail
    assert "glibc" in found("libc", replace(FACTS, libc="musl 1.2.3")).hint
    assert "intel-rapl" in found("energy", replace(FACTS, sensors=(), machine="x86_64")).hint
    assert "profile --energy uses rapl" in found("energy").detail


def test_cores_are_spelled_as_the_option_takes_them() -> None:
    assert [spelled(cores) for cores in ([2], [3, 2], [0, 2], [0, 1, 2, 3], [0, 1, 4])] == [
        "2", "2-3", "0,2", "0-3", "0-1,4",
    ]  # fmt: skip


# ---------------------------------------------------------------------------- from the device's files


def tree(base: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(base)


def stat(pid: int, name: str, parent: int, ticks: int) -> str:
    return f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 {ticks} 0 0 0 20 0 1 0 100 0 0\n"


def test_health_is_read_from_files_and_a_second_of_watching(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    mask = sorted(os.sched_getaffinity(0))
    tick = os.sysconf("SC_CLK_TCK")
    files = {
        f"{cpu}/isolated": "2-3,7\n", f"{cpu}/cpufreq/boost": "1\n",
        "sys/class/thermal/thermal_zone0/temp": "61000\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "75000\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "70000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50004\n",
        "proc/pressure/cpu": "some avg10=12.50 avg60=1.00 avg300=1.00 total=5\n",
        "proc/meminfo": "MemTotal: 900000 kB\nMemAvailable: 500000 kB\nSwapTotal: 100 kB\nSwapFree: 40 kB\n",
        "proc/vmstat": "pswpin 10\npswpout 5\n",
        "proc/77/stat": stat(77, "a (busy) one", 1, 100), "proc/78/stat": stat(78, "idle", 1, 100),
        f"proc/{os.getpid()}/stat": stat(os.getpid(), "python3", 1, 100),
        "proc/80/stat": stat(80, "worker", os.getpid(), 100),
    }  # fmt: skip
    for core in mask:
        files[f"{cpu}/cpu{core}/cpufreq/scaling_governor"] = "schedutil\n"
        files[f"{cpu}/cpu{core}/cpufreq/cpuinfo_max_freq"] = "2000000\n"
        files[f"{cpu}/cpu{core}/cpufreq/scaling_max_freq"] = "1500000\n"
    base = tree(tmp_path, files)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        tree(tmp_path, {"proc/77/stat": stat(77, "a (busy) one", 1, 100 + tick // 2)})
        tree(tmp_path, {f"proc/{os.getpid()}/stat": stat(os.getpid(), "python3", 1, 500)})
        tree(tmp_path, {"proc/80/stat": stat(80, "worker", os.getpid(), 500), "proc/vmstat": "pswpin 11\npswpout 5\n"})

    found = health.collect(base=base, sleep=sleep, clock=lambda: now[0])
    assert found == wire.Health(
        governors=("schedutil",), capacities=(2000000,) * len(mask), isolated=(2, 3, 7), limited=0.75, turbo="on",
        temperature_c=61.0, throttle_c=75.0, throttled=4, throttled_before=5, busy=(("a (busy) one", 0.5),),
        pressure=0.125, memory_available_bytes=512_000_000, swap_used_bytes=61_440, swapping=True,
    )  # fmt: skip
    assert wire.Health.parse(wire.loads(wire.dumps(wire.to_wire(found)).encode())) == found


def test_a_device_without_such_files_tells_nothing(tmp_path: Path) -> None:
    assert health.collect(base=str(tmp_path), sleep=lambda s: None) == wire.Health()


@pytest.mark.parametrize(
    "change",
    [{"busy": [["x"]]}, {"busy": [["x", -1]]}, {"busy": "x"}, {"turbo": "maybe"}, {"governors": [3]}, {"limited": 2.0},
     {"swapping": 1}, {"throttled": 16}, {"capacities": [-1]}],
)  # fmt: skip
def test_a_health_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.Health.parse({**wire.to_wire(GOOD), **change})


def test_a_session_asks_for_health_and_for_energy(tmp_path: Path) -> None:
    device = fake.FakeDevice(tmp_path, facts=FACTS, health=GOOD)
    with open_session(fake.FakeLink(device)) as session:
        assert session.health() == GOOD
        jobs = [wire.EnergyJob(key, "0" * 64, sensor) for key, sensor in (("a", "rapl"), ("b", "none"))]
        rows = list(session.energy(jobs))
    assert isinstance(rows[0], wire.Energy)
    assert (rows[0].key, rows[0].mj) == ("a", 2.0)
    assert rows[1] == wire.Failed("b", "there is no sensor none")


def test_doctor_lists_the_findings_of_a_real_agent(capsys: pytest.CaptureFixture[str]) -> None:
    app.main(["doctor", "--host", "local", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [f"{name} local" for name in NAMES] == [c["name"] for c in checks][-len(NAMES) :]
    assert "device local" in [c["name"] for c in checks]
