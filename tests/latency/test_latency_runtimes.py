"""Every runtime and precision through a real agent on this machine: a small table, a network measured with it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.cli.app import main
from ofa_edge.device.local import LocalLink
from ofa_edge.device.opening import open_session
from ofa_edge.errors import UsageError
from ofa_edge.graph import build, onnx, tflite
from ofa_edge.latency import plan, workload
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import PlanSettings, RunsOn, conditions
from ofa_edge.weights.random import random_arrays
from tests.reduced import registered
from tests.search.doubles import REDUCED
from tests.simulated import FACTS

ARCH = REDUCED.smallest(32)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_table_of_int8_blocks_on_litert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "QUICK", replace(plan.QUICK, block_seconds=0.05, patience=0.0))
    runs_on = RunsOn("litert", precision="int8")
    work = campaign.Task(REDUCED, (32,), runs_on, PlanSettings(seed=0, quick=True, networks=0))
    with open_session(LocalLink(root=str(tmp_path / "device"))) as session:
        outcome = campaign.run(session, tmp_path / "t.jsonl", work)
        files = {b.weights_key: partial(workload.block_file, b, runs_on) for b in REDUCED.distinct_blocks((32,))}
        assert workload.upload(session, files)[1] == 0  # a second run pushes nothing
    assert outcome.finished
    assert outcome.bytes_pushed > 0
    found = outcome.table.conditions
    assert (found.runtime, found.precision, found.delegate) == ("litert", "int8", "xnnpack")
    assert found.runtime_version.startswith("ai-edge-litert ")
    assert outcome.table.failed.empty
    assert len(outcome.table.blocks) == outcome.distinct


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("runtime", "precision"), [("litert", "fp32"), ("litert", "int8"), ("onnxruntime", "int8")])
def test_blocks_and_networks_of_any_runtime_and_precision_run(runtime: str, precision: str, tmp_path: Path) -> None:
    runs_on = RunsOn(runtime, precision=precision)
    kinds = {block.type: block for block in REDUCED.distinct_blocks(REDUCED.resolutions)}
    with open_session(LocalLink(root=str(tmp_path / "device"))) as session:
        files = {block.key: partial(workload.block_file, block, runs_on) for block in kinds.values()}
        files["network"] = workload.network_source(REDUCED, ARCH, runs_on).make
        hashes, _ = workload.upload(session, files)

        def job(key: str, shape: dict[str, int], **more: Any) -> wire.MeasureJob:
            return wire.MeasureJob(key, hashes[key], shape, runtime, max_seconds=0.05, **more)

        jobs = [job(block.key, workload.block_shape(block)) for block in kinds.values()]
        results = [
            *session.measure(jobs, fresh=False),
            *session.measure([job("network", {}, anchor=hashes["network"])], fresh=True),
        ]
    assert [result for result in results if isinstance(result, wire.Failed)] == []
    network = results[-1]
    assert isinstance(network, wire.Measured)
    assert network.ratio is not None
    assert (network.peak_bytes or 0) > 0 or not sys.platform.startswith("linux")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_tflite_file_is_measured_by_the_runtime_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = REDUCED.layers(ARCH)
    graph = build.network(layers, random_arrays(layers, 0))
    files = {"net.tflite": tflite.to_bytes(graph), "net.onnx": onnx.to_bytes(graph)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with registered():
        command = ["measure", "--host", "local", "--space", REDUCED.name, "--processes", "1", "--json", "--model"]
        assert main([*command, str(tmp_path / "net.tflite")]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["failed"] is None
        assert row["latency_ms"]["median"] > 0
        assert main([*command, str(tmp_path / "net.tflite"), "--runtime", "onnxruntime"]) == 2
        assert "--runtime litert" in capsys.readouterr().out
        assert main([*command, str(tmp_path / "net.onnx"), "--runtime", "litert"]) == 2
        assert "--runtime onnxruntime" in capsys.readouterr().out


def test_a_device_without_the_runtime_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match="no runtime 'litert'") as caught:
        conditions(FACTS, RunsOn("litert"))
    assert "pip install 'ofa-edge[litert]'" in caught.value.hint
    assert "devices setup" in caught.value.hint


def test_an_unknown_precision_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--host", "local", "--precision", "int4", "--json"]) == 2
    assert "fp32 or int8" in capsys.readouterr().out
