"""`ofa-edge evaluate`: the top-1 of many subnets, into an accuracy table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.cli.train import read_images
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch

if TYPE_CHECKING:
    from ofa_edge.train.images import ImageSet, Splits
    from ofa_edge.weights.bank import Statistics
    from ofa_edge.weights.checkpoint import Checkpoint

SPLITS = ("heldout", "val", "unseen")


def evaluate(
    data: options.Data,
    out_file: options.Out,
    supernet: options.Supernet = "embedded",
    samples: Annotated[
        int | None, typer.Option("--samples", min=2, help="This many subnets, largest and smallest among them.")
    ] = None,
    arch: options.MaybeArchFile = None,
    resolutions: options.Resolutions = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="heldout: the images train kept out; val: the val split; unseen: images that the published "
            "initial weights were not trained on.",
        ),
    ] = "heldout",
    heldout: Annotated[int, typer.Option("--heldout", min=100, help="As many as train kept out.")] = 1000,
    bn: Annotated[
        str, typer.Option("--bn", help="bank: the checkpoint's; recalibrated: on training images (needs torch).")
    ] = "bank",
    bn_images: Annotated[int, typer.Option("--bn-images", min=100, help="Images for --bn recalibrated.")] = 2000,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Measure top-1 of subnets x resolutions on images they were not trained on; --resume adds what is missing."""
    from ofa_edge.accuracy.evaluate import Evaluator, fill_table, spread_sample
    from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
    from ofa_edge.weights import checkpoint as checkpoints

    out = Output(as_json)
    if options.exactly_one(samples=samples, arch=arch) == "arch" and resolutions is not None:
        out.say("archs are evaluated at each of --resolutions instead of their own")
    if split not in SPLITS or bn not in ("bank", "recalibrated"):
        raise UsageError(
            f"--split {split} --bn {bn} is not possible", hint=f"--split {'|'.join(SPLITS)}, --bn bank|recalibrated"
        )
    checkpoint = checkpoints.load(supernet)
    if bn == "bank" and checkpoint.bank is None:
        raise BadFile(f"checkpoint {supernet} has no BN bank", hint="measure with --bn recalibrated")
    space = checkpoint.space
    sizes = options.resolutions(resolutions, space.resolutions)
    if arch is not None:
        given = codecs.read_archs(space, arch)
        archs = given if resolutions is None else [Arch(r, a.stages) for a in given for r in sizes]
    else:
        archs = spread_sample(space, samples or 2, sizes, seed)
    for one in archs:
        space.check(one)
    images, words, statistics = _images(checkpoint, data, split, heldout, bn, bn_images, out)
    header = AccuracyHeader.of(
        space, checkpoint=checkpoint.sha256, data=words, bn=bn, seed=seed, images_sha256=images.sha256()
    )
    start = time.monotonic()
    with (
        AccuracyWriter.open(out_file, space, header, resume=resume) as writer,
        out.progress("evaluate", len(archs)) as bar,
    ):
        fill_table(Evaluator(checkpoint, images, statistics), archs, writer, lambda done: bar.advance())
        writer.finish()
    table = AccuracyTable.read(out_file, space)
    for failed, reason in list(table.failed.items())[:1]:
        out.warning(f"{len(table.failed)} subnets failed; {codecs.encode(space, failed)}: {reason}")
    out.result(
        {
            "table": str(out_file),
            "rows": len(table.frame),
            "failed": len(table.failed),
            "seconds": round(time.monotonic() - start, 1),
        }
    )


def _images(
    checkpoint: Checkpoint, data: Path, split: str, heldout: int, bn: str, bn_images: int, out: Output
) -> tuple[ImageSet, str, Callable[[Arch], Statistics] | None]:
    """The images to judge on, in words too, and where batch-norm statistics come from (None: the bank)."""
    from ofa_edge.train import images as data_images

    needed = {"train": split != "val" or bn == "recalibrated", "val": split != "heldout"}
    if all(needed.values()) and data.is_file():
        raise UsageError(f"--split {split} --bn {bn} needs both splits, {data} is one", hint="give --data their folder")
    read = {name: read_images(data, name, checkpoint.space, out) for name, wanted in needed.items() if wanted}
    training = data_images.split_training(read["train"], heldout) if "train" in read else None
    chosen = _choose(training, read.get("val"), split)
    if not len(chosen):
        raise UsageError(f"{data} has no images of split {split}", hint="choose another --split")
    recorded = checkpoint.metadata.data.get("heldout_sha256")
    if split == "heldout" and recorded and recorded != chosen.sha256():
        raise UsageError(
            "the held-out images are not those the checkpoint's training kept out",
            hint=f"give the data and --heldout {checkpoint.metadata.data.get('heldout')} it was trained with",
        )
    statistics = None
    if bn == "recalibrated" and training is not None:
        from ofa_edge.accuracy.recalibrate import Recalibrator

        statistics = Recalibrator(checkpoint, training.train, bn_images)
    return chosen, f"{data.name}, {split}, {len(chosen)} images", statistics


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
