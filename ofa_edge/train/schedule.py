"""Recipes as data: phases, and the learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ofa_edge.errors import UsageError


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with one rule.

    `subnets` are sampler names, run in order at every step; with `distill` the first one's output is the
    others' soft target. `statistics` says what normalises: the 'batch', or a 'bank' that is fitted at the
    phase's start and held, so that the weights learn to live with predicted statistics.
    """

    name: str
    epochs: int
    subnets: tuple[str, ...]
    learning_rate: float
    warmup_steps: int = 0
    distill: bool = True
    statistics: str = "batch"


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    phases: tuple[Phase, ...]
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1


# Largest, smallest and one random subnet a step, distilled in place from the largest (BigNAS, ECCV 2020). The
# rates are for fine-tuning from ImageNet weights at batch 64 on some thousand images.
SANDWICH = Recipe(
    name="sandwich",
    phases=(
        Phase("largest", 2, ("largest",), 0.02, warmup_steps=100, distill=False),
        Phase("elastic", 16, ("largest", "smallest", "random"), 0.03, warmup_steps=100),
        Phase("bank", 1, ("largest", "smallest", "random"), 0.002, statistics="bank"),
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (SANDWICH,)}


def get_recipe(name: str) -> Recipe:
    """Raises UsageError, listing the names, where there is no such recipe."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"there is no recipe {name!r}", hint=f"use one of: {', '.join(RECIPES)}") from None


def learning_rate(phase: Phase, step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine to zero over the phase's `steps`."""
    if step < phase.warmup_steps:
        return phase.learning_rate * (step + 1) / phase.warmup_steps
    done = (step - phase.warmup_steps) / max(1, steps - phase.warmup_steps)
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
