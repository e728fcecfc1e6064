"""`profile --predictor network` and `--prior`: what is refused, what is planned, and one way through a real agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ofa_edge.cli import app, profiling
from ofa_edge.latency import plan
from ofa_edge.latency.table import LatencyTable
from tests.latency.helpers import row_problems
from tests.reduced import TASK, registered, write_latencies
from tests.simulated import FACTS


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict]:
    code = app.main([*map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    with registered():
        write_latencies(tmp_path / "prior.jsonl")
    return tmp_path / "prior.jsonl"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--predictor", "trees"], "there is no predictor 'trees'", "blocks, network"),
        (["--predictor", "network", "--quick"], "--predictor network measures none", "leave --quick out"),
        (["--predictor", "network", "--networks", "3"], "3 networks are too few", "--networks 4 or more"),
        (["--prior", "PRIOR", "--predictor", "blocks"], "--prior measures whole networks", "leave --predictor out"),
        (["--prior", "PRIOR", "--quick"], "--prior measures none", "leave --quick out"),
        (["--prior", "PRIOR", "--networks", "1"], "1 networks are too few", "--networks 2 or more"),
        (["--prior", "PRIOR", "--space", "ofa-lite0"], "is of space reduced, not of ofa-lite0", "--space reduced"),
        (["--prior", "nowhere.jsonl"], "cannot read nowhere.jsonl", "path"),
    ],
)
def test_options_that_contradict_each_other_say_what_to_type(
    options: list[str], message: str, hint: str, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a device is looked for: there is none of this name."""
    with registered():
        given = [str(prior) if option == "PRIOR" else option for option in options]
        code, value = run(capsys, "profile", "--host", "nobody.invalid", *given)
    assert code == 2
    assert message in value["error"]["message"]
    assert hint in value["error"]["hint"]


def test_a_resolution_that_the_prior_lacks_is_refused(prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = LatencyTable.read(prior)
    with registered(replace(TASK.space, name="larger", resolutions=(32, 48, 64))):
        asked = ["--prior", prior, "--resolutions", "64"]
        code, value = run(capsys, "profile", "--host", "nobody.invalid", *asked)
    assert code == 2
    assert "64" in value["error"]["message"]
    assert table.header.resolutions == [32, 48]


def test_the_number_of_networks_depends_on_what_they_are_for(prior: Path) -> None:
    with registered():
        table = LatencyTable.read(prior)
        counts = {
            kind: profiling.settings_of(kind, None, None, seed=0, quick=False, holdout=0).networks
            for kind in ("blocks", "network")
        }
        assert counts == {"blocks": 12, "network": 60}
        assert profiling.settings_of("blocks", 0, None, seed=0, quick=False, holdout=0).networks == 0
        settings = profiling.settings_of("blocks", None, table, seed=0, quick=False, holdout=0)
        assert (settings.predictor, settings.prior) == ("network", table.sha256)
        task = replace(TASK, settings=settings)
        second = replace(FACTS, serial="0002")
        other = replace(FACTS, device_model="Other Board")
        assert profiling.started_from(table, task, second).settings.networks == 4
        assert profiling.started_from(table, task, other).settings.networks == 10
        assert profiling.started_from(table, task, other, 7).settings.networks == 7


def test_tables_of_networks_and_of_priors_have_names_of_their_own(prior: Path) -> None:
    with registered():
        table = LatencyTable.read(prior)
        for given, name in ((None, "reduced-onnxruntime-t1-network"), (table, "reduced-onnxruntime-t1-prior")):
            settings = profiling.settings_of("network", None, given, seed=0, quick=False, holdout=0)
            assert profiling.table_path(FACTS, replace(TASK, settings=settings)).stem == name


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_network_table_a_prediction_from_it_and_a_table_started_from_it_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What comes, not how exact.
    monkeypatch.setattr(plan, "FULL", replace(plan.FULL, network_seconds=0.3, network_tries=0, patience=0.0))
    first, second, archs = tmp_path / "t.jsonl", tmp_path / "u.jsonl", tmp_path / "a.json"
    with registered():
        given = ["--host", "local", "--root", tmp_path / "home"]
        code, value = run(
            capsys, "profile", *given, "--space", "reduced", "--resolutions", "32", "--predictor", "network",
            "--networks", "4", "--out", first,
        )  # fmt: skip
        assert code == 0
        assert value["blocks"]["measured"] == 0
        assert value["networks"] == 4
        assert value["fit"]["loo_error_pct"] is not None
        arch = LatencyTable.read(first).networks["arch"].iloc[0]
        archs.write_text(json.dumps(arch))
        code, (row,) = run(capsys, "predict", "--table", first, "--arch", archs)  # type: ignore[misc]
        assert code == 0
        assert row["missing"] == []
        assert 0 <= row["latency_ms"]["low"] < row["latency_ms"]["value"] < row["latency_ms"]["high"]
        code, value = run(capsys, "profile", *given, "--prior", first, "--networks", "2", "--out", second)
        assert code == 0
        assert value["networks"] == 2
        assert value["fit"]["terms"] == ["unit"]
        assert any(notice["code"].startswith("unit-") for notice in value["notices"])
        assert {problem.code for problem in row_problems(LatencyTable.read(second))} <= {"disturbed"}
