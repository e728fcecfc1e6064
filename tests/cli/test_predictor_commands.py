"""predictor and table as commands: what they print, for programs and for people, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge import shipped
from ofa_edge.accuracy import mlp_training
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from ofa_edge.space import codecs
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES

TABLE = shipped.tables() / "accuracy" / "ofa-lite0-imagenette.jsonl"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_fit_prints_what_it_reaches_and_predict_uses_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, archs = tmp_path / "predictor.safetensors", [OFA_LITE0.largest(r) for r in (96, 112, 160)]
    code, fitted = run(capsys, "predictor", "fit", TABLE, "--out", file)
    assert code == 0
    assert {key: fitted[key] for key in ("kind", "rows", "subnets", "file")} == {
        "kind": "additive",
        "rows": 900,
        "subnets": 300,
        "file": str(file),
    }
    assert fitted["cv"]["folds"] == 5
    assert 0.3 < fitted["cv"]["rmse_points"] < 0.8
    assert 0.9 < fitted["cv"]["spearman"] < 1
    (tmp_path / "archs.json").write_text(json.dumps([codecs.encode(OFA_LITE0, arch) for arch in archs]))
    code, said = run(capsys, "predictor", "predict", file, "--arch", tmp_path / "archs.json")
    assert code == 0
    assert said["table"] == AccuracyTable.read(TABLE).sha256
    assert "predicted" in said["prediction"]
    assert [one["interpolated"] for one in said["subnets"]] == [False, True, False]
    values = [one["top1"]["value"] for one in said["subnets"]]
    assert values == sorted(values)
    assert all(one["top1"]["low"] < one["top1"]["value"] < one["top1"]["high"] for one in said["subnets"])
    assert main(["predictor", "predict", str(file), "--arch", str(tmp_path / "archs.json")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("predicted, on imagenette, heldout, 1000 images: ")
    assert text.count("between measured input sizes") == 1


@pytest.mark.slow
def test_compare_prints_every_kind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp_training, "STEPS", 10)
    monkeypatch.setattr("ofa_edge.accuracy.pairwise.MAX_ROWS", 899)
    code, found = run(capsys, "predictor", "compare", TABLE)
    assert code == 0
    assert [one["kind"] for one in found] == ["additive", "mlp"], "a kind that this table is too large for is left out"
    assert all(set(one["cv"]) == {"folds", "rmse_points", "spearman"} for one in found)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("predictor fit {table} --kind forest", 2, "there is no predictor 'forest'"),
        ("predictor fit no.jsonl", 2, "cannot read no.jsonl"),
        ("predictor compare no.jsonl", 2, "cannot read no.jsonl"),
        ("predictor fit {table} --space ofa-mbv3-w1.0", 9, "is a table of space ofa-lite0"),
        ("predictor predict {table} --arch x", 9, "is not a predictor"),
        ("table import a.csv --space ofa-mbv3-w1.0 --out {out} --format xml", 2, "there is no format 'xml'"),
        ("table import a.csv --space no-such --out {out}", 2, "no-such"),
    ],
)
def test_wrong_input_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    words = line.format(table=TABLE, out=tmp_path / "x").split()
    found, answer = run(capsys, *words)
    assert found == code
    assert said in answer["error"]["message"]
    assert answer["error"]["hint"]


def test_import_makes_a_table_that_says_where_it_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = SPACES["ofa-mbv3-w1.0"]
    arch = space.sample(np.random.default_rng(0), 224)
    rows = [f'"{codecs.encode(space, arch)}",{cost(space.blocks(arch)).macs},{top1}' for top1 in ("75.4", "75.5")]
    file, out = tmp_path / "a.csv", tmp_path / "table.jsonl"
    file.write_text("\n".join(["Sub-network,MACs,Top-1 Acc (%)", *rows]))
    code, value = run(capsys, "table", "import", file, "--space", space.name, "--n", "10000", "--out", out)
    assert code == 0
    assert (value["rows"], value["subnets"], value["table"]) == (2, 1, str(out))
    assert value["spread_points"] == pytest.approx(0.1)
    table = AccuracyTable.read(out)
    assert table.header.data == "imported from a.csv, 10000 images"
    assert list(table.frame["correct"]) == [7545]
