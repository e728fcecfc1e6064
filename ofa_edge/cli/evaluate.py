"""`ofa-edge evaluate`: the top-1 of many subnets, into an accuracy table, by one process, many, or a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.images import heldout_of, read_images
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space

if TYPE_CHECKING:
    from ofa_edge.accuracy.evaluate import Source
    from ofa_edge.accuracy.samples import Shard
    from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable
    from ofa_edge.train.images import ImageSet, Splits
    from ofa_edge.weights.checkpoint import Checkpoint

SPLITS = ("heldout", "val", "unseen")
SIZES = ("all", "drawn")
BN = ("bank", "running", "recalibrated")


def evaluate(
    data: options.Data,
    out_file: options.Out,
    supernet: options.Supernet = "embedded",
    samples: Annotated[
        int | None, typer.Option("--samples", min=2, help="This many subnets, largest and smallest among them.")
    ] = None,
    arch: options.MaybeArchFile = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="As a paper did it. ofa-paper: 16,000 subnets, each at a drawn size, 10,000 held-out images, batch "
            "norm on 2,000; spos-paper: 1,000 subnets, 50,000 images, batch norm on 20,000. Other options win over it.",
        ),
    ] = None,
    resolutions: options.Resolutions = None,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", help="all: each sample at all --resolutions (default); drawn: at one of them."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            help="Draw only samples within it, each at one size: macs=300M, or latency=20ms with --latency-table.",
        ),
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", metavar="FILE", help="For --budget latency=...")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="heldout: the images train kept out; val: the val split; unseen: images that the published "
            "initial weights were not trained on.",
        ),
    ] = "heldout",
    heldout: Annotated[
        int | None, typer.Option("--heldout", min=100, help="As many as train kept out: what CKPT says, else 1000.")
    ] = None,
    bn: Annotated[
        str | None,
        typer.Option(
            "--bn",
            help="bank: the checkpoint's (default); running: those that published weights or a single subnet came with "
            "(a single subnet's default); recalibrated: on training images (needs torch).",
        ),
    ] = None,
    bn_images: Annotated[
        int | None, typer.Option("--bn-images", min=100, help="Images for --bn recalibrated; 2000 if left out.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Measure the I-th of N parts into a file of its own; the last to end makes --out. Under torchrun each "
            "rank is one.",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Measure on a Ray cluster; 'local' starts one here.")
    ] = None,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Measure top-1 of subnets x resolutions on images they were not trained on; --resume adds what is missing.

    Where a space's input sizes lie 4 pixels apart, every 16th pixel is measured, and predictors interpolate in FLOPs.
    """
    from ofa_edge.accuracy.evaluate import Source
    from ofa_edge.accuracy.table import AccuracyHeader
    from ofa_edge.weights import checkpoint as checkpoints

    out = Output(as_json)
    asked = _Asked.of(preset, samples, arch, sizes, heldout, bn, bn_images, split)
    if latency_table is not None and budget is None:
        raise UsageError("--latency-table is for --budget", hint="give --budget latency=20ms, or leave it out")
    worker = this_shard(shard, ray)
    checkpoint = checkpoints.load(supernet)
    asked = replace(
        asked,
        bn=asked.bn or checkpoint.usual_bn,
        heldout=asked.heldout or heldout_of(checkpoint),
    )
    if asked.bn == "bank" and checkpoint.bank is None:
        other = "--bn running or --bn recalibrated" if checkpoint.running else "--bn recalibrated"
        raise BadFile(f"checkpoint {supernet} has no BN bank", hint=f"measure with {other}")
    if asked.bn == "running" and checkpoint.running is None:
        raise BadFile(f"checkpoint {supernet} has no running statistics", hint="measure with --bn bank or recalibrated")
    archs = _archs(checkpoint, asked, arch, resolutions, budget, latency_table, seed, out)
    images, words, training = _images(checkpoint, data, split, asked, out)
    header = AccuracyHeader.of(
        checkpoint.space,
        checkpoint=checkpoint.sha256,
        data=words,
        bn=asked.bn,
        seed=seed,
        images_sha256=images.sha256(),
        **({"bn_images": asked.bn_images} if training is not None else {}),
    )
    source = Source(checkpoint, images, asked.bn, training, asked.bn_images)
    start = time.monotonic()
    with out.progress("evaluate", len(worker.part(archs) if worker else archs)) as bar:
        table = _fill(source, archs, out_file, header, worker, ray, resume, lambda: bar.advance())
    if table is None:
        said = f"this part is done; the worker that ends last makes {out_file}"
        if shard is None:  # torchrun's ranks share one standard output, so the last one alone has a result
            out.say(said)
        else:
            out.result({"table": None, "seconds": round(time.monotonic() - start, 1)}, said)
        return
    _tell(table, out_file, time.monotonic() - start, out)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that a preset can set, resolved: what was given, else the preset's, else the default.

    Where nobody said, `bn` is '' (a supernet's bank, or the running statistics of a single subnet) and `heldout` 0 (as
    many as the checkpoint's training kept out).
    """

    samples: int | None
    one_size: bool
    heldout: int
    bn: str
    bn_images: int

    @classmethod
    def of(
        cls,
        preset: str | None,
        samples: int | None,
        arch: str | None,
        sizes: str | None,
        heldout: int | None,
        bn: str | None,
        bn_images: int | None,
        split: str,
    ) -> _Asked:
        """Raises UsageError where a value is unknown, or neither or both of samples and archs were asked for."""
        from ofa_edge.accuracy.samples import PRESETS, Preset
        from ofa_edge.train.images import RECALIBRATION_IMAGES

        if preset is not None and preset not in PRESETS:
            raise UsageError(f"there is no preset {preset!r}", hint=f"use one of: {', '.join(PRESETS)}")
        if preset is None or (samples is not None and arch is not None):
            options.exactly_one(samples=samples, arch=arch)
        if split not in SPLITS or bn not in (None, *BN) or sizes not in (None, *SIZES):
            raise UsageError(
                f"--split {split} --bn {bn or 'bank'} --sizes {sizes or 'all'} is not possible",
                hint=f"--split {'|'.join(SPLITS)}, --bn {'|'.join(BN)}, --sizes {'|'.join(SIZES)}",
            )
        base = PRESETS[preset] if preset else Preset(0, False, 0, "", RECALIBRATION_IMAGES)
        return cls(
            samples=None if arch is not None else samples or base.samples,
            one_size=base.one_size if sizes is None else sizes == "drawn",
            heldout=heldout or base.heldout,
            bn=bn or base.bn,
            bn_images=bn_images or base.bn_images,
        )


def this_shard(text: str | None, ray: str | None) -> Shard | None:
    """Which part is this process's: of --shard, or of torchrun's environment; None where it does all."""
    from ofa_edge.accuracy.samples import Shard

    if text is not None and ray is not None:
        options.exactly_one(shard=text, ray=ray)
    if text is not None:
        return Shard.parse(text)
    world = os.environ.get("WORLD_SIZE", "1")
    if ray is not None or not world.isdigit() or int(world) < 2:
        return None
    return Shard.parse(f"{int(os.environ.get('RANK', '0')) + 1}/{world}")


def _archs(
    checkpoint: Checkpoint,
    asked: _Asked,
    file: str | None,
    resolutions: str | None,
    budget: str | None,
    latency_table: Path | None,
    seed: int,
    out: Output,
) -> list[Arch]:
    """What to measure, in the order of the table. Raises as the codec, the samplers and `_fits`."""
    from ofa_edge.accuracy.interpolation import measured_resolutions
    from ofa_edge.accuracy.samples import sample_sizes, spread_sample

    space = checkpoint.space
    at = options.resolutions(resolutions, measured_resolutions(space.resolutions))
    if file is not None:
        if budget is not None:
            raise UsageError("--budget is for --samples", hint="leave it out, or draw samples")
        if resolutions is not None:
            out.say("archs are evaluated at each of --resolutions instead of their own")
        given = codecs.read_archs(space, file)
        archs = given if resolutions is None else [arch.at(r) for arch in given for r in at]
    elif checkpoint.arch is not None:
        archs = [checkpoint.arch.at(r) for r in at]
        out.say("the checkpoint holds one subnet; it is evaluated at each resolution")
    else:
        for r in at:
            space.check(space.smallest(r))
        count = asked.samples or 2
        if budget is not None:
            archs = sample_sizes(space, count, at, seed, _fits(space, budget, latency_table))
        else:
            archs = (sample_sizes if asked.one_size else spread_sample)(space, count, at, seed)
    for arch in archs:
        space.check(arch)
    return archs


def _fits(space: Space, text: str, latency_table: Path | None) -> Callable[[Arch], bool]:
    """Raises UsageError where the budget cannot be read, or limits latency without a table."""
    from ofa_edge.graph.stored import PLAIN, Stored
    from ofa_edge.latency.models.predictors import model_of
    from ofa_edge.latency.table import LatencyTable
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.sampled.within import fits_within

    model, stored = None, PLAIN
    if latency_table is not None:
        table = LatencyTable.read(latency_table)
        if table.header.space != space.name:
            raise UsageError(
                f"the latency table is of space {table.header.space}, the checkpoint of {space.name}",
                hint="give a table of the checkpoint's space",
            )
        model, stored = model_of(table), Stored.of(table.conditions)
    return fits_within(space, Budget.parse(text), model, stored=stored)


def _fill(
    source: Source,
    archs: list[Arch],
    file: Path,
    header: AccuracyHeader,
    worker: Shard | None,
    ray: str | None,
    resume: bool,
    report: Callable[[], None],
) -> AccuracyTable | None:
    """The table, or None where other workers are not done. Raises as the ways of filling it."""
    from ofa_edge.accuracy.evaluate import fill_table
    from ofa_edge.accuracy.sharding import fill_part
    from ofa_edge.accuracy.table import AccuracyTable, AccuracyWriter

    space = source.checkpoint.space
    if worker is not None:
        cores = max(1, (os.cpu_count() or 1) // worker.count)
        return fill_part(
            source.evaluator(cores), archs, file, worker, header, resume=resume, report=lambda arch: report()
        )
    with AccuracyWriter.open(file, space, header, resume=resume) as writer:
        if ray is not None:
            from ofa_edge.accuracy import cluster

            cluster.fill_table(source, archs, writer, report, address=ray)
        else:
            fill_table(source.evaluator(), archs, writer, lambda arch: report())
        writer.finish()
    return AccuracyTable.read(file, space)


def _tell(table: AccuracyTable, file: Path, seconds: float, out: Output) -> None:
    """The result. Raises OfaEdgeError where every subnet failed."""
    for failed, reason in list(table.failed.items())[:1]:
        said = f"{len(table.failed)} subnets failed; {codecs.encode(table.space, failed)}: {reason}"
        if table.frame.empty:
            raise OfaEdgeError(f"no subnet could be measured: {said}", hint=f"{file} says why of each; try --resume")
        out.warning(said)
    out.result(
        {"table": str(file), "rows": len(table.frame), "failed": len(table.failed), "seconds": round(seconds, 1)}
    )


def _images(
    checkpoint: Checkpoint, data: Path, split: str, asked: _Asked, out: Output
) -> tuple[ImageSet, str, ImageSet | None]:
    """The images to judge on, in words too, and those to recalibrate batch norm on (None: not needed)."""
    from ofa_edge.train import images as data_images

    recalibrated = asked.bn == "recalibrated"
    needed = {"train": split != "val" or recalibrated, "val": split != "heldout"}
    if all(needed.values()) and data.is_file():
        raise UsageError(
            f"--split {split} --bn {asked.bn} needs both splits, {data} is one", hint="give --data their folder"
        )
    read = {name: read_images(data, name, checkpoint.space, out) for name, wanted in needed.items() if wanted}
    training = data_images.split_training(read["train"], asked.heldout) if "train" in read else None
    chosen = _choose(training, read.get("val"), split)
    if not len(chosen):
        raise UsageError(f"{data} has no images of split {split}", hint="choose another --split")
    recorded = checkpoint.metadata.data.get("heldout_sha256")
    if split == "heldout" and recorded and recorded != chosen.sha256():
        raise UsageError(
            "the held-out images are not those the checkpoint's training kept out",
            hint=f"give the data and --heldout {checkpoint.metadata.data.get('heldout')} it was trained with",
        )
    source = training.train if recalibrated and training is not None else None
    return chosen, f"{data.name}, {split}, {len(chosen)} images", source


def _choose(training: Splits | None, validation: ImageSet | None, split: str) -> ImageSet:
    """The images of a split, out of those it needs."""
    from ofa_edge.train import images as data_images

    if split == "val":
        assert validation is not None
        return validation
    assert training is not None
    if split == "heldout":
        return training.heldout
    assert validation is not None
    return data_images.joined(training.unseen, data_images.unseen_part(validation))
