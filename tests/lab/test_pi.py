"""An emulated Raspberry Pi 4 from nothing to a deployed network: what it is taken for, and what its numbers are not.

In the order of the file: the last test takes everything off the device again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.cli import app
from ofa_edge.device import ConnectOptions, Session, open_device
from ofa_edge.device.runtime_setup import TOLERANCE, Ready
from tests.lab.pi import Pi
from tests.reduced import registered, write_accuracies, write_latencies, write_supernet

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def runs(*arguments: Any) -> tuple[int, Any]:
        code = app.main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A supernet, its accuracies, and a latency table of a device that is not emulated."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / name for name in ("ckpt", "accuracy", "table", "emulated", "selection")}
    digest = write_supernet(found["ckpt"])
    write_accuracies(found["accuracy"], digest)
    write_latencies(found["table"])
    return found


def test_it_is_taken_for_a_raspberry_pi_4_and_for_an_emulated_one(unprepared: wire.Facts) -> None:
    assert unprepared.device_model == "Raspberry Pi 4 Model B Rev 1.5"
    assert (unprepared.machine, unprepared.soc) == ("aarch64", "brcm,bcm2711")
    assert unprepared.emulated
    assert unprepared.runtimes == {}


def test_a_runtime_is_brought_proved_and_found_again(pi: Pi, ready: Ready, run: Run, ours: Path) -> None:
    assert (ready.state, ready.facts.runtimes) == ("installed", {"onnxruntime": ready.version})
    assert ready.rel is not None
    assert ready.rel < TOLERANCE
    assert ready.site is not None
    assert ready.site.startswith(f"onnxruntime-{ready.version}-cp311-aarch64-")
    code, again = run("devices", "setup", pi.host)
    assert (code, again["state"], again["bytes_pushed"]) == (0, "already there", 0)
    assert (ours / "sites" / ready.site / "onnxruntime").is_dir()


def test_a_second_runtime_comes_and_goes_beside_it(pi: Pi, run: Run) -> None:
    code, value = run("devices", "setup", pi.host, "--runtime", "litert")
    assert (code, value["state"]) == (0, "installed"), value
    assert value["rel"] < TOLERANCE
    assert set(value["runtimes"]) == {"onnxruntime", "litert"}
    code, value = run("devices", "remove", pi.host, "--runtime", "litert", "--yes")
    assert (code, [name.split("-")[0] for name in value["removed"]]) == (0, ["litert"])


# ---------------------------------------------------------------------------- what goes on meanwhile


@contextmanager
def changing(change: Callable[[int], None]) -> Iterator[None]:
    """Something on the device changes ten times a second, never back to what it was."""
    over = threading.Event()

    def work() -> None:
        for step in itertools.count():
            change(step)
            if over.wait(0.1):
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


Measure = Callable[[], wire.Measured]


@pytest.fixture(scope="module")
def session(bare_pi: Pi, ready: Ready) -> Iterator[Session]:
    with open_device(bare_pi.host, options=ConnectOptions(ssh_config=bare_pi.config)) as opened:
        yield opened


@pytest.fixture
def measured(pi: Pi, session: Session, tiny_onnx: bytes) -> Measure:
    """Times a small model there for half a second, in a worker that has just started."""
    sha256 = hashlib.sha256(tiny_onnx).hexdigest()
    session.push({sha256: tiny_onnx})

    def once() -> wire.Measured:
        job = wire.MeasureJob("k", sha256, {"h": 8, "w": 8}, target_rel=0.001, max_seconds=0.5)
        (result,) = session.measure([job], fresh=True)
        assert isinstance(result, wire.Measured), result
        return result

    return once


SENSED = {"throttled", "undervoltage", "governor-changed", "clock-changed"}


def test_a_calm_pi_raises_no_flag_of_its_sensors(measured: Measure) -> None:
    found = measured()
    assert not SENSED & set(found.flags)
    assert (found.noise.temperature_c, found.noise.throttled, found.noise.governor) == (48.0, 0, "ondemand")
    assert found.noise.frequency_mhz == 1800.0


def test_heat_that_rises_meanwhile_is_written_beside_the_figures(pi: Pi, measured: Measure) -> None:
    with changing(lambda step: pi.heat(60_000 + 10 * step)):
        found = measured()
    assert found.noise.temperature_c is not None
    assert found.noise.temperature_c > 60.0


def test_undervoltage_and_throttling_are_told_apart(pi: Pi, measured: Measure) -> None:
    pi.throttle(0x50001)
    weak = measured()
    assert SENSED & set(weak.flags) == {"undervoltage"}
    pi.throttle(0x60006)
    hot = measured()
    assert SENSED & set(hot.flags) == {"throttled"}
    assert (weak.noise.throttled, hot.noise.throttled) == (1, 6)


def test_throttling_of_the_past_is_not_held_against_the_present(pi: Pi, measured: Measure) -> None:
    pi.throttle(0x50000)
    assert not SENSED & set(measured().flags)


def test_a_governor_that_changes_meanwhile_is_flagged(pi: Pi, measured: Measure) -> None:
    with changing(lambda step: pi.govern(f"lab{step}")):
        found = measured()
    assert "governor-changed" in found.flags


# ------------------------------------------------------------------- its numbers are for nobody's budget


def test_a_table_of_it_is_marked_and_refused_for_a_budget(pi: Pi, run: Run, files: dict[str, Path]) -> None:
    out = files["emulated"]
    profile = ("profile", "--host", pi.host, "--space", "reduced", "--resolutions", "32", "--quick")
    code, value = run(*profile, "--networks", 0, "--max-minutes", 0.3, "--out", out)
    assert code == 0, value
    assert value["conditions"]["emulated"]
    assert value["blocks"]["measured"] > 0
    chosen = ("--accuracy-table", files["accuracy"], "--budget", "1s")
    code, value = run("select", "--latency-table", out, *chosen)
    assert (code, value["error"]["code"]) == (9, 9)
    assert "emulated device" in value["error"]["message"]
    code, value = run("deploy", "--host", pi.host, "--supernet", files["ckpt"], "--table", out, *chosen)
    assert (code, value["error"]["code"]) == (9, 9)
    assert "emulated device" in value["error"]["message"]


def test_a_deployed_subnet_runs_there_and_its_promise_is_not_checkable(
    pi: Pi, run: Run, files: dict[str, Path], ours: Path
) -> None:
    tables = ("--latency-table", files["table"], "--accuracy-table", files["accuracy"])
    code, value = run("select", *tables, "--budget", "1s", "--out", files["selection"])
    assert code == 0, value
    chosen = ("--supernet", files["ckpt"], "--selection", files["selection"])
    code, value = run("deploy", "--host", pi.host, *chosen, "--app", "shop")
    assert (code, value["state"]) == (0, "committed"), value
    assert value["promise"] == "not-checkable"
    assert (ours / "shop/current").is_symlink()


def test_removing_everything_leaves_nothing_behind(pi: Pi, run: Run, ours: Path) -> None:
    before = sorted(path.name for path in pi.home.iterdir() if path != ours)
    code, value = run("devices", "remove", pi.host, "--all", "--yes")
    assert (code, value["kept"]) == (0, [])
    assert sorted(path.name for path in pi.home.iterdir()) == before
