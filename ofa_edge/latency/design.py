"""Which whole networks a network-wise predictor is fitted on: pure, drawn from a seed.

In: a space, resolutions, a count and a generator. Out: archs in the order of measuring. Rules kept: the design is
nested: fewer networks are the beginning of more, so that an interrupted campaign has measured the best it could; sizes
and resolutions are spread evenly; every value of every axis is seen as soon as it can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np

from ofa_edge.space.arch import Arch, Space

# Draws that each network is chosen from. More would favour odd archs, in which all rare values meet.
_CANDIDATES = 16

Draw = Callable[[Space, Sequence[int], int, np.random.Generator], Iterable[Arch]]


def nested(
    space: Space, resolutions: Sequence[int], count: int, rng: np.random.Generator, draw: Draw
) -> tuple[Arch, ...]:
    """The first `count` of an endless list: the largest and the smallest arch, then, of each few that are drawn, the
    one whose choices were seen least.

    Args:
        draw: archs of all sizes, as plan.spread_sample.

    Returns:
        different archs; fewer than `count` only where the space has no more.
    """
    seen: Counter[Hashable] = Counter()
    chosen: dict[Arch, None] = {}
    for arch in (space.largest(max(resolutions)), space.smallest(min(resolutions)))[:count]:
        chosen[arch] = None
        seen.update(_choices(arch))
    turn = _in_turn(resolutions, rng)
    tries = 0
    while len(chosen) < count and tries < 20 * count:
        tries += 1
        candidates = [arch for arch in draw(space, [next(turn)], _CANDIDATES, rng) if arch not in chosen]
        if candidates:
            best = max(candidates, key=lambda arch: float(np.mean([1 / (1 + seen[c]) for c in _choices(arch)])))
            chosen[best] = None
            seen.update(_choices(best))
    return tuple(chosen)


def _in_turn(resolutions: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    """Every resolution once in random order, and again."""
    while True:
        yield from rng.permutation(sorted(resolutions)).tolist()


def _choices(arch: Arch) -> list[Hashable]:
    """What an arch has chosen, place by place. The third block of a stage is as the second: they cost the same."""
    found: list[Hashable] = [("widths", place, width) for place, width in enumerate(arch.widths)]
    found += [("stem depth", arch.stem_depth), ("resolution", arch.resolution)]
    for s, stage in enumerate(arch.stages):
        found.append(("depth", s, len(stage)))
        found += dict.fromkeys((s, min(i, 1), *choice) for i, choice in enumerate(stage))
    return found
