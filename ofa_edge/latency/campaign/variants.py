"""Two files of one network: which is faster on this device?

In: a device, both files. Out: a Faster. Used for the type of int8 activations, which no data sheet tells. Rules kept:
both run in turns in the same fresh process, and what counts is the median of their ratio over processes; where its
interval does not leave out 1, what is usual for such a machine stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from device_agents import wire
from ofa_edge.graph import compiling
from ofa_edge.graph.ir import Graph
from ofa_edge.graph.quantize import Activations
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.plan import QUICK, Effort
from ofa_edge.latency.trials import network_job, over_processes, repeated
from ofa_edge.latency.workload import Device, Model, upload

PROCESSES = 3


@dataclass(frozen=True, slots=True)
class Faster:
    """Attributes:
    name: of the file to take.
    ratio: time of the second file over the first's; None where a process failed.
    reason: why this one, in a sentence.
    """

    name: str
    ratio: wire.Figures | None
    reason: str


def faster(
    device: Device,
    files: dict[str, bytes],
    runs_on: RunsOn,
    *,
    usual: str,
    processes: int = PROCESSES,
    effort: Effort = QUICK,
) -> Faster:
    """Measure two files by name, in the order of `files`.

    Args:
        usual: the name to keep where there is no certain difference.

    Raises:
        UsageError, DeviceLost, NoRoom: as Session.measure and push.
    """
    first, second = files
    hashes, _ = upload(device, {name: partial(bytes, content) for name, content in files.items()})
    job = network_job(second, Model(hashes[second], {}), Model(hashes[first], {}), runs_on, effort)
    ratios = []
    for _ in range(processes):
        *_, last = repeated(device, job, attempts=effort.attempts)
        if isinstance(last.result, wire.Failed):
            return Faster(usual, None, f"{usual}, as usual there: measuring failed, {last.result.reason}")
        if last.result.ratio is not None:
            ratios.append(last.result.ratio)
    found = over_processes(ratios)
    if found.low <= 1 <= found.high:
        return Faster(
            usual, found, f"{usual}, as usual there: {second} takes {found.median:.2f} times as long as {first}"
        )
    name = second if found.high < 1 else first
    return Faster(name, found, f"{name}: {second} takes {found.median:.2f} times as long as {first}")


def activations(device: Device, graph: Graph, calibration: np.ndarray, runs_on: RunsOn) -> tuple[Activations, Faster]:
    """The type of int8 activations that an ONNX file of this network is faster with on a device.

    Raises:
        UsageError, DeviceLost, NoRoom: as `faster`.
    """
    kinds: tuple[Activations, Activations] = ("uint8", "int8")
    files: dict[str, bytes] = {
        kind: compiling.write(graph, "onnxruntime", "int8", calibration=calibration, activations=kind) for kind in kinds
    }
    found = faster(device, files, runs_on, usual=compiling.usual_activations(device.facts.machine))
    return cast("Activations", found.name), found
