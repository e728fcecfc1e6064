"""A space of one's own, from a TOML file: tables and selections say what it is, so later commands need no file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli import app
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import get_space
from tests import reduced

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "one-unit-32px.toml"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Latencies (simulated) and accuracies (drawn) of the example."""
    folder = tmp_path_factory.mktemp("tables")
    space = get_space(str(EXAMPLE))
    return write_latencies(folder / "latency.jsonl", space), write_accuracies(folder / "accuracy.jsonl", space)


def write_latencies(path: Path, space: Space) -> Path:
    task = replace(reduced.TASK, space=space, resolutions=space.resolutions)
    reduced.write_latencies(path, reduced.simulated(task, noise=0.01), task)
    return path


def write_accuracies(path: Path, space: Space) -> Path:
    reduced.write_accuracies(path, "a" * 64, space=space)
    return path


def run(capsys: Any, *arguments: object) -> tuple[int, Any]:
    code = app.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_it_is_selected_from_without_its_file(tables: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    latency, accuracy = tables
    chosen = tmp_path / "selection.json"
    code, value = run(
        capsys, "select", "--budget", "1s", "--latency-table", latency, "--accuracy-table", accuracy, "--out", chosen
    )
    assert code == 0, value
    assert value["arch"]["r"] == 32
    assert json.loads(chosen.read_text())["definition"]["name"] == "one-unit-32px"


def test_two_spaces_of_one_name_are_told_apart(tables: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    space = get_space(str(EXAMPLE))
    other = replace(space, stages=(replace(space.stages[0], se=True),))
    accuracy = write_accuracies(tmp_path / "other.jsonl", other)
    code, value = run(capsys, "select", "--budget", "1s", "--latency-table", tables[0], "--accuracy-table", accuracy)
    assert code == 2
    assert "two different spaces called one-unit-32px" in value["error"]["message"]


def test_random_weights_of_it_are_exported(tmp_path: Path, capsys: Any) -> None:
    arch = tmp_path / "arch.json"
    arch.write_text('{"r": 32, "d": [2], "ks": [7, 5, 5], "e": [4, 2, 2]}')
    model = tmp_path / "model.onnx"
    code, value = run(
        capsys, "export", "--space", EXAMPLE, "--random-weights", 0, "--arch", arch, "--out", model, "--format", "onnx"
    )
    assert code == 0, value
    assert model.stat().st_size > 1000


def test_a_mistake_in_it_is_named(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(EXAMPLE.read_text().replace("kernels = [5, 7]", "kernels = [5, 6]"))
    code, value = run(capsys, "profile", "--host", "local", "--space", path)
    assert code == 9
    assert value["error"]["message"] == f"{path}: stages[0].kernels[1]: a kernel has an odd side"
