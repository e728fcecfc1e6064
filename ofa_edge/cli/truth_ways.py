"""The truth step where there are several ways to run on a device, or a lossy one (int8).

In: a device by its ways, what was chosen for each, what to measure with. Out: a Chosen by what was measured, as
truth.check gives it for one way. Rules kept: what a lossy precision is worth is measured, never assumed: its subnets
are compiled as they will be deployed, calibrated on training images, and evaluated as files with the runtime that they
are for, on the images that judge the others; what it loses is counted on subnets that are evaluated both ways; a
latency is measured the way that it is about.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ofa_edge import settings
from ofa_edge.cli import truth
from ofa_edge.cli import truth_measuring as measuring
from ofa_edge.cli.output import Output, table
from ofa_edge.cli.truth_measuring import Asked, Judge
from ofa_edge.cli.ways import Device, Run
from ofa_edge.errors import UsageError
from ofa_edge.search.choose import Chosen
from ofa_edge.search.truth import several, shortlist
from ofa_edge.search.truth.journal import TruthJournal
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.search.truth.shortlist import Checked, Verdict
from ofa_edge.search.ways import Found, lowered, with_tables
from ofa_edge.space.arch import Arch

if TYPE_CHECKING:
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.selection import Selection

# Subnets that are evaluated both in float and as they are run: enough, since the same images are right both ways.
_BOTH_WAYS = 5


@dataclass(frozen=True, slots=True)
class _Group:
    """Ways whose top-1 is measured alike (search/truth/several.py), each with what was chosen for it.

    Attributes:
        run: the first of them.
    """

    run: Run
    ways: tuple[tuple[Run, Chosen], ...]

    @property
    def lossy(self) -> bool:
        return self.run.lossy

    @property
    def name(self) -> str:
        return _name(self.run)


def check(device: Device, found: Sequence[Found], chosen: Chosen, asked: Asked, out: Output) -> Chosen:
    """Measure the best subnets of every way, and choose by what was measured.

    Args:
        found: what each of the device's ways gave, in their order.
        chosen: over all of them.

    Returns:
        As truth.check; a lossy subnet's predicted top-1 is less what its precision was measured to lose.

    Raises:
        as truth.check; UsageError where int8 cannot be written here or has no training images to be calibrated on.
    """
    if len(device.runs) == 1 and not (device.runs[0].lossy and asked.data is not None):
        return truth.check(chosen, device.models, asked, out)
    start = time.perf_counter()
    budget, models = chosen.selection.budget, device.models
    if asked.data is None and asked.host is None:
        raise UsageError("there is nothing to measure with", hint="give --data PATH, --host HOST or both")
    if asked.host is not None:
        models.require_real(budget)
    groups = _groups(device, found)
    judge = None if asked.data is None else measuring.judge_of(asked.data, asked, models, out)
    judges = {group.name: judge if not group.lossy else _lossy(judge, group.run, asked, out) for group in groups}
    listed = {group.name: _shortlisted(group, asked.top) for group in groups}
    out.say(f"{sum(map(len, listed.values()))} subnets are measured, in {len(device.runs)} ways to run them")
    kept = asked.kept or settings.home() / "truth" / f"{models.space.name}.jsonl"
    with TruthJournal.open(kept, models.space) as notes, truth.saying_where(notes, out):
        if asked.host is not None:
            listed = {g.name: _timed(asked.host, listed[g.name], device, asked, notes, out) for g in groups}
            every = several.ordered([truth.verdicts_of(chosen, listed[g.name], models) for g in groups])
            shortlist.require_fitting(every, models.space, budget, asked.host)
        drops: dict[str, several.Drop] = {}
        for group in groups:
            if (own := judges[group.name]) is not None and listed[group.name]:
                listed[group.name] = measuring.evaluated(own, listed[group.name], budget, notes, out)
                if group.lossy and judge is not None:
                    drops |= _drop(group, judge, listed[group.name], budget, notes, out)
    by_group = {g.name: truth.verdicts_of(chosen, listed[g.name], models) for g in groups if listed[g.name]}
    verdicts = several.ordered(list(by_group.values()))
    _say(verdicts, device, out)
    said = [] if judge is None else [f"top-1 on {judge.words}, corrected for having been picked"]
    said += [f"{name} loses {drop}" for name, drop in drops.items()]
    said += [] if asked.host is None else [f"latency in {asked.processes} fresh processes on the device"]
    lost = {g.name: drops[g.name].share for g in groups if g.name in drops}
    verdicts = [_lower(one, lost, device) for one in verdicts]
    return _chosen_of(chosen, found, device, verdicts, judge, "; ".join(said), start)


# -- which ----------------------------------------------------------------------------------------
def _groups(device: Device, found: Sequence[Found]) -> list[_Group]:
    """The ways that have a subnet."""
    alike: dict[str, list[tuple[Run, Chosen]]] = {}
    for run, one in zip(device.runs, found, strict=True):
        if isinstance(one.result, Chosen):
            alike.setdefault(_name(run), []).append((run, one.result))
    return [_Group(ways[0][0], tuple(ways)) for ways in alike.values()]


def _name(run: Run) -> str:
    """What is alike for all ways whose top-1 is measured alike."""
    return measuring.runs_on_of(run.conditions).kind if run.lossy else "float"


def _shortlisted(group: _Group, top: int) -> list[Checked]:
    """Candidates with how they are run; top-1 as far as it is predicted, less a drop that was told."""
    every = []
    for run, chosen in group.ways:
        for one in truth.shortlisted(chosen, run.models, top):
            every.append(replace(one, top1=lowered(one.top1, run.way.drop), runs_on=run.way.runs_on))
    best = max((chosen.selection for _, chosen in group.ways), key=lambda one: one.top1.value)
    return [Checked(one) for one in several.merged(every, best.arch, top)]


def _run_of(device: Device, one: Checked | Verdict) -> Run:
    return next(run for run in device.runs if run.way.runs_on == one.candidate.runs_on)


# -- on the device --------------------------------------------------------------------------------
def _timed(
    host: str, checked: Sequence[Checked], device: Device, asked: Asked, notes: TruthJournal, out: Output
) -> list[Checked]:
    """As truth_measuring.timed, each the way that it is about; in the order they came."""
    found: dict[Arch, Checked] = {}
    for run in device.runs:
        mine = [one for one in checked if _run_of(device, one) is run]
        if mine:
            out.say(f"{len(mine)} subnets run by {run.way.name}")
            found |= {one.candidate.arch: one for one in measuring.timed(host, mine, run.models, asked, notes, out)}
    return [found[one.candidate.arch] for one in checked if one.candidate.arch in found]


# -- on images ------------------------------------------------------------------------------------
def _lossy(judge: Judge | None, run: Run, asked: Asked, out: Output) -> Judge | None:
    """Evaluates subnets as files of a lossy precision, with the batch-norm statistics that `judge` takes."""
    if judge is None or asked.data is None:
        return None
    from ofa_edge.accuracy import compiled
    from ofa_edge.cli import options
    from ofa_edge.cli.export_images import Images
    from ofa_edge.cli.inputs import Weights
    from ofa_edge.graph import build, compiling

    runs_on = measuring.runs_on_of(run.conditions)
    options.require_writers(runs_on)
    evaluator = judge.evaluator
    checkpoint, labels = evaluator.checkpoint, evaluator.images.labels
    space = checkpoint.space
    images = Images(asked.data, Weights(space, checkpoint), out)
    calibrated_on = hashlib.sha256(images.calibration(space.resolutions[0]).tobytes()).hexdigest()

    def right(arch: Arch) -> Bools:
        statistics = evaluator.statistics(arch) if evaluator.statistics else None
        graph = build.network(space.layers(arch), checkpoint.folded(arch, statistics))
        model = compiling.write(
            graph,
            runs_on.runtime,
            runs_on.precision,
            calibration=images.calibration(arch.resolution),
            activations=runs_on.activations,
        )
        found = compiled.predictions(model, evaluator.view(arch.resolution), space.preprocess, evaluator.workers)
        return np.asarray(found == labels)

    what = {
        **judge.what,
        "runs": {name: runs_on.as_json()[name] for name in ("runtime", "precision", "activations")},
        "calibration": calibrated_on,
    }
    words = f"{judge.words}; {runs_on.precision} files run by {runs_on.runtime}"
    return replace(judge, right=right, what=what, words=words)


def _drop(
    group: _Group, judge: Judge, checked: Sequence[Checked], budget: Budget, notes: TruthJournal, out: Output
) -> dict[str, several.Drop]:
    """What the group's precision loses, of a few of its subnets."""
    both = [one for one in checked if one.right is not None][:_BOTH_WAYS]
    in_float = measuring.evaluated(judge, [replace(one, right=None) for one in both], budget, notes, out)
    found = several.drop_of(_right(in_float), _right(both))
    if found is None:
        return {}
    out.say(f"{group.name} loses {found}")
    return {group.name: found}


def _right(checked: Sequence[Checked]) -> Mapping[Arch, Bools]:
    return {one.candidate.arch: one.right for one in checked if one.right is not None}


# -- the choice -----------------------------------------------------------------------------------
def _lower(one: Verdict, lost: Mapping[str, float], device: Device) -> Verdict:
    """With the predicted top-1 of a lossy way less what was measured to be lost."""
    run = _run_of(device, one)
    drop = max(lost.get(_name(run), 0.0), 0.0)
    return replace(one, candidate=replace(one.candidate, top1=lowered(one.candidate.top1, drop)))


def _say(verdicts: Sequence[Verdict], device: Device, out: Output) -> None:
    rows = shortlist.table_rows(verdicts, device.models.space)
    rows = [[*row, str(one.candidate.runs_on)] for row, one in zip(rows, verdicts, strict=True)]
    out.say(table([*truth.COLUMNS, "runs"], rows))


def _chosen_of(
    chosen: Chosen,
    found: Sequence[Found],
    device: Device,
    verdicts: Sequence[Verdict],
    judge: Judge | None,
    said: str,
    start: float,
) -> Chosen:
    """As truth gives it, from the tables of the way that was taken."""
    run = _run_of(device, verdicts[0])
    own = next(one.result for one in found if one.way == run.way)
    assert isinstance(own, Chosen)  # it gave candidates
    inputs, headers = with_tables([one.way for one in found], own.selection)
    base: Selection = replace(
        chosen.selection,
        model=f"{own.selection.model}; of {len(found)} ways to run it, each with its own subnets",
        inputs=inputs,
        headers=headers,
        runs_on=run.way.runs_on,
        proven_optimal=chosen.selection.proven_optimal
        and chosen.selection.runs_on == run.way.runs_on
        and not (run.lossy and judge is not None),
    )
    return truth.chosen_of(replace(chosen, selection=base), verdicts, judge, said, start)
