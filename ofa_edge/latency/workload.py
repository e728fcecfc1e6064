"""What is run on a device to be timed: model files of single blocks and of whole networks, brought there by hash.

In: blocks or archs, and how they are run (RunsOn decides the format and the precision of a file). Out: wire jobs whose
models are on the device. Rules kept: a block comes from the same builder
as the deployed network; one file serves a block at all sizes (H and W named, pinned by the job); random weights,
because time does not depend on their values; few large transfers, and only of what the device lacks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from device_agents import wire
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.limits import LIMITS
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block, Layer
from ofa_edge.weights.random import random_arrays

if TYPE_CHECKING:
    from ofa_edge.graph.ir import Graph

_R = TypeVar("_R")

IMAGE_CHANNELS = 3
WEIGHT_SEED = 0
# Of the noise that an int8 block is calibrated on, in pixels: one for all sizes, so that its bytes depend on none.
_CALIBRATION_SIZE = 16
# Of int8 weights, whose values change no time: the files of tables measured so far.
_WEIGHT_BITS = 8


class Device(Protocol):
    """What timing needs of a session with an agent (device/session.py); the double is tests/simulated.py."""

    @property
    def facts(self) -> wire.Facts:
        """What the device was when the session began."""

    def ask_facts(self) -> wire.Facts:
        """What it is now."""

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """Those blobs that the device does not have."""

    def push(self, blobs: Mapping[str, bytes]) -> int:
        """Bring blobs there; bytes sent."""

    def discard(self, sha256s: Sequence[str]) -> int:
        """Remove blobs that no release needs; how many."""

    def measure(self, jobs: Sequence[wire.MeasureJob], *, fresh: bool) -> Iterator[wire.Measured | wire.Failed]:
        """Results in the order of the jobs, as they come; closing the iterator stops the rest."""

    def energy(self, jobs: Sequence[wire.EnergyJob]) -> Iterator[wire.Energy | wire.Failed]:
        """As `measure`, energy a run; the sensors are in the facts."""


@contextlib.contextmanager
def leaving(results: Iterator[_R]) -> Iterator[Iterator[_R]]:
    """Results of a device that may be left before their end, which stops its work on the rest."""
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


class Relay:
    """A device as it is; subclasses look at each of its results, or change them."""

    def __init__(self, device: Device):
        self._device = device
        self.missing = device.missing
        self.push = device.push
        self.discard = device.discard
        self.ask_facts = device.ask_facts
        self.energy = device.energy

    @property
    def facts(self) -> wire.Facts:
        return self._device.facts

    def measure(self, jobs: Sequence[wire.MeasureJob], *, fresh: bool) -> Iterator[wire.Measured | wire.Failed]:
        """As the device's own. Raises as `passed`."""
        with leaving(self._device.measure(jobs, fresh=fresh)) as results:
            for result in results:
                yield self.passed(result) if isinstance(result, wire.Measured) else result

    def passed(self, measured: wire.Measured) -> wire.Measured:
        """What is given in place of a result."""
        return measured


class Model(NamedTuple):
    """A model file by hash, and the sizes of its named dimensions."""

    sha256: str
    shape: dict[str, int]


@dataclass(frozen=True)
class Source:
    """How to get a model file, and the sizes of its named dimensions ({} for a file of fixed shape).

    `sha256` is that of a file which the device has already; it is not made then.
    """

    make: Callable[[], bytes]
    shape: Mapping[str, int] = field(default_factory=dict)
    sha256: str | None = None

    @classmethod
    def there(cls, sha256: str) -> Source:
        """A file of fixed shape among the device's blobs."""
        return cls(lambda: b"", sha256=sha256)


def network_source(space: Space, arch: Arch, runs_on: RunsOn) -> Source:
    """A whole network with random weights."""
    return Source(lambda: network_file(space, arch, runs_on))


def model_file(graph: Graph, runs_on: RunsOn) -> bytes:
    """A whole network in the runtime's format and the precision asked for, of fixed shape.

    An int8 one is calibrated on noise: its times are right and its outputs are not to be used.

    Raises:
        UsageError: no file can be written for such a runtime or precision.
    """
    from ofa_edge.graph import compiling  # with the runtimes, which whoever only reads tables need not wait for

    return compiling.write(
        graph,
        runs_on.runtime,
        runs_on.precision,
        calibration=noise(graph.input.shape),
        activations=runs_on.activations,
        weight_bits=_WEIGHT_BITS,
    )


def block_file(block: Block, runs_on: RunsOn) -> bytes:
    """The file of one block, the same for all input sizes.

    An int8 block takes and gives integers, as inside a network; floats go in only where the images do, and come out
    only of the classifier.

    Raises:
        UsageError: no file can be written for such a runtime or precision.
    """
    from ofa_edge.graph import build, compiling

    layers = [Layer("", block)]
    graph = build.network(layers, random_arrays(layers, WEIGHT_SEED))
    side = 1 if block.type == "Logits" else _CALIBRATION_SIZE
    return compiling.write(
        graph,
        runs_on.runtime,
        runs_on.precision,
        calibration=noise((1, block.in_channels, side, side)),
        activations=runs_on.activations,
        weight_bits=_WEIGHT_BITS,
        symbolic=True,
        # In every space a maximum stands behind a rectifier; inside a network the writer sees that.
        rectified=block.type == "MaxPool2D",
        integer_input=block.in_channels != IMAGE_CHANNELS,
        integer_output=block.type != "Logits",
    )


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """An input that a network is calibrated on."""
    return np.random.default_rng(WEIGHT_SEED).standard_normal(shape, dtype=np.float32)


def block_shape(block: Block) -> dict[str, int]:
    """Sizes of the file's named dimensions; the classifier's file has none."""
    return {} if block.type == "Logits" else {"h": block.in_size, "w": block.in_size}


def network_file(space: Space, arch: Arch, runs_on: RunsOn) -> bytes:
    """The file of a whole network with random weights, of fixed shape as a deployed one."""
    return model_file(random_network(space, arch), runs_on)


def random_network(space: Space, arch: Arch) -> Graph:
    """A whole network with random weights."""
    from ofa_edge.graph import build

    layers = space.layers(arch)
    return build.network(layers, random_arrays(layers, WEIGHT_SEED))


def timing_job(
    key: str, model: Model, runs_on: RunsOn, *, rel: float, seconds: float, anchor: Model | None = None
) -> wire.MeasureJob:
    """Time a model until the interval of its median is within +- `rel`, `seconds` at most."""
    return wire.MeasureJob(
        key=key,
        model=model.sha256,
        shape=model.shape,
        runtime=runs_on.runtime,
        threads=runs_on.threads,
        cores=runs_on.cores,
        target_rel=rel,
        max_seconds=seconds,
        anchor=None if anchor is None else anchor.sha256,
        anchor_shape={} if anchor is None else anchor.shape,
    )


def upload(device: Device, files: Mapping[str, Callable[[], bytes]]) -> tuple[dict[str, str], int]:
    """Bring files to a device.

    Args:
        files: name -> function that makes the bytes; called once each, so that few are in memory at a time.

    Returns:
        name -> sha256, and the bytes sent.

    Raises:
        NoRoom: the device's disk is too full.
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
