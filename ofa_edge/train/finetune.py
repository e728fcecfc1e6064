"""One subnet trained alone, from the weights it has in the supernet (Once-for-All's "#25" and "#75").

In: a Supernet of that one subnet with weights, training images. Out: the same network, trained at the subnet's own
resolution; its top-1 and the statistics it has that with. Rule kept: it is judged before and after in the same way,
with statistics of the same training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ofa_edge.space.arch import Arch
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import batches, images, schedule
from ofa_edge.train.distill import label_loss
from ofa_edge.train.optimiser import Precision, new_optimiser, reuse_memory
from ofa_edge.train.progress import Progress, finite
from ofa_edge.train.schedule import Phase, Recipe
from ofa_edge.train.watch import recalibrated, top1
from ofa_edge.weights.bank import Statistics

# The rate of the last, long phase of progressive shrinking; no warm-up, as its momentum starts from nothing.
LEARNING_RATE = 7.5e-3


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """`learning_rate` is per 64 images of a batch; `workers` threads make batches."""

    epochs: int
    learning_rate: float = LEARNING_RATE
    batch_size: int = 64
    precision: str = "fp32"
    seed: int = 0
    workers: int = 1

    @property
    def recipe(self) -> Recipe:
        phase = Phase("finetune", self.epochs, ("largest",), self.learning_rate)
        return Recipe("finetune", (phase,), self.batch_size, weight_decay=3e-5)


def finetune(
    network: Supernet,
    arch: Arch,
    source: images.ImageSet,
    options: FinetuneOptions,
    report: Callable[[Progress], None],
) -> float:
    """Train the subnet where it stands (CPU or GPU); returns the seconds of its steps.

    Raises:
        UsageError: there are fewer images than one batch takes.
        OfaEdgeError: a loss is not finite.
    """
    reuse_memory()
    recipe, steps = options.recipe, batches.steps_of(source, options.batch_size)
    (phase,) = recipe.phases
    device = next(network.parameters()).device
    precision = Precision(options.precision, device)
    optimiser = new_optimiser(network, recipe, phase)
    network.to(memory_format=torch.channels_last)
    seconds = 0.0
    for epoch in range(options.epochs):
        order = np.random.default_rng([options.seed, epoch, 0]).permutation(len(source))

        def make(step: int, epoch: int = epoch, order: np.ndarray = order) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
            seed = (options.seed, epoch, 1, step)
            return batches.training_batch(source, chosen, arch.resolution, network.space.preprocess, seed)

        for step, (x, labels) in enumerate(batches.prefetched(make, range(steps), options.workers)):
            start = time.monotonic()
            rate = schedule.learning_rate(phase, epoch * steps + step, options.epochs * steps, options.batch_size)
            optimiser.zero_grad(set_to_none=True)
            with precision.autocast():
                logits = network(x.to(device), arch)
            loss = label_loss(logits.float(), labels.to(device), recipe.label_smoothing)
            precision.scaler.scale(loss).backward()
            precision.step(optimiser, list(network.parameters()), rate)
            seconds += time.monotonic() - start
            news = Progress(phase.name, epoch, options.epochs, step + 1, steps, loss.item(), options.batch_size)
            report(finite(news))
    return seconds


def judge(
    network: Supernet, arch: Arch, source: images.ImageSet, judged: images.ImageSet, seed: int
) -> tuple[float, Statistics]:
    """Top-1 (0..1) on `judged` images, with the statistics of 2,000 shuffled `source` images, and these."""
    statistics = recalibrated(network, source, arch, images.RECALIBRATION_IMAGES, seed)
    return top1(network, judged, arch, statistics), statistics
