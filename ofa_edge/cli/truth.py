"""The truth step of `select`: the best subnets by prediction are measured, and one is chosen by what was measured.

In: what a strategy chose, its models, and what to measure with: images and a supernet, a device, or both. Out: a Chosen
whose selection says what was measured of it. Rules kept: files are read and checked before a device is asked; the
device comes first, and what breaks the budget there is not evaluated; what is measured is written down at once
(search/truth/journal.py), and the same command goes on from there; images that trained the checkpoint never judge,
those that made the accuracy table or are kept as a test set only where there are no others.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_edge import settings
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import UNKNOWN
from ofa_edge.cli import options
from ofa_edge.cli.images import heldout_of, read_images
from ofa_edge.cli.output import Output, table
from ofa_edge.cli.profiling import say_device
from ofa_edge.errors import BadFile, DeviceLost, OfaEdgeError, UsageError
from ofa_edge.latency import plan
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.search import batch
from ofa_edge.search.candidate import Candidate, candidate_of, excess
from ofa_edge.search.choose import Chosen, shared_resolutions
from ofa_edge.search.limits import Limits
from ofa_edge.search.truth import checking, shortlist
from ofa_edge.search.truth.journal import TruthJournal, latency_of, undisturbed
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.search.truth.shortlist import TOP, Checked, Verdict
from ofa_edge.space.arch import Arch
from ofa_edge.space.population import ArchArrays, concatenate

if TYPE_CHECKING:
    from ofa_edge.accuracy.evaluate import Evaluator
    from ofa_edge.accuracy.predictor import Top1
    from ofa_edge.cli.inputs import Models
    from ofa_edge.device import ConnectOptions
    from ofa_edge.latency.conditions import Conditions
    from ofa_edge.latency.model import Estimate
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.selection import Selection
    from ofa_edge.train.images import ImageSet
    from ofa_edge.weights.checkpoint import Checkpoint

BN = ("recalibrated", "bank", "running")

# Fresh processes of each subnet, as in the trial of a deployment: the median of five bears two bad ones.
PROCESSES = 5

# A shortlist may lose to its best a standard deviation of a prediction's error: no predictor is believed to order
# subnets that are nearer to each other than that, or than this share. Where it leaves too few subnets it is widened by
# these factors in turn.
_LEAST_TOLERANCE = 0.002
_WIDER = (1, 2, 4, 8)

COLUMNS = ["r", "top-1 predicted", "measured", "to expect", "ms predicted", "measured", "fits"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure, and with what; at least one of `data` and `host`.

    Attributes:
        data: images, as --data of `evaluate`.
        supernet: whose subnets are evaluated.
        bn: batch-norm statistics: 'recalibrated' on `bn_images` training images (in torch), or the checkpoint's own
            ('bank', 'running'), as they are deployed.
        host: the device.
        connecting: how to reach it.
        accept_unknown: take the device as that of a table that does not say what it was measured on.
        top: how many subnets.
        processes, effort: of each subnet on the device.
        kept: the journal; None: the one in the home.
    """

    data: Path | None = None
    supernet: str = "embedded"
    bn: str = "recalibrated"
    bn_images: int = 2000
    host: str | None = None
    connecting: ConnectOptions | None = None
    accept_unknown: bool = False
    top: int = TOP
    processes: int = PROCESSES
    effort: plan.Effort = plan.QUICK
    kept: Path | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """What classifies the images, and under what circumstances (`what` for the journal, `words` for people).

    Attributes:
        evaluator: of the same images and batch-norm statistics.
    """

    right: Callable[[Arch], Bools]
    what: Mapping[str, Any]
    words: str
    evaluator: Evaluator


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
    judge = None if asked.data is None else judge_of(asked.data, asked, models, out)
    checked = [Checked(candidate) for candidate in shortlisted(chosen, models, asked.top)]
    out.say(f"{len(checked)} subnets are measured, each as good by prediction as the predictor can tell")
    kept = asked.kept or settings.home() / "truth" / f"{models.space.name}.jsonl"
    with TruthJournal.open(kept, models.space) as notes, saying_where(notes, out):
        if asked.host is not None:
            checked = timed(asked.host, checked, models, asked, notes, out)
            on_device = verdicts_of(chosen, checked, models)
            shortlist.require_fitting(on_device, models.space, selection.budget, asked.host)
        if judge is not None:
            checked = evaluated(judge, checked, selection.budget, notes, out)
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
    kept = f"what was measured is kept in {notes.path}; the same command goes on from there"
    try:
        yield
    except KeyboardInterrupt:
        out.notice(kept)
        raise
    except DeviceLost as error:
        error.hint = kept
        raise


# -- which ----------------------------------------------------------------------------------------
def shortlisted(chosen: Chosen, models: Models, top: int) -> list[Candidate]:
    """The subnets to measure: within the budget, apart from each other (search.shortlist), what was chosen first."""
    selection, space, latency, predictions = chosen.selection, models.space, models.latency, models.predictions
    first = Candidate(selection.arch, selection.top1, selection.latency_ms, selection.cost, selection.energy_mj)
    given = [first, *chosen.alternatives]
    if selection.strategy == "table":
        return given[:top]
    energy = models.energy(selection.budget)
    found = {candidate.arch: candidate for candidate in given}

    def candidate(arch: Arch) -> Candidate:
        if arch not in found:
            (top1,) = batch.estimates(predictions, [arch], selection.confidence)
            found[arch] = candidate_of(space, latency, arch, top1, selection.confidence, energy)
        return found[arch]

    resolutions = shared_resolutions(latency.resolutions, predictions)
    # Their own intervals have the last word (`excess`); here is only what none of them would keep.
    limits = Limits.of(selection.budget, min(_relative_width(one.latency_ms) for one in given))
    begin = [*found]
    if isinstance(predictions, AdditiveAccuracy):
        begin += shortlist.best_by_resolution(space, latency, predictions, resolutions, limits, energy)
    costs, accuracy = (
        batch.BatchCosts(space, latency, resolutions, energy),
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


# -- on the device --------------------------------------------------------------------------------
def timed(
    host: str, checked: Sequence[Checked], models: Models, asked: Asked, notes: TruthJournal, out: Output
) -> list[Checked]:
    """Those that run on the device, with their latency there. Raises as open_device, require_match, time_missing."""
    from ofa_edge.device import open_device
    from ofa_edge.latency import workload
    from ofa_edge.latency.conditions import conditions, require_match
    from ofa_edge.space import codecs

    model, found = models.latency, models.latency_table
    runs_on = runs_on_of(found.conditions)
    options.require_writers(runs_on)
    archs = [one.candidate.arch for one in checked]
    with open_device(host, options=asked.connecting or options.connecting(out)) as session:
        say_device(out, session.facts)
        # Of the table's cores those that are there: another device is told by its name, not by the core it lacks.
        cores = None if runs_on.cores is None else tuple(sorted({*runs_on.cores} & {*session.facts.core_mask})) or None
        now = conditions(session.facts, replace(runs_on, cores=cores))
        names = (str(found.path), "this device")
        require_match(found.conditions, now, names=names, accept_unknown=asked.accept_unknown)
        under = notes.under(
            conditions=now.model_dump(mode="json"),
            anchor=codecs.encode(model.space, model.anchor),
            effort=[asked.effort.network_rel, asked.effort.network_seconds],
        )
        with out.progress("measure", len(archs) * asked.processes) as bar:
            failed = checking.time_missing(
                session,
                archs,
                notes,
                under,
                space=models.space,
                anchor=workload.network_source(model.space, model.anchor, runs_on),
                reference_ms=model.reference_ms,
                runs_on=runs_on,
                processes=asked.processes,
                effort=asked.effort,
                report=bar.advance,
            )
    _say_failed(failed, len(archs), out)
    processes = {arch: notes.processes(under, arch) for arch in archs if arch not in failed}
    if busy := sum(undisturbed(several) is None for several in processes.values()):
        out.warning(
            f"of {busy} subnets most processes were disturbed by other work; the same command measures them again, at "
            "a quieter time"
        )
    ran = [(one, processes[one.candidate.arch]) for one in checked if one.candidate.arch in processes]
    return [replace(one, latency_ms=latency_of(several, model.reference_ms)) for one, several in ran]


def runs_on_of(found: Conditions) -> RunsOn:
    """As the latency table was measured; what it does not say as usual."""
    cores = None if isinstance(found.cores, str) else tuple(found.cores)
    told = {name: getattr(found, name) for name in ("runtime", "threads", "precision", "thermal")}
    known = RunsOn(cores=cores, **{name: value for name, value in told.items() if value != UNKNOWN})
    return found.runs_on or known


def _say_failed(failed: Mapping[Arch, str], count: int, out: Output) -> None:
    """Raises OfaEdgeError where every subnet failed."""
    for reason in list(failed.values())[:1]:
        said = f"{len(failed)} of {count} subnets failed: {reason}"
        if len(failed) == count:
            raise OfaEdgeError(said, hint="`ofa-edge doctor` looks for what is missing")
        out.warning(said)


# -- on images ------------------------------------------------------------------------------------
def evaluated(
    judge: Judge, checked: Sequence[Checked], budget: Budget, notes: TruthJournal, out: Output
) -> list[Checked]:
    """Those that fit, with what they get right, and those that do not fit as they are."""
    under = notes.under(**judge.what)
    archs = [one.candidate.arch for one in checked if one.fits(budget)]
    out.say(f"top-1 of {len(archs)} subnets on {judge.words}")
    with out.progress("evaluate", len(archs)) as bar:
        failed = checking.evaluate_missing(judge.right, archs, notes, under, lambda arch: bar.advance())
    _say_failed(failed, len(archs), out)
    ran = [one for one in checked if one.candidate.arch not in failed]
    return [replace(one, right=notes.right(under, one.candidate.arch)) for one in ran]


def judge_of(data: Path, asked: Asked, models: Models, out: Output) -> Judge:
    """Raises as `check`, and ModuleNotFoundError where torch is needed and not installed."""
    from ofa_edge.accuracy.evaluate import Source
    from ofa_edge.weights import checkpoint as checkpoints

    if asked.bn not in BN:
        raise UsageError(f"--bn {asked.bn} is not possible", hint=f"--bn {'|'.join(BN)}")
    checkpoint = checkpoints.load(asked.supernet)
    made_with = models.inputs.get("supernet", UNKNOWN)
    if made_with not in (UNKNOWN, checkpoint.sha256):
        raise BadFile(
            f"the accuracy table is of checkpoint {made_with[:12]}, {asked.supernet} is {checkpoint.sha256[:12]}",
            hint="name the checkpoint that the table was made with as --supernet",
        )
    own = {"bank": checkpoint.bank, "running": checkpoint.running}
    if asked.bn in own and own[asked.bn] is None:
        raise BadFile(f"checkpoint {asked.supernet} has no statistics {asked.bn}", hint="use --bn recalibrated")
    images, split, training = _images(data, checkpoint, asked.bn == "recalibrated", models, out)
    evaluator = Source(checkpoint, images, asked.bn, training, asked.bn_images).evaluator()
    what: dict[str, Any] = {"checkpoint": checkpoint.sha256, "images": images.sha256(), "bn": asked.bn}
    words = f"{data.name}, {split}, {len(images)} images, batch norm: {asked.bn}"
    if training is not None:
        what |= {"bn_images": asked.bn_images, "training": training.sha256()}
        words += f" on {min(asked.bn_images, len(training))} training images"
    return Judge(lambda arch: np.asarray(evaluator.predictions(arch) == images.labels), what, words, evaluator)


def _images(
    data: Path, checkpoint: Checkpoint, recalibrated: bool, models: Models, out: Output
) -> tuple[ImageSet, str, ImageSet | None]:
    """Images to judge on, their split, and those to recalibrate batch norm on (None: not needed).

    Those of val that published weights have seen too (the others are a test set), unless the accuracy table was made
    on val; else those that training held out. Raises as read_images.
    """
    from ofa_edge.train import images as data_images

    made_on = None if models.measured is None else models.measured.header.as_json().get("images_sha256")
    val = _val(data, checkpoint, out)
    if val is not None and val.sha256() == made_on:
        val = None
    splits = None
    if recalibrated or val is None:
        splits = data_images.split_training(read_images(data, "train", checkpoint.space, out), heldout_of(checkpoint))
    source = splits.train if recalibrated and splits is not None else None
    if val is not None:
        unseen = set(data_images.unseen_part(val).names)
        rest = [i for i, name in enumerate(val.names) if name not in unseen]
        return (val.subset(rest) if rest else val), "val", source
    assert splits is not None
    recorded = checkpoint.metadata.data.get("heldout_sha256")
    if recorded not in (None, splits.heldout.sha256()):
        raise UsageError(
            "the held-out images are not those the checkpoint's training kept out",
            hint="give the data it was trained with, or data with a val split",
        )
    if splits.heldout.sha256() == made_on:
        out.warning("these images made the accuracy table too: what it is wrong about on them is not seen again")
    return splits.heldout, "heldout", source


def _val(data: Path, checkpoint: Checkpoint, out: Output) -> ImageSet | None:
    """The val split; None where the data is one file, or has none. Raises as read_images."""
    from ofa_edge.train import idx

    if data.is_dir() and ((data / "val.parquet").exists() or (data / "val").exists() or idx.find(data, "t10k")):
        return read_images(data, "val", checkpoint.space, out)
    return None
