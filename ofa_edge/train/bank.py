"""The BN bank of a network in training: fitted, held during a phase, and its cost measured.

In: a Supernet and its training's images. Out: a Bank; what it loses against recalibration, in points of top-1. Rule
kept: the bank that a phase began with is the one it ends with, also when it was killed in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ofa_edge.errors import BadFile
from ofa_edge.space.arch import Arch
from ofa_edge.supernet.batchnorm import fit_statistics
from ofa_edge.supernet.network import Supernet
from ofa_edge.train.images import RECALIBRATION_IMAGES, ImageSet, Splits
from ofa_edge.train.watch import recalibrated, top1
from ofa_edge.weights.bank import Bank, Statistics

# The bank held during a phase is fitted to fewer subnets than the one that ships.
BANK_PHASE_SUBNETS = 100
BANK_SUBNETS = 200
BANK_IMAGES = 400
_LARGEST_EVERY = 20

# What the bank costs against recalibration is measured on this many random subnets.
BANK_CHECK_SUBNETS = 20


def fit_bank(network: Supernet, source: ImageSet, subnets: int, seed: int) -> Bank:
    """A BN bank from `subnets` random subnets, each recalibrated on its own shuffled images.

    Every twentieth is the largest one, so that each batch norm is seen at its full width, however seldom it is drawn.
    """
    rng, space = np.random.default_rng([seed, 7]), network.space

    def measured() -> Iterator[tuple[Arch, Statistics]]:
        for index in range(subnets):
            arch = space.sample(rng) if index % _LARGEST_EVERY else space.largest(int(rng.choice(space.resolutions)))
            yield arch, recalibrated(network, source, arch, BANK_IMAGES, index)

    return fit_statistics(space, measured())


def bank_loss(network: Supernet, splits: Splits, bank: Bank, seed: int) -> dict[str, float]:
    """Held-out top-1 in points (0..100) with recalibration minus with the bank, over random subnets."""
    rng = np.random.default_rng([seed, 8])
    losses = []
    for index in range(BANK_CHECK_SUBNETS):
        arch = network.space.sample(rng)
        exact = recalibrated(network, splits.train, arch, RECALIBRATION_IMAGES, index)
        best = top1(network, splits.heldout, arch, exact)
        losses.append(100 * (best - top1(network, splits.heldout, arch, bank.statistics(network.space, arch))))
    return {
        "subnets": len(losses),
        "heldout_images": len(splits.heldout),
        "recalibration_images": RECALIBRATION_IMAGES,
        "mean_points": round(float(np.mean(losses)), 3),
        "worst_points": round(float(np.max(losses)), 3),
    }


def read_bank(path: Path) -> Bank:
    """The bank that a phase holds, as it was written at the phase's start.

    Raises:
        BadFile: it is gone or damaged; another bank would not do.
    """
    try:
        held = Bank.from_arrays(safetensors.numpy.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise BadFile(f"cannot read the phase's BN bank {path}: {error}", hint="start another run") from error
    if held is None:
        raise BadFile(f"{path} holds no BN bank", hint="start another run")
    return held
