"""The pipeline as a user runs it: profile, predict, select, export, deploy, status, rollback; through a real sshd.

Budgets are a minute or a microsecond, so that no clock decides; what is deployed is the embedded supernet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import shipped
from ofa_edge.cli.app import main
from ofa_edge.search.budget import Budget
from ofa_edge.search.selection import Selection
from ofa_edge.weights.checkpoint import embedded_path
from tests.sshd import Sshd

# The weights and their table are made by one training run; a tree between two runs may lack them.
pytestmark = [
    pytest.mark.skipif(
        not (embedded_path().exists() and any((shipped.tables() / "accuracy").glob("*.jsonl"))),
        reason="the embedded supernet or its accuracy table is not in this tree",
    ),
    pytest.mark.slow,  # four minutes, of which trials on a busy machine wait most
]

REPOSITORY = Path(__file__).resolve().parents[2]
ALWAYS, NEVER = "latency=60s", "latency=1us"

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json; its exit code and the one JSON value on stdout."""

    def runs(*arguments: str | Path) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return runs


@pytest.fixture(scope="module")
def table(shared_sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latency table of the smallest resolution, measured through sshd by the real command."""
    folder = tmp_path_factory.mktemp("profile")
    path = folder / "table.jsonl"
    subprocess.run(
        [
            *(sys.executable, "-m", "ofa_edge.cli.app", "profile", "--host", shared_sshd.host, "--quick"),
            *("--resolutions", "96", "--networks", "4", "--out", str(path)),
        ],
        env={
            **os.environ,
            "OFA_EDGE_HOME": str(folder / "home"),
            "OFA_EDGE_SSH_CONFIG": str(shared_sshd.config),
            "OFA_EDGE_DEVICE_PYTHON": sys.executable,
        },
        cwd=REPOSITORY,
        check=True,
        timeout=240,
    )
    return path


@pytest.fixture
def selection(run: Run, table: Path, tmp_path: Path) -> Path:
    """What select chooses under a budget that everything fits."""
    path = tmp_path / "selection.json"
    code, _ = run("select", "--latency-table", table, "--budget", ALWAYS, "--out", path)
    assert code == 0
    return path


def test_a_profile_over_ssh_measures_every_block_and_calibrates_the_prediction(run: Run, table: Path) -> None:
    records = [json.loads(line) for line in table.read_text().splitlines()]
    kinds = [record["record"] for record in records]
    assert kinds[0] == "header"
    assert kinds[-1] == "end"
    assert kinds.count("block") >= 56  # 51 elastic blocks and 5 fixed ones at one resolution
    assert kinds.count("network") >= 4


def test_predict_prints_a_value_within_its_interval(run: Run, table: Path, selection: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(json.loads(selection.read_text())["arch"]))
    code, (row,) = run("predict", "--table", table, "--arch", arch)
    assert code == 0
    assert row["missing"] == []
    assert row["latency_ms"]["value"] > 0
    if row["latency_ms"]["low"] is not None:
        assert row["latency_ms"]["low"] <= row["latency_ms"]["value"] <= row["latency_ms"]["high"]


def test_selecting_twice_writes_the_same_bytes(run: Run, table: Path, selection: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    run("select", "--latency-table", table, "--budget", ALWAYS, "--out", again)
    assert again.read_bytes() == selection.read_bytes()


def test_a_budget_nothing_fits_exits_3_with_the_nearest_subnet(run: Run, table: Path) -> None:
    code, answer = run("select", "--latency-table", table, "--budget", NEVER)
    assert code == 3
    assert answer["error"]["kind"] == "infeasible-budget"
    assert "nearest" in json.dumps(answer["error"])


def test_export_writes_a_model_that_computes_what_the_reference_does(run: Run, selection: Path, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(json.loads(selection.read_text())["arch"]))
    code, answer = run("export", "--arch", arch, "--out", tmp_path / "model.onnx")
    assert code == 0
    assert answer["parity"]["rel"] <= 1e-4
    assert answer["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert answer["bn"] == "bank"


def test_a_deployment_over_ssh_commits_is_unchanged_the_second_time_and_rolls_back_what_breaks_its_promise(
    run: Run, table: Path, selection: Path, sshd: Sshd, tmp_path: Path
) -> None:
    common = ("--host", sshd.host, "--app", "pipeline")

    code, first = run("deploy", *common, "--table", table, "--budget", ALWAYS, "--accept-stale")
    assert code == 0, first
    assert (first["state"], first["promise"]) == ("committed", "held")
    assert 0 < first["measured_ms"] <= first["budget_ms"]
    current = sshd.root / "pipeline" / "current"
    assert (current / "model.onnx").is_file()

    code, second = run("deploy", *common, "--table", table, "--budget", ALWAYS, "--accept-stale")
    assert (code, second["state"], second["release"]) == (0, "unchanged", first["release"])

    code, third = run("deploy", *common, "--table", table, "--budget", NEVER, "--accept-stale")
    assert (code, third["error"]["kind"]) == (3, "infeasible-budget")

    slow = tmp_path / "slow.json"
    replace(Selection.read(selection), budget=Budget(latency_ms=1e-3)).write(slow)
    code, fourth = run("deploy", *common, "--table", table, "--selection", slow, "--accept-stale")
    assert (code, fourth["error"]["kind"]) == (7, "rolled-back")
    assert fourth["error"]["details"]["promise"] == "broken"
    assert current.resolve().name == first["release"]

    code, status = run("status", *common)
    assert (code, status["current"]) == (0, first["release"])
    assert any(fourth["error"]["details"]["release"] == record.get("release") for record in status["journal"])


def test_rollback_makes_the_release_before_current_again(
    run: Run, table: Path, selection: Path, sshd: Sshd, tmp_path: Path
) -> None:
    common = ("--host", sshd.host, "--app", "backwards")
    chosen = Selection.read(selection)
    made = []
    for name, limit in (("one", 60_000.0), ("two", 50_000.0)):
        path = tmp_path / f"{name}.json"
        replace(chosen, budget=Budget(latency_ms=limit)).write(path)
        code, outcome = run("deploy", *common, "--table", table, "--selection", path, "--accept-stale")
        assert code == 0, outcome
        made.append(outcome["release"])
    code, outcome = run("rollback", *common)
    assert (code, outcome["state"], outcome["release"]) == (0, "committed", made[0])
    _, kept = run("releases", *common)
    assert kept["current"] == made[0]
    assert set(kept["releases"]) == set(made)


def test_a_selection_made_for_another_table_is_refused(
    run: Run, table: Path, selection: Path, sshd: Sshd, tmp_path: Path
) -> None:
    chosen = Selection.read(selection)
    other = tmp_path / "other.json"
    replace(chosen, inputs={**chosen.inputs, "latency-table": "0" * 64}).write(other)
    code, answer = run("deploy", "--host", sshd.host, "--table", table, "--selection", other)
    assert (code, answer["error"]["kind"]) == (9, "bad-file")
