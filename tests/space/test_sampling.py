"""Drawing under a constraint: what comes back fits, every fitting subnet can come, and it always ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from ofa_edge.errors import InfeasibleBudget
from ofa_edge.space.arch import Arch
from ofa_edge.space.cost import cost
from ofa_edge.space.sampling import sample_within
from ofa_edge.space.spaces import OFA_LITE0


def macs_below(limit: int) -> Callable[[Arch], bool]:
    return lambda arch: cost(OFA_LITE0.blocks(arch)).macs <= limit


def test_every_draw_fits_and_draws_differ() -> None:
    rng = np.random.default_rng(0)
    limit = 120_000_000
    drawn = [sample_within(OFA_LITE0, rng, macs_below(limit), resolution=128) for _ in range(40)]
    assert all(cost(OFA_LITE0.blocks(arch)).macs <= limit and arch.resolution == 128 for arch in drawn)
    assert len(set(drawn)) == 40


def test_what_fits_is_drawn_as_often_as_without_the_constraint() -> None:
    """Rejection changes no odds among what fits: depths of the last elastic stage stay equally frequent."""
    rng = np.random.default_rng(1)
    kept: Counter[int] = Counter()
    for _ in range(800):
        arch = sample_within(OFA_LITE0, rng, lambda arch: arch.depths[0] == 1)
        assert arch.depths[0] == 1
        kept[arch.depths[4]] += 1
    assert set(kept) == {1, 2, 3, 4}
    assert max(kept.values()) < 1.4 * min(kept.values())


def test_a_budget_that_nothing_fits_ends_with_exit_3() -> None:
    draws = []

    def never(arch: Arch) -> bool:
        draws.append(arch)
        return False

    with pytest.raises(InfeasibleBudget, match="not even the smallest subnet of ofa-lite0 at 96 px") as caught:
        sample_within(OFA_LITE0, np.random.default_rng(0), never, resolution=96, attempts=30)
    assert caught.value.code == 3
    assert len(draws) == 31


def test_a_budget_that_only_the_smallest_fits_says_so() -> None:
    smallest = OFA_LITE0.smallest()
    with pytest.raises(InfeasibleBudget, match="though the smallest does"):
        sample_within(OFA_LITE0, np.random.default_rng(0), lambda arch: arch == smallest, attempts=20)
