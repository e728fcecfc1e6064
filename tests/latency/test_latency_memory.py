"""Memory: the plain prediction is judged, what a runtime adds is found, and judged on networks left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ofa_edge.cli.profiling import describe
from ofa_edge.graph.stored import Stored
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.latency.models import memory
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Arch
from ofa_edge.space.cost import cost
from tests.latency.helpers import SPACE, device_for, profile, task
from tests.report.materials import renamed

WORK = task(PlanSettings(seed=1, quick=True, networks=8), (96, 128, 160))


def peak(arch: Arch, fixed: float = 24e6, weights: float = 3.0, activation: float = 1.5) -> int:
    found = cost(SPACE.blocks(arch))
    return round(fixed + weights * found.weight_bytes + activation * found.peak_activation_bytes)


def test_what_a_runtime_adds_is_found(tmp_path: Path) -> None:
    outcome = profile(tmp_path / "t.jsonl", device_for(WORK, seconds=2.0, peak=peak), WORK)
    found = memory.fit(outcome.table, SPACE)
    assert found.networks == 8
    assert found.plain is not None
    assert found.fitted is not None
    assert found.plain.bias < -0.5
    assert (found.fitted.fixed_bytes, found.fitted.weights_factor, found.fitted.activation_factor) == pytest.approx(
        (24e6, 3.0, 1.5), rel=1e-3
    )
    assert found.fitted.errors.worst < 1e-3
    value = outcome.as_json()["memory"]
    assert list(value) == ["networks", "mape_pct", "worst_pct", "bias_pct", "fitted"]
    assert value["mape_pct"] == pytest.approx(-value["bias_pct"])
    assert "memory     predicted -" in describe(outcome)


def test_bytes_are_those_of_the_tables_precision(tmp_path: Path) -> None:
    """What a budget's `memory` counts, so a device that takes just that is predicted without an error."""
    int8 = Stored("onnxruntime", "int8")
    exact = device_for(WORK, seconds=2.0, peak=lambda arch: int8.cost(SPACE.blocks(arch)).memory_bytes)
    profile(tmp_path / "t.jsonl", exact, WORK)
    renamed(tmp_path / "t.jsonl", tmp_path / "int8.jsonl", precision="int8")
    found = memory.fit(LatencyTable.read(tmp_path / "int8.jsonl"), SPACE)
    assert found.plain is not None
    assert found.plain.worst == pytest.approx(0, abs=1e-6)


def test_no_term_is_negative(tmp_path: Path) -> None:
    device = device_for(WORK, seconds=2.0, peak=lambda arch: peak(arch, activation=-1.0))
    found = memory.fit(profile(tmp_path / "t.jsonl", device, WORK).table, SPACE).fitted
    assert found is not None
    assert found.activation_factor == 0
    assert 0 < found.errors.mape < 0.1


def test_devices_that_do_not_tell_leave_it_unknown(tmp_path: Path) -> None:
    outcome = profile(tmp_path / "t.jsonl", device_for(WORK, seconds=2.0), WORK)
    assert outcome.as_json()["memory"] == {
        "networks": 0, "mape_pct": None, "worst_pct": None, "bias_pct": None, "fitted": None,
    }  # fmt: skip
    assert "memory" not in describe(outcome)


def test_few_networks_judge_the_plain_prediction_alone(tmp_path: Path) -> None:
    work = replace(WORK, settings=PlanSettings(seed=1, quick=True, networks=4))
    exact = device_for(work, seconds=2.0, peak=lambda arch: peak(arch, 0, 1, 1))
    found = memory.fit(profile(tmp_path / "t.jsonl", exact, work).table, SPACE)
    assert found.fitted is None
    assert found.plain is not None
    assert found.plain.worst == pytest.approx(0, abs=1e-6)
