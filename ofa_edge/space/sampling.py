"""Drawing subnets under a constraint: bounded rejection, so that it always ends.

In: a Space, a generator, a predicate (MACs below a limit, predicted latency below a limit, ...). Out: one arch, drawn
as `Space.sample` draws and uniform among what fits, which is how Single Path One-Shot (Guo et al., ECCV 2020) trains
under a constraint. Rule kept: after `attempts` draws without a hit the answer is InfeasibleBudget, never another draw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa_edge.errors import InfeasibleBudget
from ofa_edge.space.arch import Arch, Space

# A constraint that one draw in a hundred meets is missed by as many draws less than once in 20,000 calls.
ATTEMPTS = 1000


def sample_within(
    space: Space,
    rng: np.random.Generator,
    fits: Callable[[Arch], bool],
    *,
    resolution: int | None = None,
    attempts: int = ATTEMPTS,
) -> Arch:
    """Draw archs until one fits.

    Args:
        fits: whether an arch keeps the constraint.
        resolution: of the arch; drawn too where left out.
        attempts: how many archs to draw at most.

    Raises:
        InfeasibleBudget: none of them fits; the message says whether the smallest subnet would.
    """
    for _ in range(attempts):
        arch = space.sample(rng, resolution)
        if fits(arch):
            return arch
    raise none_fits(space, fits, attempts, resolution)


def none_fits(
    space: Space, fits: Callable[[Arch], bool], attempts: int, resolution: int | None = None
) -> InfeasibleBudget:
    """The refusal after so many draws without a hit."""
    where = "" if resolution is None else f" at {resolution} px"
    if fits(space.smallest(resolution)):
        return InfeasibleBudget(
            f"none of {attempts:,} drawn subnets of {space.name}{where} fits the budget, though the smallest does",
            hint="loosen the budget: so few subnets fit it that drawing does not find them",
        )
    return InfeasibleBudget(
        f"not even the smallest subnet of {space.name}{where} fits the budget",
        hint="raise the budget" + ("" if resolution is None else ", or lower the resolution"),
    )
