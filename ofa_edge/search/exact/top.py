"""The top of the exact front within a budget: the best subnets, without the rest.

In: as the exact front's (frontier.py), and Limits. Out: a `Front` of its best points. Under side limits the whole front
can have so many partial subnets that it takes minutes, and this a fraction of a second; under a limit on latency alone
the whole front is the quicker one, and is what is made.

How: the linear relaxation of each resolution's program (relaxation.py) says of every choice how far below the
resolution's bound a subnet with it is at least, and these losses add up. Partial subnets that have lost more than lies
between the bound and a threshold are left out of the front's joins: above the threshold nothing is missing. The
threshold is lowered until enough points are above it.

Rules kept: exact, as the front is; where the threshold finds nothing, the cheapest subnets say whether there is
anything to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ofa_edge.search.costs import LATENCY, BlockLatencies, CostTables, Widths
from ofa_edge.search.exact.frontier import PER_SCORE, Front, StageScores, cheapest, front_within
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Space
from ofa_edge.space.arrays import StageArrays

if TYPE_CHECKING:  # the solver takes long to import, and is needed under side limits only
    from ofa_edge.search.exact.relaxation import Relaxed

# Each next threshold is so many times further from the bound, and so often before the whole front is asked for.
_WIDER = 3.0
_WIDENINGS = 8
# So many choices that lose at all are above the first threshold.
CORE = 64

_EXCLUDED = 1 << 50  # loss of a choice that no subnet within the limits makes; hundreds of them fit int64


def best_front(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    limits: Limits,
    *,
    count: int = 1,
    core: int = CORE,
) -> tuple[Front, bool]:
    """The best points of the front of (latency, score) of the subnets that keep all limits.

    Args:
        score: at a fixed depth of a stage a sum over its places (scores.py).
        count: how many points there are to be at least.
        core: so many choices that lose at all are above the first threshold.

    Returns:
        The points, worst and fastest first, and whether they are all there are; if not, none above them is missing.
        Empty where no subnet keeps the limits.

    Raises:
        UsageError: as `exact_front`.
        BadFile: no subnet can run at all.
    """
    if not limits.sides.columns:
        front = front_within(space, latency, score, resolutions, limits.sides)
        return (front if limits.latency is None else _some(front, front.costs[:, LATENCY] <= limits.latency)), True
    from ofa_edge.search.exact.relaxation import relaxations

    latency = CostTables.of(space, latency)
    scores = PlaceScores.of(space, score, resolutions)
    found = relaxations(space, latency, scores, limits)
    relaxed = [one for one in found if one.bound > -np.inf]
    if not relaxed:
        return front_within(space, latency, score, resolutions, limits, {}), True
    room = relaxed[0].loss_of(core)
    values = [StageArrays.all(stage) for stage in space.stages]
    for turn in range(_WIDENINGS if room > 0 else 0):
        threshold = relaxed[0].bound - room
        cuts = {
            one.program.resolution: _tables(one, space, values, one.bound - threshold)
            for one in relaxed
            if one.bound >= threshold
        }
        front = front_within(space, latency, score, resolutions, limits, cuts)
        front = _some(front, front.score >= threshold)
        if len(front) >= count:
            return front, False
        if turn == 0 and not len(front) and not _feasible(space, latency, resolutions, limits):
            return front, True
        room *= _WIDER
    return front_within(space, latency, score, resolutions, limits), True


def _some(front: Front, keep: NDArray[np.bool_]) -> Front:
    return replace(front, resolution=front.resolution[keep], rows=front.rows[keep], costs=front.costs[keep])


def _feasible(
    space: Space,
    latency: BlockLatencies,
    resolutions: Sequence[int],
    limits: Limits,
) -> bool:
    return bool(limits.kept(cheapest(space, latency, resolutions, limits.columns).costs).any())


def _tables(relaxed: Relaxed, space: Space, values: Sequence[StageArrays], room: float) -> list[Ints]:
    """The CUT of stem, stages and head, as `front_within` asks for: losses in units of the score, less the room."""
    from ofa_edge.search.exact.program import BLOCK, DEPTH, STEM, WIDTH
    from ofa_edge.search.exact.relaxation import SLACK

    layout, widths = relaxed.program.layout, Widths.of(space)
    lost = np.full(len(layout.kind), _EXCLUDED, dtype=np.int64)
    lost[relaxed.program.variables] = np.minimum(np.floor(relaxed.losses * PER_SCORE), _EXCLUDED)
    kind, at = layout.kind, layout.at
    of_width = [lost[(kind == WIDTH) & (at[:, 0] == p)] for p in range(len(widths.around))]
    stem = lost[kind == STEM].reshape(widths.middle, widths.around[0], len(space.stem.depths))
    tables = [stem + of_width[0][:, None] - int((room + SLACK * (1 + abs(relaxed.bound))) * PER_SCORE)]
    for s, (stage, own) in enumerate(zip(space.stages, values, strict=True)):
        before, after = widths.around[s : s + 2]
        codes = len(stage.kernels) * len(stage.expands)
        blocks = np.zeros((len(stage.depths), stage.max_depth, codes + 1, before, after), dtype=np.int64)
        mine = (kind == BLOCK) & (at[:, 0] == s)
        _, depth, place, code, b, a = at[mine].T
        blocks[depth, place, code, b, a] = lost[mine]
        depths = lost[(kind == DEPTH) & (at[:, 0] == s)].reshape(len(stage.depths), after)
        number = np.argsort(stage.depths)[np.searchsorted(np.sort(stage.depths), own.depth)]
        # A place after the first is entered with width before 0, whatever it is, so the sum over places spreads it.
        total = blocks[number[:, None], np.arange(stage.max_depth), own.code].sum(axis=1)
        if before > 1:
            later = blocks[number[:, None], np.arange(1, stage.max_depth), own.code[:, 1:]].sum(axis=1)
            total[:, 1:] += later[:, :1]
        whole = total + depths[number][:, None] + of_width[s + 1]
        tables.append(np.moveaxis(whole, 0, -1))
    return [*tables, np.zeros(widths.around[-1], dtype=np.int64)]
