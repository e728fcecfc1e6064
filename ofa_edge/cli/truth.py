"""The truth step of `select`: the best subnets by prediction are measured, and one is chosen by what was measured.

In: what a strategy chose, its models, and what to measure with: images and a supernet, a device, or both. Out: a Chosen
whose selection says what was measured of it, and a table of all for people. How it is measured says
truth_measuring.py. Rules kept: files are read and checked before a device is asked; the device comes first, and what
breaks the budget there is not evaluated; what is measured is written down at once (search/truth/journal.py), and the
same command goes on from there.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ofa_edge import settings
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.cli import truth_measuring as measuring
from ofa_edge.cli.output import Output, table
from ofa_edge.cli.truth_measuring import Asked, Judge
from ofa_edge.errors import OfaEdgeError, UsageError
from ofa_edge.search import batch
from ofa_edge.search.candidate import Candidate, excess
from ofa_edge.search.choose import Chosen, shared_resolutions
from ofa_edge.search.limits import Limits
from ofa_edge.search.truth import shortlist
from ofa_edge.search.truth.journal import TruthJournal
from ofa_edge.search.truth.shortlist import Checked, Verdict
from ofa_edge.space.arch import Arch
from ofa_edge.space.population import ArchArrays, concatenate

if TYPE_CHECKING:
    from ofa_edge.accuracy.predictor import Top1
    from ofa_edge.cli.inputs import Models
    from ofa_edge.latency.models.model import Estimate
    from ofa_edge.search.selection import Selection

# A shortlist may lose to its best a standard deviation of a prediction's error: no predictor is believed to order
# subnets that are nearer to each other than that, or than this share. Where it leaves too few subnets it is widened by
# these factors in turn.
_LEAST_TOLERANCE = 0.002
_WIDER = (1, 2, 4, 8)

COLUMNS = ["r", "top-1 predicted", "measured", "to expect", "ms predicted", "measured", "fits"]


def check(chosen: Chosen, models: Models, asked: Asked, out: Output) -> Chosen:
    """Measure the best subnets within a selection's budget, and choose by what was measured.

    Args:
        chosen: by prediction, with alternatives; of strategy table only its own alternatives are measured.
        models: it was chosen by.

    Returns:
        The selection with `measured` and, where another subnet is chosen, not `proven_optimal`; the others that fit as
        alternatives, best first.

    Raises:
        InfeasibleBudget: no subnet of the shortlist keeps the budget as measured.
        UsageError: nothing to measure with, or no images of the right kind; as open_device.
        BadFile: the checkpoint is another than the accuracy table's, the device not as the latency table's; the journal
            is damaged.
        OfaEdgeError: every subnet failed.
    """
    start = time.perf_counter()
    selection = chosen.selection
    if asked.data is None and asked.host is None:
        raise UsageError("there is nothing to measure with", hint="give --data PATH, --host HOST or both")
    if asked.host is not None:
        models.require_real(selection.budget)
    judge = None if asked.data is None else measuring.judge_of(asked.data, asked, models, out)
    checked = [Checked(candidate) for candidate in shortlisted(chosen, models, asked.top)]
    out.say(f"{len(checked)} subnets are measured, each as good by prediction as the predictor can tell")
    kept = asked.kept or settings.home() / "truth" / f"{models.space.name}.jsonl"
    with TruthJournal.open(kept, models.space) as notes, saying_where(notes, out):
        if asked.host is not None:
            checked = measuring.timed(asked.host, checked, models, asked, notes, out)
            timed = verdicts_of(chosen, checked, models)
            shortlist.require_fitting(timed, models.space, selection.budget, asked.host)
        if judge is not None:
            checked = measuring.evaluated(judge, checked, selection.budget, notes, out)
    verdicts = verdicts_of(chosen, checked, models)
    out.say(table(COLUMNS, shortlist.table_rows(verdicts, models.space)))
    said = [] if judge is None else [f"top-1 on {judge.words}, corrected for having been picked"]
    said += [] if asked.host is None else [f"latency in {asked.processes} fresh processes on the device"]
    return chosen_of(chosen, verdicts, judge, "; ".join(said), start)


def chosen_of(chosen: Chosen, verdicts: Sequence[Verdict], judge: Judge | None, said: str, start: float) -> Chosen:
    best, *others = verdicts
    selection, one = chosen.selection, best.candidate
    inputs = dict(selection.inputs) if judge is None else {**selection.inputs, "images": judge.what["images"]}
    measured = replace(
        selection,
        arch=one.arch,
        top1=one.top1,
        latency_ms=one.latency_ms,
        cost=one.cost,
        energy_mj=one.energy_mj,
        model=f"{selection.model}; of this model's {len(verdicts)} best that differ, the best as measured: {said}",
        proven_optimal=selection.proven_optimal and one.arch == selection.arch,
        inputs=inputs,
        measured=best.measured,
    )
    seconds = chosen.seconds + time.perf_counter() - start
    return Chosen(measured, tuple(other.candidate for other in others if other.fits), seconds)


def verdicts_of(chosen: Chosen, checked: Sequence[Checked], models: Models) -> list[Verdict]:
    selection = chosen.selection
    n = _predicted_on(models, selection)
    return shortlist.judge(checked, selection.budget, confidence=selection.confidence, predicted_on=n)


@contextlib.contextmanager
def saying_where(notes: TruthJournal, out: Output) -> Iterator[None]:
    """Whoever interrupts it, or whose device goes away, is told that nothing is lost."""
    before = notes.measured

    def kept() -> str:
        if notes.measured == before:
            return ""
        return f"what was measured is kept in {notes.path}; the same command goes on from there"

    try:
        yield
    except KeyboardInterrupt:
        if kept():
            out.notice(kept())
        raise
    except OfaEdgeError as error:  # the device is gone, the disk is full
        error.hint = "; ".join(filter(None, (error.hint, kept())))
        raise


# -- which ----------------------------------------------------------------------------------------
def shortlisted(chosen: Chosen, models: Models, top: int) -> list[Candidate]:
    """The subnets to measure: within the budget, apart from each other (search.shortlist), what was chosen first."""
    selection, predictions = chosen.selection, models.predictions
    first = Candidate(selection.arch, selection.top1, selection.latency_ms, selection.cost, selection.energy_mj)
    given = [first, *chosen.alternatives]
    if selection.strategy == "table":
        return given[:top]
    resolutions = shared_resolutions(models.latency.resolutions, predictions)
    priced = models.costs(selection.budget, resolutions, selection.confidence)
    space = priced.space
    found = {candidate.arch: candidate for candidate in given}

    def candidate(arch: Arch) -> Candidate:
        if arch not in found:
            (top1,) = batch.estimates(predictions, [arch], selection.confidence)
            found[arch] = priced.candidate(arch, top1)
        return found[arch]

    # Their own intervals have the last word (`excess`); here is only what none of them would keep.
    limits = Limits.of(selection.budget, min(_relative_width(one.latency_ms) for one in given))
    begin = [*found]
    if isinstance(predictions, AdditiveAccuracy):
        begin += shortlist.best_by_resolution(space, priced.tables, predictions, resolutions, limits)
    costs, accuracy = (
        batch.BatchCosts(space, priced.tables, resolutions),
        batch.BatchAccuracy(predictions, resolutions),
    )
    tolerance = max(_deviation(first.top1, selection.confidence), _LEAST_TOLERANCE)
    spread: list[Arch] = []
    for times in _WIDER:
        archs = shortlist.near_optimal(
            costs, limits, accuracy.top1, begin, tolerance=times * tolerance, seed=selection.seed
        )
        # What the strategy chose is measured in any case, also where a varied subnet is predicted to be better.
        archs, top1 = concatenate([ArchArrays.of(space, [first.arch]), archs]), accuracy.top1(archs)
        spread = shortlist.diverse(
            archs, np.append(np.inf, top1), top, fits=lambda arch: excess(candidate(arch), selection.budget) <= 1
        )
        if len(spread) == top:
            break
    return [candidate(arch) for arch in spread]


def _relative_width(estimate: Estimate) -> float:
    return 0.0 if estimate.high is None else estimate.high / estimate.value - 1


def _deviation(top1: Top1, confidence: float) -> float:
    """Of a prediction's error, from its interval."""
    return (top1.high - top1.low) / 2 / NormalDist().inv_cdf((1 + confidence) / 2)


def _predicted_on(models: Models, selection: Selection) -> float:
    """Images in each row that the predictor was fitted on, as far as its intervals hold their sampling."""
    if selection.strategy == "table" or models.measured is None:
        return math.inf
    return float(models.measured.frame["n"].median())
