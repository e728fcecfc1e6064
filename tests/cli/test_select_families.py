"""select for several modes and devices, and deploy of what it chose: members, files, and what is refused.

Tables and weights are drawn (tests/reduced.py); the boards are simulated and differ in how fast their kernels are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import settings
from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from ofa_edge.device import ConnectOptions, open_device
from ofa_edge.search import families
from ofa_edge.search.families import Family
from ofa_edge.search.selection import STRATEGIES, Selection
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies, write_supernet

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    names = ("table", "other", "accuracy", "more", "ckpt", "additive", "pairwise", "foreign", "junk")
    found = {name: folder / name for name in names}
    write_latencies(found["table"])
    facts = replace(simulated().facts, device_model="Other Board")
    write_latencies(found["other"], simulated(noise=0.02, seed=9, facts=facts))
    digest = write_supernet(found["ckpt"])
    write_accuracies(found["accuracy"], digest)
    write_accuracies(found["more"], digest, subnets=45)
    for name, table in (("additive", "accuracy"), ("pairwise", "accuracy"), ("foreign", "more")):
        kind = "additive" if name == "foreign" else name
        family.save(family.fit(kind, REDUCED, AccuracyTable.read(found[table])), found[name])
    found["junk"].write_text("neither\n")
    return found


@pytest.fixture
def run(files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    """Run a command line with --json: its exit code and the one value on stdout. {name} stands for a file."""
    monkeypatch.chdir(tmp_path)
    places = {name: str(path) for name, path in files.items()}

    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        words = [word.format(**places, out=tmp_path / "out") for word in line.split()]
        return main([*words, "--json"]), json.loads(capsys.readouterr().out)

    return runs


SELECT = "select --accuracy-table {accuracy} --latency-table {table}"
BOTH = SELECT + " --latency-table {other}"
MODES = "--mode full:1s --mode low:latency=1s,macs=2M"


def needed(run: Run, line: str = SELECT) -> float:
    """About the least latency there is, in ms."""
    return float(run(f"{line} --budget 1us")[1]["error"]["details"]["needed"]["latency_ms"])


# -- members --------------------------------------------------------------------------------------
def test_a_subnet_for_each_mode_on_each_device(run: Run, tmp_path: Path) -> None:
    code, value = run(f"{BOTH} {MODES} --out {{out}}")
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


def test_each_member_is_what_select_gives_alone(run: Run) -> None:
    _, value = run(f"{BOTH} --mode low:latency=1s,macs=2M")
    _, alone = run(SELECT.replace("{table}", "{other}") + " --budget latency=1s,macs=2M")
    theirs = value["members"][1]["selection"]
    assert {**alone, "seconds": 0} == {**theirs, "seconds": 0}


def test_several_devices_with_one_budget_have_no_modes(run: Run) -> None:
    code, value = run(f"{BOTH} --budget 1s")
    assert code == 0
    assert [(one["mode"], one["device"]) for one in value["members"]] == [
        (None, "Simulated Board"), (None, "Other Board"),
    ]  # fmt: skip


def test_the_same_inputs_give_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for line in (f"{BOTH} --budget latency=1s,macs=2M", f"{BOTH} --budget 1s --common"):
        written = []
        for name in ("one", "two"):
            assert run(f"{line} --out {tmp_path / name}")[0] == 0
            written.append((tmp_path / name).read_bytes())
        assert written[0] == written[1]
        assert str(tmp_path).encode() not in written[0]


def test_common_is_one_subnet_that_keeps_every_budget(run: Run) -> None:
    least = max(needed(run), needed(run, SELECT.replace("{table}", "{other}")))
    code, value = run(f"{BOTH} --mode full:{2 * least}ms --mode low:latency={1.5 * least}ms,macs=3M --common")
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


def test_a_family_for_people_is_a_row_a_member(files: dict[str, Path], capsys: Any, tmp_path: Path) -> None:
    tables = [f"--latency-table={files[name]}" for name in ("table", "other")]
    line = ["select", f"--accuracy-table={files['accuracy']}", *tables, "--mode", "full:1s", "--mode", "low:900ms"]
    assert main([*line, "--common", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    rows = said.splitlines()
    assert rows[0].split()[:3] == ["mode", "device", "budget"]
    assert [row.split()[0] for row in rows[1:5]] == ["full", "full", "low", "low"]
    assert "one subnet" in said
    assert f"family  {tmp_path / 'out'}" in said


# -- infeasible -----------------------------------------------------------------------------------
def test_a_member_without_a_subnet_is_named_and_the_others_are_reported(run: Run, tmp_path: Path) -> None:
    code, value = run(f"{BOTH} --mode full:1s --mode saver:1us --out {{out}}")
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
    assert run(f"{BOTH} {error['hint'].removeprefix('try ')}")[0] == 0


def test_common_names_the_member_that_no_subnet_keeps(run: Run) -> None:
    code, value = run(f"{SELECT} --mode full:1s --mode saver:1us --common")
    assert (code, value["error"]["code"]) == (3, 3)
    assert value["error"]["message"].startswith("mode saver: no subnet of reduced fits")
    (one,) = value["error"]["details"]["infeasible"]
    assert (one["mode"], one["device"]) == ("saver", "Simulated Board")
    saver = value["error"]["hint"].removeprefix("try ")
    assert run(f"{SELECT} --mode full:1s {saver} --common")[0] == 0


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
def test_wrong_input_is_named_and_says_what_to_type(run: Run, line: str, code: int, message: str, hint: str) -> None:
    exit_code, answer = run(line)
    error = answer["error"]
    assert (exit_code, error["code"]) == (code, code), error
    assert message in error["message"]
    assert hint in error["hint"]


# -- strategies and predictors --------------------------------------------------------------------
@pytest.mark.parametrize("strategy", [*STRATEGIES, "evolution --evolution spos"])
def test_every_strategy_says_which_it_was(run: Run, strategy: str) -> None:
    if strategy == "random":
        strategy = "random --samples 30"
    code, value = run(f"{SELECT} --budget 1s --strategy {strategy}")
    assert code == 0, value
    assert value["strategy"] == strategy.split()[0]
    assert value["proven_optimal"] == (value["strategy"] in ("exact", "table"))


@pytest.mark.parametrize("strategy", ["exact", "random --samples 30", "evolution --evolution spos"])
@pytest.mark.parametrize("kind", ["additive", "pairwise"])
def test_a_predictor_out_of_a_file_takes_the_tables_place(
    run: Run, files: dict[str, Path], kind: str, strategy: str
) -> None:
    """Its hash, its table's and its checkpoint's are inputs; the table itself need not be at hand."""
    line = f"select --latency-table {{table}} --predictor {{{kind}}} --budget 1s --strategy {strategy}"
    code, value = run(line)
    assert code == 0, value
    assert set(value["inputs"]) == {"latency-table", "accuracy-table", "predictor", "supernet"}
    assert value["inputs"]["accuracy-table"] == AccuracyTable.read(files["accuracy"]).sha256
    assert ("all pairs of choices" in value["model"]) == (kind == "pairwise")
    assert value["predicted"]["top1"]["value"] <= value["bound"] + 1e-9


def test_the_additive_predictor_chooses_as_the_table_it_was_fitted_on(run: Run) -> None:
    _, fitted_here = run(f"{SELECT} --budget latency=1s,macs=3M")
    _, out_of_a_file = run("select --latency-table {table} --predictor {additive} --budget latency=1s,macs=3M")
    for name in ("arch", "predicted", "bound", "proven_optimal"):
        assert fitted_here[name] == out_of_a_file[name]


# -- deploy ---------------------------------------------------------------------------------------
DEPLOY = "deploy --host local --supernet {ckpt} --dry-run --selection"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """This machine's model, and a latency table of its conditions."""
    folder = tmp_path_factory.mktemp("own")
    with open_device("local", options=ConnectOptions(root=str(folder / "root"))) as session:
        facts = session.facts
    write_latencies(folder / "table", simulated(noise=0.01, facts=facts))
    return facts.device_model, (folder / "table").read_bytes()


@pytest.fixture
def here(own: tuple[str, bytes]) -> Path:
    """That table in the home."""
    model, content = own
    path = settings.tables_dir(model) / "here.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_device_gets_the_member_of_its_conditions(run: Run, here: Path, tmp_path: Path) -> None:
    tables = f"--accuracy-table {{accuracy}} --latency-table {{table}} --latency-table {here}"
    assert run(f"select {tables} --mode full:1s --mode low:latency=1s,macs=2M --out {{out}}")[0] == 0
    found = families.read(tmp_path / "out")
    assert isinstance(found, Family)
    for mode, number in (("full", 1), ("low", 3)):
        code, value = run(f"{DEPLOY} {{out}} --mode {mode}")
        assert code == 0, value
        assert value["predicted_ms"] == found.members[number].selection.latency_ms.value
    code, value = run(f"{DEPLOY} {{out}}")
    assert (code, value["error"]["message"].split("out ")[-1]) == (2, "has the modes full, low")
    assert "--mode NAME" in value["error"]["hint"]
    assert run(f"{DEPLOY} {{out}} --mode high")[1]["error"]["hint"] == "it has: full, low"
    # The member of a table that is named, wherever it is deployed.
    code, value = run(f"{DEPLOY} {{out}} --mode low --table {{table}}")
    assert code == 9
    assert "device_model: 'Simulated Board' and" in value["error"]["message"]


def test_a_member_is_held_against_its_conditions_without_its_table(
    run: Run, here: Path, capsys: Any, tmp_path: Path
) -> None:
    assert run(f"select --accuracy-table {{accuracy}} --latency-table {here} --mode only:1s --out {{out}}")[0] == 0
    here.unlink()
    capsys.readouterr()
    code, _ = run(f"{DEPLOY} {{out}} --mode only")
    assert code == 0
    assert run(SELECT + " --mode only:1s --out {out}")[0] == 0
    code, value = run(f"{DEPLOY} {{out}} --mode only")
    assert code == 9
    assert "device_model: 'Simulated Board' and" in value["error"]["message"]


def test_one_selection_has_no_modes(run: Run) -> None:
    assert run(SELECT + " --budget 1s --out {out}")[0] == 0
    code, value = run(f"{DEPLOY} {{out}} --mode full")
    assert code == 2
    assert "is one selection and has no modes" in value["error"]["message"]


def grown(path: Path) -> None:
    """The table as an interrupted campaign left it: the same one, with fewer rows."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))


def test_a_selection_whose_latency_table_changed_is_refused(run: Run, here: Path) -> None:
    assert run(f"select --accuracy-table {{accuracy}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run(f"{DEPLOY} {{out}}")[0] == 0
    kept = here.with_name("kept.jsonl")
    kept.write_bytes(here.read_bytes())
    grown(here)
    assert run(f"{DEPLOY} {{out}}")[0] == 0, "the table it was made with is still there"
    kept.rename(kept.with_suffix(".copy"))
    code, value = run(f"{DEPLOY} {{out}}")
    assert code == 9
    assert f"{here} changed since the selection was made" in value["error"]["message"]
    assert "--table" in value["error"]["hint"]
    assert run(f"{DEPLOY} {{out}} --table {kept.with_suffix('.copy')}")[0] == 0


def test_a_selection_whose_accuracies_changed_is_refused(run: Run, here: Path, files: dict[str, Path]) -> None:
    own = settings.home() / "accuracy" / "own.jsonl"
    own.parent.mkdir(parents=True)
    own.write_bytes(files["accuracy"].read_bytes())
    assert run(f"select --supernet {{ckpt}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run(f"{DEPLOY} {{out}}")[0] == 0
    grown(own)
    code, value = run(f"{DEPLOY} {{out}}")
    assert code == 9
    assert f"{own} changed since the selection was made" in value["error"]["message"]
    assert "--accuracy-table" in value["error"]["hint"]
    assert run(f"{DEPLOY} {{out}} --accuracy-table {{accuracy}}")[0] == 0
    code, value = run(f"{DEPLOY} {{out}} --accuracy-table {{more}}")
    assert code == 9
    assert "is another accuracy table" in value["error"]["message"]


def test_a_selection_whose_predictor_changed_is_refused(run: Run, here: Path) -> None:
    assert run(f"select --predictor {{additive}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run(f"{DEPLOY} {{out}} --predictor {{additive}}")[0] == 0
    code, value = run(f"{DEPLOY} {{out}} --predictor {{pairwise}}")
    assert code == 9
    assert "is another predictor" in value["error"]["message"]
    assert run(f"select --accuracy-table {{accuracy}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    code, value = run(f"{DEPLOY} {{out}} --predictor {{pairwise}}")
    assert code == 9
    assert "without a predictor" in value["error"]["message"]
    assert value["error"]["hint"] == "leave --predictor out"


def test_a_selection_remembers_its_tables_headers(run: Run, tmp_path: Path) -> None:
    assert run(SELECT + " --budget 1s --out {out}")[0] == 0
    assert set(Selection.read(tmp_path / "out").headers) == {"latency-table", "accuracy-table"}


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


def test_images_choose_among_the_best_of_every_mode(run: Run, data: Path, tmp_path: Path) -> None:
    line = f"{SELECT} {MODES} --data {data} --bn bank --supernet {{ckpt}} --top 3"
    code, value = run(f"{line} --out {{out}}")
    assert code == 0, value
    for one in value["members"]:
        assert one["selection"]["measured"]["n"] == 20
        assert "as measured" in one["selection"]["model"]
        assert {"images", "supernet"} <= one["selection"]["inputs"].keys()
    found = families.read(tmp_path / "out")
    assert isinstance(found, Family)
    assert all(member.selection.measured and member.selection.headers for member in found.members)


def test_a_device_chooses_where_it_answers(run: Run) -> None:
    code, value = run(f"{SELECT} --budget 1s --top 1 --host nobody@127.0.0.1:1")
    assert code == 5
    assert "127.0.0.1" in value["error"]["message"]
