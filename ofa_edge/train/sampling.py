"""Which subnets one training step runs.

In: names of samplers (a phase's data) and a generator. Out: one arch per name, all at the step's resolution.
"""

from __future__ import annotations

import numpy as np

from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import cost
from ofa_edge.space.sampling import sample_within
from ofa_edge.train.schedule import EVERYTHING, Axes


def step_archs(
    space: Space,
    samplers: tuple[str, ...],
    resolution: int,
    rng: np.random.Generator,
    axes: Axes = EVERYTHING,
    most_macs: int | None = None,
) -> list[Arch]:
    """The subnets of a step, in order.

    `largest` and `smallest` (the sandwich rule: Yu & Huang, ICCV 2019; BigNAS, ECCV 2020) and `random` are of the
    sub-space that `axes` opens, `any` is of the whole space.

    Args:
        most_macs: the drawn ones have at most so many multiply-accumulates at this resolution (SPOS, sec. 3.4).

    Raises:
        InfeasibleBudget: none of a thousand draws has so few.
    """
    part = axes.of(space)

    def fits(arch: Arch) -> bool:
        return most_macs is None or cost(space.blocks(arch)).macs <= most_macs

    draw = {
        "largest": lambda: part.largest(resolution),
        "smallest": lambda: part.smallest(resolution),
        "random": lambda: sample_within(part, rng, fits, resolution=resolution),
        "any": lambda: sample_within(space, rng, fits, resolution=resolution),
    }
    return [draw[name]() for name in samplers]
