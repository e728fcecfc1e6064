"""Measuring top-1 of subnets: (checkpoint, archs, images) -> rows of an accuracy table.

Each subnet is cut, folded and run as the ONNX model that would be deployed, one image at a time, so the
table speaks about what runs on a device, and no torch is needed while the BN bank gives the statistics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ofa_edge.accuracy import compiled
from ofa_edge.accuracy.table import AccuracyWriter
from ofa_edge.errors import OfaEdgeError
from ofa_edge.graph import subnet
from ofa_edge.space.arch import Arch
from ofa_edge.train import images as data
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.checkpoint import Checkpoint


@dataclass(slots=True)
class Evaluator:
    """Counts right answers of subnets on one set of images.

    Attributes:
        statistics: gives a subnet's batch-norm statistics; None for the checkpoint's bank.
        workers: the images are shared among this many threads, each running the model on one core.
    """

    checkpoint: Checkpoint
    images: data.ImageSet
    statistics: Callable[[Arch], Statistics] | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    _views: dict[int, np.ndarray] = field(default_factory=dict)

    def correct(self, arch: Arch) -> int:
        """How many images the subnet gets right; raises as `predictions`."""
        return int((self.predictions(arch) == self.images.labels).sum())

    def predictions(self, arch: Arch) -> np.ndarray:
        """The class the subnet gives each image, of shape (images,).

        Raises:
            BadFile: there are no batch-norm statistics for it.
            OfaEdgeError: its outputs are not finite.
        """
        model = subnet.to_onnx(self.checkpoint, arch, self.statistics(arch) if self.statistics else None)
        return compiled.predictions(model, self.view(arch.resolution), self.checkpoint.space.preprocess, self.workers)

    def view(self, resolution: int) -> np.ndarray:
        """The images as the space sees them at a size: uint8 (N, R, R, 3)."""
        if resolution not in self._views:
            self._views[resolution] = data.centre_crops(self.images, resolution, self.checkpoint.space.preprocess)
        return self._views[resolution]


def fill_table(
    evaluator: Evaluator, archs: Iterable[Arch], writer: AccuracyWriter, report: Callable[[Arch], None]
) -> int:
    """Measure the archs that the table does not have yet; returns how many were measured.

    An arch that fails is written down with its reason and costs nothing else.
    """
    measured = 0
    for arch in archs:
        if arch not in writer:
            measured += note(writer, arch, count(evaluator, arch), len(evaluator.images))
        report(arch)
    return measured


def count(evaluator: Evaluator, arch: Arch) -> int | str:
    """How many images the subnet gets right, or why that cannot be said."""
    try:
        return evaluator.correct(arch)
    except OfaEdgeError as error:
        return error.message
    except Exception as error:  # a runtime's own errors share no base
        return f"{type(error).__name__}: {error}"


def note(writer: AccuracyWriter, arch: Arch, counted: int | str, images: int) -> bool:
    """Write down what `count` said; whether it was a count."""
    if isinstance(counted, str):
        writer.fail(arch, counted)
        return False
    writer.add(arch, counted, images)
    return True


@dataclass(frozen=True, slots=True)
class Source:
    """Everything an evaluator is made of, as values that can travel to another process or machine.

    Attributes:
        bn: 'bank' or 'running', the checkpoint's own; 'recalibrated' on training images, in torch.
        training: images to recalibrate on, None where none are needed.
        bn_images: how many of them.
    """

    checkpoint: Checkpoint
    images: data.ImageSet
    bn: str = "bank"
    training: data.ImageSet | None = None
    bn_images: int = 0

    def evaluator(self, workers: int | None = None) -> Evaluator:
        """An evaluator in this process; on all cores where `workers` is left out."""
        statistics: Callable[[Arch], Statistics]
        if self.training is not None:
            from ofa_edge.accuracy.recalibrate import Recalibrator

            statistics = Recalibrator(self.checkpoint, self.training, self.bn_images)
        else:
            statistics = partial(self.checkpoint.statistics_of, bn=self.bn)
        return Evaluator(self.checkpoint, self.images, statistics, workers or os.cpu_count() or 1)
