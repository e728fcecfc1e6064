"""Held-out top-1 of subnets of a network in training.

In: a Supernet and images. Out: accuracies in 0..1. Rule kept: batch-norm statistics come from training images, never
from the images that are judged.
"""

from __future__ import annotations

import torch

from ofa_edge.space.arch import Arch
from ofa_edge.supernet.batchnorm import given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import batches, images
from ofa_edge.weights.bank import Statistics

# Progress is watched with batch-norm statistics of this many images.
WATCH_IMAGES = 1000


@torch.no_grad()
def top1(network: Supernet, judged: images.ImageSet, arch: Arch, statistics: Statistics) -> float:
    """Top-1 (0..1) of a subnet on evaluation views of these images, by these batch-norm statistics."""
    device, preprocess = next(network.parameters()).device, network.space.preprocess
    views = images.centre_crops(judged, arch.resolution, preprocess)
    with given_statistics(network, statistics):
        parts = batches.plain_batches(views, preprocess)
        guesses = [network(x.to(device), arch).argmax(dim=1).cpu() for x in parts]
    return float((torch.cat(guesses).numpy() == judged.labels).mean())


def recalibrated(network: Supernet, source: images.ImageSet, arch: Arch, count: int, seed: int) -> Statistics:
    """The subnet's batch-norm statistics on `count` of these images, shuffled by the seed."""
    device = next(network.parameters()).device
    shuffled = batches.calibration_batches(source, count, arch.resolution, network.space.preprocess, seed)
    return recalibrate(network, arch, (x.to(device) for x in shuffled))


def watch(network: Supernet, splits: images.Splits, seed: int) -> dict[str, float]:
    """Held-out top-1 (0..1) of the largest and smallest subnet, recalibrated on training images.

    At the middle one of the space's resolutions (ofa-lite0: 128).
    """
    space = network.space
    resolution = sorted(space.resolutions)[len(space.resolutions) // 2]
    archs = {"largest": space.largest(resolution), "smallest": space.smallest(resolution)}
    return {
        name: top1(network, splits.heldout, arch, recalibrated(network, splits.train, arch, WATCH_IMAGES, seed))
        for name, arch in archs.items()
    }
