"""One subnet for several devices: how long the exact search takes, and what the common subnet costs in accuracy.

    python benchmarks/common_subnet.py [--devices 1,2,3,5,8] [--shares .2,.5,.8] [--space ofa-lite0] [--json]

The devices are made up: one board's block times (front.py), each device slower or faster at each kernel size and stride
and at each block, so that what is best for one is not for another. Every device gets the budget that a share of random
subnets keep there. `top1` is of the common subnet, `alone` the least and the greatest over devices of the best subnet
that only has to keep that device's budget; 0 where there is none. Seconds are of CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.front import MOBILENET_V3, made_up_latency, made_up_rows
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.common.fronts import Device, best_common
from ofa_edge.search.costs import LATENCY, CostTables
from ofa_edge.search.limits import Limits
from ofa_edge.space.block import Block
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_LITE0

SPACES = {space.name: space for space in (OFA_LITE0, MOBILENET_V3)}
_SAMPLED = 2000


@dataclass(frozen=True, eq=False)
class Other:
    """The board's times on another device."""

    board: LatencyModel
    seed: int
    known: dict[Block, float] = field(default_factory=dict)

    @property
    def offset_ms(self) -> float:
        return self.board.offset_ms

    def block_ms(self, block: Block) -> float:
        if block not in self.known:
            likes = np.random.default_rng([self.seed, block.kernel, block.stride]).uniform(0.6, 1.4)
            own = np.random.default_rng([self.seed, *block.key.encode()]).uniform(0.9, 1.1)
            self.known[block] = self.board.block_ms(block) * likes * own
        return self.known[block]


def figures(name: str, counts: Sequence[int], shares: Sequence[float]) -> list[dict[str, Any]]:
    """One row for each number of devices and share."""
    space = SPACES[name]
    sizes, board = space.resolutions, made_up_latency(space)
    archs, correct = made_up_rows(space)
    accuracy = AdditiveAccuracy.fit_measured(Rows.of(space, archs, correct, [1000] * len(archs)))
    others = [Other(board, seed) for seed in range(max(counts))]
    drawn = ArchArrays.sample(space, np.random.default_rng(2), _SAMPLED, sizes)
    times = [BatchCosts(space, one, sizes).rows(drawn)[:, LATENCY] for one in others]
    rows = []
    for share in shares:
        devices = [
            Device(CostTables(space, one), Limits(latency=int(np.quantile(own, share))))
            for one, own in zip(others, times, strict=True)
        ]
        alone = [_top1(accuracy, best_common(space, [device], accuracy, sizes)) for device in devices]
        for count in counts:
            start = time.process_time()
            found = best_common(space, devices[:count], accuracy, sizes)
            row = {
                "space": name,
                "subnets": float(space.count() * len(sizes)),
                "devices": count,
                "share": share,
                "seconds": round(time.process_time() - start, 3),
                "top1": _top1(accuracy, found),
                "alone": (min(alone[:count]), max(alone[:count])),
            }
            rows.append(row)
    return rows


def _top1(accuracy: AdditiveAccuracy, found: Sequence[tuple[float, Any]]) -> float:
    """In percent; 0 where nothing fits."""
    return round(100 * accuracy.top1(found[0][0]), 3) if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2,3,5,8")
    parser.add_argument("--shares", default=".2,.5,.8")
    parser.add_argument("--space", choices=SPACES, default=OFA_LITE0.name)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = figures(asked.space, [int(n) for n in asked.devices.split(",")], [float(s) for s in asked.shares.split(",")])
    for row in rows:
        if asked.json:
            print(json.dumps(row))
        else:
            low, high = row["alone"]
            print(
                f"{row['space']}  {row['devices']} devices  {row['share']:.0%} of subnets fit each:"
                f" {row['seconds']:.2f} s, top-1 {row['top1']:.2f} %, alone {low:.2f} to {high:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
