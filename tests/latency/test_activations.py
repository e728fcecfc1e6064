"""The type of int8 activations is measured on the device before a table is begun, written into it, and kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli import profiling
from ofa_edge.cli.app import main
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile
from ofa_edge.graph import check
from ofa_edge.latency import workload
from ofa_edge.latency.campaign import activations, campaign
from ofa_edge.latency.conditions import PlanSettings, RunsOn
from ofa_edge.latency.exchange import merge
from ofa_edge.latency.plan import make_plan
from ofa_edge.latency.table import LatencyTable
from tests.reduced import REDUCED, registered
from tests.simulated import SimulatedDevice

INT8 = RunsOn(precision="int8")
TASK = campaign.Task(REDUCED, (32,), INT8, PlanSettings(seed=1, quick=True, networks=4))


@pytest.fixture(autouse=True)
def _space() -> Iterator[None]:
    with registered():
        yield


def board(factor: float, **more: Any) -> SimulatedDevice:
    """On which an int8 file takes `factor` times as long as a uint8 one."""
    plan = make_plan(REDUCED, TASK.resolutions, TASK.settings)
    assert plan.anchor is not None
    archs = [network.arch for network in plan.networks]

    def slow(key: str, before: int) -> float:
        return factor if key == "int8" else 1.0

    return SimulatedDevice(REDUCED, archs, plan.anchor, named={"int8": plan.anchor}, slow=slow, **more)


@pytest.mark.parametrize(
    ("factor", "machine", "expected"),
    [
        (0.6, "x86_64", "int8"),
        (0.6, "aarch64", "int8"),
        (3.0, "x86_64", "uint8"),
        (1.4, "aarch64", "uint8"),
        (1.0, "x86_64", "uint8"),
        (1.0, "aarch64", "int8"),
    ],
)
def test_the_faster_type_is_taken_and_the_usual_one_where_it_is_open(
    factor: float, machine: str, expected: str
) -> None:
    device = board(factor)
    device.facts = replace(device.facts, machine=machine)
    done: list[int] = []
    found = activations.choose(device, REDUCED, (32, 48), INT8, done.append)
    assert found.activations == expected
    assert len(found.ratios) == len(done) == len(activations.networks(REDUCED, (32, 48))) == 3
    assert found.ratios[0] == pytest.approx(factor, rel=0.01)
    assert f"activations {expected}" in found.reason
    assert found.as_json()["chosen"] == expected
    assert {fresh for _, fresh in device.asked} == {True}


def test_where_nothing_can_be_measured_the_usual_type_stays() -> None:
    found = activations.choose(board(0.5, crashes=frozenset({"int8"})), REDUCED, (32,), INT8)
    assert (found.activations, found.ratios) == ("int8", ())  # the board is an aarch64
    assert "measuring failed" in found.reason


def test_only_onnx_runtimes_int8_has_a_choice() -> None:
    assert activations.open_to_choice(INT8)
    for runs_on in (RunsOn(), RunsOn("litert", precision="int8"), replace(INT8, activations="uint8")):
        assert not activations.open_to_choice(runs_on)


def profiled(device: SimulatedDevice, path: Path, *, resume: bool = False) -> tuple[LatencyTable, str]:
    said = io.StringIO()
    out = Output(stdout=io.StringIO(), stderr=said)
    task = profiling.with_activations(out, device, path, TASK, resume=resume)
    campaign.run(device, path, task, resume=resume, clock=device.clock, pause=device.pause)
    return LatencyTable.read(path), said.getvalue()


def test_a_table_says_what_was_chosen_and_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = board(0.6)
    task = profiling.with_activations(Output(stdout=io.StringIO(), stderr=io.StringIO()), first, path, TASK)
    first.lose_after = len(first.asked) + 5
    with pytest.raises(Exception, match="the link was cut"):
        campaign.run(first, path, task, clock=first.clock, pause=first.pause)
    # A device that would choose otherwise by now: the table goes on as it was begun, without asking again.
    again = board(3.0)
    table, said = profiled(again, path, resume=True)
    assert table.complete
    assert "int8" not in [key for key, _ in again.asked]
    assert "activations" not in said
    assert table.conditions.activations == "int8"
    assert table.conditions.runs_on == RunsOn(cores=(0, 1, 2, 3), precision="int8", activations="int8")
    noted = table.header.as_json()["provenance"]["activations"]
    assert noted["chosen"] == "int8"
    assert noted["int8_over_uint8"][0] == pytest.approx(0.6, rel=0.01)


@pytest.mark.slow
def test_tables_of_two_types_are_not_merged_nor_gone_on_with(tmp_path: Path) -> None:
    one, said = profiled(board(0.6), tmp_path / "int8.jsonl")
    assert "activations int8: int8 takes 0.60 times as long as uint8" in said
    other, _ = profiled(board(3.0), tmp_path / "uint8.jsonl")
    assert (one.conditions.activations, other.conditions.activations) == ("int8", "uint8")
    with pytest.raises(BadFile, match="activations: 'int8' and 'uint8'"):
        merge.merge([one, other], tmp_path / "both.jsonl")
    device = board(1.0)
    wrong = replace(TASK, runs_on=replace(INT8, activations="uint8"))
    with pytest.raises(BadFile, match="activations: 'int8' and 'uint8'"):
        campaign.run(device, tmp_path / "int8.jsonl", wrong, resume=True, clock=device.clock, pause=device.pause)


def test_files_are_of_the_type_that_was_chosen() -> None:
    for kind, elem in (("uint8", 2), ("int8", 3)):
        runs_on = RunsOn(precision="int8", activations=kind)
        proto = check.load(workload.network_file(REDUCED, REDUCED.smallest(32), runs_on))
        zeros = {one.data_type for one in proto.graph.initializer if one.name.endswith("_zero_point")}
        assert elem in zeros
        block = next(block for block in REDUCED.blocks(REDUCED.smallest(32)) if block.type == "expanded_conv")
        assert check.load(workload.block_file(block, runs_on)).graph.input[0].type.tensor_type.elem_type == elem


@pytest.mark.slow
def test_profile_asks_the_device_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    line = ["profile", "--host", "local", "--space", "reduced", "--precision", "int8", "--quick", "--networks", "4"]
    assert main([*line, "--resolutions", "32", "--max-minutes", "0.1", "--out", str(path), "--json"]) == 0
    table = LatencyTable.read(path)
    assert table.conditions.activations == table.header.as_json()["provenance"]["activations"]["chosen"]
    assert table.conditions.activations in ("uint8", "int8")
