"""The exact front of a whole space: no subnet is both faster and better than one on it.

In: a Space, a latency that is a sum over blocks, a score that is a sum over stages, the resolutions, and side
limits. Out: a `Front`: every subnet that is optimal for some latency budget, at all resolutions at once.

How: at one resolution a subnet's latency and score are sums over stem, stages and head, so a partial subnet that
another partial of the same stages beats in both can be dropped without losing a point of the front. Stages are
enumerated whole and joined one by one from both ends, pruning after each join. Elastic widths couple neighbouring
stages: there a partial is compared with those of the same widths at both ends only. Limits on MACs, weight bytes and
energy are further sums, and peak activation a maximum: where such a limit can still bind it is one more column of the
pruning, so fronts under side limits are exact too. Without a score the same merging gives all subnets than which none
is cheaper, which is what says by how much a budget cannot be kept.

Rules kept: exact for the model that is given; latency is rounded to picoseconds and the score to 1e-12, so sums
are integers and ties are real. Of subnets equal in latency and score the one with the lower resolution stays, then
the one that comes first in `Stage.choices()` order, stage by stage (shallower, smaller); under side limits and among
elastic widths a tie may fall to another subnet, but always to the same. No Python loop over subnets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import (
    COLUMNS,
    FAILED,
    LATENCY,
    LOSS,
    PER_MS,
    BlockLatencies,
    Costs,
    CostTables,
    Widths,
)
from ofa_edge.search.exact.joining import Part, cut_down, link, merge, running
from ofa_edge.search.exact.pareto import Ints, nondominated
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.arrays import StageArrays

Floats = NDArray[np.float64]

PER_SCORE = 10**12

_MOST_CHOICES = 1 << 20
_NO_COSTS = np.empty((0, len(COLUMNS)), dtype=np.int64)
HOW_ENERGY = "measure them: `ofa-edge profile --energy --resume --out TABLE`"


class StageScores(Protocol):
    """score(arch) = offset(resolution) + sum of stage_scores over its stages + shared_scores; higher is better."""

    def offset(self, resolution: int) -> float: ...

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats: ...

    def width_scores(self, place: int) -> Floats:
        """What each of `Space.width_choices[place]` adds; asked only of spaces with elastic widths."""
        ...

    def stem_depth_scores(self) -> Floats:
        """What each of the stem's depths adds; asked only where there are several."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """Optimal subnets. Of `exact_front`: fastest first, latency and score both rise strictly.

    Attributes:
        resolution: (n,) input size of each point, in pixels.
        rows: (n, 2 + 2 x stages + 1): numbers of the stem's middle width, the width after it and its depth, then for
            each stage of its choice in `Stage.choices()` and of the width after it.
        costs: (n, COLUMNS) integers, see costs.py; use the properties.
    """

    space: Space
    resolution: Ints
    rows: Ints
    costs: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latency_ms(self) -> Floats:
        """Model values, (n,)."""
        return np.asarray(self.costs[:, LATENCY] / PER_MS)

    @property
    def score(self) -> Floats:
        """(n,)"""
        return np.asarray(-self.costs[:, LOSS] / PER_SCORE)

    def arch(self, index: int) -> Arch:
        """The subnet of one point."""
        return _arch(self.space, int(self.resolution[index]), self.rows[index])


def exact_front(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    budget: Budget | Limits | None = None,
) -> Front:
    """The front of (latency, score) over all subnets at these resolutions.

    Args:
        budget: its limits on macs, size, memory and energy (of values, without a margin; `Limits` may have one) hold
            for every point; its latency is not applied, since the front has the best subnet for each latency. Empty if
            no subnet keeps the side limits, or none can run.
        latency: costs.CostTables where energy is limited, or numbers are not stored in single precision.

    Raises:
        UsageError: a stage of the space has too many choices to enumerate, or no resolution is given.
    """
    limits = budget if isinstance(budget, Limits) else Limits.of(budget)
    return front_within(space, latency, score, resolutions, limits.sides)


def front_within(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    limits: Limits,
    cuts: Mapping[int, Sequence[Ints]] | None = None,
) -> Front:
    """As `exact_front`, of the subnets that keep all limits, latency's too.

    Args:
        cuts: for each resolution that is to be searched the CUT of its choices (joining.py) as tables: of the stem
            (middle width, width after, depth), of each stage (width before, width after, choice), of the head (width
            before,). Subnets whose sum is above 0 may be missing.
    """
    require_enumerable(space)
    if not resolutions:
        raise UsageError("there is no resolution to search at", hint="give tables that share one")
    tables = CostTables.of(space, latency)
    require_energy(limits, tables)
    values = [StageArrays.all(stage) for stage in space.stages]
    columns = [LATENCY, LOSS, *(column for column in limits.columns if column != LATENCY)]
    widths = Widths.of(space)
    losses = _losses(space, widths, score, values)
    parts = [(np.empty(0, dtype=np.int64), np.empty((0, 3 + 2 * len(values)), dtype=np.int64), _NO_COSTS)]
    for resolution in sorted(set(resolutions)):
        if cuts is not None and resolution not in cuts:
            continue
        of_head = -_whole(np.full(widths.around[-1], score.offset(resolution)), PER_SCORE)
        costs = tables.at(resolution)
        cut = None if cuts is None else cuts[resolution]
        only = None if cut is None else _within(cut)
        if cut is None and columns == [LATENCY, LOSS] and not space.elastic_width:
            only = [_best_of_two(costs, s, v, losses[s + 1][0, 0]) for s, v in enumerate(values)]
        chain = _chain(costs, values, [*losses, of_head], cut, only)
        if chain:
            found = merge(chain, columns, limits if limits.columns else None)
            parts.append((np.full(len(found.rows), resolution), found.rows, found.costs[:, : len(COLUMNS)]))
    resolution_, rows, all_costs = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = nondominated(all_costs[:, [LATENCY, LOSS]])
    keep = keep[np.argsort(all_costs[keep, LATENCY], kind="stable")]
    return Front(space, resolution_[keep], rows[keep], all_costs[keep])


def cheapest(
    space: Space,
    latency: BlockLatencies,
    resolutions: Sequence[int],
    columns: Sequence[int],
) -> Front:
    """Subnets such that whatever a subnet costs, one of them costs no more in any of these columns: where none of them
    keeps a set of limits, no subnet does.

    Args:
        columns: of costs.py, without LOSS.

    Raises:
        UsageError: as `exact_front`.
        BadFile: no subnet can run at all.
    """
    require_enumerable(space)
    values, tables = [StageArrays.all(stage) for stage in space.stages], CostTables.of(space, latency)
    parts: list[tuple[Ints, Ints, Ints]] = []
    for resolution in sorted(set(resolutions)):
        made = tables.at(resolution)
        if any((costs[:, columns] <= made.least()[columns]).all(axis=1).any() for _, _, costs in parts):
            continue  # a subnet of another resolution is as cheap as the cheapest of every column here
        only = [_undominated(table, v, columns) for table, v in zip(made.stages, values, strict=True)]
        if chain := _chain(made, values, only=only):
            found = merge(chain, list(columns), None)
            parts.append((np.full(len(found.rows), resolution), found.rows, found.costs))
    if not parts:
        raise BadFile(
            "every subnet needs a block that failed on the device", hint="measure again: `ofa-edge profile --resume`"
        )
    resolution_, rows, all_costs = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = nondominated(all_costs[:, columns])
    return Front(space, resolution_[keep], rows[keep], all_costs[keep])


def require_energy(limits: Limits, tables: CostTables) -> None:
    """Raises UsageError where energy is limited and nothing is known of it."""
    if limits.energy is not None and tables.energy is None:
        raise UsageError("an energy limit needs the device's energies", hint=HOW_ENERGY)


def require_enumerable(space: Space) -> None:
    """Raises UsageError where a stage has more choices than can be listed."""
    for s, stage in enumerate(space.stages):
        if stage.count() > _MOST_CHOICES:
            raise UsageError(
                f"stage {s} of {space.name} has {stage.count():,} choices; the exact search enumerates at most"
                f" {_MOST_CHOICES:,}",
                hint="use --strategy table or --strategy random",
            )


def _whole(values: Any, scale: int) -> Ints:
    return np.rint(np.asarray(values, dtype=np.float64) * scale).astype(np.int64)


def _arch(space: Space, resolution: int, row: Ints) -> Arch:
    middle, before, depth, *rest = map(int, row)
    stages = tuple(StageArrays.all(stage).choice(n) for stage, n in zip(space.stages, rest[::2], strict=True))
    numbers = (middle, before, *rest[1::2])
    widths = tuple(choices[n] for choices, n in zip(space.width_choices, numbers, strict=False))
    return Arch(resolution, stages, widths, space.stem.depths[depth])


# -- the chain --------------------------------------------------------------------------------
def _chain(
    costs: Costs,
    values: Sequence[StageArrays],
    losses: Sequence[Ints] | None = None,
    cut: Sequence[Ints] | None = None,
    only: Sequence[Ints] | None = None,
) -> list[Part]:
    """Stem, stages and head as parts; none where one of them has nothing that can run.

    Args:
        losses: LOSS of the entries of the tables (see `_losses`); 0 without it.
        cut: CUT likewise; what is above it alone is left out.
        only: numbers of the choices of each stage that are to be parts at all.
    """
    numbers = [np.arange(len(v)) for v in values] if only is None else only
    if not all(map(len, numbers)):
        return []
    links = [link(costs.stem, lambda m, a, d: (0 * a, a, [m, a, d]))]
    for s, (v, n) in enumerate(zip(values, numbers, strict=True)):
        table = costs.of_stage(s, StageArrays(v.stage, v.depth[n], v.code[n]))
        links.append(link(table, lambda b, a, i, n=n: (b, a, [n[i], a])))
    links.append(link(costs.head, lambda b: (b, 0 * b, [])))
    some: list[Any] = [slice(None), *numbers, slice(None)]
    if losses is not None:
        for part, loss, kept in zip(links, losses, some, strict=True):
            part.costs[:, LOSS] = loss[..., kept].ravel()
    if cut is not None:
        links = [part.beside(lost[..., kept].ravel()) for part, lost, kept in zip(links, cut, some, strict=True)]
    links = [running(part) for part in links]
    if cut is not None:
        links = cut_down(links)
    return links if all(map(len, links)) else []


def _within(cut: Sequence[Ints]) -> list[Ints]:
    """Numbers of the choices of each stage whose CUT is not above 0 with the least of all else."""
    least = sum(int(table.min()) for table in cut)
    return [np.flatnonzero(table.min(axis=(0, 1)) + (least - int(table.min())) <= 0) for table in cut[1:-1]]


def _best_of_two(costs: Costs, s: int, values: StageArrays, loss: Ints) -> Ints:
    """Numbers of the choices of a stage, of fixed widths, on the front of latency and loss; the other costs of the rest
    need not be added up."""
    table = costs.stages[s][0, 0, :, :, LATENCY]
    latency = table[np.arange(len(table)), values.code].sum(axis=1)
    runs = np.flatnonzero(latency < FAILED)
    return np.asarray(runs[nondominated(np.stack([latency[runs], loss[runs]], axis=1))])


def _undominated(table: Ints, values: StageArrays, columns: Sequence[int]) -> Ints:
    """Numbers of the choices of a stage that have at no place a block than which another is as cheap in all columns,
    whatever the widths."""
    places = np.arange(table.shape[2])
    fine = np.ones(table.shape[2:4], dtype=bool)
    table = np.where(table[..., LATENCY, None] < FAILED, table, FAILED)  # what cannot run is no cheaper than anything
    for place in places:
        costs = np.moveaxis(table[:, :, place, 1:][..., columns], 2, 0).reshape(table.shape[3] - 1, -1)
        fine[place, 1:] = False
        fine[place, 1 + nondominated(costs)] = True
    return np.flatnonzero(fine[places, values.code].all(axis=1))


def _losses(space: Space, widths: Widths, score: StageScores, values: Sequence[StageArrays]) -> list[Ints]:
    """What stem and stages add to LOSS, as tables like those of costs.py: of a stage (width before, width after,
    choice)."""
    of_width = [np.zeros(n) for n in (widths.middle, *widths.around)]
    if space.elastic_width:
        of_width = [score.width_scores(place) for place in range(len(of_width))]
    depths = space.stem.depths
    of_depth = score.stem_depth_scores() if len(depths) > 1 else np.zeros(1)
    tables = [of_width[0][:, None, None] + of_width[1][:, None] + of_depth]
    for s, stage_values in enumerate(values):
        alike = np.zeros(widths.around[s])[:, None, None]  # what the width before adds was counted there
        tables.append(alike + of_width[s + 2][:, None] + score.stage_scores(s, stage_values))
    return [-_whole(table, PER_SCORE) for table in tables]
