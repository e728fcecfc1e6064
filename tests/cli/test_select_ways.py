"""select with several latency tables of one device: which way it is run is chosen, said, and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import shipped
from ofa_edge.cli.app import main
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search import families
from ofa_edge.search.families import Family
from ofa_edge.search.selection import Selection
from tests.reduced import REDUCED, simulated, write_latencies
from tests.report.materials import renamed
from tests.simulated import Law

Run = Callable[..., tuple[int, Any]]

SELECT = "select --accuracy-table {accuracy} --latency-table {table}"
TWO = SELECT + " --latency-table {lite}"
THREE = TWO + " --latency-table {int8}"
LITE = {"runtime": "litert", "runtime_version": "ai-edge-litert 2.3.0", "delegate": "xnnpack"}


@pytest.fixture(scope="module")
def boards(boards: dict[str, Path]) -> dict[str, Path]:
    """With more tables of the first board: litert launches slower and computes faster, int8 is the fastest."""
    folder = boards["table"].parent
    laws = {"lite": Law(per_block=0.008, macs_per_ms=1e8), "int8": Law(per_block=0.001, macs_per_ms=1e8)}
    for name, law in laws.items():
        write_latencies(folder / f"{name}-as-measured", simulated(noise=0.01, seed=3, law=law))
        precision = "int8" if name == "int8" else "fp32"
        renamed(folder / f"{name}-as-measured", folder / name, precision=precision, **LITE)
    renamed(folder / "lite", folder / "older", runtime_version="ai-edge-litert 2.2.0")
    renamed(folder / "lite", folder / "cores", cores=[2, 3])
    renamed(folder / "int8", folder / "uint8", runtime="onnxruntime", activations="uint8", delegate="none")
    return boards | {name: folder / name for name in ("lite", "int8", "older", "cores", "uint8")}


def alone(run_boards: Run, table: str, budget: str) -> tuple[int, Any]:
    return run_boards(f"select --accuracy-table {{accuracy}} --latency-table {{{table}}} --budget {budget}")


def budgets(run_boards: Run) -> list[str]:
    """From where only one way has a subnet to where both have all."""
    least = [
        alone(run_boards, name, "1us")[1]["error"]["details"]["needed"]["latency_ms"] for name in ("table", "lite")
    ]
    return [f"{share * max(least):.6g}ms" for share in (0.99, 1.2, 2.0, 1000.0)]


# -- the union ------------------------------------------------------------------------------------
def test_the_better_of_both_ways_is_chosen_and_says_how_it_runs(run_boards: Run, tmp_path: Path) -> None:
    runtimes = set()
    for budget in budgets(run_boards):
        code, value = run_boards(f"{TWO} --budget {budget} --out {{out}}")
        assert code == 0, value
        each = [found for code, found in (alone(run_boards, name, budget) for name in ("table", "lite")) if code == 0]
        best = max(each, key=lambda one: (one["predicted"]["top1"]["value"], -one["predicted"]["latency_ms"]["high"]))
        assert (value["arch"], value["predicted"], value["runs"]) == (best["arch"], best["predicted"], best["runs"])
        assert value["bound"] == max(one["bound"] for one in each)
        assert value["proven_optimal"]
        runtimes.add(value["runs"]["runtime"])
        assert {"latency-table", "latency-table-2", "accuracy-table"} <= value["inputs"].keys()
        assert {"latency-table", "latency-table-2", "accuracy-table"} == value["headers"].keys()
        assert all(one["runs"]["runtime"] in ("onnxruntime", "litert") for one in value["alternatives"])
        chosen = families.read(tmp_path / "out", REDUCED)
        assert isinstance(chosen, Selection)
        assert chosen.runs_on is not None
        assert chosen.runs_on.as_json() == value["runs"]
    assert runtimes == {"onnxruntime", "litert"}


def test_half_precision_is_chosen_by_fp32s_table_and_said_to_be(run_boards: Run, capsys: Any) -> None:
    """Its files are half as large, so smaller limits on size are kept; what is held is as much as in fp32."""
    size = alone(run_boards, "table", "size=1B")[1]["error"]["details"]["needed"]["size_bytes"]
    assert alone(run_boards, "table", f"size={size - 1}B")[0] == 3
    line = f"{SELECT} --precision fp16"
    code, value = run_boards(f"{line} --budget size={size - 1}B")
    assert code == 0, value
    assert value["runs"]["precision"] == "fp16"
    assert value["predicted"]["weight_bytes"] < size
    assert "widens them when it loads the file" in value["notices"][0]
    least = [run_boards(f"{select} --budget memory=1B")[1] for select in (line, line.removesuffix(" --precision fp16"))]
    assert least[0]["error"]["details"]["needed"] == least[1]["error"]["details"]["needed"]
    assert run_boards(f"{SELECT} --latency-table {{int8}} --precision fp16 --budget 1s")[0] == 2
    said = run_boards(f"{TWO} --precision fp16 --budget 1s")[1]["model"]
    assert (said.count(", fp16, "), said.count(", fp32, ")) == (2, 0)
    assert run_boards(f"{line.removesuffix('fp16')}int8 --budget 1s")[0] == 2


def test_int8_counts_its_own_bytes(run_boards: Run) -> None:
    costs = [alone(run_boards, name, "1s")[1]["predicted"] for name in ("lite", "int8")]
    for what in ("weight_bytes", "peak_activation_bytes"):
        assert 0.2 < costs[1][what] / costs[0][what] < 0.6


def test_a_table_that_is_no_good_is_told_before_anything_is_chosen_by_it(
    run_boards: Run, boards: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    write_latencies(tmp_path / "noisy", simulated(noise=0.3, seed=4))
    select = f"select --accuracy-table {boards['accuracy']} --latency-table {tmp_path / 'noisy'}"
    for asked in ("--budget 1s", "--mode a:1s --mode b:2s", "--mode a:1s --mode b:2s --common"):
        code, value = run_boards(f"{select} {asked}")
        assert code == 0, value
        (notice,) = value["notices"]
        assert f"{tmp_path / 'noisy'} is " in notice
        assert "profile" in notice
    assert main(f"{select} --budget 1s".split()) == 0
    assert capsys.readouterr().err.count("note: ") == 1
    assert alone(run_boards, "table", "1s")[1]["notices"] == []


def test_a_selection_of_one_table_says_how_it_runs_too(run_boards: Run) -> None:
    runs = alone(run_boards, "lite", "1s")[1]["runs"]
    assert runs == {
        "runtime": "litert", "threads": 1, "cores": [0, 1, 2, 3], "precision": "fp32", "activations": None,
    }  # fmt: skip


def test_the_order_of_the_tables_changes_nothing_but_their_numbers(run_boards: Run) -> None:
    turned = "select --accuracy-table {accuracy} --latency-table {lite} --latency-table {table}"
    for budget in budgets(run_boards):
        one, other = (run_boards(f"{line} --budget {budget}")[1] for line in (TWO, turned))
        for name in ("arch", "predicted", "runs", "bound", "proven_optimal", "inputs", "alternatives"):
            assert one[name] == other[name]


@pytest.mark.parametrize("strategy", ["evolution --evolution spos", "random --samples 30", "table"])
def test_every_strategy_chooses_over_both_ways(run_boards: Run, strategy: str) -> None:
    code, value = run_boards(f"{TWO} --budget 1s --strategy {strategy}")
    assert code == 0, value
    assert value["runs"]["runtime"] == "litert"  # of equal subnets the faster
    assert "the best of 2 ways to run it" in value["model"]
    assert value["predicted"]["top1"]["value"] <= value["bound"] + 1e-9


def test_people_are_told_how_it_runs(boards: dict[str, Path], capsys: Any) -> None:
    tables = [f"--latency-table={boards[name]}" for name in ("table", "lite")]
    line = ["select", f"--accuracy-table={boards['accuracy']}", *tables]
    assert main([*line, "--budget", "1s"]) == 0
    said = capsys.readouterr().out
    assert "runs        litert, fp32, 1 thread" in said
    assert said.count("litert, fp32, 1 thread") > 2  # the alternatives, too
    assert main([*line, "--mode", "full:1s", "--mode", "low:900ms"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "runs" in rows[0].split()
    assert all("litert, fp32, 1 thread" in row for row in rows[1:3])


def test_a_budget_that_no_way_keeps_is_refused_with_each_table(run_boards: Run, boards: dict[str, Path]) -> None:
    code, value = run_boards(f"{TWO} --budget 1us")
    error = value["error"]
    assert code == 3
    for name, runtime in (("table", "onnxruntime"), ("lite", "litert")):
        assert f"{runtime}, fp32, 1 thread ({boards[name]}): no subnet of reduced fits" in error["message"]
    assert [one["table"] for one in error["details"]["ways"]] == [str(boards["table"]), str(boards["lite"])]
    assert all(one["limits"] and one["nearest"] for one in error["details"]["ways"])
    assert run_boards(f"{TWO} {error['hint'].removeprefix('try ').split(';')[0]}")[0] == 0


# -- families -------------------------------------------------------------------------------------
def test_a_family_has_one_member_a_device_however_many_ways_it_has(run_boards: Run, tmp_path: Path) -> None:
    quick, *_, loose = budgets(run_boards)
    line = f"{TWO} --latency-table {{other}} --mode full:{loose} --mode low:{quick} --out {{out}}"
    code, value = run_boards(line.replace(f"low:{quick}", "low:latency=1s,macs=2M"))
    assert code == 0, value
    assert [(one["mode"], one["device"]) for one in value["members"]] == [
        ("full", "Simulated Board"), ("full", "Other Board"), ("low", "Simulated Board"), ("low", "Other Board"),
    ]  # fmt: skip
    for one in value["members"]:
        assert one["conditions"]["runtime"] == one["selection"]["runs"]["runtime"]
    found = families.read(tmp_path / "out", REDUCED)
    assert isinstance(found, Family)
    assert all(member.selection.runs_on is not None for member in found.members)


def test_modes_of_one_device_may_run_different_ways(run_boards: Run) -> None:
    quick, *_, loose = budgets(run_boards)
    code, value = run_boards(f"{TWO} --mode full:{loose} --mode low:{quick}")
    assert code == 0, value
    assert [one["selection"]["runs"]["runtime"] for one in value["members"]] == ["litert", "onnxruntime"]


def test_one_subnet_for_all_is_run_the_best_way_on_each_device(run_boards: Run) -> None:
    _, first, second, _ = budgets(run_boards)
    found = {}
    for tables in (TWO, SELECT, SELECT.replace("{table}", "{lite}")):
        line = f"{tables} --latency-table {{other}} --mode full:{second} --mode low:{first} --common"
        code, value = run_boards(line)
        assert code in (0, 3), value
        if code == 0:
            found[tables] = value["members"]
    worth = {line: members[0]["selection"]["predicted"]["top1"]["value"] for line, members in found.items()}
    assert worth[TWO] == max(worth.values())
    for one in found[TWO]:
        selection = one["selection"]
        assert selection["proven_optimal"]
        assert selection["arch"] == found[TWO][0]["selection"]["arch"]
        assert one["conditions"]["runtime"] == selection["runs"]["runtime"]
        assert selection["predicted"]["latency_ms"]["high"] <= float(second.removesuffix("ms"))
    assert "latency-table-2" in found[TWO][0]["selection"]["inputs"]
    assert "latency-table-2" not in found[TWO][1]["selection"]["inputs"]


def test_ways_of_one_device_are_not_several_devices(run_boards: Run) -> None:
    code, value = run_boards(f"{TWO} --budget 1s --common")
    assert code == 2
    assert "the latency tables are of one device" in value["error"]["message"]


def test_several_cores_are_ways_and_named(run_boards: Run) -> None:
    code, value = run_boards(f"{SELECT.replace('{table}', '{lite}')} --latency-table {{cores}} --budget 1s")
    assert code == 0, value
    assert "litert, fp32, 1 thread, cores 2 3" in value["model"]


# -- int8 -----------------------------------------------------------------------------------------
def test_int8_is_left_out_until_its_drop_is_known(run_boards: Run, boards: dict[str, Path], capsys: Any) -> None:
    tables = [f"--latency-table={boards[name]}" for name in ("table", "lite", "int8")]
    assert main(["select", f"--accuracy-table={boards['accuracy']}", *tables, "--budget", "1s", "--json"]) == 0
    said = capsys.readouterr()
    assert f"{boards['int8']} is left out" in said.err
    assert "--data PATH" in said.err
    assert "--int8-drop POINTS" in said.err
    value, two = json.loads(said.out), run_boards(f"{TWO} --budget 1s")[1]
    assert value | {"seconds": 0} == two | {"seconds": 0}


def test_int8_competes_with_its_drop_subtracted(run_boards: Run) -> None:
    quick = budgets(run_boards)[1]
    free = run_boards(f"{THREE} --budget {quick} --int8-drop 0")[1]
    assert free["runs"] | {"cores": None} == {
        "runtime": "litert", "threads": 1, "cores": None, "precision": "int8", "activations": "int8",
    }  # fmt: skip
    two = run_boards(f"{TWO} --budget {quick}")[1]
    gain = free["predicted"]["top1"]["value"] - two["predicted"]["top1"]["value"]
    assert gain > 0.001
    less, more = (run_boards(f"{THREE} --budget {quick} --int8-drop {100 * gain + by}")[1] for by in (-0.05, 0.05))
    assert less["runs"]["precision"] == "int8"
    assert less["predicted"]["top1"]["value"] == pytest.approx(two["predicted"]["top1"]["value"] + 5e-4, abs=1e-8)
    assert less["bound"] == less["predicted"]["top1"]["value"]
    assert more["runs"]["precision"] == "fp32"
    assert more["predicted"] == two["predicted"]
    assert "litert, int8, 1 thread" in more["model"]


def test_common_lets_a_mode_pay_for_int8_where_it_must(run_boards: Run) -> None:
    least = alone(run_boards, "int8", "1us")[1]["error"]["details"]["needed"]["latency_ms"]
    line = f"{THREE} --mode full:1s --mode low:{1.2 * least}ms --common"
    code, value = run_boards(f"{line} --int8-drop 0.5")
    assert code == 0, value
    full, low = (one["selection"] for one in value["members"])
    assert full["arch"] == low["arch"]
    assert (full["runs"]["precision"], low["runs"]["precision"]) == ("fp32", "int8")
    lost = full["predicted"]["top1"]["value"] - low["predicted"]["top1"]["value"]
    assert lost == pytest.approx(0.005, abs=1e-8)
    assert run_boards(line)[0] == 3  # without int8 nothing is so fast


def test_int8_alone_is_taken_with_a_warning(run_boards: Run, boards: dict[str, Path], capsys: Any) -> None:
    line = ["select", f"--accuracy-table={boards['accuracy']}", f"--latency-table={boards['int8']}", "--budget", "1s"]
    assert main([*line, "--json"]) == 0
    said = capsys.readouterr()
    assert "warning: top-1 is predicted as in float" in said.err
    value = json.loads(said.out)
    assert main([*line, "--int8-drop", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    lower = json.loads(said.out)
    assert lower["predicted"]["top1"]["value"] == pytest.approx(value["predicted"]["top1"]["value"] - 0.02, abs=1e-8)


def test_activation_types_are_ways_of_their_own(run_boards: Run) -> None:
    line = f"{SELECT} --latency-table {{int8}} --latency-table {{uint8}} --budget 1s --int8-drop 0"
    code, value = run_boards(line)
    assert code == 0, value
    assert "the best of 3 ways" in value["model"]


# -- refused --------------------------------------------------------------------------------------
WRONG = [
    (TWO + " --latency-table {older} --budget 1s", "of one device and one way to run on it", "that the device has"),
    (TWO + " --budget 1s --int8-drop 1", "--int8-drop is of int8 latency tables", "leave it out"),
    (THREE + " --budget 1s --int8-drop 1 --data .", "--int8-drop tells what --data measures", "one of them"),
    (TWO + " --latency-table {other} --budget 1s --host local", "--host measures on one device", "that device alone"),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_input_is_named_and_says_what_to_type(run_boards: Run, line: str, message: str, hint: str) -> None:
    code, value = run_boards(line)
    assert (code, value["error"]["code"]) == (2, 2), value
    assert message in value["error"]["message"]
    assert hint in value["error"]["hint"]


def test_a_table_that_cannot_answer_is_named(run_boards: Run, boards: dict[str, Path]) -> None:
    """Neither table knows energies; the first is told."""
    code, value = run_boards(f"{TWO} --budget energy=30mJ")
    assert (code, value["error"]["code"]) == (9, 9)
    assert f"onnxruntime, fp32, 1 thread ({boards['table']}): " in value["error"]["message"]
    assert "leave this table out" in value["error"]["hint"]


# -- the tables that ship -------------------------------------------------------------------------
def test_the_shipped_tables_of_one_machine_are_two_ways_to_run_on_it(capsys: Any) -> None:
    folder = shipped.tables() / "latency"
    paths = [folder / f"ofa-lite0-{name}-t1-x86-64.jsonl" for name in ("onnxruntime", "litert")]
    tables = [f"--latency-table={path}" for path in paths]
    runs = []
    for budget in ("latency=0.5ms", "latency=1.2ms", "latency=0.5ms,size=4MB"):
        each = []
        for given in (tables, tables[:1], tables[1:]):
            assert main(["select", *given, "--budget", budget, "--json"]) == 0
            each.append(json.loads(capsys.readouterr().out))
        both, *ones = each
        best = max(ones, key=lambda one: one["predicted"]["top1"]["value"])
        assert (both["arch"], both["predicted"], both["runs"]) == (best["arch"], best["predicted"], best["runs"])
        assert both["proven_optimal"]
        assert both["bound"] == max(one["bound"] for one in ones)
        table = next(path for path in paths if LatencyTable.read(path).sha256 == both["inputs"]["latency-table"])
        assert both["runs"]["runtime"] in table.name
        runs.append(both["runs"]["runtime"])
    assert set(runs) == {"onnxruntime", "litert"}
