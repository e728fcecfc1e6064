"""The type of int8 activations that ONNX Runtime is faster with on a device, asked of the device itself.

In: a device, a space, how networks are run. Out: a Choice, with what was measured. Rules kept: uint8 and int8 files of
the same few networks, from the smallest to the largest, run in turns in the same fresh processes, and what counts is
the median of their ratio over processes; the choice is of all networks together, and where they leave it open, what is
usual for such a machine stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from device_agents import wire
from ofa_edge.graph import compiling
from ofa_edge.graph.ir import Graph
from ofa_edge.graph.quantize import Activations
from ofa_edge.latency.conditions import LOSSY, RunsOn
from ofa_edge.latency.plan import QUICK, middle
from ofa_edge.latency.trials import network_job, over_processes, repeated
from ofa_edge.latency.workload import Device, Model, noise, random_network, upload
from ofa_edge.space.arch import Arch, Space

_PROCESSES = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """What activations to take.

    Attributes:
        ratios: time with int8 over time with uint8, of each network that could be measured.
        reason: in a sentence.
    """

    activations: Activations
    ratios: tuple[float, ...]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """What a table's provenance says of it."""
        return {"chosen": self.activations, "int8_over_uint8": [round(ratio, 4) for ratio in self.ratios]}


def open_to_choice(runs_on: RunsOn) -> bool:
    """Whether there is a type to choose: TFLite files have int8 only."""
    return runs_on.precision in LOSSY and runs_on.runtime == "onnxruntime" and runs_on.activations is None


def networks(space: Space, resolutions: Sequence[int]) -> tuple[Arch, ...]:
    """Those that are measured: the anchor, the smallest and the largest."""
    return middle(space, sorted(set(resolutions))), space.smallest(min(resolutions)), space.largest(max(resolutions))


def choose(
    device: Device,
    space: Space,
    resolutions: Sequence[int],
    runs_on: RunsOn,
    report: Callable[[int], None] = lambda count: None,
) -> Choice:
    """Ask the device.

    Args:
        report: told of each network that is done.

    Raises:
        UsageError, DeviceLost, NoRoom: as Session.measure and push.
    """
    found = []
    for arch in networks(space, resolutions):
        one = _ratio(device, random_network(space, arch), replace(runs_on, activations=None))
        if one is not None:
            found.append(one)
        report(1)
    usual = compiling.usual_activations(device.facts.machine)
    if not found:
        return Choice(usual, (), f"activations {usual}, as usual for {device.facts.machine}: measuring failed")
    ratio = math.exp(sum(math.log(one.median) for one in found) / len(found))
    said = f"int8 takes {ratio:.2f} times as long as uint8"
    ratios = tuple(one.median for one in found)
    if median(one.low for one in found) <= 1 <= median(one.high for one in found):
        return Choice(usual, ratios, f"activations {usual}, as usual for {device.facts.machine}: {said}")
    taken: Activations = "int8" if ratio < 1 else "uint8"
    return Choice(taken, ratios, f"activations {taken}: {said}")


def _ratio(device: Device, graph: Graph, runs_on: RunsOn) -> wire.Figures | None:
    """Time with int8 over time with uint8; None where a process failed."""
    kinds: tuple[Activations, Activations] = ("uint8", "int8")
    write = partial(compiling.write, graph, "onnxruntime", "int8", calibration=noise(graph.input.shape))
    hashes, _ = upload(device, {kind: partial(write, activations=kind) for kind in kinds})
    job = network_job("int8", Model(hashes["int8"], {}), Model(hashes["uint8"], {}), runs_on, QUICK)
    ratios = []
    for _ in range(_PROCESSES):
        *_, last = repeated(device, job, attempts=QUICK.attempts)
        if isinstance(last.result, wire.Failed):
            return None
        if last.result.ratio is not None:
            ratios.append(last.result.ratio)
    return over_processes(ratios)
