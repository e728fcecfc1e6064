"""Batch-norm statistics of single subnets, measured in torch on shuffled training images."""

from __future__ import annotations

import numpy as np
import torch

from ofa_edge.space.arch import Arch
from ofa_edge.supernet.batchnorm import recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.supernet.subnet import Subnet
from ofa_edge.train import batches, images
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.checkpoint import Checkpoint


class Recalibrator:
    """Gives any subnet of a checkpoint the statistics it has on these images."""

    def __init__(
        self, checkpoint: Checkpoint, source: images.ImageSet, count: int = images.RECALIBRATION_IMAGES, seed: int = 0
    ):
        self._space, self._network = checkpoint.space, _network(checkpoint)
        order = np.random.default_rng(seed).permutation(len(source))[:count]
        self._images = source.subset(order)
        self._views: dict[int, np.ndarray] = {}

    def __call__(self, arch: Arch) -> Statistics:
        preprocess = self._space.preprocess
        if arch.resolution not in self._views:
            self._views[arch.resolution] = images.centre_crops(self._images, arch.resolution, preprocess)
        views = batches.plain_batches(self._views[arch.resolution], preprocess)
        if isinstance(self._network, Subnet):
            return self._network.recalibrate(views)
        return recalibrate(self._network, arch, views)


def _network(checkpoint: Checkpoint) -> Supernet | Subnet:
    """The checkpoint's weights in torch."""
    if checkpoint.arch is not None:
        subnet = Subnet(checkpoint.space, checkpoint.arch)
        subnet.load(checkpoint.arrays, checkpoint.statistics_of(checkpoint.arch))
        return subnet
    network = Supernet(checkpoint.space)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in checkpoint.arrays.items()})
    return network
