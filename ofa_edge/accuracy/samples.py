"""Which subnets to measure: drawn over a space, or inside a budget, and the parts that several workers measure.

In: a Space, input sizes, a seed. Out: archs in a fixed order. Rules kept: the same arguments give the same archs on
every rank and machine, so that ranks need not talk; a longer sample begins with the shorter one; drawing always ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.sampling import ATTEMPTS, sample_within


@dataclass(frozen=True, slots=True)
class Preset:
    """How a paper measured the subnets its predictor or search works with.

    Attributes:
        samples: subnets.
        one_size: each at one drawn input size, instead of at all.
        heldout: training images kept out to measure on.
        bn: where batch-norm statistics come from, and on how many training images they are recalibrated.
    """

    samples: int
    one_size: bool
    heldout: int
    bn: str
    bn_images: int


PRESETS = {
    # Once-for-All (Cai et al., ICLR 2020): 16K subnets of different architectures and input sizes, 10K images
    "ofa-paper": Preset(16_000, True, 10_000, "recalibrated", 2_000),
    # Single Path One-Shot (Guo et al., ECCV 2020): 1,000 subnets, 50K images, batch norm on 20K
    "spos-paper": Preset(1_000, True, 50_000, "recalibrated", 20_000),
}


def spread_sample(space: Space, count: int, resolutions: tuple[int, ...], seed: int) -> list[Arch]:
    """`count` different subnets, each at every one of the resolutions; the largest and smallest come first.

    Raises:
        UsageError: the space has fewer.
    """
    if count > space.count():
        raise UsageError(
            f"space {space.name} has {space.count()} subnets, {count} were asked for", hint="ask for fewer --samples"
        )
    rng = np.random.default_rng(seed)
    drawn = dict.fromkeys((space.largest().at(0), space.smallest().at(0)))
    while len(drawn) < count:
        drawn.setdefault(space.sample(rng).at(0))
    return [arch.at(r) for arch in list(drawn)[:count] for r in resolutions]


def sample_sizes(
    space: Space,
    count: int,
    resolutions: tuple[int, ...],
    seed: int,
    fits: Callable[[Arch], bool] = lambda arch: True,
) -> list[Arch]:
    """`count` different subnets that fit, each at one drawn resolution; first the largest and smallest, if they fit.

    Raises:
        InfeasibleBudget: drawing finds none that fits.
        UsageError: there are fewer different ones.
    """
    at_these = replace(space, resolutions=resolutions)
    rng = np.random.default_rng(seed)
    drawn = dict.fromkeys(arch for arch in (at_these.largest(), at_these.smallest()) if fits(arch))
    repeats = 0
    while len(drawn) < count:
        arch = sample_within(at_these, rng, fits)
        repeats = repeats + 1 if arch in drawn else 0
        drawn.setdefault(arch)
        if repeats >= ATTEMPTS:
            raise UsageError(
                f"only {len(drawn)} different subnets were found where {count} were asked for",
                hint="ask for fewer --samples, or loosen the budget",
            )
    return list(drawn)[:count]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` workers that share the archs; `index` counts from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read '2/4', the second of four.

        Raises:
            UsageError: it is not that.
        """
        index, slash, count = text.partition("/")
        if not (slash and all(part.isascii() and part.isdigit() and len(part) < 6 for part in (index, count))):
            raise UsageError(f"--shard {text!r} is not a part such as 2/4", hint="write 1/4, 2/4, 3/4 and 4/4")
        if not 1 <= int(index) <= int(count):
            raise UsageError(f"there is no part {index} of {count}", hint=f"write 1/{count} to {count}/{count}")
        return cls(int(index) - 1, int(count))

    def part(self, archs: Sequence[Arch]) -> list[Arch]:
        """This worker's archs, in their order. Shuffled apart, so that no worker gets the large input sizes alone."""
        owner = np.random.default_rng(0).permutation(len(archs)) % self.count
        return [arch for arch, index in zip(archs, owner, strict=True) if index == self.index]
