"""How long do reading, checking and comparing latency tables of 100,000 rows take, and how much memory?

    python benchmarks/table_load.py [--rows 100000]

Writes two tables of that many random block rows into a temporary folder and prints one JSON object: for each task the
least CPU seconds of three runs in this process, the size of a file, the greatest resident memory of a fresh process
that reads one table (and of one that imports the same and reads nothing), and how many times faster the rows are parsed
than one by one. The aim is a second to load. CPU time, since a busy machine must not decide. Not a test: nothing fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge import journal, strict_json
from ofa_edge.latency.conditions import RunsOn, conditions
from ofa_edge.latency.exchange.diff import diff
from ofa_edge.latency.judging import health
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.space.block import Block

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.simulated import FACTS

HEADER = {
    "conditions": conditions(FACTS, RunsOn()).model_dump(mode="json"),
    "provenance": {"created": "2026-11-21T00:00:00+00:00", "tool": "benchmark"},
    "space": "ofa-lite0",
    "resolutions": [96],
    "plan": {"seed": 0, "quick": True, "networks": 0},
}


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Block rows as a campaign writes them, every key different."""
    medians = np.random.default_rng(seed).lognormal(-3, 1, count).round(7)
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
    """CPU seconds of the fastest of several runs."""
    found = []
    for _ in range(times):
        start = time.process_time()
        action()
        found.append(time.process_time() - start)
    return round(min(found), 3)


_READ = """
import sys
from ofa_edge.latency.table import LatencyTable
found = [LatencyTable.read(path) for path in sys.argv[1:]]
(line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # rusage would hold the parent's
print(int(line.split()[1]) * 1024)
"""


def peak_bytes(*paths: Path) -> int:
    """Greatest resident memory of a process that reads these tables."""
    run = subprocess.run([sys.executable, "-c", _READ, *map(str, paths)], capture_output=True, text=True, check=True)
    return int(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path, other = (Path(folder) / name for name in ("a.jsonl", "b.jsonl"))
        for seed, target in enumerate((path, other)):
            journal.write(target, FORMAT, HEADER, rows(count, seed))
        lines = path.read_bytes().split(b"\n")[1:-2]
        table, second = LatencyTable.read(path), LatencyTable.read(other)
        one_by_one = seconds(lambda: [strict_json.loads(line) for line in lines])
        at_once = seconds(lambda: strict_json.rows(lines))
        result = {
            "rows": len(table.blocks),
            "bytes": path.stat().st_size,
            "parse_speedup": round(one_by_one / at_once, 2),
            "journal_seconds": seconds(lambda: journal.read(path, FORMAT)),
            "table_seconds": seconds(lambda: LatencyTable.read(path)),
            "check_seconds": seconds(lambda: health.check(table), 1),
            "diff_seconds": seconds(lambda: diff(table, second)),
            "diff_json_seconds": seconds(lambda: diff(table, second).as_json(), 1),
            "peak_bytes": peak_bytes(path),
            "peak_bytes_imports": peak_bytes(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
