"""deploy of what select chose: a family's member for the device, and the refusal of what changed since.

Tables and weights are drawn (tests/reduced.py); what is deployed is planned only, on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import journal, settings
from ofa_edge.cli import makers
from ofa_edge.cli.output import Output
from ofa_edge.device import open_device
from ofa_edge.errors import BadFile
from ofa_edge.latency.conditions import RunsOn, conditions
from ofa_edge.latency.table import FORMAT
from ofa_edge.search import families
from ofa_edge.search.families import Family
from ofa_edge.search.selection import Selection
from tests.latency.test_latency_table import HEADER, block
from tests.reduced import simulated, write_latencies
from tests.simulated import FACTS

Run = Callable[..., tuple[int, Any]]

SELECT = "select --accuracy-table {accuracy} --latency-table {table}"
DEPLOY = "deploy --host local --supernet {ckpt} --dry-run --selection"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """This machine's model, and a latency table of its conditions."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.HOME_VARIABLE, str(folder / "home"))
        with open_device("local") as session:
            facts = session.facts
    write_latencies(folder / "table", simulated(noise=0.01, facts=facts))
    return facts.device_model, (folder / "table").read_bytes()


@pytest.mark.parametrize("newest", ["int8", "uint8"])
def test_of_int8_tables_the_newest_is_taken_whatever_its_activations(newest: str) -> None:
    """And a named one as it is: no other type of activations is held against it."""
    for age, activations in enumerate(sorted(("int8", "uint8"), key=lambda name: name != newest)):
        at = conditions(FACTS, RunsOn(precision="int8", activations=activations)).model_dump(mode="json")
        path = settings.tables_dir(FACTS.device_model) / f"{activations}.jsonl"
        journal.write(path, FORMAT, HEADER | {"conditions": at}, [block()])
        os.utime(path, (1e9 - age, 1e9 - age))
    asked, out = RunsOn(precision="int8"), Output()
    found = makers._table(None, FACTS, asked, "ofa-lite0", out, accept_stale=False)
    assert found.conditions.activations == newest
    assert makers._table(found, FACTS, asked, "ofa-lite0", out, accept_stale=False) is found
    busy = replace(FACTS, governor="powersave")
    with pytest.raises(BadFile, match="governor") as refused:
        makers._table(found, busy, asked, "ofa-lite0", out, accept_stale=False)
    assert "activations" not in refused.value.message


@pytest.fixture
def here(own: tuple[str, bytes]) -> Path:
    """That table in the home."""
    model, content = own
    path = settings.tables_dir(model) / "here.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_device_gets_the_member_of_its_conditions(run_boards: Run, here: Path, tmp_path: Path) -> None:
    tables = f"--accuracy-table {{accuracy}} --latency-table {{table}} --latency-table {here}"
    assert run_boards(f"select {tables} --mode full:1s --mode low:latency=1s,macs=2M --out {{out}}")[0] == 0
    found = families.read(tmp_path / "out")
    assert isinstance(found, Family)
    for mode, number in (("full", 1), ("low", 3)):
        code, value = run_boards(f"{DEPLOY} {{out}} --mode {mode}")
        assert code == 0, value
        assert value["predicted_ms"] == found.members[number].selection.latency_ms.value
    code, value = run_boards(f"{DEPLOY} {{out}}")
    assert code == 0, value
    assert [(mode["name"], mode["predicted_ms"]) for mode in value["modes"]] == [
        (found.members[number].mode, found.members[number].selection.latency_ms.value) for number in (1, 3)
    ]
    assert run_boards(f"{DEPLOY} {{out}} --mode high")[1]["error"]["hint"] == "it has: full, low"
    # The member of a table that is named, wherever it is deployed.
    code, value = run_boards(f"{DEPLOY} {{out}} --mode low --table {{table}}")
    assert code == 9
    assert "device_model: 'Simulated Board' and" in value["error"]["message"]


def test_a_member_is_held_against_its_conditions_without_its_table(
    run_boards: Run, here: Path, capsys: Any, tmp_path: Path
) -> None:
    assert (
        run_boards(f"select --accuracy-table {{accuracy}} --latency-table {here} --mode only:1s --out {{out}}")[0] == 0
    )
    here.unlink()
    capsys.readouterr()
    code, _ = run_boards(f"{DEPLOY} {{out}} --mode only")
    assert code == 0
    assert run_boards(SELECT + " --mode only:1s --out {out}")[0] == 0
    code, value = run_boards(f"{DEPLOY} {{out}} --mode only")
    assert code == 9
    assert "device_model: 'Simulated Board' and" in value["error"]["message"]


def test_one_selection_has_no_modes(run_boards: Run) -> None:
    assert run_boards(SELECT + " --budget 1s --out {out}")[0] == 0
    code, value = run_boards(f"{DEPLOY} {{out}} --mode full")
    assert code == 2
    assert "is one selection and has no modes" in value["error"]["message"]


def grown(path: Path) -> None:
    """The table as an interrupted campaign left it: the same one, with fewer rows."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))


def test_a_selection_whose_latency_table_changed_is_refused(run_boards: Run, here: Path) -> None:
    assert run_boards(f"select --accuracy-table {{accuracy}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run_boards(f"{DEPLOY} {{out}}")[0] == 0
    kept = here.with_name("kept.jsonl")
    kept.write_bytes(here.read_bytes())
    grown(here)
    assert run_boards(f"{DEPLOY} {{out}}")[0] == 0, "the table it was made with is still there"
    kept.rename(kept.with_suffix(".copy"))
    code, value = run_boards(f"{DEPLOY} {{out}}")
    assert code == 9
    assert f"{here} changed since the selection was made" in value["error"]["message"]
    assert "--table" in value["error"]["hint"]
    assert run_boards(f"{DEPLOY} {{out}} --table {kept.with_suffix('.copy')}")[0] == 0


def test_a_selection_whose_accuracies_changed_is_refused(run_boards: Run, here: Path, boards: dict[str, Path]) -> None:
    own = settings.home() / "accuracy" / "own.jsonl"
    own.parent.mkdir(parents=True)
    own.write_bytes(boards["accuracy"].read_bytes())
    assert run_boards(f"select --supernet {{ckpt}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run_boards(f"{DEPLOY} {{out}}")[0] == 0
    grown(own)
    code, value = run_boards(f"{DEPLOY} {{out}}")
    assert code == 9
    assert f"{own} changed since the selection was made" in value["error"]["message"]
    assert "--accuracy-table" in value["error"]["hint"]
    assert run_boards(f"{DEPLOY} {{out}} --accuracy-table {{accuracy}}")[0] == 0
    code, value = run_boards(f"{DEPLOY} {{out}} --accuracy-table {{more}}")
    assert code == 9
    assert "is another accuracy table" in value["error"]["message"]


def test_a_selection_whose_predictor_changed_is_refused(run_boards: Run, here: Path) -> None:
    assert run_boards(f"select --predictor {{additive}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    assert run_boards(f"{DEPLOY} {{out}} --predictor {{additive}}")[0] == 0
    code, value = run_boards(f"{DEPLOY} {{out}} --predictor {{pairwise}}")
    assert code == 9
    assert "is another predictor" in value["error"]["message"]
    assert run_boards(f"select --accuracy-table {{accuracy}} --latency-table {here} --budget 1s --out {{out}}")[0] == 0
    code, value = run_boards(f"{DEPLOY} {{out}} --predictor {{pairwise}}")
    assert code == 9
    assert "without a predictor" in value["error"]["message"]
    assert value["error"]["hint"] == "leave --predictor out"


def test_a_selection_remembers_its_tables_headers(run_boards: Run, tmp_path: Path) -> None:
    assert run_boards(SELECT + " --budget 1s --out {out}")[0] == 0
    assert set(Selection.read(tmp_path / "out").headers) == {"latency-table", "accuracy-table"}
