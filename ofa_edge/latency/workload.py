"""What is run on a device to be timed: model files of single blocks and of whole networks, brought there by hash.

In: blocks or archs, and how they are run (RunsOn decides the format and the precision of a file). Out: wire jobs whose
models are on the device. Rules kept: a block comes from the same builder
as the deployed network; one file serves a block at all sizes (H and W named, pinned by the job); random weights,
because time does not depend on their values; few large transfers, and only of what the device lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from device_agents import wire
from ofa_edge.errors import UsageError
from ofa_edge.graph import build, onnx, tflite
from ofa_edge.graph.ir import Graph
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.limits import LIMITS
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block, Layer
from ofa_edge.weights.random import random_arrays

WEIGHT_SEED = 0


class Device(Protocol):
    """What timing needs of a session with an agent (ofa_edge.device.session.Session); the double is simulated.py."""

    @property
    def facts(self) -> wire.Facts:
        """What the device was when the session began."""

    def ask_facts(self) -> wire.Facts:
        """What it is now."""

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """Those blobs that the device does not have."""

    def push(self, blobs: Mapping[str, bytes]) -> int:
        """Bring blobs there; bytes sent."""

    def measure(self, jobs: Sequence[wire.MeasureJob], *, fresh: bool) -> Iterator[wire.Measured | wire.Failed]:
        """Results in the order of the jobs, as they come; closing the iterator stops the rest."""


class Model(NamedTuple):
    """A model file by hash, and the sizes of its named dimensions."""

    sha256: str
    shape: dict[str, int]


@dataclass(frozen=True)
class Source:
    """How to get a model file, and the sizes of its named dimensions ({} for a file of fixed shape)."""

    make: Callable[[], bytes]
    shape: Mapping[str, int] = field(default_factory=dict)


def network_source(space: Space, arch: Arch, runs_on: RunsOn, seed: int = WEIGHT_SEED) -> Source:
    """A whole network with random weights."""
    return Source(lambda: network_file(space, arch, runs_on, seed))


def model_file(graph: Graph, runs_on: RunsOn, *, symbolic: bool = False, rectified: bool = False) -> bytes:
    """A graph in the runtime's format and the precision asked for.

    Args:
        symbolic: one file for all input sizes.
        rectified: the input has no negative values.

    Raises:
        UsageError: no file can be written for such a runtime or precision.
    """
    if runs_on.precision != "fp32":
        raise UsageError(f"no model file can be written at {runs_on.precision}", hint="use --precision fp32")
    if runs_on.runtime == "onnxruntime":
        return onnx.to_bytes(graph, symbolic=symbolic)
    if runs_on.runtime == "litert":
        return tflite.to_bytes(graph, symbolic=symbolic, rectified=rectified)
    raise UsageError(
        f"no model file can be written for runtime {runs_on.runtime}", hint="use --runtime onnxruntime or litert"
    )


def block_file(block: Block, runs_on: RunsOn, seed: int = WEIGHT_SEED) -> bytes:
    """The file of one block, the same for all input sizes."""
    layers = [Layer("", block)]
    graph = build.network(layers, random_arrays(layers, seed))
    # In every space a maximum stands behind a rectifier; inside a network the writer sees that.
    return model_file(graph, runs_on, symbolic=True, rectified=block.type == "MaxPool2D")


def block_shape(block: Block) -> dict[str, int]:
    """Sizes of the file's named dimensions; the classifier's file has none."""
    return {} if block.type == "Logits" else {"h": block.in_size, "w": block.in_size}


def network_file(space: Space, arch: Arch, runs_on: RunsOn, seed: int = WEIGHT_SEED) -> bytes:
    """The file of a whole network with random weights, of fixed shape as a deployed one."""
    layers = space.layers(arch)
    return model_file(build.network(layers, random_arrays(layers, seed)), runs_on)


def upload(device: Device, files: Mapping[str, Callable[[], bytes]]) -> tuple[dict[str, str], int]:
    """Bring files to a device.

    Args:
        files: name -> function that makes the bytes; called once each, so that few are in memory at a time.

    Returns:
        name -> sha256, and the bytes sent.
    """
    hashes: dict[str, str] = {}
    group: dict[str, bytes] = {}
    sent = size = 0
    for name, make in files.items():
        data = make()
        hashes[name] = hashlib.sha256(data).hexdigest()
        if hashes[name] not in group:
            group[hashes[name]] = data
            size += len(data)
        if size >= LIMITS.pack_bytes:
            sent += _push(device, group)
            group, size = {}, 0
    return hashes, sent + _push(device, group)


def _push(device: Device, group: Mapping[str, bytes]) -> int:
    lacking = device.missing(list(group)) if group else []
    return device.push({sha256: group[sha256] for sha256 in lacking}) if lacking else 0
