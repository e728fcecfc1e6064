"""Which subnets one training step runs.

In: names of samplers (a phase's data) and a generator. Out: one arch per name, all at the step's resolution.
"""

from __future__ import annotations

import numpy as np

from ofa_edge.space.arch import Arch, Space

SAMPLERS = ("largest", "smallest", "random")


def step_archs(space: Space, samplers: tuple[str, ...], resolution: int, rng: np.random.Generator) -> list[Arch]:
    """The sandwich rule (Yu & Huang, ICCV 2019; BigNAS, ECCV 2020): largest, smallest, and random subnets."""
    draw = {
        "largest": lambda: space.largest(resolution),
        "smallest": lambda: space.smallest(resolution),
        "random": lambda: space.sample(rng, resolution),
    }
    return [draw[name]() for name in samplers]
