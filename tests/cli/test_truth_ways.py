"""The truth step over several ways to run: int8 is compiled, calibrated and evaluated as it is deployed, and decides.

The space is small and its weights are drawn; the runtimes, their quantisers and the agent here are the real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import settings
from ofa_edge.accuracy import compiled
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli import truth, truth_ways, ways
from ofa_edge.cli.app import main
from ofa_edge.cli.choosing import How
from ofa_edge.cli.inputs import Models
from ofa_edge.device import open_device
from ofa_edge.errors import UsageError
from ofa_edge.graph import build, compiling
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Arch
from ofa_edge.train import images as train_images
from ofa_edge.weights import checkpoint
from tests.cli.test_truth import asked, heard
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies
from tests.report.materials import renamed

pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

LITE = {"runtime": "litert", "runtime_version": "ai-edge-litert 0", "delegate": "xnnpack"}


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def models(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Of tables whose latencies are of this machine, if one believes their conditions."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.HOME_VARIABLE, str(folder / "home"))
        with open_device("local") as session:
            facts = session.facts
    write_latencies(folder / "latency.jsonl", simulated(noise=0.01, facts=facts))
    write_accuracies(folder / "accuracy.jsonl", checkpoint.load(ckpt).sha256)
    return Models(LatencyTable.read(folder / "latency.jsonl"), AccuracyTable.read(folder / "accuracy.jsonl"))


@pytest.fixture(scope="module")
def tables(models: Models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of this machine's, as if measured: ORT, and the same times with LiteRT, with int8 and with either activations."""
    folder = tmp_path_factory.mktemp("ways")
    source = Path(models.latency_table.path)
    shutil.copy(source, folder / "ort")
    renamed(source, folder / "lite", **LITE)
    renamed(source, folder / "lite8", precision="int8", **LITE)
    renamed(source, folder / "ort8", precision="int8")
    renamed(source, folder / "ort8s", precision="int8", activations="int8")
    with open_device("local") as session:
        version = session.facts.runtimes["litert"]
    renamed(source, folder / "here", **LITE | {"runtime_version": version})
    return {path.name: path for path in folder.iterdir()}


def device_of(models: Models, tables: dict[str, Path], *names: str, drop: float | None = None) -> ways.Device:
    each = [models.of(LatencyTable.read(tables[name])) for name in names]
    (device,) = ways.devices_of(each, drop, measured=drop is None, out=heard()[0])
    return device


def checked(device: ways.Device, what: truth.Asked, budget: str = "1s") -> tuple[Chosen, Chosen, str]:
    """What was chosen by prediction, what by measuring, and what was said."""
    how = How(top=5)
    found = ways.each_way(device, Budget.parse(budget), how)
    chosen = ways.choose(found, how)
    out, said = heard()
    return chosen, truth_ways.check(device, found, chosen, what, out), said.getvalue()


def predictions(ckpt: Path, data: Path, arch: Arch, runs_on: RunsOn) -> np.ndarray:
    """Which val images a file gets right, the long way round."""
    found = checkpoint.load(ckpt)
    val = train_images.load_images(data, "val")
    splits = train_images.split_training(train_images.load_images(data, "train"), 20)
    order = np.random.default_rng(0).permutation(len(splits.train))[: compiling.CALIBRATION_IMAGES]
    views = train_images.centre_crops(splits.train.subset(order), arch.resolution, REDUCED.preprocess)
    graph = build.network(REDUCED.layers(arch), found.folded(arch, found.statistics_of(arch, "bank")))
    model = compiling.write(
        graph,
        runs_on.runtime,
        runs_on.precision,
        calibration=compiled.inputs(views, REDUCED.preprocess),
        activations=runs_on.activations,
    )
    pixels = train_images.centre_crops(val, arch.resolution, REDUCED.preprocess)
    return compiled.predictions(model, pixels, REDUCED.preprocess) == val.labels


# -- images ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ort8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lite8", "ort8s"))])
def test_an_int8_subnet_is_judged_by_the_file_that_is_deployed(
    models: Models,
    ckpt: Path,
    data: Path,
    tables: dict[str, Path],
    name: str,
    tmp_path: Path,
) -> None:
    device = device_of(models, tables, name)
    what = asked(data=data, supernet=str(ckpt), bn="bank", kept=tmp_path / "kept")
    _, found, said = checked(device, what)
    selection = found.selection
    runs_on = selection.runs_on
    assert runs_on is not None
    assert runs_on.precision == "int8"
    assert selection.measured is not None
    assert selection.measured.top1 is not None
    for one, measured in [(selection.arch, selection.measured.top1.value)]:
        assert predictions(ckpt, data, one, runs_on).mean() == pytest.approx(measured, abs=1e-8)
    rows = [json.loads(line) for line in (tmp_path / "kept").read_text().splitlines()]
    under = {row["key"]: row["what"] for row in rows if row["record"] == "under"}
    assert {one.get("runs", {}).get("activations") for one in under.values()} == {None, runs_on.activations}
    assert f"{runs_on.kind} loses" in said
    assert f"{runs_on.kind} loses" in selection.model
    assert "int8 files run by" in selection.model or "top-1 on" in selection.model
    assert not selection.proven_optimal


@pytest.mark.slow
def test_float_and_int8_are_judged_on_the_same_images_and_the_better_is_taken(
    models: Models,
    ckpt: Path,
    data: Path,
    tables: dict[str, Path],
    tmp_path: Path,
) -> None:
    device = device_of(models, tables, "ort", "lite", "lite8", "ort8")
    what = asked(data=data, supernet=str(ckpt), bn="bank", kept=tmp_path / "kept")
    _, found, said = checked(device, what)
    selection = found.selection
    assert selection.runs_on is not None
    expected = [one.measured.corrected_top1 for one in [selection] if one.measured]
    assert expected[0] is not None
    archs = {(one.arch, one.runs_on) for one in found.alternatives}
    precisions = {runs_on.precision for _, runs_on in archs if runs_on} | {selection.runs_on.precision}
    assert precisions == {"fp32", "int8"}
    assert len(found.alternatives) == 3 * 3 - 1  # float's two runtimes are one group
    table = tables[
        {"litert": "lite", "onnxruntime": "ort"}[selection.runs_on.runtime]
        + ("8" if selection.runs_on.precision == "int8" else "")
    ]
    assert selection.inputs["latency-table"] == LatencyTable.read(table).sha256
    assert {"latency-table-2", "latency-table-3", "latency-table-4"} <= selection.inputs.keys()
    assert "litert, int8 loses" in said
    assert "onnxruntime, int8 loses" in said
    assert Selection.from_bytes(selection.to_bytes(), "it", REDUCED) == selection
    # Again, nothing is measured and the same is chosen.
    lines = (tmp_path / "kept").read_text()
    assert checked(device, what)[1].selection.to_bytes() == selection.to_bytes()
    assert (tmp_path / "kept").read_text() == lines


def test_two_float_runtimes_are_one_shortlist_evaluated_once(
    models: Models,
    ckpt: Path,
    data: Path,
    tables: dict[str, Path],
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept"
    device = device_of(models, tables, "ort", "lite")
    chosen, found, _ = checked(device, asked(data=data, supernet=str(ckpt), bn="bank", kept=kept))
    assert kept.read_text().count('"record":"right"') == 3
    assert len(found.alternatives) == 2
    assert found.selection.proven_optimal == (found.selection.arch == chosen.selection.arch)


def test_training_images_are_needed_and_missed_before_anything_is_measured(
    models: Models,
    ckpt: Path,
    data: Path,
    tables: dict[str, Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val").symlink_to(data / "val")
    device = device_of(models, tables, "ort", "lite8")
    what = asked(
        data=tmp_path / "data", supernet=str(ckpt), bn="bank", kept=tmp_path / "kept", host="nobody@127.0.0.1:1"
    )
    with pytest.raises(UsageError, match="train") as caught:
        checked(device, what)
    assert caught.value.hint
    assert not (tmp_path / "kept").exists()


# -- the device -----------------------------------------------------------------------------------
def test_each_way_is_timed_its_own_way(
    models: Models,
    ckpt: Path,
    tables: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(settings.HOME_VARIABLE, str(tmp_path / "home"))
    device = device_of(models, tables, "ort", "here")
    kept = tmp_path / "kept"
    what = replace(asked(host="local", kept=kept), top=2, processes=1)
    _, found, said = checked(device, what)
    selection = found.selection
    assert selection.measured is not None
    assert selection.measured.latency_ms is not None
    assert selection.runs_on is not None
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    conditions = [row["what"]["conditions"] for row in rows if row["record"] == "under"]
    assert {one["runtime"] for one in conditions} <= {"onnxruntime", "litert"}
    assert "subnets run by" in said
    table = {"onnxruntime": "ort", "litert": "here"}[selection.runs_on.runtime]
    assert selection.inputs["latency-table"] == LatencyTable.read(tables[table]).sha256


# -- the command ----------------------------------------------------------------------------------
def test_select_measures_what_int8_loses_where_it_is_given_images(
    models: Models,
    ckpt: Path,
    data: Path,
    tables: dict[str, Path],
    tmp_path: Path,
    capsys: Any,
) -> None:
    accuracy = Path(models.latency_table.path).with_name("accuracy.jsonl")
    line = ["select", "--latency-table", tables["ort"], "--latency-table", tables["lite8"], "--budget", "1s"]
    line += ["--accuracy-table", accuracy, "--supernet", ckpt, "--data", data, "--bn", "bank", "--top", "2"]
    assert main([*map(str, line), "--out", str(tmp_path / "s.json"), "--json"]) == 0
    said = capsys.readouterr()
    value = json.loads(said.out)
    assert "is left out" not in said.err
    assert "litert, int8 loses" in said.err
    assert value["runs"]["precision"] in ("fp32", "int8")
    assert all("runs" in one for one in value["alternatives"])
    assert Selection.read(tmp_path / "s.json", REDUCED).as_json()["runs"] == value["runs"]
