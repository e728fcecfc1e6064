"""The shipped agent, started for real through the local link: hello, blobs, figures, and the end of everything."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_agents import wire
from ofa_edge.device import ConnectOptions, Session, open_device, open_session, provision
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import OfaEdgeError


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("device")
    with open_session(LocalLink(python=sys.executable, root=str(root))) as opened:
        yield opened


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def push(session: Session, *blobs: bytes) -> list[str]:
    """Push what is missing; returns the hashes."""
    named = {sha256_of(data): data for data in blobs}
    session.push({name: named[name] for name in session.missing(list(named))})
    return [sha256_of(data) for data in blobs]


def test_the_agent_is_byte_reproducible(tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").write_bytes(provision.agent().data)
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        entries = archive.infolist()
    assert [e.filename for e in entries] == sorted(e.filename for e in entries)
    assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {e.external_attr for e in entries} == {0o100644 << 16}
    assert {e.compress_type for e in entries} == {zipfile.ZIP_STORED}
    assert all(e.filename.endswith(".py") for e in entries)


def test_another_process_with_another_hash_seed_packs_the_same_agent() -> None:
    code = "from ofa_edge.device import provision; print(provision.agent().sha256)"
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": os.getcwd()}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == provision.agent().sha256


def test_the_boot_line_is_python_of_any_age_and_shell_of_any_kind() -> None:
    ast.parse(provision.BOOT, feature_version=(3, 7))
    assert not set("'!`") & set(provision.BOOT)


def test_facts_are_those_of_this_machine(session: Session) -> None:
    import onnxruntime

    assert session.facts.runtimes["onnxruntime"] == onnxruntime.__version__
    assert session.facts.cores == os.cpu_count()
    assert session.facts.machine == os.uname().machine
    assert session.facts.python == ".".join(map(str, sys.version_info[:3]))


def test_blobs_travel_once(session: Session) -> None:
    blobs = {sha256_of(data): data for data in (b"first", b"second" * 1000)}
    assert session.missing(list(blobs)) == list(blobs)
    assert 0 < session.push(blobs) < 1000  # they travel compressed
    assert session.missing(list(blobs)) == []


def test_a_blob_that_is_not_its_hash_is_refused_there(session: Session) -> None:
    with pytest.raises(OfaEdgeError, match="other bytes"):
        session.push({"1" * 64: b"x"})
    assert session.missing(["1" * 64]) == ["1" * 64]


def test_a_tiny_model_is_measured_at_two_sizes_from_one_file(session: Session, tiny_onnx: bytes) -> None:
    (model,) = push(session, tiny_onnx)
    jobs = [wire.MeasureJob(str(n), model, {"h": n, "w": n}, max_seconds=1) for n in (16, 96)]
    small, large = session.measure(jobs, fresh=False)
    assert isinstance(small, wire.Measured)
    assert isinstance(large, wire.Measured)
    assert (small.key, large.key) == ("16", "96")
    assert small.figures.min > 0
    assert large.figures.min > 0


def test_an_anchor_is_timed_in_between(session: Session, tiny_onnx: bytes) -> None:
    (model,) = push(session, tiny_onnx)
    job = wire.MeasureJob(
        "k", model, {"h": 64, "w": 64}, max_seconds=0.5, anchor=model, anchor_shape={"h": 64, "w": 64}
    )
    (measured,) = session.measure([job], fresh=True)
    assert isinstance(measured, wire.Measured)
    assert measured.ratio is not None
    assert measured.anchor is not None
    assert measured.ratio.n >= 1
    assert measured.seconds > 0


def test_a_bad_model_and_a_missing_one_cost_one_job_each(session: Session, tiny_onnx: bytes) -> None:
    good, bad = push(session, tiny_onnx, b"this is no model")
    jobs = [
        wire.MeasureJob("bad", bad),
        wire.MeasureJob("absent", "2" * 64),
        wire.MeasureJob("unsized", good),
        wire.MeasureJob("good", good, {"h": 8, "w": 8}, max_seconds=0.5),
    ]
    results = list(session.measure(jobs, fresh=False))
    assert [type(result).__name__ for result in results] == ["Failed", "Failed", "Failed", "Measured"]
    reasons = [result.reason for result in results if isinstance(result, wire.Failed)]
    assert "not on the device" in reasons[1]
    assert "no size" in reasons[2]


def test_a_damaged_blob_is_noticed_before_it_runs(session: Session, tiny_onnx: bytes) -> None:
    (model,) = push(session, tiny_onnx + b"\x00" * 0)
    Path(session.root, "blobs", model).write_bytes(b"damaged")
    (result,) = session.measure([wire.MeasureJob("k", model, {"h": 8, "w": 8})], fresh=True)
    assert isinstance(result, wire.Failed)
    assert "damaged" in result.reason
    assert session.missing([model]) == [model]


def test_leaving_a_stream_early_stops_it_and_the_session_goes_on(session: Session, tiny_onnx: bytes) -> None:
    (model,) = push(session, tiny_onnx)
    jobs = [wire.MeasureJob(str(i), model, {"h": 8, "w": 8}, max_seconds=0.2) for i in range(500)]
    for result in session.measure(jobs, fresh=False):
        assert result.key == "0"
        break
    assert session.missing([model]) == []


def test_golden_outputs_are_checked_on_the_device(session: Session, tiny_onnx: bytes) -> None:
    inputs = np.ones((2, 3, 4, 4), "<f4")
    inner = np.array([2.0, 3.0, 3.0, 2.0])  # how many of the kernel's rows lie inside, edge to edge
    outputs = np.broadcast_to(1.5 * np.outer(inner, inner), (2, 4, 4, 4)).astype("<f4")
    model, given, golden = push(session, tiny_onnx, inputs.tobytes(), outputs.tobytes())
    args = {
        "model": model, "inputs": given, "input_shape": [2, 3, 4, 4], "outputs": golden, "output_shape": [2, 4, 4, 4],
        "runtime": "onnxruntime", "threads": 1,
    }  # fmt: skip
    checked = session.check(args)
    assert checked.finite
    assert checked.argmax_equal
    assert checked.rel is not None
    assert checked.rel < 1e-5
    (other,) = push(session, (outputs + 1).tobytes())
    wrong = session.check({**args, "outputs": other})
    assert wrong.max_abs == pytest.approx(1.0)


def test_only_bytes_with_the_right_hash_are_run(tmp_path: Path) -> None:
    sha256 = provision.agent().sha256
    planted = tmp_path / "agent" / f"{sha256}.pyz"
    planted.parent.mkdir()
    planted.write_bytes(b"import os; os.abort()")
    with open_session(LocalLink(python=sys.executable, root=str(tmp_path))) as session:
        assert session.facts.agent == wire.AGENT_VERSION
    assert sha256_of(planted.read_bytes()) == sha256


def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "hashlib", "device_agents", "dataclasses"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    with open_session(LocalLink(python=sys.executable, root=str(tmp_path / "root"))) as session:
        assert session.facts.runtimes


def test_the_home_moves_the_device_root_too(own_home: Path) -> None:
    with open_device("local") as session:
        assert session.root == str(own_home)
        assert (own_home / "agent").is_dir()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OfaEdgeError) as caught:
        open_device("local", options=ConnectOptions(root=str(tmp_path / "file" / "root")))
    assert "--root" in caught.value.hint


def test_a_python_without_the_runtime_still_has_facts(tmp_path: Path, tiny_onnx: bytes) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    with open_session(LocalLink(python=str(python), root=str(tmp_path / "root"))) as session:
        assert session.facts.runtimes == {}
        (model,) = push(session, tiny_onnx)
        with pytest.raises(OfaEdgeError, match="does not load") as caught:
            list(session.measure([wire.MeasureJob("k", model)], fresh=False))
        assert str(python) in caught.value.hint


def processes_of(root: Path) -> list[int]:
    """Processes with `root` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(root).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until_gone(root: Path) -> list[int]:
    for _ in range(300):
        if not (left := processes_of(root)):
            return []
        time.sleep(0.05)
    return left


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_nothing_of_the_agent_survives_its_session(tmp_path: Path, tiny_onnx: bytes) -> None:
    session = open_session(LocalLink(python=sys.executable, root=str(tmp_path)))
    (model,) = push(session, tiny_onnx)
    job = wire.MeasureJob("k", model, {"h": 512, "w": 512}, target_rel=0.001, max_seconds=300)
    session._send("measure", {"jobs": [wire.to_wire(job)], "fresh": False})
    assert processes_of(tmp_path)
    session.close()
    assert wait_until_gone(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_a_killed_supervisor_takes_its_worker_with_it(tmp_path: Path) -> None:
    link = LocalLink(python=sys.executable, root=str(tmp_path))
    session = open_session(link)
    processes = processes_of(tmp_path)
    assert len(processes) == 2
    os.kill(min(processes), 9)
    assert wait_until_gone(tmp_path) == []
    with pytest.raises(OfaEdgeError, match="stopped"):
        session.missing(["0" * 64])


def python39() -> str | None:
    """An interpreter of the oldest version, installed or kept by pyenv."""
    kept = sorted(Path(os.environ.get("PYENV_ROOT", "/nowhere"), "versions").glob("3.9.*/bin/python"))
    for candidate in (*map(str, kept), "python3.9"):
        if (found := shutil.which(candidate)) and not subprocess.run([found, "-c", ""], capture_output=True).returncode:
            return found
    return None


def test_the_agent_runs_on_the_oldest_python_it_promises(tmp_path: Path) -> None:
    if (python := python39()) is None:
        pytest.skip("no Python 3.9 here")
    with open_session(LocalLink(python=python, root=str(tmp_path))) as session:
        assert session.facts.python.startswith("3.9.")
