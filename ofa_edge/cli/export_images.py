"""What `export` needs of images: batch-norm statistics, what int8 is calibrated on, and accuracy on images held out.

In: --data and the weights. Out: statistics, arrays as a network reads them, counts. Rules kept: nothing is calibrated
on images that accuracy is counted on; every subnet of a call sees the same images. Pillow, pyarrow and torch load when
they are needed, not before.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ofa_edge.cli.images import heldout_of, read_images
from ofa_edge.cli.output import Output
from ofa_edge.errors import UsageError
from ofa_edge.graph.compiling import CALIBRATION_IMAGES
from ofa_edge.space.arch import Arch
from ofa_edge.weights.bank import Statistics

if TYPE_CHECKING:
    from ofa_edge.accuracy.recalibrate import Recalibrator
    from ofa_edge.cli.inputs import Weights
    from ofa_edge.train.images import ImageSet, Splits

_SEED = 0


class HeldOut(NamedTuple):
    """Images that nothing was fitted on, and where they are from: 'val', or 'heldout' of the training split."""

    split: str
    images: ImageSet


class Images:
    """The images at a path, read once.

    Args:
        data: as --data says.
    """

    def __init__(self, data: Path, weights: Weights, out: Output):
        self._data, self._weights, self._out = data, weights, out
        self._calibration: dict[int, np.ndarray] = {}

    @cached_property
    def _splits(self) -> Splits:
        from ofa_edge.train import images

        loaded = read_images(self._data, "train", self._weights.space, self._out)
        checkpoint = self._weights.checkpoint
        return images.split_training(loaded, 0 if checkpoint is None else heldout_of(checkpoint))

    @cached_property
    def held_out(self) -> HeldOut:
        """The val split, or where there is none the part of the training split that training leaves out."""
        if self._data.is_dir():
            try:
                return HeldOut("val", read_images(self._data, "val", self._weights.space, self._out))
            except UsageError:
                self._out.say(f"{self._data} has no val split; accuracy is counted on the held-out part of train")
        return HeldOut("heldout", self._splits.heldout)

    def statistics(self, arch: Arch) -> Statistics:
        """Batch-norm statistics recalibrated on training images."""
        return self._recalibrator(arch)

    @cached_property
    def _recalibrator(self) -> Recalibrator:
        from ofa_edge.accuracy.recalibrate import Recalibrator

        if self._weights.checkpoint is None:
            raise UsageError("random weights have no batch norm", hint="leave --bn out")
        return Recalibrator(self._weights.checkpoint, self._splits.train)

    def calibration(self, resolution: int) -> np.ndarray:
        """Training images, shuffled, as the network reads them: float32 (N, 3, R, R)."""
        from ofa_edge.accuracy import compiled
        from ofa_edge.train import images

        if resolution not in self._calibration:
            train, preprocess = self._splits.train, self._weights.space.preprocess
            chosen = train.subset(np.random.default_rng(_SEED).permutation(len(train))[:CALIBRATION_IMAGES])
            views = images.centre_crops(chosen, resolution, preprocess)
            self._calibration[resolution] = compiled.inputs(views, preprocess)
        return self._calibration[resolution]

    def top1(self, model: bytes, resolution: int) -> float:
        """Percent of the held-out images that a file gets right."""
        from ofa_edge.accuracy import compiled

        return compiled.top1(model, self.held_out.images, resolution, self._weights.space.preprocess).top1
