"""How long does a latency table of 100,000 rows take to load? (The aim is a second or two.)

    python benchmarks/table_load.py [--rows 100000]

Writes a table of that many random block rows into a temporary folder, reads it three times and prints one JSON object:
the seconds of the fastest read, of parsing alone (journal), and the file's size. Not a test: nothing fails here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge import journal
from ofa_edge.latency.conditions import RunsOn, conditions
from ofa_edge.latency.simulated import FACTS
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.space.block import Block

HEADER = {
    "conditions": conditions(FACTS, RunsOn()).model_dump(mode="json"),
    "provenance": {"created": "2026-11-21T00:00:00+00:00", "tool": "benchmark"},
    "space": "ofa-lite0",
    "resolutions": [96],
    "plan": {"seed": 0, "quick": True, "networks": 0},
}


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Block rows as a campaign writes them, every key different."""
    medians = np.random.default_rng(0).lognormal(-3, 1, count).round(7)
    for i, median in enumerate(medians.tolist()):
        block = Block("expanded_conv", 16 + i % 997, 4 + i // 997, 24, 96, 3, activation="relu6")
        figures = {name: round(median * share, 7) for name, share in _SHARES.items()}
        yield {
            "record": "block", "key": block.key, "session": 0, "at": round(0.2 * i, 3), "n": 57, **figures,
            "batch": 23, "seconds": 0.1371291, "cpu_over_wall": 0.9981234, "involuntary_switches": 0, "flags": [],
        }  # fmt: skip


_SHARES = {
    "min": 0.97, "p10": 0.98, "median": 1.0, "p90": 1.07, "low": 0.99, "high": 1.01, "mean": 1.013, "std": 0.03,
}  # fmt: skip


def seconds(action: Callable[[], object], times: int = 3) -> float:
    """Of the fastest of several runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.jsonl"
        journal.write(path, FORMAT, HEADER, rows(count))
        result = {
            "rows": len(LatencyTable.read(path).blocks),
            "bytes": path.stat().st_size,
            "journal_seconds": round(seconds(lambda: journal.read(path, FORMAT)), 3),
            "table_seconds": round(seconds(lambda: LatencyTable.read(path)), 3),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
