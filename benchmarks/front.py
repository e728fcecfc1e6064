"""How long a selection takes: the exact front of a whole space, with and without side limits, choosing under them, the
refusal of a budget that nothing fits, and the fits before it.

    python benchmarks/front.py [--repeats 5] [--json]

Median seconds over the repeats, after one that is not counted. The block times and the accuracies are made up (from
what a block computes and moves, with noise); the models are the real ones. Spaces: ofa-lite0, and OFA-MobileNetV3's
geometry at 25 resolutions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.models.block_times import BlockTimes
from ofa_edge.latency.models.model import LatencyModel, fit_terms
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose, default_budget
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.models import CostModels
from ofa_edge.space.arch import Arch, Preprocess, Space, Stage
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, block_peak_activation_bytes, block_weight_bytes, cost
from ofa_edge.space.ends import Head, MobileStem
from ofa_edge.space.spaces import OFA_LITE0

_WIDTHS = ((24, 2, "relu", False), (40, 2, "relu", True), (80, 2, "h_swish", False))
MOBILENET_V3 = Space(
    name="ofa-mbv3-geometry",
    resolutions=tuple(range(128, 225, 4)),
    stem=MobileStem(16, "h_swish", 16, "h_swish"),
    stages=tuple(
        Stage(width, stride, (2, 3, 4), (3, 5, 7), (3, 4, 6), activation, se)
        for width, stride, activation, se in (*_WIDTHS, (112, 1, "h_swish", True), (160, 2, "h_swish", True))
    ),
    head=Head(960, "h_swish"),
    classes=1000,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)


def median_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Median time of `action`, the first run left out."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def made_up_latency(space: Space) -> LatencyModel:
    """Every block of the space has a time; twelve networks calibrate."""
    rng = np.random.default_rng(0)

    def ms(block: Block) -> float:
        work = block_macs(block) / 2e7 + block_peak_activation_bytes(block) / 2e7 + block_weight_bytes(block) / 1e7
        return float(work * rng.uniform(0.9, 1.1))

    times = BlockTimes({block.key: ms(block) for block in space.distinct_blocks(space.resolutions)})
    networks = [space.blocks(space.sample(rng)) for _ in range(12)]
    sums = np.array([sum(times.get(block).ms for block in blocks) for blocks in networks])
    weights = np.array([cost(blocks).weight_bytes / 1e6 for blocks in networks])
    features = np.stack([np.ones(12), sums, weights], axis=1)
    latencies = (0.3 + 1.1 * sums + 0.05 * weights) * rng.normal(1, 0.01, 12)
    return LatencyModel(times, fit_terms(features, latencies), space, space.resolutions)


def made_up_rows(space: Space) -> tuple[list[Arch], list[int]]:
    """300 subnets at three resolutions, 1,000 images each."""
    rng = np.random.default_rng(1)
    grid = (space.resolutions[0], space.resolutions[len(space.resolutions) // 2], space.resolutions[-1])
    archs, correct = [], []
    for _ in range(300):
        arch = space.sample(rng, grid[0])
        blocks = [choice for stage in arch.stages for choice in stage]
        for resolution in grid:
            odds = sum(0.05 * b.expand + 0.03 * b.kernel for b in blocks) / 3 + resolution / 200 + rng.normal(0, 0.05)
            archs.append(arch.at(resolution))
            correct.append(round(1000 / (1 + np.exp(-odds))))
    return archs, correct


def figures(space: Space, repeats: int) -> dict[str, Any]:
    """Seconds of each step of a selection, and the sizes of what it searches."""
    latency = made_up_latency(space)
    archs, correct = made_up_rows(space)
    n = [1000] * len(archs)
    accuracy = AdditiveAccuracy.fit_measured(Rows.of(space, archs, correct, n))
    sizes = space.resolutions
    front = exact_front(space, latency, accuracy, sizes)
    middle = cost(space.blocks(front.arch(len(front) // 2)))
    memory = middle.weight_bytes + middle.peak_activation_bytes
    budget = default_budget(front, latency.margin())
    sides = {
        "macs": Budget(macs=middle.macs),
        "size": Budget(size_bytes=middle.weight_bytes),
        "memory": Budget(memory_bytes=memory),
        "macs+size+memory": Budget(macs=middle.macs, size_bytes=middle.weight_bytes, memory_bytes=memory),
    }
    seconds = {
        "accuracy fit": median_seconds(
            lambda: AdditiveAccuracy.fit_measured(Rows.of(space, archs, correct, n)), repeats
        ),
        "front": median_seconds(lambda: exact_front(space, latency, accuracy, sizes), repeats),
        "choose": median_seconds(
            lambda: choose(CostModels(space, latency, sizes), accuracy, budget, inputs={}), repeats
        ),
    }
    for name, side in sides.items():
        both = replace(side, latency_ms=budget.latency_ms)
        seconds[f"choose, {name} limited"] = median_seconds(
            lambda both=both: choose(CostModels(space, latency, sizes), accuracy, both, inputs={}),  # type: ignore[misc]
            repeats,
        )
        seconds[f"front, {name} limited"] = median_seconds(
            lambda side=side: exact_front(space, latency, accuracy, sizes, side),  # type: ignore[misc]
            repeats,
        )
    too_little = replace(sides["macs+size+memory"], latency_ms=float(front.latency_ms[0]))
    seconds["refusal"] = median_seconds(lambda: refused(space, latency, accuracy, too_little), repeats)
    return {
        "space": space.name,
        "subnets": float(space.count() * len(sizes)),
        "front": len(front),
        "budget": str(budget),
        "seconds": seconds,
    }


def refused(space: Space, latency: LatencyModel, accuracy: AdditiveAccuracy, budget: Budget) -> None:
    """Choose under a budget that nothing fits."""
    try:
        choose(CostModels(space, latency, space.resolutions), accuracy, budget, inputs={})
    except InfeasibleBudget:
        return
    raise SystemExit(f"{budget} is feasible")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [figures(space, options.repeats) for space in (OFA_LITE0, MOBILENET_V3)]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['space']}: {row['subnets']:.2g} subnets, {row['front']} on the front, {row['budget']}")
        for name, seconds in row["seconds"].items():
            print(f"    {name:34}{seconds:8.3f} s")


if __name__ == "__main__":
    main()
