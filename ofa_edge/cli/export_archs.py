"""Which subnets `export` writes: of an arch file, of what `select` wrote, or points of the exact front.

In: what a person named. Out: archs of the weights' space, each with the name of its file. Rule kept: a selection that
was made for another checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.errors import UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch

if TYPE_CHECKING:
    from ofa_edge.cli.inputs import Weights
    from ofa_edge.latency.conditions import RunsOn
    from ofa_edge.search.exact.frontier import Front


class Wanted(NamedTuple):
    """A subnet, and what its file is called among several, without suffix; how it was selected to run, if it was."""

    stem: str
    arch: Arch
    runs_on: RunsOn | None = None


class Asked(NamedTuple):
    """What names the subnets; exactly one of the first three is given."""

    arch: str | None
    selection: Path | None
    front: int | None
    latency_table: Path | None
    accuracy_table: Path | None


def wanted(asked: Asked, weights: Weights, supernet: str, out: Output) -> list[Wanted]:
    """The subnets, at least one.

    Raises:
        UsageError: none or several sources are named, or what is named does not fit the weights.
        BadFile: a file is damaged, or was made for another checkpoint.
    """
    options.exactly_one(arch=asked.arch, selection=asked.selection, front=asked.front)
    if asked.front is None and (asked.latency_table or asked.accuracy_table):
        raise UsageError(
            "--latency-table and --accuracy-table are for --front", hint="leave them out, or add --front N"
        )
    if asked.arch is not None:
        return _numbered(codecs.read_archs(weights.space, asked.arch))
    if asked.selection is not None:
        return _selected(asked.selection, weights)
    return _numbered(_of_front(asked, weights, supernet, out))


def _numbered(archs: Sequence[Arch], runs: Sequence[RunsOn | None] | None = None) -> list[Wanted]:
    digits = len(str(len(archs) - 1))
    each = zip(archs, runs or [None] * len(archs), strict=True)
    return [Wanted(f"{i:0{digits}}-{arch.resolution}px", arch, on) for i, (arch, on) in enumerate(each)]


def _selected(path: Path, weights: Weights) -> list[Wanted]:
    from ofa_edge.deploy.assemble import require_checkpoint
    from ofa_edge.search import families
    from ofa_edge.search.families import Family

    found = families.read(path, weights.space)
    members = found.members if isinstance(found, Family) else ()
    selections = [member.selection for member in members] if isinstance(found, Family) else [found]
    for selection in selections:
        if weights.checkpoint is not None:
            require_checkpoint(selection, weights.checkpoint)
    modes = [member.mode for member in members]
    if modes and all(modes) and len(set(modes)) == len(modes):
        return [Wanted(str(mode), one.arch, one.runs_on) for mode, one in zip(modes, selections, strict=True)]
    return _numbered([one.arch for one in selections], [one.runs_on for one in selections])


def _of_front(asked: Asked, weights: Weights, supernet: str, out: Output) -> list[Arch]:
    from ofa_edge.cli import choosing
    from ofa_edge.search.choose import shared_resolutions
    from ofa_edge.search.exact.frontier import exact_front

    if weights.checkpoint is None:
        raise UsageError("random weights have no accuracies, so no front", hint="name a --supernet, or give --arch")
    tables = [] if asked.latency_table is None else [asked.latency_table]
    (models,) = choosing.load_models(tables, asked.accuracy_table, None, supernet, 0, out)
    sizes = shared_resolutions(models.latency.resolutions, models.accuracy)
    front = exact_front(models.space, models.latency, models.accuracy, sizes)
    if not len(front):
        raise UsageError("no subnet can run on the table's device", hint="measure again: `ofa-edge profile --resume`")
    return [front.arch(i) for i in spread(front, asked.front or 1)]


def spread(front: Front, count: int) -> list[int]:
    """Points of a front, `count` of them or all: its ends, and between them evenly in the logarithm of latency."""
    logs = np.log(np.maximum(front.latency_ms, 1e-12))
    if count >= len(front):
        return list(range(len(front)))
    chosen: list[int] = []
    for target in np.linspace(logs[0], logs[-1], count):
        left = np.setdiff1d(np.arange(len(front)), chosen)
        chosen.append(int(left[np.abs(logs[left] - target).argmin()]))
    return sorted(chosen)
