"""Energy of a run out of counters that tests own: known millijoules must come out."""

from __future__ import annotations

import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents import power, wire

RAPL = "sys/class/powercap/intel-rapl:0"


def tree(base: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(base)


class Board(power.Clock):
    """A board that draws `idle` watts, and `extra` more while a run of `run_seconds` goes on."""

    def __init__(self, idle: float = 2.0, extra: float = 3.0, run_seconds: float = 0.01):
        self.time = 0.0
        self.joules = 0.0
        self.idle, self.extra, self.run_seconds = idle, extra, run_seconds
        self.running = False
        self.each: Callable[[], object] = lambda: None
        self.noise: Callable[[], float] = lambda: 0.0

    def now(self) -> float:
        return self.time

    def watts(self) -> float:
        return self.idle + (self.extra if self.running else 0.0)

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.joules += seconds * (self.watts() + self.noise())
        self.each()

    def sleep(self, seconds: float) -> None:
        for _ in range(20):
            self.advance(seconds / 20)

    def run(self) -> None:
        self.running = True
        self.each()
        self.advance(self.run_seconds)
        self.running = False


def energy(board: Board, sensor: power.Sensor, *, windows: int = 6, seconds: float = 1.0) -> wire.Energy:
    meter = power.Meter(sensor, board, threaded=False)
    if sensor.joules is None:
        board.each = meter.sample
    return power.measure(board.run, meter, key="k", sensor=sensor.name, seconds=seconds, windows=windows, clock=board)


def test_a_counter_gives_the_energy_of_a_run_without_the_idle_power() -> None:
    board = Board(idle=2.0, extra=3.0, run_seconds=0.01)
    found = energy(board, power.Sensor("s", joules=lambda: board.joules))
    assert found.mj == pytest.approx(30.0)  # 3 W for 10 ms
    assert found.low == pytest.approx(30.0)
    assert found.high == pytest.approx(30.0)
    assert found.idle_w == pytest.approx(2.0)
    assert found.busy_w == pytest.approx(5.0)
    assert (found.windows, found.key, found.sensor) == (6, "k", "s")
    assert found.runs == pytest.approx(600, abs=6)
    assert wire.Energy.parse(wire.to_wire(found)) == found


def test_samples_of_power_give_the_same_energy_as_a_counter() -> None:
    board = Board()
    found = energy(board, power.Sensor("s", watts=board.watts))
    assert found.mj == pytest.approx(30.0, rel=0.02)
    assert found.idle_w == pytest.approx(2.0, rel=0.02)


def test_an_idle_power_that_drifts_cancels() -> None:
    board = Board()

    def warmer() -> float:
        board.idle += 0.0005
        return 0.0

    board.noise = warmer
    found = energy(board, power.Sensor("s", joules=lambda: board.joules), windows=10)
    assert board.idle > 2.5
    assert found.mj == pytest.approx(30.0, rel=0.02)


def test_a_noisy_idle_widens_the_interval_around_the_truth() -> None:
    board = Board()
    rng = random.Random(3)
    level = [0.0]

    def gusts() -> float:
        if rng.random() < 0.02:
            level[0] = rng.gauss(0.0, 0.4)
        return level[0]

    board.noise = gusts
    found = energy(board, power.Sensor("s", joules=lambda: board.joules), windows=30)
    assert found.low < 30.0 < found.high
    assert 0.2 < found.high - found.low < 10


def test_windows_that_cannot_be_read_do_not_count_and_too_few_are_an_error() -> None:
    board = Board()
    readings = iter([False] * 3 + [True] * 100)
    found = energy(board, power.Sensor("s", joules=lambda: board.joules if next(readings) else None))
    assert found.windows == 5
    assert found.mj == pytest.approx(30.0)
    with pytest.raises(wire.AgentError, match="in 0 of 6 windows only"):
        energy(Board(), power.Sensor("s", joules=lambda: None))
    with pytest.raises(wire.AgentError, match="and moved, in 0 of 6"):
        energy(Board(), power.Sensor("s", joules=lambda: 7.0))


def test_a_run_longer_than_a_window_is_run_once_in_it() -> None:
    board = Board(run_seconds=5.0)
    found = energy(board, power.Sensor("s", joules=lambda: board.joules))
    assert found.runs == 6
    assert found.mj == pytest.approx(15_000)


def test_the_samplers_thread_fills_the_time_between_two_questions() -> None:
    """With the real clock: how many samples is left open, that it ends is not."""
    taken: list[float] = []

    def watts() -> float:
        taken.append(2.0)
        return 2.0

    clock = power.Clock()
    meter = power.Meter(power.Sensor("s", watts=watts, every=0.001), clock)
    with meter:
        first = meter.joules()
        while len(taken) < 5:
            clock.sleep(0.001)
        last = meter.joules()
    assert first is not None
    assert last is not None
    assert last > first >= 0
    number = len(taken)
    clock.sleep(0.01)
    assert len(taken) == number


# --------------------------------------------------------------------------------------- sensors


def rapl(base: Path, number: int, uj: int, *, name: str = "package-0") -> None:
    zone = f"sys/class/powercap/intel-rapl:{number}"
    tree(base, {f"{zone}/name": name, f"{zone}/energy_uj": f"{uj}\n", f"{zone}/max_energy_range_uj": "1000000\n"})


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 100)
    rapl(tmp_path, 1, 100, name="package-1")
    rapl(tmp_path, 2, 100, name="psys")
    tree(tmp_path, {f"{RAPL}:0/name": "core", f"{RAPL}:0/energy_uj": "5"})
    (sensor,) = power.sensors(str(tmp_path)).values()
    assert sensor.name == "rapl"
    assert sensor.joules is not None
    rapl(tmp_path, 0, 500_100)
    rapl(tmp_path, 1, 250_100)
    rapl(tmp_path, 2, 999_999, name="psys")
    assert sensor.joules() == pytest.approx(0.75)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.integers(0, 999_999), max_size=30))
def test_a_counter_that_wraps_goes_on(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    base = tmp_path_factory.mktemp("rapl")
    rapl(base, 0, 0)
    counter = power.sensors(str(base))["rapl"].joules
    assert counter is not None
    total = 0
    for step in steps:
        total += step
        rapl(base, 0, total % 1_000_000)
        assert counter() == pytest.approx(total / 1e6)


def test_a_counter_only_root_may_read_is_no_sensor(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 100)
    (tmp_path / RAPL / "energy_uj").unlink()
    assert power.sensors(str(tmp_path)) == {}


def test_the_power_chip_of_a_pi_5_is_read_through_its_firmware(tmp_path: Path) -> None:
    lines = [
        " 3V7_WL_SW_A current(0)=0.10000000A", "   VDD_CORE_A current(7)=2.00000000A",
        " 3V7_WL_SW_V volt(8)=3.70000000V", "  VDD_CORE_V volt(15)=0.75000000V", "     EXT5V_V volt(24)=5.10000000V",
    ]  # fmt: skip
    program = tmp_path / "usr/bin/vcgencmd"
    tree(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n"})
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    sensor = power.sensors(str(tmp_path))["pi5-pmic"]
    assert sensor.watts is not None
    assert sensor.watts() == pytest.approx(0.1 * 3.7 + 2.0 * 0.75)


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"name": "ina219\n", "power1_input": "4200000\n"}, 4.2),
        ({"name": "ina226\n", "in1_input": "5000\n", "curr1_input": "-840\n"}, 4.2),
        ({"name": "k10temp\n", "power1_input": "4200000\n"}, None),
        ({"name": "ina219\n", "power1_input": "n/a\n"}, None),
    ],
)
def test_a_monitor_of_the_supply_is_read(tmp_path: Path, files: dict[str, str], watts: float | None) -> None:
    base = tree(tmp_path, {f"sys/class/hwmon/hwmon4/{name}": text for name, text in files.items()})
    found = list(power.sensors(base).values())
    assert len(found) == (watts is not None)
    if watts is not None:
        assert found[0].name == files["name"].strip()
        assert found[0].watts is not None
        assert found[0].watts() == pytest.approx(watts)


def test_a_battery_is_a_sensor_while_it_is_not_charged(tmp_path: Path) -> None:
    supply = "sys/class/power_supply/BAT0"
    base = tree(
        tmp_path,
        {
            f"{supply}/type": "Battery\n", f"{supply}/status": "Discharging\n",
            f"{supply}/current_now": "-500000\n", f"{supply}/voltage_now": "12000000\n",
            "sys/class/power_supply/AC/type": "Mains\n",
        },
    )  # fmt: skip
    sensor = power.sensors(base)["battery"]
    assert sensor.watts is not None
    assert sensor.watts() == pytest.approx(6.0)
    tree(tmp_path, {f"{supply}/status": "Charging\n"})
    assert sensor.watts() is None
    assert power.sensors(base) == {}


def test_two_monitors_have_two_names_that_the_wire_takes(tmp_path: Path) -> None:
    for number in (1, 2):
        tree(
            tmp_path, {f"sys/class/hwmon/hwmon{number}/{n}": t for n, t in (("name", "ina226"), ("power1_input", "1"))}
        )
    names = list(power.sensors(str(tmp_path)))
    assert names == ["ina226", "ina226-1"]


def test_no_sensor_is_none(tmp_path: Path) -> None:
    assert power.sensors(str(tmp_path)) == {}


@pytest.mark.parametrize(("total", "expected"), [("return 0;", "joules"), ("return 3;", "watts")])
def test_nvidias_library_is_asked_through_its_own_interface(tmp_path: Path, total: str, expected: str) -> None:
    """A library of the same functions: 1500 mJ so far, 7000 mW now."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source = tmp_path / "nvml.c"
    source.write_text(
        "int nvmlInit_v2(void) { return 0; }\n"
        "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = d; return i; }\n"
        "int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *v) { *v = 1500; " + total + " }\n"
        "int nvmlDeviceGetPowerUsage(void *d, unsigned *v) { *v = 7000; return 0; }\n"
    )
    library = tmp_path / "libnvml.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    (sensor,) = power._nvidia(str(library))
    assert (sensor.joules is not None) == (expected == "joules")
    read = sensor.joules or sensor.watts
    assert read is not None
    assert read() == (1.5 if expected == "joules" else 7.0)
    assert power._nvidia(str(tmp_path / "none.so")) == []
