"""The paper's claim, small: progressive shrinking against the same epochs of random subnets from the start.

    python benchmarks/experiments/shrinking.py --data PATH --space docs/examples/mbv3-w0.5.toml --out DIR
        [--images 5000] [--seeds 0 1] [--train ARG ...]

Trains both supernets (recipes `progressive` and `no-shrinking`) for every seed, gives eight corner subnets (depth 2
and 4, expand ratio 3 and 6, kernel 3 and 7) batch-norm statistics of training images, and prints their top-1 on the
validation split as a table. Whatever follows --train goes to `ofa-edge train`. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import common
import numpy as np

from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import get_space

RECIPES = ("progressive", "no-shrinking")


def corners(space: Space) -> dict[str, common.Row]:
    """Subnets with every block alike, at both ends of each axis, by their names in the paper."""
    places = sum(stage.max_depth for stage in space.stages)
    ends = [(min(v), max(v)) for v in (space.stages[0].depths, space.stages[0].expands, space.stages[0].kernels)]
    found = {}
    for depth, expand, kernel in itertools.product(*ends):
        arch = {"r": max(space.resolutions), "d": [depth] * len(space.stages)}
        active = [place % space.stages[0].max_depth < depth for place in range(places)]
        arch["ks"] = [kernel if on else min(space.stages[0].kernels) for on in active]
        arch["e"] = [expand if on else min(space.stages[0].expands) for on in active]
        found[f"D{depth} W{expand} K{kernel}"] = arch
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--space", default="docs/examples/mbv3-w0.5.toml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    space = get_space(options.space)
    archs = corners(space)
    data = common.subset(options.data, options.out / "data", options.images)
    top1: dict[tuple[str, int], list[float]] = {}
    for seed, recipe in itertools.product(options.seeds, RECIPES):
        run = options.out / f"{recipe}-{seed}"
        given = ("--space", options.space, "--data", data, "--recipe", recipe, "--seed", seed, "--from", "scratch")
        checkpoint = common.train(run, *given, *options.train)
        judged = ("--supernet", checkpoint, "--data", data)
        top1[recipe, seed] = common.evaluate(run / "corners.jsonl", list(archs.values()), *judged)
    head = ["subnet", *(f"{recipe}, seed {seed}" for recipe in RECIPES for seed in options.seeds), "mean difference"]
    columns = [[top1[recipe, seed] for seed in options.seeds] for recipe in RECIPES]
    values = np.array(columns)  # (recipes, seeds, subnets)
    difference = values[0].mean(axis=0) - values[1].mean(axis=0)
    rows = [[name, *values[:, :, i].ravel(), f"{difference[i]:+.1f}"] for i, name in enumerate(archs)]
    rows.append(["mean", *values.mean(axis=2).ravel(), f"{difference.mean():+.1f}"])
    print(common.markdown(head, rows))


if __name__ == "__main__":
    main()
