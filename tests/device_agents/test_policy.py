"""The device's own rules for its mode: what they say is what happens, what cannot be read decides nothing, and a value
that hovers at a threshold does not make the mode flutter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_agents import policy, supply, thermal
from device_agents.disk import Disk
from device_agents.policy import Policy, Sensors
from device_agents.releases import App
from device_agents.strict_json import WireError
from device_agents.wire import AgentError
from ofa_edge.deploy import run
from tests.deploy.double import APP, Clock, Device
from tests.device_agents.test_modes import journal, typed, with_modes

RELEASE = with_modes("full", "mid", "low")
POLICY = {
    "version": 1,
    "rules": [
        {"when": {"battery_below": 20}, "mode": "low", "hysteresis": 5},
        {"when": {"celsius_above": 75}, "mode": "low", "hysteresis": 10},
        {"when": {"on_battery": True}, "mode": "mid"},
    ],
    "else": "full",
}


class System:
    """The files of /sys that are read, in a folder."""

    def __init__(self, base: Path):
        self.base = base
        self.supplies = base / "sys/class/power_supply"

    def supply(self, name: str, **files: object) -> None:
        folder = self.supplies / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, value in files.items():
            (folder / file).write_text(f"{value}\n")

    def celsius(self, value: float, zone: str = "cpu-thermal") -> None:
        folder = self.base / "sys/class/thermal/thermal_zone0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "type").write_text(f"{zone}\n")
        (folder / "temp").write_text(f"{value * 1000:.0f}\n")


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "system")


@pytest.fixture
def device(root: Path) -> Path:
    run.deploy(Device(root), RELEASE, measure=Clock())
    (root / APP / "policy.json").write_text(json.dumps(POLICY))
    return root


def sensors(battery: float | None = 80, celsius: float | None = 50, on_battery: bool | None = False) -> Sensors:
    return Sensors(lambda: battery, lambda: celsius, lambda: on_battery)


def decided(mode: str | None = "full", **read: Any) -> str:
    return policy.decide(Policy.parse(json.dumps(POLICY).encode()), sensors(**read), mode)[0]


def test_the_first_rule_that_holds_decides() -> None:
    assert decided() == "full"
    assert decided(battery=19) == "low"
    assert decided(battery=20) == "full"
    assert decided(celsius=76, on_battery=True) == "low"
    assert decided(on_battery=True) == "mid"


def test_what_cannot_be_read_decides_nothing_and_is_named() -> None:
    rules = Policy.parse(json.dumps(POLICY).encode())
    mode, reason = policy.decide(rules, sensors(None, None, None), "low")
    assert mode == "full"
    assert reason == "no rule holds; the battery and the temperature and the supply cannot be read"


def test_a_rule_lets_go_only_beyond_its_hysteresis() -> None:
    assert decided("low", battery=24) == "low"
    assert decided("low", battery=25) == "full"
    assert decided("mid", battery=24) == "full"
    assert decided("low", celsius=66) == "low"
    assert decided("low", celsius=65) == "full"
    modes_seen = []
    mode = "full"
    for battery in (21, 19, 21, 19, 22, 24, 21, 26, 24):
        mode = decided(mode, battery=battery)
        modes_seen.append(mode)
    assert modes_seen == ["full", *["low"] * 6, "full", "full"]


def test_all_conditions_of_a_rule_must_hold_and_the_reason_names_them() -> None:
    rule = {"when": {"battery_below": 50, "on_battery": True}, "mode": "low"}
    both = Policy.parse(json.dumps({"version": 1, "rules": [rule], "else": "full"}).encode())
    assert policy.decide(both, sensors(40, None, False), "full")[0] == "full"
    mode, reason = policy.decide(both, sensors(40, None, True), "full")
    assert (mode, reason) == ("low", "the battery has 40 %, below 50 % and it runs on its battery")


def test_only_what_a_rule_asks_for_is_read_and_once() -> None:
    read: list[str] = []

    def heat() -> float:
        read.append("celsius")
        return 60.0

    def never() -> None:
        raise AssertionError

    rules = [{"when": {"celsius_above": limit}, "mode": "low"} for limit in (90, 80, 70)]
    only = Policy.parse(json.dumps({"version": 1, "rules": rules, "else": "full"}).encode())
    policy.decide(only, Sensors(never, policy._once(heat), never), None)
    assert read == ["celsius"]


@pytest.mark.parametrize(
    "value",
    [
        [], {}, {**POLICY, "version": 2}, {**POLICY, "more": 1}, {**POLICY, "else": "../x"},
        {**POLICY, "rules": [{"when": {}, "mode": "low"}]},
        {**POLICY, "rules": [{"when": {"battery_below": "20"}, "mode": "low"}]},
        {**POLICY, "rules": [{"when": {"battery_below": 101}, "mode": "low"}]},
        {**POLICY, "rules": [{"when": {"on_battery": 1}, "mode": "low"}]},
        {**POLICY, "rules": [{"when": {"moon_full": True}, "mode": "low"}]},
        {**POLICY, "rules": [{"when": {"on_battery": True}}]},
        {**POLICY, "rules": [{"when": {"on_battery": True}, "mode": "low", "hysteresis": -1}]},
        {**POLICY, "rules": POLICY["rules"] * 20},  # type: ignore[operator]
    ],
)  # fmt: skip
def test_a_policy_that_is_none_is_refused_and_changes_nothing(device: Path, value: Any) -> None:
    with pytest.raises(WireError):
        Policy.parse(json.dumps(value).encode())
    (device / APP / "policy.json").write_text(json.dumps(value))
    with pytest.raises(AgentError, match=r"policy\.json") as caught:
        policy.apply(App(Disk(str(device)), APP))
    assert caught.value.kind == "bad-file"
    assert not (device / APP / "mode").exists()


# -- what the system tells ----------------------------------------------------------------------------


def test_the_charge_is_that_of_the_devices_own_batteries(system: System) -> None:
    base = str(system.base)
    assert (supply.charge(base), supply.on_battery(base)) == (None, None)
    system.supply("hid-mouse", type="Battery", scope="Device", capacity=3, status="Discharging")
    assert (supply.charge(base), supply.on_battery(base)) == (None, None)
    system.supply("BAT0", type="Battery", capacity=40, status="Discharging")
    system.supply("BAT1", type="Battery", scope="System", capacity=60, status="Unknown")
    assert (supply.charge(base), supply.on_battery(base)) == (50.0, True)
    system.supply("BAT1", capacity="rubbish")
    assert supply.charge(base) == 40.0


def test_a_device_with_mains_is_not_on_its_battery(system: System) -> None:
    base = str(system.base)
    system.supply("BAT0", type="Battery", capacity=40, status="Discharging")
    system.supply("AC", type="Mains", online=1)
    assert supply.on_battery(base) is False
    system.supply("AC", online=0)
    system.supply("usb", type="USB_PD", online=0)
    assert supply.on_battery(base) is True


def test_the_temperature_is_the_processors(system: System) -> None:
    base = str(system.base)
    assert thermal.hottest(thermal.files(base)) is None
    system.celsius(81.5)
    assert thermal.hottest(thermal.files(base)) == 81.5
    system.celsius(81.5, zone="battery")
    assert thermal.hottest(thermal.files(base)) is None


# -- followed by the shipped agent -----------------------------------------------------------------------


def test_a_policy_is_followed_and_its_reason_written_down(device: Path, pyz: Path, system: System) -> None:
    words = ("policy", "--root", str(device), "--app", APP, "--base", str(system.base))
    system.supply("BAT0", type="Battery", capacity=80, status="Discharging")
    system.celsius(50)
    assert typed(pyz, *words)[:2] == (0, "mid\n")
    system.celsius(80)
    status, out, said = typed(pyz, *words)
    assert (status, out) == (0, "low\n")
    assert said == "camera: low, because it has 80 °C, above 75 °C\n"
    assert typed(pyz, *words)[:2] == (0, "low\n")
    system.celsius(70)
    assert typed(pyz, *words)[:2] == (0, "low\n")
    system.celsius(60)
    system.supply("BAT0", capacity=10)
    assert typed(pyz, *words)[:2] == (0, "low\n")
    modes = [record for record in journal(device) if record["event"] == "mode"]
    assert [(record["mode"], record["reason"]) for record in modes] == [
        ("mid", "it runs on its battery"), ("low", "it has 80 °C, above 75 °C"),
    ]  # fmt: skip


def test_a_policy_that_names_a_mode_the_release_lacks_fails_and_says_so(
    device: Path, pyz: Path, system: System
) -> None:
    run.deploy(Device(device), with_modes("full", "eco"), measure=Clock())
    system.celsius(80)
    status, out, said = typed(pyz, "policy", "--root", str(device), "--app", APP, "--base", str(system.base))
    assert (status, out) == (1, "")
    assert "no mode 'low': it has full, eco" in said


def test_without_a_policy_nothing_happens(device: Path, pyz: Path) -> None:
    (device / APP / "policy.json").unlink()
    status, _, said = typed(pyz, "policy", "--root", str(device), "--app", APP)
    assert status == 1
    assert "policy.json is missing" in said


# -- what the documentation shows --------------------------------------------------------------------------


EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples/systemd"


def test_the_policy_of_the_documentation_is_one() -> None:
    text = (EXAMPLES / "policy.json").read_text()
    assert json.loads(text) == POLICY
    manual = (EXAMPLES.parents[1] / "deploying.md").read_text()
    assert json.loads(manual.split("```json")[1].split("```")[0]) == POLICY


def test_the_timers_command_of_the_documentation_follows_the_policy(device: Path, pyz: Path, tmp_path: Path) -> None:
    unit = (EXAMPLES / "camera-policy.service").read_text().splitlines()
    (line,) = [line for line in unit if line.startswith("ExecStart=")]
    python, agent, *words = line.removeprefix("ExecStart=").split()
    assert (python, agent) == ("/usr/bin/python3", "%h/.ofa-edge/agent/agent.pyz")
    (tmp_path / ".ofa-edge").symlink_to(device)
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("OFA_EDGE_HOME")
    done = subprocess.run([sys.executable, pyz, *words], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("full", "mid", "low")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to check its units with")
def test_the_units_of_the_documentation_are_valid(tmp_path: Path) -> None:
    units = [shutil.copy(unit, tmp_path) for unit in EXAMPLES.iterdir() if unit.suffix != ".json"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    found = subprocess.run(
        ["systemd-analyze", "verify", "--user", *map(str, units)], env=environment, capture_output=True, text=True
    )
    said = [line for line in found.stderr.splitlines() if "camera" in line]
    assert said == []
