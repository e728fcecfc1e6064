"""What a training step of a subnet costs: in the supernet, as a static network, and in the reference implementation.

    python benchmarks/supernet.py [--space ofa-mbv3-w1.0] [--resolution 160] [--batch 16] [--rounds 9] [--threads N]
                                  [--json]

A step is forward, loss, backward and SGD with momentum, on given images. `supernet` runs the subnet in the shared
weights, `static` is the same subnet as a static module (tests/static_subnet.py), `reference` is PyPI `ofa`'s supernet
set to the same architecture. They take turns within each round, so that a machine that slows down slows all of them;
figures are medians over the rounds, ratios are medians of the ratio within a round. Memory is the peak resident set of
a fresh process that takes three steps, less that of one which only makes the network and the images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.space.spaces import get_space
from ofa_edge.supernet.network import Supernet
from ofa_edge.train.optimiser import reuse_memory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import reference_ofa
from tests.static_subnet import Subnet

KINDS = ("supernet", "static", "reference")
ARCHS = ("largest", "random", "smallest")
Step = Callable[[], None]


def arch_of(options: argparse.Namespace, name: str) -> Arch:
    space = get_space(options.space)
    if name == "random":
        return space.sample(np.random.default_rng(4), options.resolution)
    return space.largest(options.resolution) if name == "largest" else space.smallest(options.resolution)


def network_of(options: argparse.Namespace, kind: str, arch: Arch) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A network with drawn weights, in training mode, and how it runs `arch`."""
    space = get_space(options.space)
    torch.manual_seed(0)
    if kind == "static":
        network: nn.Module = Subnet(space, arch)
        run: Callable[[Tensor], Tensor] = network
    elif kind == "supernet":
        network = Supernet(space)
        run = partial(network, arch=arch)
    else:
        network = reference_ofa.SUPERNETS[options.space]()
        network.set_active_subnet(**{key: v for key, v in codecs.encode(space, arch).items() if key != "r"})
        run = network
    network.to(memory_format=torch.channels_last).train()
    return network, run


def step_of(options: argparse.Namespace, kind: str, arch: Arch) -> Step:
    """One training step on the same drawn images every time."""
    network, run = network_of(options, kind, arch)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=3e-5, nesterov=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(options.batch, 3, arch.resolution, arch.resolution, generator=generator)
    x = x.to(memory_format=torch.channels_last)
    labels = torch.arange(options.batch)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(run(x), labels, label_smoothing=0.1).backward()
        optimiser.step()

    return step


# -- time ---------------------------------------------------------------------------------------
def times(options: argparse.Namespace, arch: Arch) -> dict[str, list[float]]:
    """Milliseconds of each kind, one a round, after a round that is not counted."""
    steps = {kind: step_of(options, kind, arch) for kind in KINDS}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for index in range(options.rounds + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if index:
                found[kind].append((time.perf_counter() - start) * 1e3)
    return found


def ratio(found: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))


# -- memory -------------------------------------------------------------------------------------
def peak_mib(options: argparse.Namespace, kind: str, name: str, steps: int) -> float:
    """Peak resident set in MiB of a fresh process that takes so many steps."""
    given = {"--space": options.space, "--resolution": options.resolution, "--batch": options.batch}
    settings = [str(part) for pair in given.items() for part in pair]
    program = [sys.executable, __file__, *settings, "--threads", str(options.threads), "--peak", kind, name, str(steps)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(options: argparse.Namespace) -> None:
    kind, name, steps = options.peak
    step = step_of(options, kind, arch_of(options, name))
    for _ in range(int(steps)):
        step()
    # Not getrusage: a child begins with the peak of the process that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) / 1024)


# -- the whole ----------------------------------------------------------------------------------
def measure(options: argparse.Namespace, name: str) -> dict[str, Any]:
    found = times(options, arch_of(options, name))
    steps = {kind: peak_mib(options, kind, name, 3) for kind in KINDS}
    idle = {kind: peak_mib(options, kind, name, 0) for kind in KINDS}
    return {
        "arch": name,
        "median_ms": {kind: statistics.median(values) for kind, values in found.items()},
        "supernet_over_static": ratio(found, "supernet", "static"),
        "reference_over_supernet": ratio(found, "reference", "supernet"),
        "peak_mib": steps,
        "above_idle_mib": {kind: steps[kind] - idle[kind] for kind in KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa-mbv3-w1.0", choices=reference_ofa.SUPERNETS)
    parser.add_argument("--resolution", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=3, metavar=("KIND", "ARCH", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(options)
        return
    reuse_memory()
    rows = []
    if not options.json:
        print(f"{options.space}, {options.resolution} px, batch {options.batch}, {options.threads} threads")
        print(f"{'':10}{'ms: supernet':>14}{'static':>9}{'reference':>11}{'/ static':>10}{'speed':>8}", end="")
        print(f"{'MiB: supernet':>16}{'static':>9}{'reference':>11}")
    for name in ARCHS:
        row = measure(options, name)
        rows.append(row)
        if not options.json:
            ms, mib = row["median_ms"], row["above_idle_mib"]
            print(f"{name:10}{ms['supernet']:14.0f}{ms['static']:9.0f}{ms['reference']:11.0f}", end="")
            print(f"{row['supernet_over_static']:10.2f}{row['reference_over_supernet']:8.2f}", end="")
            print(f"{mib['supernet']:16.0f}{mib['static']:9.0f}{mib['reference']:11.0f}", flush=True)
    if options.json:
        keys = ("space", "resolution", "batch", "rounds", "threads")
        print(json.dumps({key: getattr(options, key) for key in keys} | {"archs": rows}))


if __name__ == "__main__":
    main()
