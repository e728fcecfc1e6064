"""What tests of commands on several devices share: two simulated boards and all that a selection comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies, write_supernet

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def reduced_space() -> Iterator[None]:
    """The commands know the space `reduced`."""
    with registered():
        yield


@pytest.fixture(scope="module")
def boards(reduced_space: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what they are: latency tables of two boards, accuracy tables, predictors, a checkpoint."""
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
def run_boards(boards: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    """Run a command line with --json: its exit code and the one value on stdout. {name} stands for a file."""
    monkeypatch.chdir(tmp_path)
    places = {name: str(path) for name, path in boards.items()}

    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        words = [word.format(**places, out=tmp_path / "out") for word in line.split()]
        return main([*words, "--json"]), json.loads(capsys.readouterr().out)

    return runs
