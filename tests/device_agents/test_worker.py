"""The worker with a scripted runtime and clock, and once with the real ones."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import power, timing, wire
from device_agents.root import Root
from device_agents.worker import Worker

MS = 1_000_000


class ScriptedClock(timing.Clock):
    resolution_ns = 1.0

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time

    def cpu(self) -> int:
        return self.time

    def switches(self) -> int:
        return 0


class ScriptedRuntime:
    """A runtime whose models take as many ms as their bytes say, or refuse to load."""

    def __init__(self, clock: ScriptedClock):
        self.clock = clock
        self.loaded: list[bytes] = []
        self.alive = 0
        runtime = self

        class Model:
            batch = 1

            def __init__(self, data: bytes, shape: Mapping[str, int], threads: int):
                if data.startswith(b"bad"):
                    raise RuntimeError("this is no model")
                self.cost = float(data) * shape.get("h", 1)
                runtime.loaded.append(data)
                runtime.alive += 1

            def __del__(self) -> None:
                if hasattr(self, "cost"):
                    runtime.alive -= 1

            def prepare(self) -> None:
                pass

            def run(self) -> None:
                runtime.clock.time += int(self.cost * MS)

            def infer(self, array: np.ndarray) -> np.ndarray:
                return np.asarray(array * self.cost)

        self.Model = Model

    def version(self) -> str:
        return "scripted"


class Bench:
    """A worker on a folder with blobs."""

    def __init__(self, folder: Path):
        self.root = Root(str(folder))
        self.root.prepare()
        self.clock = ScriptedClock()
        self.runtime = ScriptedRuntime(self.clock)
        self.worker = Worker(self.root, self.clock, {"onnxruntime": self.runtime})

    def blob(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        Path(self.root.blob_path(sha256)).write_bytes(data)
        return sha256

    def ask(self, op: str, args: Mapping[str, Any]) -> wire.Reply:
        return self.worker.handle(wire.Request(1, op, args))

    def measure(self, key: str, data: bytes, **fields: Any) -> wire.Measured:
        job = wire.MeasureJob(key, self.blob(data), **{"max_seconds": 0.3, **fields})
        reply = self.ask("measure", {"job": wire.to_wire(job)})
        assert isinstance(reply, wire.Result), reply
        result = wire.parse_row(wire.Measured, reply.result)
        assert isinstance(result, wire.Measured)
        return result

    def check(self, inputs: np.ndarray, outputs: np.ndarray, model: bytes = b"2", **changes: Any) -> wire.Reply:
        args = {
            "model": self.blob(model),
            "inputs": self.blob(inputs.astype("<f4").tobytes()),
            "outputs": self.blob(outputs.astype("<f4").tobytes()),
            "input_shape": list(inputs.shape),
            "output_shape": list(outputs.shape),
            "runtime": "onnxruntime",
            "threads": 1,
        }
        return self.ask("check", {**args, **changes})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_job_gives_figures(bench: Bench) -> None:
    measured = bench.measure("k", b"2.5", shape={"h": 2})
    assert measured.key == "k"
    assert measured.figures.median == pytest.approx(5.0)
    assert measured.anchor is None


def test_an_anchor_gives_a_ratio(bench: Bench) -> None:
    measured = bench.measure("k", b"6", anchor=bench.blob(b"4"))
    assert measured.ratio is not None
    assert measured.anchor is not None
    assert measured.ratio.median == pytest.approx(1.5)
    assert measured.anchor.median == pytest.approx(4.0)


@pytest.mark.slow
def test_a_model_is_gone_after_its_job(bench: Bench) -> None:
    for i in range(10):
        bench.measure("k", str(1 + i / 10).encode())
    assert bench.runtime.alive == 0


@pytest.mark.slow
def test_anchors_and_sentinels_stay_loaded_but_few_of_them(bench: Bench) -> None:
    anchor = bench.blob(b"4")
    for i in range(4):
        bench.measure("target", str(6 + i).encode(), anchor=anchor)
        bench.measure("sentinel", b"3")
    assert bench.runtime.loaded.count(b"4") == 1
    assert bench.runtime.loaded.count(b"3") == 2  # kept from the second time on
    for i in range(20):
        bench.measure("anchored", b"5", anchor=bench.blob(str(10 + i).encode()))
    assert bench.runtime.alive <= 2


def test_energy_without_a_sensor_is_a_refusal_and_with_one_a_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = wire.EnergyJob("k", bench.blob(b"2"), "meter", seconds=0.05, windows=2)
    reply = bench.ask("energy", {"job": wire.to_wire(job)})
    assert reply == wire.Refusal(1, "failed", "there is no sensor meter that can be read")
    ticks = itertools.count()
    monkeypatch.setattr(bench.worker, "_sensors", {"meter": power.Sensor("meter", joules=lambda: float(next(ticks)))})
    reply = bench.ask("energy", {"job": wire.to_wire(job)})
    assert isinstance(reply, wire.Result)
    found = wire.parse_row(wire.Energy, reply.result)
    assert isinstance(found, wire.Energy)
    assert (found.key, found.windows) == ("k", 2)
    assert found.runs >= 2


def test_a_model_the_runtime_refuses_is_a_refusal_with_its_words(bench: Bench) -> None:
    job = wire.MeasureJob("k", bench.blob(b"bad"))
    reply = bench.ask("measure", {"job": wire.to_wire(job)})
    assert reply == wire.Refusal(1, "failed", "RuntimeError: this is no model")


def test_a_runtime_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(Root(str(tmp_path)), ScriptedClock())
    monkeypatch.setitem(__import__("sys").modules, "device_agents.runtimes.onnxruntime_cpu", None)
    args = {"job": wire.to_wire(wire.MeasureJob("k", "0" * 64))}
    reply = worker.handle(wire.Request(1, "measure", args))
    assert isinstance(reply, wire.Refusal)
    assert reply.kind == "no-runtime"
    probed = worker.handle(wire.Request(1, "probe", {}))
    assert isinstance(probed, wire.Result)
    assert "onnxruntime" not in probed.result["runtimes"]


def test_what_runs_on_chosen_cores_does_not_bind_the_next_job(bench: Bench) -> None:
    everything = os.sched_getaffinity(0)
    try:
        bench.measure("k", b"2", cores=(min(everything),))
        assert os.sched_getaffinity(0) == {min(everything)}
        bench.measure("k", b"2")
        assert os.sched_getaffinity(0) == everything
    finally:
        os.sched_setaffinity(0, everything)


def test_golden_outputs_are_compared(bench: Bench) -> None:
    inputs = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 0.5]])
    reply = bench.check(inputs, inputs * 2)
    assert isinstance(reply, wire.Result)
    assert wire.Checked.parse(reply.result) == wire.Checked(0.0, 0.0, True, True)
    reply = bench.check(inputs, inputs[:, ::-1] * 2)
    assert isinstance(reply, wire.Result)
    checked = wire.Checked.parse(reply.result)
    assert checked.max_abs == pytest.approx(4.0)
    assert checked.rel == pytest.approx(4 / 6)
    assert not checked.argmax_equal


def test_outputs_that_are_not_finite_are_never_equal(bench: Bench) -> None:
    reply = bench.check(np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]]), model=b"inf")
    assert isinstance(reply, wire.Result)
    assert wire.Checked.parse(reply.result) == wire.Checked(None, None, False, False)


def test_tensors_that_do_not_fit_their_shape_are_refused(bench: Bench) -> None:
    pair = np.array([[1.0, 2.0]])
    for reply in (
        bench.check(pair, pair, input_shape=[1, 3]),
        bench.check(pair, pair, input_shape=[]),
        bench.check(pair, np.array([[1.0, 2.0, 3.0]])),
        bench.check(pair, np.array([[1.0, np.nan]])),
    ):
        assert isinstance(reply, wire.Refusal)
        assert reply.kind == "bad-file"


@pytest.mark.parametrize("args", [{}, {"job": 3}, {"job": {}}])
def test_a_request_without_a_job_is_refused(bench: Bench, args: dict[str, Any]) -> None:
    assert isinstance(bench.ask("measure", args), wire.Refusal)
    assert isinstance(bench.ask("nonsense", args), wire.Refusal)


def test_onnx_runtime_pins_named_dimensions_and_computes(tiny_onnx: bytes) -> None:
    from device_agents.runtimes.onnxruntime_cpu import Model

    model = Model(tiny_onnx, {"h": 8, "w": 6}, threads=1)
    model.prepare()
    model.run()
    assert model.batch == 1
    free = Model(tiny_onnx, {}, threads=1)
    out = free.infer(np.ones((1, 3, 5, 5), np.float32))
    assert out.shape == (1, 4, 5, 5)
    assert out[0, 0, 2, 2] == pytest.approx(0.5 * 27)
    with pytest.raises(ValueError, match="shape"):
        free.prepare()
