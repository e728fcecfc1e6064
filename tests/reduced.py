"""A pipeline's files, made in a second from drawn numbers: a supernet, its accuracy table and a latency table.

They are of the space `reduced` (three stages, five classes, 32 and 48 px), which the commands know once it is
registered (`registered`). The supernet is not trained: what is tested is the way of the numbers, not their worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_edge.accuracy.table import AccuracyHeader, AccuracyWriter
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.conditions import PlanSettings, RunsOn
from ofa_edge.latency.plan import make_plan, spread_sample
from ofa_edge.space import spaces
from ofa_edge.space.arch import Space
from ofa_edge.space.cost import cost
from ofa_edge.weights import checkpoint
from ofa_edge.weights.bank import Bank, features
from ofa_edge.weights.checkpoint import Metadata
from ofa_edge.weights.layout import batch_norms, supernet_shapes
from tests.search.doubles import REDUCED
from tests.simulated import SimulatedDevice

TASK = campaign.Task(REDUCED, REDUCED.resolutions, RunsOn(), PlanSettings(seed=1, quick=True, networks=8))


@contextmanager
def registered(*found: Space) -> Iterator[None]:
    """The commands know the space `reduced`, and further ones."""
    with pytest.MonkeyPatch.context() as patch:
        for space in (REDUCED, *found):
            patch.setitem(spaces.SPACES, space.name, space)
        yield


def write_supernet(path: Path, seed: int = 0, *, bank: bool = True) -> str:
    """A supernet of drawn weights, with a bank unless it is left out; returns its sha256."""
    rng = np.random.default_rng(seed)
    arrays = {name: _drawn(name, shape, rng) for name, shape in supernet_shapes(REDUCED).items()}
    metadata = Metadata(REDUCED.name, ("amber", "birch", "coral", "dune", "elm"), "drawn", "none needed", {}, {}, {})
    return checkpoint.save(path, arrays, _bank(rng) if bank else None, metadata)


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if ".transform_" in name:
        return np.eye(shape[0]) + rng.normal(0, 0.1, shape)
    if name.endswith("_bn.weight"):
        return rng.uniform(0.5, 1.5, shape)
    scale = 0.1 if len(shape) == 1 else float(np.sqrt(2 / np.prod(shape[1:])))
    return rng.normal(0, scale, shape)


def _bank(rng: np.random.Generator) -> Bank:
    largest = REDUCED.largest()
    shapes = {name: (len(features(REDUCED, largest, name)), width) for name, width in batch_norms(REDUCED, largest)}
    return Bank({name: (rng.normal(0, 0.1, shape), rng.normal(0, 0.1, shape)) for name, shape in shapes.items()})


def write_accuracies(path: Path, supernet: str, *, subnets: int = 40, space: Space = REDUCED) -> None:
    """An accuracy table of the checkpoint with this sha256, in which larger subnets are better."""
    header = AccuracyHeader.of(space, checkpoint=supernet, data="drawn", bn="bank", seed=0)
    archs = dict.fromkeys(spread_sample(space, space.resolutions, subnets, np.random.default_rng(0)))
    largest = cost(space.blocks(space.largest())).macs
    with AccuracyWriter.open(path, space, header) as writer:
        for arch in archs:
            writer.add(arch, int(600 + 300 * (cost(space.blocks(arch)).macs / largest) ** 0.5), 1000)
        writer.finish()


def simulated(task: campaign.Task = TASK, **what: Any) -> SimulatedDevice:
    """A simulated board that a task can be measured on."""
    plan = make_plan(task.space, task.resolutions, task.settings)
    return SimulatedDevice(task.space, [network.arch for network in plan.networks], plan.anchor, **what)


def write_latencies(path: Path, device: SimulatedDevice | None = None, task: campaign.Task = TASK) -> Outcome:
    """A latency table, measured on a simulated board."""
    device = device or simulated(task, noise=0.01)
    return campaign.run(device, path, task, clock=device.clock, pause=device.pause)
