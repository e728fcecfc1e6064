"""How long `ofa-edge deploy` takes over ssh: a first release, the same again, and one release later.

    python benchmarks/deploying.py [--runs 5] [--host HOST] [--json]

Two subnets of ofa-lite0, the smallest and the largest of one input size, are compiled into bundles; then the command is
run as a person runs it, Python's start included, against a real sshd on loopback whose device is empty before each
first one (or against --host, in a folder of its own there that is left behind). Seconds are medians over the runs, with
the fastest and the slowest; those of a step lie between its line of progress and the next one. Most of a first or later
deployment is its proof: golden outputs and five fresh processes beside an anchor network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy.bundle import Part, Promise, Tensors
from ofa_edge.deploy.manifest import Budget
from ofa_edge.graph import build, onnx, reference
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.arch import Arch
from ofa_edge.weights import checkpoint as checkpoints
from tests import sshd

REPOSITORY = Path(__file__).resolve().parents[1]
APP = "deploying"
ANY_MS = 1e6
CASES = ("first", "unchanged", "one release later")


@dataclass(frozen=True)
class Taken:
    """One run of the command: seconds in all and of each step, and how it ended."""

    seconds: float
    steps: Mapping[str, float]
    state: str


def compiled(arch: Arch, counter: int, folder: Path) -> int:
    """A bundle of a subnet of the embedded supernet; its bytes."""
    checkpoint = checkpoints.load()
    graph = build.network(checkpoint.space.layers(arch), checkpoint.folded(arch))
    inputs = reference.golden_inputs(graph, 1, 0)
    golden = Tensors(inputs, reference.run(graph, inputs))
    part = Part(arch, onnx.to_bytes(graph), golden, RunsOn(), Promise(Budget(latency_ms=ANY_MS)))
    labels = checkpoint.metadata.labels
    made = bundles.build(app=APP, space=checkpoint.space, parts=[part], labels=labels).counted(counter)
    bundles.write(made, folder)
    return sum(map(len, made.files.values()))


def deployed(bundle: Path, host: str, options: Sequence[str]) -> Taken:
    command = [sys.executable, "-m", "ofa_edge.cli.app", "deploy", "--host", host, "--bundle", str(bundle), "--json"]
    began = time.monotonic()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        [*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            lines.append((time.monotonic(), line))
        said = process.stdout.read()
    seconds = time.monotonic() - began
    value = json.loads(said)
    if "state" not in value:
        sys.exit(f"it did not deploy: {value}")
    steps: dict[str, float] = {}
    marks = [(at, line) for at, line in lines if line.startswith(f"{host}: ")]
    names = sorted({step["step"] for step in value["steps"]} | {"lock", "unlock"}, key=len, reverse=True)
    for (at, line), (following, _) in itertools.pairwise([*marks, (began + seconds, "")]):
        told = line.removeprefix(f"{host}: ")
        name = next((name for name in names if told.startswith(name)), None)
        if name is not None:
            steps[name] = steps.get(name, 0.0) + following - at
    return Taken(seconds, steps, value["state"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--host", help="a device, in place of loopback")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    space = checkpoints.load().space
    size = space.resolutions[len(space.resolutions) // 2]
    took: dict[str, list[Taken]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="ofa-edge-deploying-") as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        sizes = [compiled(space.smallest(size), 1, small), compiled(space.largest(size), 2, large)]
        server = None if arguments.host else sshd.start(Path(folder, "server"))
        host, options = arguments.host, ["--root", f"~/.ofa-edge-deploying-{os.getpid()}"]
        if server is not None:
            os.environ["OFA_EDGE_SSH_CONFIG"] = str(server.config)
            os.environ["OFA_EDGE_DEVICE_PYTHON"] = sys.executable
            host, options = server.host, []
        try:
            for turn in range(arguments.runs):
                if server is not None:
                    shutil.rmtree(server.root, ignore_errors=True)
                elif turn:
                    options = ["--root", f"~/.ofa-edge-deploying-{os.getpid()}-{turn}"]
                for case, bundle in zip(CASES, (small, small, large), strict=True):
                    took[case].append(deployed(bundle, host, options))
                    print(f"run {turn + 1}, {case}: {took[case][-1].seconds:.1f} s", file=sys.stderr)
        finally:
            if server is not None:
                server.stop()
    report(took, sizes, as_json=arguments.json)


def report(took: Mapping[str, Sequence[Taken]], sizes: Sequence[int], *, as_json: bool) -> None:
    """Medians of the runs."""
    result: dict[str, Any] = {"bundle_bytes": list(sizes)}
    for case, runs in took.items():
        names = dict.fromkeys(name for run in runs for name in run.steps)
        seconds = [run.seconds for run in runs]
        result[case] = {
            "seconds": statistics.median(seconds),
            "low": min(seconds),
            "high": max(seconds),
            "states": sorted({run.state for run in runs}),
            "steps": {name: statistics.median(run.steps.get(name, 0.0) for run in runs) for name in names},
        }
    if as_json:
        print(json.dumps(result))
        return
    print(f"bundles of {sizes[0] / 1e6:.1f} and {sizes[1] / 1e6:.1f} MB")
    for case in took:
        found = result[case]
        steps = ", ".join(f"{name} {value:.2f}" for name, value in found["steps"].items() if value >= 0.005)
        print(
            f"{case:18} {found['seconds']:6.2f} s ({found['low']:.2f} to {found['high']:.2f}), "
            f"{' '.join(found['states'])}{': ' + steps if steps else ''}"
        )


if __name__ == "__main__":
    main()
