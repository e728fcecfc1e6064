"""Profiling from the command line, on a simulated board: where tables go, what an interrupted campaign leaves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ofa_edge import settings
from ofa_edge.cli import profiling
from ofa_edge.cli.output import Output
from ofa_edge.errors import DeviceLost
from ofa_edge.latency import plan
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.table import LatencyTable
from tests.reduced import TASK, registered, simulated, write_latencies
from tests.simulated import FACTS


@pytest.fixture(autouse=True)
def _space() -> Iterator[None]:
    with registered():
        yield


def talk() -> tuple[Output, io.StringIO]:
    stream = io.StringIO()
    return Output(stdout=io.StringIO(), stderr=stream), stream


def test_profile_has_the_promised_keys_and_words(tmp_path: Path) -> None:
    out, said = talk()
    outcome = profiling.measure_table(out, simulated(noise=0.01), tmp_path / "t.jsonl", TASK, go_on="resume")
    value = outcome.as_json()
    promised = {"table", "conditions", "blocks", "networks", "seconds", "bytes_pushed", "fit", "verdict", "notices"}
    assert promised <= value.keys()
    assert list(value["blocks"]) == ["distinct", "measured", "predicted", "failed"]
    assert {"terms", "loo_error_pct"} <= value["fit"].keys()
    text = profiling.describe(outcome)
    assert f"table      {tmp_path / 't.jsonl'}" in text
    assert f"{value['blocks']['measured']} of {value['blocks']['distinct']} measured, 0 failed" in text
    assert "profile: 0/" in said.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceLost("the link was cut")])
def test_an_interrupted_campaign_says_where_its_table_is_and_it_can_be_resumed(
    error: type[BaseException] | BaseException, tmp_path: Path
) -> None:
    def stop(key: str, before: int) -> tuple[str, ...]:
        if len(device.asked) == 9:
            raise error
        return ()

    out, said = talk()
    path = tmp_path / "t.jsonl"
    device = simulated(flags=stop)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        profiling.measure_table(out, device, path, TASK, go_on="type this")
    assert f"kept in {path}; to go on: type this" in said.getvalue()
    kept = LatencyTable.read(path)
    assert (len(kept.blocks), kept.complete) == (7, False)
    again = profiling.measure_table(out, simulated(), path, TASK, go_on="type this", resume=True)
    assert again.finished


def test_a_wait_for_a_disturbed_device_is_said_so_that_nobody_takes_it_for_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "QUICK", replace(plan.QUICK, patience=0.2))
    out, said = talk()
    device = simulated(flags=lambda key, before: ("steal",))
    profiling.measure_table(out, device, tmp_path / "t.jsonl", TASK, go_on="resume")
    assert "waiting until it is quiet" in said.getvalue()
    quiet, nothing = talk()
    profiling.measure_table(quiet, simulated(), tmp_path / "u.jsonl", TASK, go_on="resume")
    assert "waiting" not in nothing.getvalue()


def test_a_table_nobody_named_never_takes_the_place_of_another(tmp_path: Path) -> None:
    first = profiling.table_path(FACTS, TASK)
    assert first == settings.tables_dir("Simulated Board") / "reduced-onnxruntime-t1-quick.jsonl"
    assert profiling.table_path(FACTS, TASK, resume=True) == first
    write_latencies(first)
    second = profiling.table_path(FACTS, TASK)
    assert second.parent == first.parent
    assert second.name.startswith("reduced-onnxruntime-t1-quick-2")
    assert not second.exists()


def test_resume_takes_the_newest_table_of_its_kind_that_was_not_finished() -> None:
    first = profiling.table_path(FACTS, TASK)
    write_latencies(first)
    assert profiling.table_path(FACTS, TASK, resume=True) == first
    finished = first.read_bytes()
    begun = b"".join(finished.splitlines(keepends=True)[:-1])
    stem = "reduced-onnxruntime-t1"
    for age, (name, content) in enumerate(
        [
            (f"{stem}-quick-20261121-130000", finished),
            (f"{stem}-quick-20261121-120000", begun),
            (f"{stem}-quick-20261121-110000", begun),
            (f"{stem}-20261121-140000", begun),
            (f"{stem}2-quick", begun),
        ]
    ):
        path = first.with_name(f"{name}.jsonl")
        path.write_bytes(content)
        os.utime(path, (2e9 - age, 2e9 - age))
    assert profiling.table_path(FACTS, TASK, resume=True).stem == f"{stem}-quick-20261121-120000"
    threads = replace(TASK, runs_on=RunsOn(threads=8))
    assert profiling.table_path(FACTS, threads, resume=True).stem == "reduced-onnxruntime-t8-quick"
