"""A small training run of every kind of phase, the same wherever it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ofa_edge.space.arch import Space
from ofa_edge.train import schedule
from ofa_edge.train.images import Splits
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.progress import Progress
from ofa_edge.train.schedule import Phase, Recipe, scaled
from ofa_edge.train.trainer import Trainer
from tests.train.tiny import TINY, splits

RECIPE = Recipe(
    name="short",
    phases=(
        Phase("largest", 1, ("largest",), 0.4, warmup_steps=2),
        Phase("elastic", 2, ("largest", "smallest", "random"), 0.4, distill="in-place"),
        Phase("bank", 1, ("largest", "random"), 0.08, distill="in-place", statistics="bank"),
    ),
    batch_size=8,
)

# One epoch of each of its phases that open something in the tiny space: largest, kernel, depth-2, expand-1, expand-2.
PROGRESSIVE = replace(scaled(schedule.PROGRESSIVE, epochs=0, rates=2, subnets=0.5), batch_size=8)

# 24 images are three steps an epoch; twelve in all.
STEPS = 12

OPTIONS = TrainOptions(seed=3, checkpoint_minutes=0)

# Enough for every batch norm at its full width with these seeds.
BANK_SUBNETS = 25


def trainer(
    out: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    options: TrainOptions = OPTIONS,
    recipe: Recipe = RECIPE,
    data: Splits | None = None,
    space: Space = TINY,
) -> Trainer:
    """A trainer with the same initial weights each time, which saves its state after every step."""
    torch.manual_seed(0)
    return Trainer(space, recipe, data or splits(24), out, options, report)
