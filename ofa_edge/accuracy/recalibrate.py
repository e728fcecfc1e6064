"""Batch-norm statistics of single subnets, measured in torch on shuffled training images."""

from __future__ import annotations

import numpy as np

from ofa_edge.space.arch import Arch
from ofa_edge.supernet.batchnorm import recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import batches, images
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.checkpoint import Checkpoint


class Recalibrator:
    """Gives any subnet of a checkpoint the statistics it has on these images."""

    def __init__(
        self, checkpoint: Checkpoint, source: images.ImageSet, count: int = images.RECALIBRATION_IMAGES, seed: int = 0
    ):
        self._space = checkpoint.space
        self._network = Supernet(checkpoint.space, checkpoint.arch)
        self._network.load(checkpoint.arrays)
        order = np.random.default_rng(seed).permutation(len(source))[:count]
        self._images = source.subset(order)
        self._views: dict[int, np.ndarray] = {}

    def __call__(self, arch: Arch) -> Statistics:
        preprocess = self._space.preprocess
        if arch.resolution not in self._views:
            self._views[arch.resolution] = images.centre_crops(self._images, arch.resolution, preprocess)
        return recalibrate(self._network, arch, batches.plain_batches(self._views[arch.resolution], preprocess))
