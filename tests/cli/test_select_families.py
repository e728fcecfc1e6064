"""select for several modes and devices: members, files, strategies, and what is refused.

Tables and weights are drawn (tests/reduced.py); the boards are simulated and differ in how fast their kernels are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from ofa_edge.search import families
from ofa_edge.search.families import Family
from ofa_edge.search.selection import STRATEGIES

Run = Callable[..., tuple[int, Any]]


SELECT = "select --accuracy-table {accuracy} --latency-table {table}"
BOTH = SELECT + " --latency-table {other}"
MODES = "--mode full:1s --mode low:latency=1s,macs=2M"


def needed(run_boards: Run, line: str = SELECT) -> float:
    """About the least latency there is, in ms."""
    return float(run_boards(f"{line} --budget 1us")[1]["error"]["details"]["needed"]["latency_ms"])


# -- members --------------------------------------------------------------------------------------
def test_a_subnet_for_each_mode_on_each_device(run_boards: Run, tmp_path: Path) -> None:
    code, value = run_boards(f"{BOTH} {MODES} --out {{out}}")
    assert code == 0, value
    assert (value["schema"], value["common"]) == ("selection-family", False)
    members = value["members"]
    assert [(one["mode"], one["device"]) for one in members] == [
        ("full", "Simulated Board"), ("full", "Other Board"), ("low", "Simulated Board"), ("low", "Other Board"),
    ]  # fmt: skip
    for one in members:
        chosen = one["selection"]
        assert chosen["proven_optimal"]
        assert {"alternatives", "seconds", "headers", "inputs"} <= chosen.keys()
        assert one["mode"] == "full" or chosen["predicted"]["macs"] <= 2_000_000
    tables = {one["device"]: one["selection"]["inputs"]["latency-table"] for one in members}
    assert len(set(tables.values())) == 2
    # The file is what was printed, but for what no other run could give again.
    read = families.read(tmp_path / "out")
    assert isinstance(read, Family)
    for one, own in zip(members, read.as_json()["members"], strict=True):
        assert one["selection"] | own["selection"] == one["selection"]


def test_each_member_is_what_select_gives_alone(run_boards: Run) -> None:
    _, value = run_boards(f"{BOTH} --mode low:latency=1s,macs=2M")
    _, alone = run_boards(SELECT.replace("{table}", "{other}") + " --budget latency=1s,macs=2M")
    theirs = value["members"][1]["selection"]
    assert alone.pop("notices") == value["notices"] == []
    assert {**alone, "seconds": 0} == {**theirs, "seconds": 0}


def test_several_devices_with_one_budget_have_no_modes(run_boards: Run) -> None:
    code, value = run_boards(f"{BOTH} --budget 1s")
    assert code == 0
    assert [(one["mode"], one["device"]) for one in value["members"]] == [
        (None, "Simulated Board"), (None, "Other Board"),
    ]  # fmt: skip


def test_the_same_inputs_give_the_same_bytes(run_boards: Run, tmp_path: Path) -> None:
    for line in (f"{BOTH} --budget latency=1s,macs=2M", f"{BOTH} --budget 1s --common"):
        written = []
        for name in ("one", "two"):
            assert run_boards(f"{line} --out {tmp_path / name}")[0] == 0
            written.append((tmp_path / name).read_bytes())
        assert written[0] == written[1]
        assert str(tmp_path).encode() not in written[0]


def test_common_is_one_subnet_that_keeps_every_budget(run_boards: Run) -> None:
    least = max(needed(run_boards), needed(run_boards, SELECT.replace("{table}", "{other}")))
    code, value = run_boards(f"{BOTH} --mode full:{2 * least}ms --mode low:latency={1.5 * least}ms,macs=3M --common")
    assert code == 0, value
    chosen = [one["selection"] for one in value["members"]]
    assert value["common"]
    assert all(one["arch"] == chosen[0]["arch"] for one in chosen)
    assert all(one["proven_optimal"] for one in chosen)
    assert all(one["predicted"]["latency_ms"]["high"] <= 1.5 * least for one in chosen)
    assert chosen[0]["predicted"]["macs"] <= 3_000_000
    assert chosen[0]["predicted"]["latency_ms"] != chosen[1]["predicted"]["latency_ms"]
    for said in ("mode full on Simulated Board", "mode low on Other Board"):
        assert said in chosen[0]["model"]


def test_a_family_for_people_is_a_row_a_member(boards: dict[str, Path], capsys: Any, tmp_path: Path) -> None:
    tables = [f"--latency-table={boards[name]}" for name in ("table", "other")]
    line = ["select", f"--accuracy-table={boards['accuracy']}", *tables, "--mode", "full:1s", "--mode", "low:900ms"]
    assert main([*line, "--common", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    rows = said.splitlines()
    assert rows[0].split()[:3] == ["mode", "device", "budget"]
    assert [row.split()[0] for row in rows[1:5]] == ["full", "full", "low", "low"]
    assert "one subnet" in said
    assert f"family  {tmp_path / 'out'}" in said


# -- infeasible -----------------------------------------------------------------------------------
def test_a_member_without_a_subnet_is_named_and_the_others_are_reported(run_boards: Run, tmp_path: Path) -> None:
    code, value = run_boards(f"{BOTH} --mode full:1s --mode saver:1us --out {{out}}")
    error = value["error"]
    assert code == error["code"] == 3
    assert "mode saver on Simulated Board: no subnet of reduced fits" in error["message"]
    assert "mode saver on Other Board" in error["message"]
    assert error["hint"].startswith("try --mode saver:latency=")
    assert [(one["mode"], one["device"]) for one in error["details"]["infeasible"]] == [
        ("saver", "Simulated Board"), ("saver", "Other Board"),
    ]  # fmt: skip
    assert all({"needed", "nearest", "limits"} <= one.keys() for one in error["details"]["infeasible"])
    assert [(one["mode"], one["device"]) for one in error["details"]["members"]] == [
        ("full", "Simulated Board"), ("full", "Other Board"),
    ]  # fmt: skip
    assert error["details"]["members"][0]["selection"]["arch"]
    assert not (tmp_path / "out").exists()
    # What the hint says works.
    assert run_boards(f"{BOTH} {error['hint'].removeprefix('try ')}")[0] == 0


def test_common_names_the_member_that_no_subnet_keeps(run_boards: Run) -> None:
    code, value = run_boards(f"{SELECT} --mode full:1s --mode saver:1us --common")
    assert (code, value["error"]["code"]) == (3, 3)
    assert value["error"]["message"].startswith("mode saver: no subnet of reduced fits")
    (one,) = value["error"]["details"]["infeasible"]
    assert (one["mode"], one["device"]) == ("saver", "Simulated Board")
    saver = value["error"]["hint"].removeprefix("try ")
    assert run_boards(f"{SELECT} --mode full:1s {saver} --common")[0] == 0


# -- wrong combinations ---------------------------------------------------------------------------
WRONG = [
    (SELECT, 2, "one option is missing", "exactly one of --budget, --mode"),
    (SELECT + " --budget 1s --mode low:9ms", 2, "--budget and --mode cannot be used together", "exactly one"),
    (SELECT + " --mode 9ms", 2, "'9ms' has no name or no budget", "full:20ms"),
    (SELECT + " --mode a/b:9ms", 2, "'a/b' cannot be the name of a mode", "letters, digits"),
    (SELECT + " --mode low:9ms --mode low:8ms", 2, "two modes called low", "a name of its own"),
    (SELECT + " --mode low:9", 2, "mode low: '9' has no unit", "us, ms or s"),
    (SELECT + " --budget 1s --common", 2, "--common is for several modes or devices", "several --mode"),
    (BOTH + " --budget 1s --common --strategy table", 2, "--common is of --strategy exact", "leave --strategy out"),
    (BOTH + " --budget 1s --common --host local", 2, "--common one for all", "leave --data and --host out"),
    (BOTH + " --budget 1s --host local", 2, "--host measures on one device", "of that device alone"),
    (BOTH + " --budget 1s --common --predictor {pairwise}", 2, "is a pairwise predictor", "--kind additive"),
    (SELECT + " --latency-table {table} --budget 1s", 2, "of the same device under the same", "table merge"),
    (SELECT + " --budget 1s --bn bank", 2, "--bn is of --data", "give images"),
    (SELECT + " --budget 1s --strategy evolution --evolution darwin", 2, "no --evolution 'darwin'", "ofa or spos"),
    (SELECT + " --budget 1s --evolution ofa", 2, "--evolution is of --strategy evolution", "choose that strategy"),
    (SELECT + " --budget 1s --samples 9", 2, "--samples is of --strategy random", "choose that strategy"),
    (SELECT + " --budget 1s --strategy table --predictor {additive}", 2, "takes no --predictor", "--strategy exact"),
    (SELECT + " --budget 1s --predictor {junk}", 9, "is not a predictor of this version", "ofa-edge predictor fit"),
    (
        SELECT + " --budget 1s --predictor {foreign}",
        2,
        "was fitted on the accuracy table",
        "leave --accuracy-table out",
    ),
    (SELECT + " --budget 1s --predictor {out}", 2, "cannot read", "check the path"),
    ("deploy --host nobody@127.0.0.1:1 --budget 1s --mode low", 2, "--mode is of --selection", "leave --mode out"),
    ("deploy --host nobody@127.0.0.1:1 --budget 1s --predictor {additive}", 2, "--predictor is of", "leave --pred"),
]


@pytest.mark.parametrize(("line", "code", "message", "hint"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_input_is_named_and_says_what_to_type(
    run_boards: Run, line: str, code: int, message: str, hint: str
) -> None:
    exit_code, answer = run_boards(line)
    error = answer["error"]
    assert (exit_code, error["code"]) == (code, code), error
    assert message in error["message"]
    assert hint in error["hint"]


# -- strategies and predictors --------------------------------------------------------------------
@pytest.mark.parametrize("strategy", [*STRATEGIES, "evolution --evolution spos"])
def test_every_strategy_says_which_it_was(run_boards: Run, strategy: str) -> None:
    if strategy == "random":
        strategy = "random --samples 30"
    code, value = run_boards(f"{SELECT} --budget 1s --strategy {strategy}")
    assert code == 0, value
    assert value["strategy"] == strategy.split()[0]
    assert value["proven_optimal"] == (value["strategy"] in ("exact", "table"))


@pytest.mark.parametrize("strategy", ["exact", "random --samples 30", "evolution --evolution spos"])
@pytest.mark.parametrize("kind", ["additive", "pairwise"])
def test_a_predictor_out_of_a_file_takes_the_tables_place(
    run_boards: Run, boards: dict[str, Path], kind: str, strategy: str
) -> None:
    """Its hash, its table's and its checkpoint's are inputs; the table itself need not be at hand."""
    line = f"select --latency-table {{table}} --predictor {{{kind}}} --budget 1s --strategy {strategy}"
    code, value = run_boards(line)
    assert code == 0, value
    assert set(value["inputs"]) == {"latency-table", "accuracy-table", "predictor", "supernet"}
    assert value["inputs"]["accuracy-table"] == AccuracyTable.read(boards["accuracy"]).sha256
    assert ("all pairs of choices" in value["model"]) == (kind == "pairwise")
    if kind == "pairwise" and "exact" not in strategy:
        assert value["bound"] is None
    else:
        assert value["predicted"]["top1"]["value"] <= value["bound"] + 1e-9


def test_the_additive_predictor_chooses_as_the_table_it_was_fitted_on(run_boards: Run) -> None:
    _, fitted_here = run_boards(f"{SELECT} --budget latency=1s,macs=3M")
    _, out_of_a_file = run_boards("select --latency-table {table} --predictor {additive} --budget latency=1s,macs=3M")
    for name in ("arch", "predicted", "bound", "proven_optimal"):
        assert fitted_here[name] == out_of_a_file[name]


# -- the truth step: the wiring; how it measures and chooses is tests/cli/test_truth.py's ----------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of each class."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("amber", "birch", "coral", "dune", "elm")):
        (folder / "val" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 128, (40, 40, 3), dtype=np.uint8) + 25 * label
            image.fromarray(pixels.astype(np.uint8)).save(folder / "val" / name / f"{i}.png")
    return folder


def test_images_choose_among_the_best_of_every_mode(run_boards: Run, data: Path, tmp_path: Path) -> None:
    line = f"{SELECT} {MODES} --data {data} --bn bank --supernet {{ckpt}} --top 3"
    code, value = run_boards(f"{line} --out {{out}}")
    assert code == 0, value
    for one in value["members"]:
        assert one["selection"]["measured"]["n"] == 20
        assert "as measured" in one["selection"]["model"]
        assert {"images", "supernet"} <= one["selection"]["inputs"].keys()
    found = families.read(tmp_path / "out")
    assert isinstance(found, Family)
    assert all(member.selection.measured and member.selection.headers for member in found.members)


def test_a_device_chooses_where_it_answers(run_boards: Run) -> None:
    code, value = run_boards(f"{SELECT} --budget 1s --top 1 --host nobody@127.0.0.1:1")
    assert code == 5
    assert "127.0.0.1" in value["error"]["message"]


def test_a_host_for_every_command_in_the_settings_is_not_select_s(run_boards: Run, tmp_path: Path) -> None:
    """Only --host asks for measuring: whoever names a device for deploy and profile still selects without it."""
    (tmp_path / "ofa-edge.toml").write_text('host = "nobody@127.0.0.1:1"\n')
    code, value = run_boards(f"{SELECT} --budget 1s")
    assert code == 0
    assert "measured" not in value
