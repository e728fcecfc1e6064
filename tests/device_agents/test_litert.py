"""LiteRT on this machine: what the agent's model takes and gives, which library it chose, memory that a model needs."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import memory, timing, wire
from device_agents.root import Root
from device_agents.runtimes import golden, litert_cpu
from device_agents.worker import Worker
from ofa_edge.graph import build, onnx, reference, tflite
from ofa_edge.graph.flatbuffer import File
from ofa_edge.graph.ir import Graph
from ofa_edge.space.block import Block, Layer
from ofa_edge.weights.random import random_arrays

BLOCK = Block("expanded_conv", 8, 12, 16, mid_channels=24, kernel=5, stride=2, activation="relu6")


def graph(*blocks: Block) -> Graph:
    layers = [Layer(str(place), block) for place, block in enumerate(blocks)]
    return build.network(layers, random_arrays(layers, 0))


def test_maps_go_in_and_come_out_as_nchw() -> None:
    one = graph(BLOCK)
    x = np.random.default_rng(0).standard_normal((1, 8, 12, 12), dtype=np.float32)
    model = litert_cpu.Model(tflite.to_bytes(one), {}, threads=1)
    assert model.batch == 1
    np.testing.assert_allclose(model.infer(x), reference.run(one, x), rtol=1e-4, atol=1e-5)


def test_free_sizes_are_pinned_by_name() -> None:
    model = litert_cpu.Model(tflite.to_bytes(graph(BLOCK), symbolic=True), {"h": 9, "w": 9}, threads=1)
    model.prepare()
    model.run()
    assert model.infer(np.zeros((1, 8, 9, 9), np.float32)).shape == (1, 16, 5, 5)
    for shape in ({"h": 9}, {"n": 1, "m": 2}):
        with pytest.raises(ValueError, match="no dimensions"):
            litert_cpu.Model(tflite.to_bytes(graph(BLOCK), symbolic=True), shape, threads=1)


def test_golden_outputs_of_the_reference_are_met() -> None:
    net = graph(BLOCK, Block("AvgPool2D", 16, 6, 16), Block("Logits", 16, 1, 10))
    x = reference.golden_inputs(net, 3, 0)
    outputs = reference.run(net, x)
    model = litert_cpu.Model(tflite.to_bytes(net), {}, threads=1)
    checked = golden.compare(model, x.tobytes(), x.shape, outputs.tobytes(), outputs.shape)
    assert checked.rel is not None
    assert checked.rel < 1e-4
    assert checked.argmax_equal


def test_the_version_names_the_library() -> None:
    assert litert_cpu.version().startswith("ai-edge-litert ")


def test_the_embedded_model_is_what_the_writer_writes() -> None:
    file = File()
    file.tensor("x", (1, 4))
    file.tensor("y", (1, 4))
    file.operator("RELU", ["x"], ["y"])
    assert file.bytes(["x"], ["y"]) == litert_cpu._TINY


def _library(name: str, interpreter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(f"{name}.interpreter")
    module.Interpreter = interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, f"{name}.interpreter", module)


def test_a_library_that_imports_and_cannot_construct_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    works = litert_cpu._Interpreter

    def broken(**_: Any) -> None:
        raise SystemError("returned a result with an exception set")  # as tflite-runtime 2.14 beside numpy 2

    _library("ai_edge_litert", broken, monkeypatch)
    _library("tflite_runtime", works, monkeypatch)
    assert litert_cpu._choose() == ("tflite-runtime", works)
    _library("tflite_runtime", broken, monkeypatch)
    with pytest.raises(ImportError, match="ai-edge-litert: returned .*; tflite-runtime: returned"):
        litert_cpu._choose()


def test_a_probe_without_the_library_goes_on_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "device_agents.runtimes.litert_cpu")
    try:
        reply = Worker(Root(str(tmp_path)), timing.Clock()).handle(wire.Request(1, "probe", {}))
    finally:
        importlib.import_module("device_agents.runtimes.onnxruntime_cpu")
    assert isinstance(reply, wire.Result)
    assert set(reply.result["runtimes"]) == {"onnxruntime"}


@pytest.mark.slow
@pytest.mark.skipif(memory.Growth().bytes() is None, reason="this system does not tell its memory")
@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_memory_of_a_model_holds_its_weights_and_not_the_anchors(runtime: str, tmp_path: Path) -> None:
    """In processes of their own: a model of 32 MB of weights, and beside it an anchor ten times smaller or larger."""
    from ofa_edge.device.local import LocalLink
    from ofa_edge.device.opening import open_session

    write = onnx.to_bytes if runtime == "onnxruntime" else tflite.to_bytes
    files = {side: write(graph(Block("Conv_1", side, 4, side, activation="relu"))) for side in (900, 2896)}
    found: dict[tuple[int, bool], int] = {}
    with open_session(LocalLink(root=str(tmp_path))) as session:
        names = dict(zip(files, workload_hashes(session, list(files.values())), strict=True))
        for target, anchor in ((900, 2896), (2896, 900), (2896, None)):
            job = wire.MeasureJob(
                "k", names[target], runtime=runtime, max_seconds=0.05, anchor=None if anchor is None else names[anchor]
            )
            (result,) = session.measure([job], fresh=True)
            assert isinstance(result, wire.Measured), result
            assert result.peak_bytes is not None
            found[target, anchor is None] = result.peak_bytes
        again = list(session.measure([job, job], fresh=False))
    large = 4 * 2896**2
    assert large < found[2896, False] < 8 * large  # the file, and the copies that a runtime makes of it
    assert found[2896, True] == pytest.approx(found[2896, False], rel=0.1)
    assert found[900, False] < large
    assert [row.peak_bytes for row in again if isinstance(row, wire.Measured)] == [None, None]


def workload_hashes(session: Any, files: list[bytes]) -> list[str]:
    from ofa_edge.latency import workload

    hashes, _ = workload.upload(session, {str(place): (lambda data=data: data) for place, data in enumerate(files)})
    return list(hashes.values())
