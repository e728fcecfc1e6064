"""How fast compiled files are written and run, and what half precision and int8 cost and bring.

    python benchmarks/compiled.py [--export] [--latency] [--precisions --data PATH] [--passes] [--quick] [--json]

All four without a flag (`--precisions` only where --data is given: a folder with train.parquet and val.parquet).
--export      ms to write and prove a whole network and a block; torch.onnx's and litert-torch's writers beside ours
--latency     one subnet of three spaces in every runtime: our ONNX and torch.onnx's on ONNX Runtime, our TFLite and
              litert-torch's on LiteRT, torch eager and torch.compile; one thread, all in turns in one process
--precisions  five subnets of the embedded supernet's front: bytes, latency and top-1 of fp16 and int8 against fp32
--passes      blocks with large depthwise kernels, split and not, on both runtimes: what graph/passes.py goes by

Medians over rounds in which every contender has its turn in an order drawn anew; ratios are taken within a round, with
the 95 % interval of their median. Run it on a quiet machine. litert-torch may live in an environment of its own:
OFA_EDGE_LITERT_TORCH_PYTHON names its interpreter. What is not installed is left out with its reason.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from other_exporters import graph_of, litert_torch, middle, torch_onnx, torch_subnet

from ofa_edge.accuracy import compiled
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.export_archs import spread
from ofa_edge.cli.inputs import Models
from ofa_edge.graph import build, check, compiling, passes, quantize, reference, running, tflite
from ofa_edge.graph import onnx as onnx_writer
from ofa_edge.graph.ir import Graph
from ofa_edge.latency import stats
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.choose import shared_resolutions
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.shipped import tables
from ofa_edge.space.arch import Arch
from ofa_edge.space.block import Block, Layer
from ofa_edge.train import images
from ofa_edge.weights import checkpoint as checkpoints
from ofa_edge.weights.random import random_arrays

SPACES_TIMED = ("ofa-lite0", "ofa-mbv3-w1.0", "ofa-resnet50d")
FRONT_POINTS = 5
Row = dict[str, Any]


# -- timing -----------------------------------------------------------------------------------------
def median_ms(action: Callable[[], Any], repeats: int) -> float:
    """Median time of `action` in ms, the first run left out."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int, batch_ms: float = 20.0) -> dict[str, list]:
    """ms of one run of each, round by round; a contender's turn is a batch of about `batch_ms`."""
    repeats = {}
    for name, action in contenders.items():
        start = time.perf_counter()
        while time.perf_counter() - start < batch_ms / 1e3:  # warm
            action()
        repeats[name] = max(1, round(batch_ms / median_ms(action, 5)))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    drawn = random.Random(0)
    for _ in range(rounds):
        drawn.shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                contenders[name]()
            found[name].append((time.perf_counter() - start) * 1e3 / repeats[name])
    return found


def against(found: Mapping[str, list[float]], name: str, base: str) -> Row:
    """A contender's median, and its ratio to another within rounds."""
    ratios = [a / b for a, b in zip(found[name], found[base], strict=True)]
    low, high = stats.median_interval(ratios) or (min(ratios), max(ratios))
    return {
        "ms": statistics.median(found[name]),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "to": base,
    }


def ready(model: bytes, x: np.ndarray) -> Callable[[], Any]:
    """A run as a deployed program does it: the agent's own runtime modules, bound once."""
    from device_agents.runtimes import litert_cpu, onnxruntime_cpu

    module = litert_cpu if running.is_tflite(model) else onnxruntime_cpu
    made = module.Model(model, {}, 1)
    made.prepare()
    return made.run


# -- the four parts ---------------------------------------------------------------------------------
def export_times(repeats: int) -> Row:
    """ms of each writer, for a network and its blocks."""
    space, arch = middle("ofa-lite0")
    subnet = torch_subnet(space, arch)
    graph = graph_of(subnet)
    x = np.zeros(graph.input.shape, np.float32)
    block = next(layer.block for layer in space.layers(arch) if layer.block.skip)
    arrays = random_arrays([Layer("", block)], 0)
    small = build.network([Layer("", block)], arrays)
    rows: Row = {}
    for runtime, kind in compiling.FORMATS.items():
        rows[kind] = {
            "network_write_ms": median_ms(lambda runtime=runtime: compiling.write(graph, runtime), repeats),
            "network_half_write_ms": median_ms(
                lambda runtime=runtime: compiling.write(graph, runtime, "fp16"), repeats
            ),
            "network_proved_ms": median_ms(
                lambda runtime=runtime: compiling.compile_graph(graph, runtime=runtime), max(3, repeats // 5)
            ),
            "block_write_ms": median_ms(
                lambda runtime=runtime: compiling.write(small, runtime, symbolic=True), repeats
            ),
        }
    rows["torch.onnx"] = {"network_write_ms": median_ms(lambda: torch_onnx(subnet, x), max(2, repeats // 10))}
    _, seconds, why = litert_torch(("ofa-lite0",))
    rows["litert-torch"] = {"network_write_ms": 1e3 * seconds["ofa-lite0"]} if seconds else {"left_out": why}
    return rows


def latencies(rounds: int) -> list[Row]:
    """Every runtime's time of the same subnets."""
    import torch

    torch.set_num_threads(1)
    converted, _, why_not = litert_torch(SPACES_TIMED)
    rows = []
    for name in SPACES_TIMED:
        subnet = torch_subnet(*middle(name))
        graph = graph_of(subnet)
        x = reference.golden_inputs(graph, 1, 0)
        sample = torch.from_numpy(x)
        files = {
            "ours, ONNX Runtime": compiling.compile_graph(graph, runtime="onnxruntime").content,
            "torch.onnx, ONNX Runtime": torch_onnx(subnet, x),
            "ours, LiteRT": compiling.compile_graph(graph, runtime="litert").content,
        }
        left_out: dict[str, str] = {}
        if name in converted:
            files["litert-torch, LiteRT"] = converted[name]
        else:
            left_out["litert-torch, LiteRT"] = why_not
        wanted = reference.run(graph, x)
        off = {file: check.parity(content, x, wanted).rel for file, content in files.items()}
        contenders = {file: ready(content, x) for file, content in files.items()}
        with torch.inference_mode():
            contenders["torch eager"] = lambda subnet=subnet, sample=sample: subnet(sample)
            try:
                fast = torch.compile(subnet)
                fast(sample)
                contenders["torch.compile"] = lambda fast=fast, sample=sample: fast(sample)
            except Exception as error:  # it needs a C++ compiler, and fails in many types
                left_out["torch.compile"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            found = interleaved(contenders, rounds)
        for contender in contenders:
            base = "ours, LiteRT" if contender.endswith("LiteRT") else "ours, ONNX Runtime"
            row = against(found, contender, base)
            rows.append({"subnet": name, "contender": contender, "parity": off.get(contender), **row})
        rows += [{"subnet": name, "contender": one, "left_out": why} for one, why in left_out.items()]
    return rows


def front_archs(runtime: str) -> list[Arch]:
    """Points of the embedded supernet's front, by the shipped tables."""
    latency = LatencyTable.read(tables() / "latency" / f"ofa-lite0-{runtime}-t1-x86-64.jsonl")
    models = Models(latency, AccuracyTable.read(tables() / "accuracy" / "ofa-lite0-imagenette.jsonl"))
    sizes = shared_resolutions(models.latency.resolutions, models.accuracy)
    front = exact_front(models.space, models.latency, models.accuracy, sizes)
    return [front.arch(i) for i in spread(front, FRONT_POINTS)]


def precisions(data: Path, rounds: int, most_images: int) -> list[Row]:
    """Size, time and top-1 in each precision, subnets of the front, both runtimes; statistics are the bank's."""
    checkpoint = checkpoints.load()
    preprocess = checkpoint.space.preprocess
    kept_out = checkpoint.metadata.data.get("heldout", 1000)
    train = images.split_training(images.load_images(data, "train"), int(kept_out)).train
    chosen = train.subset(np.random.default_rng(0).permutation(len(train))[: compiling.CALIBRATION_IMAGES])
    val = images.load_images(data, "val")
    val = val.subset(np.random.default_rng(1).permutation(len(val))[:most_images])
    rows = []
    for runtime in compiling.FORMATS:
        for arch in front_archs(runtime):
            graph = build.network(checkpoint.space.layers(arch), checkpoint.folded(arch))
            calibration = compiled.inputs(images.centre_crops(chosen, arch.resolution, preprocess), preprocess)
            made = {
                precision: compiling.compile_graph(graph, runtime=runtime, precision=precision, calibration=calibration)
                for precision in compiling.PRECISIONS
            }
            if runtime == "onnxruntime":
                made["int8, int8 activations"] = compiling.compile_graph(
                    graph, runtime=runtime, precision="int8", calibration=calibration, activations="int8"
                )
            found = interleaved({name: ready(one.content, calibration[:1]) for name, one in made.items()}, rounds)
            for name, one in made.items():
                counted = compiled.top1(one.content, val, arch.resolution, preprocess)
                rows.append(
                    {
                        "runtime": runtime,
                        "resolution": arch.resolution,
                        "precision": name,
                        "bytes": len(one.content),
                        "size_ratio": len(one.content) / len(made["fp32"].content),
                        "top1": counted.top1,
                        "images": counted.n,
                        "parity": one.parity.rel,
                        "partitions": one.partitions,
                        **against(found, name, "fp32"),
                    }
                )
    return rows


def split_or_not(rounds: int) -> list[Row]:
    """Blocks with large depthwise kernels, split and whole, in float and in int8."""
    rows = []
    for channels, size, kernel in ((32, 56, 7), (64, 28, 7), (128, 14, 7), (160, 7, 7), (64, 28, 9)):
        block = Block(
            "expanded_conv", channels, size, channels, mid_channels=3 * channels, kernel=kernel, skip=True,
            activation="relu",
        )  # fmt: skip
        layers = [Layer("", block)]
        whole = build.network(layers, random_arrays(layers, 0))
        x = reference.golden_inputs(whole, 2, 0)
        for runtime in compiling.FORMATS:
            files = {
                name: _unpassed(graph, runtime)
                for name, graph in (("whole", whole), ("split", passes.split_depthwise(whole)))
            }
            quantise = quantize.tflite_int8 if runtime == "litert" else quantize.onnx_int8
            files |= {f"{name}, int8": quantise(model, x) for name, model in files.items()}
            found = interleaved({name: ready(model, x) for name, model in files.items()}, rounds)
            for name, base in (("split", "whole"), ("split, int8", "whole, int8")):
                rows.append(
                    {
                        "runtime": runtime,
                        "block": f"{channels} x {size} k{kernel}",
                        "precision": "int8" if "int8" in name else "fp32",
                        **against(found, name, base),
                    }
                )
    return rows


def _unpassed(graph: Graph, runtime: str) -> bytes:
    """The file of a graph as it is, no pass on."""
    on, passes.PASSES = passes.PASSES, ()
    try:
        return tflite.to_bytes(graph) if runtime == "litert" else onnx_writer.to_bytes(graph)
    finally:
        passes.PASSES = on


# -- output -----------------------------------------------------------------------------------------
def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("export", "latency", "precisions", "passes"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--data", type=Path, help="images, for --precisions")
    parser.add_argument("--images", type=int, default=1_000_000, help="of val that top-1 is counted on at most")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="few rounds and images: does it run?")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    every = not (asked.export or asked.latency or asked.precisions or asked.passes)
    rounds, most = (8, 200) if asked.quick else (asked.rounds, asked.images)
    found: Row = {}
    if asked.export or every:
        found["export"] = [{"writer": name, **row} for name, row in export_times(5 if asked.quick else 30).items()]
    if asked.latency or every:
        found["latency"] = latencies(rounds)
    if (asked.precisions or every) and asked.data:
        found["precisions"] = precisions(asked.data, rounds, most)
    if asked.passes or every:
        found["passes"] = split_or_not(rounds)
    if asked.json:
        print(json.dumps(found))
        return
    for title, rows in found.items():
        show(title, rows)


if __name__ == "__main__":
    main()
