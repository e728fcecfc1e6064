"""What the truth step measures: subnets on a device, and what they get right on images.

In: a shortlist, what to measure with (`Asked`), the models of the selection, the journal of what is known. Out: the
shortlist with latency, or with right answers. Rules kept: the device is held against the latency table's conditions;
images that trained the checkpoint never judge, those that made the accuracy table or are kept as a test set only where
there are no others; what fails is said, and is an error where everything does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_edge.accuracy.table import UNKNOWN
from ofa_edge.cli import options
from ofa_edge.cli.images import heldout_of, read_images
from ofa_edge.cli.output import Output
from ofa_edge.cli.profiling import say_device
from ofa_edge.device import ConnectOptions
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.latency import plan
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.search.truth import checking
from ofa_edge.search.truth.journal import TruthJournal, latency_of, undisturbed
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.search.truth.shortlist import TOP, Checked
from ofa_edge.space.arch import Arch

if TYPE_CHECKING:
    from ofa_edge.accuracy.evaluate import Evaluator
    from ofa_edge.cli.inputs import Models
    from ofa_edge.latency.conditions import Conditions
    from ofa_edge.search.budget import Budget
    from ofa_edge.train.images import ImageSet
    from ofa_edge.weights.checkpoint import Checkpoint

BN = ("recalibrated", "bank", "running")

# Fresh processes of each subnet, as in the trial of a deployment: the median of five bears two bad ones.
PROCESSES = 5


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
    connecting: ConnectOptions = field(default_factory=ConnectOptions)
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
    with open_device(host, options=asked.connecting) as session:
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
    known = sum(notes.right(under, arch) is not None for arch in archs)
    there = f" ({known} known already)" if known else ""
    out.say(f"top-1 of {len(archs)} subnets{there} on {judge.words}")
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
