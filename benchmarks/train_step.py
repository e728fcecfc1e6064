"""What a training step costs inside the supernet, against the same step of the subnet alone.

    python benchmarks/train_step.py [--resolution 96] [--batch 16] [--rounds 7] [--threads N] [--json]

A step is forward, loss and backward, without the data and without the optimiser. `alone` is a plain torch network of
the subnet's own layers, which slices nothing. The cases take turns, so that a machine that slows down slows all of
them; figures are medians over the rounds, ratios are medians of the ratio within a round. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ofa_edge.space.arch import Arch
from ofa_edge.space.block import Block
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.supernet.network import Supernet
from ofa_edge.train.distill import label_loss, soft_loss
from ofa_edge.train.trainer import reuse_memory

SPACE = OFA_LITE0


# -- a subnet alone -----------------------------------------------------------------------------
def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int, active: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=SPACE.bn_eps, track_running_stats=False),
    ]
    return [*layers, nn.ReLU6(inplace=True)] if active else layers


class Bottleneck(nn.Module):
    def __init__(self, block: Block):
        super().__init__()
        mid, layers = block.mid_channels, []
        if mid != block.in_channels:
            layers += convolution(block.in_channels, mid, 1, 1, 1, True)
        layers += convolution(mid, mid, block.kernel, block.stride, mid, True)
        layers += convolution(mid, block.out_channels, 1, 1, 1, False)
        self.layers, self.skip = nn.Sequential(*layers), block.skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.skip else y


def alone(arch: Arch) -> nn.Sequential:
    """The subnet as its own network, with weights of its own."""
    layers: list[nn.Module] = []
    for block in SPACE.blocks(arch):
        if block.type == "expanded_conv":
            layers.append(Bottleneck(block))
        elif block.type == "AvgPool2D":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        elif block.type == "Logits":
            layers.append(nn.Linear(block.in_channels, block.out_channels))
        else:
            layers += convolution(block.in_channels, block.out_channels, block.kernel, block.stride, 1, True)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


# -- steps --------------------------------------------------------------------------------------
def cases(resolution: int, batch: int) -> dict[str, Callable[[], None]]:
    """Each case's step by its name."""
    rng = np.random.default_rng(0)
    archs = {
        "largest": SPACE.largest(resolution),
        "smallest": SPACE.smallest(resolution),
        "random": SPACE.sample(rng, resolution),
    }
    torch.manual_seed(0)
    x = torch.randn(batch, 3, resolution, resolution).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(rng.integers(0, SPACE.classes, batch))
    supernet = Supernet(SPACE).to(memory_format=torch.channels_last)

    def step(network: nn.Module, *more: Any) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad(set_to_none=True)
            label_loss(network(x, *more), labels, 0.1).backward()

        return run

    def sandwich() -> None:
        supernet.zero_grad(set_to_none=True)
        teacher = supernet(x, archs["largest"])
        label_loss(teacher, labels, 0.1).backward()
        for name in ("smallest", "random"):
            soft_loss(supernet(x, archs[name]), teacher).backward()

    made: dict[str, Callable[[], None]] = {}
    for name, arch in archs.items():
        made[f"{name}, in the supernet"] = step(supernet, arch)
        made[f"{name}, alone"] = step(alone(arch))
    made["sandwich of all three"] = sandwich
    return made


def measure(made: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Times in ms by case, one a round, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for index in range(rounds + 1):
        for name, run in made.items():
            start = time.perf_counter()
            run()
            if index:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians in ms, and the ratios that matter."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    largest = "largest, in the supernet"
    return {
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "in_supernet_over_alone": {
            name: ratio(f"{name}, in the supernet", f"{name}, alone") for name in ("largest", "smallest", "random")
        },
        "over_largest_in_supernet": {name: ratio(name, largest) for name in times if name != largest},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=96, choices=SPACE.resolutions)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reuse_memory()
    result = summary(measure(cases(options.resolution, options.batch), options.rounds))
    result |= {"resolution": options.resolution, "batch": options.batch, "threads": options.threads}
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'step':28}{'ms':>9}{'images/s':>10}{'/ largest':>11}   {options.resolution} px, batch {options.batch}")
    for name, value in result["median_ms"].items():
        relative = result["over_largest_in_supernet"].get(name, 1.0)
        print(f"{name:28}{value:9.1f}{options.batch / value * 1e3:10.1f}{relative:11.2f}")
    print("in the supernet / alone: ", end="")
    print(", ".join(f"{name} {value:.2f}" for name, value in result["in_supernet_over_alone"].items()))


if __name__ == "__main__":
    main()
