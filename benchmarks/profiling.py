"""What does a latency table cost, and how sure are its entries?

    python benchmarks/profiling.py [--space ofa-mbv3-w1.0] [--resolutions 128:224:4] [--runtime onnxruntime]
        [--threads 1] [--cores 1] [--quick] [--out FILE] [--baseline 60]

Runs `ofa-edge profile --host local` as a user would and prints one JSON object: entries, seconds, bytes pushed, the
share of entries whose 95 % interval of the median is within +-1 % and +-2 %, and the peak resident memory of the
agent's processes. --baseline N also times N of the blocks as a default benchmark harness does, each in a process of its
own for at least a second, and scales that to the whole table. Not a test: nothing fails, and it needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from device_agents import wire
from ofa_edge.cli import options
from ofa_edge.device import open_device
from ofa_edge.latency import workload
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import get_space

SEED = 30_000
# What benchmark_model and its like do by default.
MIN_SECONDS = 1.0
SAMPLE_SECONDS = 0.2
# In the command line of an agent's processes: the supervisor runs the host's boot line, a worker the zip's entry.
_SIGNS = {"worker": b"\0work\0", "supervisor": b"runpy.run_path"}


class Memory:
    """Largest peak resident size, in bytes, that any agent process below `parent` had."""

    def __init__(self, parent: int):
        self.peak: dict[str, int] = {}
        self._parent = parent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._stop.set()
        self._thread.join()
        return self.peak

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            for pid in _descendants(self._parent):
                try:
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                role = next((role for role, sign in _SIGNS.items() if sign in line), None)
                if role and (found := re.search(r"VmHWM:\s+(\d+) kB", status)):
                    self.peak[role] = max(self.peak.get(role, 0), 1024 * int(found[1]))


def _descendants(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(above, []).append(int(entry.name))
    found, todo = [], [parent]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def profile(arguments: list[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """The JSON of `ofa-edge profile`, and the peak memory of the agent's processes by role."""
    process = subprocess.Popen([sys.executable, "-m", "ofa_edge.cli.app", *arguments], stdout=subprocess.PIPE)
    memory = Memory(process.pid)
    answer, _ = process.communicate()
    peaks = memory.stop()
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(answer), peaks


def shares(table: LatencyTable) -> dict[str, float]:
    """Share of the measured entries whose interval lies within +-1 % and +-2 % of the median."""
    blocks = table.blocks
    half = np.maximum(blocks["high"] - blocks["median"], blocks["median"] - blocks["low"]) / blocks["median"]
    return {f"within_{p}_pct": round(float((half <= p / 100).mean()), 3) for p in (1, 2)}


def baseline(space: Space, resolutions: tuple[int, ...], runs_on: RunsOn, count: int) -> dict[str, float]:
    """Seconds that one process a block with a minimum of a second takes, measured on `count` blocks and scaled."""
    blocks = space.distinct_blocks(resolutions)
    chosen = np.random.default_rng(SEED).choice(len(blocks), count, replace=False)
    with tempfile.TemporaryDirectory() as root, open_device("local", options=_connecting(root)) as device:
        files = {blocks[i].weights_key: (lambda block=blocks[i]: workload.block_file(block, runs_on)) for i in chosen}
        hashes, _ = workload.upload(device, files)
        jobs = [
            wire.MeasureJob(
                key=block.key, model=hashes[block.weights_key], shape=workload.block_shape(block),
                runtime=runs_on.runtime, threads=runs_on.threads, cores=runs_on.cores,
                target_rel=0.001, max_seconds=MIN_SECONDS,
            )
            for block in (blocks[i] for i in chosen)
        ]  # fmt: skip
        start = time.perf_counter()
        for job in jobs:
            list(device.measure([job], fresh=True))
        seconds = time.perf_counter() - start
    return {"blocks": count, "seconds": round(seconds, 1), "whole_table_seconds": round(seconds / count * len(blocks))}


def _connecting(root: str) -> Any:
    from ofa_edge.device import ConnectOptions

    return replace(ConnectOptions(), root=root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa-mbv3-w1.0")
    parser.add_argument("--resolutions", default="128:224:4")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--baseline", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "table.jsonl"
        arguments = ["profile", "--host", "local", "--space", given.space, "--resolutions", given.resolutions]
        arguments += ["--runtime", given.runtime, "--threads", str(given.threads), "--out", str(out), "--json"]
        arguments += ["--root", folder] + ["--quick"] * given.quick
        arguments += ["--cores", given.cores] if given.cores else []
        answer, peaks = profile(arguments)
        result: dict[str, Any] = {
            "blocks": answer["blocks"],
            "networks": answer["networks"],
            "seconds": round(answer["seconds"], 1),
            "bytes_pushed": answer["bytes_pushed"],
            **shares(LatencyTable.read(out)),
            "agent_peak_mib": {role: round(peak / 2**20) for role, peak in sorted(peaks.items())},
            "fit": answer["fit"],
            "verdict": answer["verdict"],
            "notices": [notice["text"] for notice in answer["notices"]],
        }
    if given.baseline:
        space = get_space(given.space)
        sizes = options.resolutions(given.resolutions, space.resolutions)
        runs_on = options.runs_on(given.runtime, given.threads, given.cores)
        result["one_process_a_block"] = baseline(space, sizes, runs_on, given.baseline)
        result["times_faster"] = round(result["one_process_a_block"]["whole_table_seconds"] / result["seconds"], 1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
