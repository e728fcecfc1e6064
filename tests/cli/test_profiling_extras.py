"""What `profile --energy` and `--sustained` add to the summary and to where a table goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ofa_edge.cli import profiling
from ofa_edge.cli.output import Output
from ofa_edge.latency.conditions import SUSTAINED
from tests.latency.helpers import device_for, profile, task
from tests.simulated import FACTS

WORK = task()


def test_energy_is_in_the_summary_and_in_the_json(tmp_path: Path) -> None:
    device = device_for(WORK, facts=replace(FACTS, sensors=("rapl",)))
    outcome = profiling.measure_energy(Output(True), device, profile(tmp_path / "t.jsonl", device, WORK), WORK)
    assert "energy     rapl: " in profiling.describe(outcome)
    assert "2.00 W at rest" in profiling.describe(outcome)
    assert outcome.as_json()["energy"]["sensor"] == "rapl"
    assert outcome.notices == ()


def test_the_energy_of_an_unfinished_table_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = device_for(WORK, facts=replace(FACTS, sensors=("rapl",)))
    outcome = profile(tmp_path / "t.jsonl", device, WORK, max_minutes=0.1)
    asked = len(device.asked)
    assert profiling.measure_energy(Output(False), device, outcome, WORK) == outcome
    assert len(device.asked) == asked
    assert "energy is measured when the table is finished" in capsys.readouterr().err


def test_a_device_without_a_counter_gets_a_note_with_what_would_help(tmp_path: Path) -> None:
    device = device_for(WORK)
    outcome = profiling.measure_energy(Output(True), device, profile(tmp_path / "t.jsonl", device, WORK), WORK)
    assert "note       the device has no counter of energy that can be read (on a PC" in profiling.describe(outcome)
    assert outcome.as_json()["energy"] == {"sensor": "unknown"}
    outcome.require_good()


def test_a_sustained_table_has_a_name_of_its_own() -> None:
    warm = replace(WORK, runs_on=replace(WORK.runs_on, thermal=SUSTAINED))
    burst, sustained = (profiling.table_path(FACTS, work).name for work in (WORK, warm))
    assert sustained == burst.replace(".jsonl", "-sustained.jsonl")
