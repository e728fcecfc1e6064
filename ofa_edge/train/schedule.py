"""Recipes as data: phases, what of the space each opens, and the learning rate at each step.

In: nothing, or a Space. Out: recipes as their papers have them, a recipe scaled to small data, and one fitted to a
space. Rules kept: learning rates are per 64 images of a step's batch, all ranks together, and grow with it in a line
(Goyal et al., 2017), as Once-for-All's own training script has them; no torch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Space

# Learning rates are given for a batch of so many images (`base_batch_size` of the reference implementation).
RATE_BATCH = 64


@dataclass(frozen=True, slots=True)
class Axes:
    """How many of the greatest values of each axis are open; None opens all of them."""

    kernels: int | None = None
    depths: int | None = None
    expands: int | None = None
    widths: int | None = None

    def of(self, space: Space) -> Space:
        """The sub-space of these values; its archs are archs of the whole space."""
        return space.top(kernels=self.kernels, depths=self.depths, expands=self.expands, widths=self.widths)


EVERYTHING = Axes()
ONLY_LARGEST = Axes(1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with one rule.

    Attributes:
        epochs: passes over the training images, those of the warm-up among them.
        subnets: sampler names (sampling.py), run in order at every step; their gradients add up.
        learning_rate: at its top, per 64 images of the batch.
        warmup_steps, warmup_epochs: how long the rate rises in a line; they add up, to half of the phase at most.
        schedule: how it falls after that: half a 'cosine' to zero, or 'linear' to zero.
        axes: the sub-space that random, largest and smallest subnets are of.
        distill: 'none'; 'in-place': the step's first subnet learns the labels, the others its output; 'teacher': every
            subnet learns the labels, and `kd_ratio` times the output of the largest net as it stood at the end of the
            recipe's first phase.
        sort_groups: order the channels by importance before the phase: 0 over the whole width, n keeping those of the
            n + 1 greatest expand ratios apart (OFA's expand_ratio_stage). None leaves them.
        sort_widths: order the output channels of stem and stages likewise, where these are elastic.
        trainable: 'all' weights, the kernel 'transforms' alone, or the classifier's 'head' alone.
        statistics: what normalises: the 'batch', or a 'bank' that is fitted at the phase's start and held, so that
            the weights learn to live with predicted statistics.
        grows: the axis that the phase is there to open; it is left out where it opens nothing (see `fitted`).
    """

    name: str
    epochs: float
    subnets: tuple[str, ...]
    learning_rate: float
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    schedule: str = "cosine"
    axes: Axes = EVERYTHING
    distill: str = "none"
    kd_ratio: float = 1.0
    sort_groups: int | None = None
    sort_widths: bool = False
    trainable: str = "all"
    statistics: str = "batch"
    grows: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Phases in order. `batch_size` is of one step on all ranks together."""

    name: str
    phases: tuple[Phase, ...]
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1


_SANDWICH = ("largest", "smallest", "random")

# Largest, smallest and one random subnet a step, distilled in place from the largest (BigNAS, ECCV 2020). The
# rates are for fine-tuning from ImageNet weights at batch 64 on some thousand images.
SANDWICH = Recipe(
    name="sandwich",
    phases=(
        Phase("largest", 2, ("largest",), 0.02, warmup_steps=100),
        Phase("elastic", 16, _SANDWICH, 0.03, warmup_steps=100, distill="in-place"),
        Phase("bank", 1, _SANDWICH, 0.002, distill="in-place", statistics="bank"),
    ),
)


def _grow(
    name: str, axis: str, epochs: int, subnets: int, rate: float, axes: Axes, warmup: int = 0, groups: int | None = None
) -> Phase:
    """A phase of progressive shrinking: `warmup` epochs on top of `epochs`, as OFA's script counts them."""
    return Phase(
        name,
        epochs + warmup,
        ("random",) * subnets,
        rate,
        warmup_epochs=warmup,
        axes=axes,
        distill="teacher",
        sort_groups=groups,
        grows=axis,
    )


# Progressive shrinking (Once-for-All: Cai et al., ICLR 2020). The largest net, from the paper: rate 2.6 at batch 2048
# (32 GPUs of 64), 180 epochs. The others from its train_ofa_net.py: n_epochs, warmup_epochs, base_lr per 64 images,
# subnets a step (dynamic_batch_size), kd_ratio 1. What is called expand here is the paper's width; the network widths
# of ofa-resnet50d are not in that script, and follow by the same figures.
PROGRESSIVE = Recipe(
    name="progressive",
    phases=(
        Phase("largest", 180, ("largest",), 2.6 * RATE_BATCH / 2048, axes=ONLY_LARGEST),
        _grow("kernel", "kernels", 120, 1, 3e-2, Axes(None, 1, 1, 1), warmup=5),
        _grow("depth-1", "depths", 25, 2, 2.5e-3, Axes(None, 2, 1, 1)),
        _grow("depth-2", "depths", 120, 2, 7.5e-3, Axes(None, None, 1, 1), warmup=5),
        _grow("expand-1", "expands", 25, 4, 2.5e-3, Axes(None, None, 2, 1), groups=0),
        _grow("expand-2", "expands", 120, 4, 7.5e-3, Axes(None, None, None, 1), warmup=5, groups=1),
        replace(_grow("width-1", "widths", 25, 4, 2.5e-3, Axes(None, None, None, 2), groups=2), sort_widths=True),
        _grow("width-2", "widths", 120, 4, 7.5e-3, EVERYTHING, warmup=5),
    ),
    weight_decay=3e-5,
)

# The paper's control: the phases of `progressive` with their epochs, rates and subnets a step, but every subnet drawn
# from the whole space from the first step on, without a teacher and without sorting.
NO_SHRINKING = replace(
    PROGRESSIVE,
    name="no-shrinking",
    phases=tuple(
        replace(phase, subnets=("any",) * len(phase.subnets), distill="none", sort_groups=None, sort_widths=False)
        for phase in PROGRESSIVE.phases
    ),
)

# Single Path One-Shot (Guo et al., ECCV 2020): one uniformly drawn path a step; rate .5 at batch 1024 falling in a
# line over 150,000 steps, which is 120 epochs of ImageNet; weight decay 4e-5, label smoothing .1.
SINGLE_PATH = Recipe(
    name="single-path",
    phases=(Phase("single-path", 120, ("random",), 0.5 * RATE_BATCH / 1024, schedule="linear"),),
)

# Trained weights onto other classes: a new head on frozen features, then all of it for a few epochs.
TRANSFER = Recipe(
    name="transfer",
    phases=(
        Phase("head", 1, ("largest",), 0.05, trainable="head"),
        Phase("elastic", 4, _SANDWICH, 0.01, warmup_steps=100, distill="in-place"),
        Phase("bank", 1, _SANDWICH, 0.002, distill="in-place", statistics="bank"),
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (SANDWICH, PROGRESSIVE, SINGLE_PATH, TRANSFER, NO_SHRINKING)
}


def get_recipe(name: str) -> Recipe:
    """Raises UsageError, listing the names, where there is no such recipe."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"there is no recipe {name!r}", hint=f"use one of: {', '.join(RECIPES)}") from None


def fitted(recipe: Recipe, space: Space) -> Recipe:
    """The recipe without the phases that open nothing in this space.

    Of two phases for one axis with the same sub-space the later one stays, so that an axis of two values is opened by
    the long phase instead of the short one before it. What a phase before has open already is not opened again.
    """
    kept: list[Phase] = []
    for phase in recipe.phases:
        if not phase.grows or not kept or phase.axes.of(space) != kept[-1].axes.of(space):
            kept.append(phase)
        elif phase.grows == kept[-1].grows:
            # No narrower subnet was trained before the phase that goes, so its grouping is the one that counts.
            kept[-1] = replace(phase, sort_groups=kept[-1].sort_groups, sort_widths=kept[-1].sort_widths)
    return replace(recipe, phases=tuple(kept))


def scaled(recipe: Recipe, *, epochs: float = 1.0, rates: float = 1.0, subnets: float = 1.0) -> Recipe:
    """The recipe for other data: every phase's epochs (at least one each), learning rate, and number of random
    subnets a step (at least one each) times a factor. The warm-up keeps its share of the phase."""
    return replace(recipe, phases=tuple(_scaled(phase, epochs, rates, subnets) for phase in recipe.phases))


def _scaled(phase: Phase, epochs: float, rates: float, subnets: float) -> Phase:
    fixed = tuple(name for name in phase.subnets if name in ("largest", "smallest"))
    drawn = tuple(name for name in phase.subnets if name not in fixed)
    kept = drawn[:1] * max(1, round(len(drawn) * subnets)) if drawn else ()
    count = max(1, round(phase.epochs * epochs))
    return replace(
        phase,
        epochs=count,
        warmup_epochs=phase.warmup_epochs * count / phase.epochs,
        learning_rate=phase.learning_rate * rates,
        subnets=fixed + kept,
    )


def learning_rate(phase: Phase, step: int, steps: int, batch_size: int = RATE_BATCH) -> float:
    """Linear warm-up, then down to zero over the phase's `steps`; `batch_size` is of all ranks together."""
    top = phase.learning_rate * batch_size / RATE_BATCH
    # A phase of few images would else end before its rate has risen.
    warmup = min(phase.warmup_steps + round(phase.warmup_epochs * steps / phase.epochs), steps // 2)
    if step < warmup:
        return top * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return top * (1 - done if phase.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
