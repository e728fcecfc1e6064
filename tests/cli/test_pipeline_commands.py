"""The pipeline's commands: what they print, and what they say to wrong input, with its exit code and what to type next.

Tables and weights are drawn (tests/reduced.py). A command that is given a host nobody answers at must find what is
wrong with its files before it asks the host.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import settings
from ofa_edge.cli.app import main
from ofa_edge.device import open_device
from ofa_edge.search.selection import Selection
from ofa_edge.space import codecs
from ofa_edge.weights.checkpoint import embedded_path
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies, write_supernet
from tests.search.doubles import SMALL

NOBODY = "nobody@127.0.0.1:1"

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered(SMALL):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound files and wrong ones, by what they are."""
    folder = tmp_path_factory.mktemp("files")
    names = (
        *("table", "accuracy", "small_accuracy", "ckpt", "other_ckpt", "bare_ckpt", "arch", "archs", "bad_arch"),
        *("short_arch", "junk", "missing", "selection", "empty"),
    )
    found = {name: folder / name for name in names}
    write_latencies(found["table"])
    digest = write_supernet(found["ckpt"])
    write_supernet(found["other_ckpt"], seed=1)
    write_supernet(found["bare_ckpt"], bank=False)
    write_accuracies(found["accuracy"], digest)
    write_accuracies(found["small_accuracy"], digest, space=SMALL)
    archs = [codecs.encode(REDUCED, REDUCED.sample(np.random.default_rng(i), 32)) for i in range(2)]
    found["arch"].write_text(json.dumps(archs[0]))
    found["archs"].write_text(json.dumps(archs))
    found["bad_arch"].write_text(json.dumps({**archs[0], "ks": [7] * len(archs[0]["ks"])}))
    found["short_arch"].write_text(json.dumps({**archs[0], "ks": [3]}))
    found["empty"].write_text("[]")
    found["junk"].write_text("neither one nor the other\n")
    code = main(
        [
            *("select", "--latency-table", str(found["table"]), "--accuracy-table", str(found["accuracy"])),
            *("--budget", "1s", "--out", str(found["selection"])),
        ]
    )
    assert code == 0
    return found


@pytest.fixture
def run(files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    """Run a command line with --json: its exit code and the one value on stdout. {name} stands for a file."""
    monkeypatch.chdir(tmp_path)
    places = {name: str(path) for name, path in files.items()}

    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*(word.format(**places, out=tmp_path / "out", nobody=NOBODY) for word in line.split()), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return runs


# -- wrong input ----------------------------------------------------------------------------------
SELECT = "select --latency-table {table} --accuracy-table {accuracy}"
MEASURE = "measure --host {nobody} --supernet {ckpt}"
DEPLOY = "deploy --host {nobody} --supernet {ckpt}"

WRONG = [
    # predict
    ("predict --table {missing} --arch {arch}", 2, "cannot read", "check the path"),
    ("predict --table {junk} --arch {arch}", 9, "line 1 is damaged", "measure again"),
    ("predict --table {accuracy} --arch {arch}", 9, "is no latency-table", "latency-table"),
    ("predict --arch {arch}", 2, "there is no latency table in", "ofa-edge profile"),
    ("predict --table {table} --arch {missing}", 2, "cannot read", "an arch looks like"),
    ("predict --table {table} --arch {junk}", 9, "is not JSON", "an arch looks like"),
    ("predict --table {table} --arch {empty}", 2, "holds no arch", "an arch looks like"),
    ("predict --table {table} --arch {bad_arch}", 2, "kernel 7 is not one of [3, 5]", ""),
    ("predict --table {table} --arch {short_arch}", 2, "'ks' has 1 entries", "an arch looks like"),
    ("predict --table {table} --arch {arch} --confidence 2", 2, "--confidence", "--help"),
    # measure
    ("measure --host {nobody}", 2, "one option is missing", "exactly one of --arch, --model"),
    ("measure --host {nobody} --arch {arch} --model {junk}", 2, "cannot be used together", "exactly one"),
    ("measure --host {nobody} --model {missing}", 2, "cannot read", "--model takes an ONNX or TFLite file"),
    ("measure --host {nobody} --model {junk}", 9, "junk: this is not an ONNX model", "ofa-edge export"),
    (MEASURE + " --arch {missing}", 2, "cannot read", "an arch looks like"),
    (MEASURE + " --arch {arch} --space small", 2, "is of space reduced, not of small", "--supernet"),
    (MEASURE + " --arch {arch} --table {junk}", 9, "line 1 is damaged", "measure again"),
    (MEASURE + " --arch {arch} --cores 3-1", 2, "--cores", "0-3"),
    (MEASURE + " --arch {arch} --threads 5000", 2, "--threads", "--help"),
    (MEASURE + " --arch {arch}", 5, "127.0.0.1", ""),
    ("measure --host {nobody} --supernet {missing} --arch {arch}", 2, "cannot read checkpoint", "ofa-edge train"),
    ("measure --host {nobody} --supernet {junk} --arch {arch}", 9, "not a safetensors file", "ofa-edge train"),
    ("measure --host adb:1 --supernet {ckpt} --arch {arch}", 2, "adb is not in this version", "ssh"),
    ("measure --host {nobody} --random-weights 1 --space nope --arch {arch}", 2, "no space 'nope'", "reduced"),
    # select
    (SELECT + " --budget 20", 2, "has no unit", "us, ms or s"),
    (SELECT + " --budget latency=20ms,colour=3", 2, "no limit 'colour'", "latency, p90, memory"),
    (SELECT + " --budget energy=3mJ", 9, "holds no energy measurements", "profile --energy"),
    (SELECT + " --budget 1s --strategy magic", 2, "no strategy 'magic'", "exact, evolution, random, table"),
    (SELECT + " --budget 1s --samples 9", 2, "--samples is of --strategy random", "choose that strategy"),
    (
        SELECT + " --budget 1us --strategy random",
        3,
        "no subnet of reduced fits latency=0.001ms",
        "try --budget latency=",
    ),
    (SELECT + " --budget 1s --out {accuracy}", 2, "is no selection, so it is not replaced", "another file with --out"),
    ("predictor fit {accuracy} --out {ckpt}", 2, "is no predictor, so it is not replaced", "another file with --out"),
    (SELECT + " --budget 1us", 3, "no subnet of reduced fits latency=0.001ms", "try --budget latency="),
    (SELECT + " --budget 1us --strategy table", 3, "no measured subnet fits", "try --budget latency="),
    (SELECT + " --budget 1s --supernet {other_ckpt}", 9, "was measured with checkpoint", "ofa-edge evaluate"),
    ("select --latency-table {junk} --accuracy-table {accuracy} --budget 1s", 9, "line 1 is damaged", "again"),
    ("select --latency-table {table} --accuracy-table {missing} --budget 1s", 2, "cannot read", "check the path"),
    ("select --latency-table {table} --accuracy-table {table} --budget 1s", 9, "is no accuracy-table", "accuracy"),
    ("select --latency-table {table} --accuracy-table {small_accuracy} --budget 1s", 2, "of small", "one space"),
    ("select --latency-table {table} --supernet {ckpt} --budget 1s", 2, "no accuracy table of", "ofa-edge evaluate"),
    ("select --accuracy-table {accuracy} --budget 1s", 2, "no latency table of space reduced", "ofa-edge profile"),
    # export
    ("export --out {junk} --supernet {ckpt} --arch {archs}", 2, "2 subnets need a folder", "name a folder"),
    ("export --out {out} --supernet {ckpt}", 2, "one option is missing", "--arch, --selection, --front"),
    ("export --out {out} --supernet {other_ckpt} --selection {selection}", 9, "was made for checkpoint", "--supernet"),
    ("export --out {out} --supernet {ckpt} --selection {junk}", 9, "is not a selection", "ofa-edge select --out"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --latency-table {table}", 2, "for --front", "add --front"),
    ("export --out {out} --random-weights 1 --space reduced --front 3", 2, "no accuracies", "--supernet"),
    ("export --out {out} --supernet {ckpt} --arch {bad_arch}", 2, "kernel 7", ""),
    ("export --out {out} --supernet {ckpt} --arch {arch} --format pb", 2, "no format 'pb'", "onnx or tflite"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --precision int4", 2, "no precision 'int4'", "fp16"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --precision int8", 2, "calibrated on images", "--data PATH"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --activations int8", 2, "for int8 ONNX", "leave it out"),
    ("export --out {out} --supernet {bare_ckpt} --arch {arch}", 9, "no BN bank", "--data"),
    ("export --out {junk}/below --supernet {ckpt} --arch {arch}", 1, "cannot write", "--out"),
    ("export --out {out} --random-weights 1 --space reduced --data . --arch {arch}", 2, "no batch norm", "--data"),
    ("export --out {out} --random-weights 1 --space reduced --bn bank --arch {arch}", 2, "no batch norm", "--bn"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --bn mean", 2, "no --bn mean", "bank, running or"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --bn running", 9, "no running statistics", "use its bank"),
    ("export --out {out} --supernet {ckpt} --arch {arch} --bn recalibrated", 2, "needs images", "--data PATH"),
    (
        "export --out {out} --supernet {ckpt} --arch {arch} --bn bank --data {missing}",
        2,
        "no images at",
        "--data takes",
    ),
    # evaluate
    ("evaluate --data . --out {out} --samples 9 --arch {arch}", 2, "cannot be used together", "exactly one"),
    ("evaluate --data . --out {out} --supernet {ckpt} --samples 9 --split x", 2, "--split x", "heldout"),
    ("evaluate --data . --out {out} --supernet {bare_ckpt} --samples 9", 9, "no BN bank", "--bn recalibrated"),
    ("evaluate --data . --out {out} --supernet {ckpt} --samples 9 --resolutions 33", 2, "resolution 33", "32, 48"),
    # profile
    ("profile --host {nobody} --space nope", 2, "no space 'nope'", "reduced"),
    ("profile --host {nobody} --space reduced --resolutions 33", 2, "resolution 33", "32, 48"),
    ("profile --host {nobody} --space reduced --networks 99999", 2, "--networks", "--help"),
    ("profile --host {nobody} --space reduced", 5, "127.0.0.1", ""),
    ("profile --host @lab --space reduced", 2, "is a group", "one host"),
    # deploy
    (
        "deploy --host {nobody} --supernet {ckpt} --accuracy-table {accuracy} --budget 1s --table {table} "
        "--runtime litert",
        *(2, "was predicted for runtime onnxruntime", "--runtime onnxruntime"),
    ),
    ("profile --host {nobody} --space reduced --runtime abacus", 2, "no runtime 'abacus'", "onnxruntime"),
    ("measure --host {nobody} --arch {arch} --runtime abacus", 2, "no runtime 'abacus'", "onnxruntime"),
    (DEPLOY, 2, "one option is missing", "--budget, --selection, --bundle"),
    (DEPLOY + " --budget 1s --bundle {out}", 2, "cannot be used together", "exactly one"),
    (DEPLOY + " --budget soon", 2, "not a number with a unit", "20ms"),
    (DEPLOY + " --budget 1s", 2, "no accuracy table of checkpoint", "ofa-edge evaluate"),
    (DEPLOY + " --budget 1s --table {junk}", 9, "line 1 is damaged", "measure again"),
    (DEPLOY + " --selection {missing}", 2, "cannot read", "check the path"),
    (DEPLOY + " --selection {junk}", 9, "is not a selection", "ofa-edge select --out"),
    (DEPLOY + " --selection {selection} --table {missing}", 2, "cannot read", "check the path"),
    (DEPLOY + " --selection {selection}", 5, "127.0.0.1", ""),
    (DEPLOY + " --bundle {missing}", 2, "there is no bundle at", "manifest.json"),
    (DEPLOY + " --bundle {out} --data .", 2, "--data is for bundles that are made here", "leave --data out"),
    (DEPLOY + " --budget 1s --precision fp8", 2, "no precision 'fp8'", "fp32 or fp16 or int8"),
    (DEPLOY + " --budget 1s --precision int8", 2, "int8 is calibrated on images", "--data PATH"),
    (DEPLOY + " --budget 1s --data .", 2, "--data is what int8 is calibrated on", "--precision int8"),
    (DEPLOY + " --budget 1s --post-switch 'a", 2, "cannot be split", "one command"),
    (DEPLOY + " --budget 1s --hook-timeout 0", 2, "--hook-timeout", "--help"),
    (DEPLOY + " --budget 1s --canary -1", 2, "--canary", "--help"),
    (DEPLOY + " --budget 1s --parallel 0", 2, "--parallel", "--help"),
    ("mode set low --host {nobody}", 5, "127.0.0.1", ""),
    ("mode show --host local", 1, "no release of ofa-lite0 is current", "deploy one first"),
    ("mode set low --host local", 1, "no release of ofa-lite0 is current", "deploy one first"),
    (DEPLOY + " --bundle .", 9, "manifest.json", "bundle"),
    (DEPLOY + " --host local --keep-bundle {out} --budget 1s", 2, "--keep-bundle keeps one", "one --host"),
    ("deploy --host @lab --budget 1s", 2, "no device is in the group '@lab'", "groups in"),
    (
        "deploy --host {nobody} --supernet {other_ckpt} --selection {selection}",
        *(9, "the selection was made for checkpoint", "--supernet"),
    ),
    # the others
    ("status --host {nobody}", 5, "127.0.0.1", ""),
    ("status --host {nobody} --app ../x", 2, "'../x' cannot be the name of an app", "lower-case"),
    (DEPLOY + " --budget 1s --app Door", 2, "'Door' cannot be the name of an app", "lower-case"),
    ("rollback --host {nobody}", 5, "127.0.0.1", ""),
    ("supernet info {missing}", 2, "cannot read checkpoint", "ofa-edge train"),
]


@pytest.mark.parametrize(("line", "code", "message", "hint"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_input_is_named_and_says_what_to_type(run: Run, line: str, code: int, message: str, hint: str) -> None:
    exit_code, answer = run(line)
    error = answer["error"]
    assert (exit_code, error["code"]) == (code, code), error
    assert message in error["message"]
    assert hint in error["hint"]


def test_a_selection_is_held_against_the_table_it_was_made_with(run: Run, files: dict[str, Path]) -> None:
    other = files["table"].with_name("other_table")
    write_latencies(other, simulated(noise=0.02, seed=9))
    _, answer = run(f"{DEPLOY} --selection {{selection}} --table {other}")
    assert answer["error"]["code"] == 9
    assert "changed since the selection was made" in answer["error"]["message"]


@pytest.fixture
def emulated_table(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("emulated") / "table"
    device = simulated(noise=0.01)
    write_latencies(path, simulated(noise=0.01, facts=replace(device.facts, emulated=True)))
    return path


@pytest.mark.parametrize("strategy", ["exact", "random --samples 30", "table"])
def test_times_of_an_emulated_device_are_held_against_no_budget(run: Run, emulated_table: Path, strategy: str) -> None:
    line = f"select --latency-table {emulated_table} --accuracy-table {{accuracy}} --strategy {strategy} --budget"
    code, value = run(f"{line} 1s,size=50MB")
    assert (code, value["error"]["code"]) == (9, 9)
    assert "emulated device" in value["error"]["message"]
    assert "profile the real device" in value["error"]["hint"]
    assert run(f"{line} size=50MB")[0] == 0


@pytest.fixture
def imported_table(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blocks of a table as another program would have written them: without conditions."""
    folder = tmp_path_factory.mktemp("imported")
    assert main(["table", "export", str(files["table"]), "--out", str(folder / "all.csv")]) == 0
    rows = list(csv.DictReader((folder / "all.csv").read_text().splitlines()))
    with (folder / "bare.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "unknown" if name.startswith("condition_") else row[name] for name in row})
    assert main(["table", "import", str(folder / "bare.csv"), "--out", str(folder / "table")]) == 0
    return folder / "table"


@pytest.mark.parametrize("strategy", ["exact", "random --samples 30", "table"])
def test_times_of_nobody_knows_what_are_held_against_a_budget_only_where_that_is_said(
    run: Run, imported_table: Path, strategy: str
) -> None:
    line = f"select --latency-table {imported_table} --accuracy-table {{accuracy}} --strategy {strategy} --budget"
    code, value = run(f"{line} 1s")
    assert (code, value["error"]["code"]) == (9, 9)
    assert "device_model" in value["error"]["message"]
    assert "runtime" in value["error"]["details"]["unknown"]
    assert "--accept-unknown" in value["error"]["hint"]
    code, value = run(f"{line} 1s --accept-unknown")
    assert code == 0
    assert value["predicted"]["latency_ms"]["value"] > 0
    assert run(f"{line} size=50MB")[0] == 0


def test_measure_and_deploy_name_their_own_option_for_a_table_of_unknown_conditions(
    run: Run, imported_table: Path, tmp_path: Path
) -> None:
    local = f"--host local --root {tmp_path}/home --table {imported_table}"
    code, value = run(f"measure {local} --random-weights 0 --space reduced --arch {{arch}} --processes 1")
    assert code == 9
    assert "--accept-unknown" in value["error"]["hint"]
    code, value = run(f"deploy {local} --supernet {{ckpt}} --accuracy-table {{accuracy}} --budget 1s")
    assert code == 9
    assert "--accept-stale" in value["error"]["hint"]
    assert "device_model" in value["error"]["message"]


def test_a_refused_export_leaves_no_file(run: Run, tmp_path: Path) -> None:
    run("export --out {out} --supernet {bare_ckpt} --arch {arch}")
    assert list(tmp_path.iterdir()) == []


# -- what scripts rely on -------------------------------------------------------------------------
PREDICTED = ["top1", "latency_ms", "macs", "params", "weight_bytes", "peak_activation_bytes"]


def test_predict_has_the_promised_keys(run: Run) -> None:
    code, rows = run("predict --table {table} --arch {archs}")
    assert (code, len(rows)) == (0, 2)
    assert list(rows[0]) == ["arch", *PREDICTED[1:], "missing"]
    estimate = rows[0]["latency_ms"]
    assert list(estimate) == ["value", "low", "high"]
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert rows[0]["missing"] == []


@pytest.mark.parametrize("strategy", ["exact", "random --samples 30", "table"])
def test_select_has_the_promised_keys(run: Run, strategy: str) -> None:
    code, value = run(f"{SELECT} --budget 1s --strategy {strategy} --top 3")
    assert code == 0
    promised = {"arch", "predicted", "model", "proven_optimal", "bound", "seconds", "alternatives", "inputs"}
    assert promised <= value.keys()
    assert list(value["predicted"]) == PREDICTED
    assert value["proven_optimal"] == (not strategy.startswith("random"))
    assert len(value["alternatives"]) == 3
    assert set(value["inputs"]) == {"latency-table", "accuracy-table", "supernet"}


def test_a_named_table_that_was_cut_off_is_said_to_be(
    run: Run, files: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    """It can be read, as every unfinished one, and its predictions are less sure."""
    cut = {name: tmp_path / name for name in ("table", "accuracy")}
    for name, path in cut.items():
        path.write_bytes(files[name].read_bytes()[:-10])
    line = ["select", "--latency-table", str(cut["table"]), "--accuracy-table", str(cut["accuracy"]), "--budget", "1s"]
    assert main(line) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{cut['table']} is not finished, so predictions are less sure" in said
    assert f"{cut['accuracy']} is not finished; `ofa-edge evaluate --resume` goes on" in said


def test_select_takes_the_newest_tables_and_says_which(run: Run, files: dict[str, Path], capsys: Any) -> None:
    here = settings.home()
    for name, folder in (("table", here / "tables" / "board"), ("accuracy", here / "accuracy")):
        folder.mkdir(parents=True)
        (folder / "old.jsonl").write_bytes(files[name].read_bytes())
        (folder / "newest.jsonl").write_text("not a table\n")
    assert main(["select", "--supernet", str(files["ckpt"]), "--budget", "1s"]) == 0
    said = capsys.readouterr()
    assert f"note: latency table {here / 'tables' / 'board' / 'old.jsonl'}\n" in said.err
    assert f"note: accuracy table {here / 'accuracy' / 'old.jsonl'}\n" in said.err
    assert "proven" in said.out


def test_export_has_the_promised_keys(run: Run, tmp_path: Path) -> None:
    code, value = run("export --out {out} --supernet {ckpt} --arch {arch}")
    assert code == 0
    assert list(value)[:7] == ["file", "sha256", "bytes", "parity", "ops", "partitions", "bn"]
    assert list(value)[7:] == ["outside", "format", "precision", "activations", "arch", "accuracy", "notices"]
    assert value["parity"]["rel"] < 1e-4
    assert (value["bytes"], value["bn"]) == ((tmp_path / "out").stat().st_size, "bank")
    _, drawn = run("export --out {out} --random-weights 3 --space reduced --arch {arch}")
    assert drawn["sha256"] != value["sha256"]


# -- a device -------------------------------------------------------------------------------------
@pytest.fixture
def own_table(files: dict[str, Path]) -> Path:
    """A table in the home whose conditions are those of this machine."""
    with open_device("local") as session:
        facts = session.facts
    path = settings.tables_dir(facts.device_model) / "demo-20261121-120000.jsonl"
    write_latencies(path, simulated(noise=0.01, facts=facts))
    return path


def test_deploy_finds_this_devices_table_and_a_dry_run_shows_the_steps(
    run: Run, files: dict[str, Path], own_table: Path, capsys: Any, tmp_path: Path
) -> None:
    line = "deploy --host local --supernet {ckpt} --accuracy-table {accuracy} --budget 1s --dry-run --keep-bundle {out}"
    code, value = run(line)
    assert code == 0, value
    assert (value["state"], value["measured_ms"], value["budget_ms"]) == ("unchanged", None, 1000.0)
    assert 0 < value["predicted_ms"] < 1000
    assert 50 < value["top1"] < 100
    assert [step["step"] for step in value["steps"]][:2] == ["lock", "begin"]
    # The same bundle again, as a file and for people.
    assert main(["deploy", "--host", "local", "--bundle", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert value["release"] in said
    assert "would check latency: at most 1000 ms" in said
    assert main(["deploy", "--host", "local", "--bundle", str(tmp_path / "out"), "--app", "other"]) == 2
    assert "is a bundle of app reduced, not of other" in capsys.readouterr().err


def test_a_selection_whose_table_is_not_here_warns_and_goes_on(run: Run, files: dict[str, Path], capsys: Any) -> None:
    line = ["deploy", "--host", "local", "--supernet", files["ckpt"], "--selection", files["selection"], "--dry-run"]
    assert main([*map(str, line), "--json"]) == 0
    said = capsys.readouterr()
    assert "warning: local: the latency table of the selection is not in" in said.err
    assert "--table" in said.err
    assert json.loads(said.out)["budget_ms"] == 1000.0


def test_a_table_of_another_device_is_refused_unless_stale_is_accepted(run: Run, capsys: Any) -> None:
    line = "deploy --host local --supernet {ckpt} --accuracy-table {accuracy} --budget 1s --dry-run --table {table}"
    code, value = run(line)
    assert code == 9
    assert "device_model: 'Simulated Board' and" in value["error"]["message"]
    assert "ofa-edge profile" in value["error"]["hint"]
    code, value = run(line + " --accept-stale")
    assert (code, value["state"]) == (0, "unchanged")


def test_several_hosts_are_a_list_and_one_that_fails_is_exit_1(run: Run) -> None:
    code, value = run(f"deploy --host local --host {NOBODY} --supernet {{ckpt}} --selection {{selection}} --dry-run")
    assert code == 1
    assert [one["host"] for one in value] == ["local", NOBODY]
    assert value[0]["state"] == "unchanged"
    assert value[1]["error"]["code"] == 5


DEVICE_WRONG = [
    (
        "deploy --host local --supernet {ckpt} --accuracy-table {accuracy} --budget 1s",
        *(2, "no table in", "ofa-edge profile"),
    ),
    ("measure --host local --supernet {ckpt} --arch {arch} --table {table}", 9, "same conditions", "ofa-edge profile"),
    ("profile --host local --space reduced --out {table}", 2, "exists already", "--resume"),
    (
        "profile --host local --space reduced --quick --seed 1 --networks 8 --out {table} --resume",
        *(9, "same conditions", ""),
    ),
    ("rollback --host local", 1, "no release before the current one", "ofa-edge status"),
]


@pytest.mark.parametrize(("line", "code", "message", "hint"), DEVICE_WRONG, ids=[case[0] for case in DEVICE_WRONG])
def test_wrong_input_that_a_device_shows(run: Run, line: str, code: int, message: str, hint: str) -> None:
    test_wrong_input_is_named_and_says_what_to_type(run, line, code, message, hint)


def test_status_and_releases_of_a_device_without_any(run: Run) -> None:
    code, value = run("status --host local --app door")
    assert (code, value["app"], value["current"], value["previous"]) == (0, "door", None, None)
    assert {"mode", "releases", "journal"} <= value.keys()
    assert run("releases --host local --app door")[1]["releases"] == []


# -- the shipped supernet -------------------------------------------------------------------------
@pytest.mark.skipif(not embedded_path().exists(), reason="the embedded supernet is not in this tree")
def test_the_shipped_supernet_says_what_it_is(run: Run) -> None:
    code, value = run("supernet info")
    assert code == 0
    keys = ["space", "sha256", "labels", "data", "recipe", "licence", "source", "bn_bank"]
    assert list(value) == [*keys, "running_statistics", "definition", "arch"]
    assert value["running_statistics"] is value["arch"] is value["definition"] is None
    assert value["space"] == "ofa-lite0"


def test_a_selection_file_is_what_select_printed(run: Run, files: dict[str, Path]) -> None:
    _, value = run(f"{SELECT} --budget 1s")
    assert value | Selection.read(files["selection"]).as_json() == value
