"""`ofa-edge finetune`: one subnet of a supernet, trained alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.images import heldout_of, read_images, record
from ofa_edge.cli.output import Output
from ofa_edge.cli.steps import StepReport
from ofa_edge.errors import UsageError
from ofa_edge.files import require_writable
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.space.cost import cost

if TYPE_CHECKING:
    from ofa_edge.train.finetune import FinetuneOptions
    from ofa_edge.train.images import ImageSet
    from ofa_edge.weights.checkpoint import Checkpoint


def finetune(
    arch: options.ArchFile,
    data: options.Data,
    out_file: options.Out,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training images.")],
    supernet: options.Supernet = "embedded",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", min=0.0, max=1e4, help="Per 64 images of a batch; 0.0075 if left out, falls in a cosine."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images a step.")] = 64,
    split: Annotated[
        str, typer.Option("--split", help="What to judge on: heldout, the images train kept out, or val.")
    ] = "heldout",
    heldout: Annotated[
        int | None,
        typer.Option("--heldout", min=100, help="As many as train kept out: what CKPT says, else 1000."),
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16 or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="All cores where left out.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that make batches.")] = 1,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train one subnet alone, from the weights it has in the supernet, at its own resolution.

    The result is a checkpoint of this one subnet with its running batch-norm statistics, and its top-1 before and
    after, both with the statistics of 2,000 training images.
    """
    from ofa_edge.weights import checkpoint as checkpoints

    out = Output(as_json)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("finetune trains one subnet in one process", hint="start it without torchrun")
    if split not in ("heldout", "val"):
        raise UsageError(f"there is no --split {split}", hint="use heldout or val")
    if out_file.exists():
        raise UsageError(f"{out_file} exists already", hint="give another --out")
    checkpoint = checkpoints.load(supernet)
    archs = codecs.read_archs(checkpoint.space, arch)
    if len(archs) != 1:
        raise UsageError(f"{arch} holds {len(archs)} archs", hint="fine-tune one at a time")
    checkpoint.space.check(archs[0])
    checkpoint.check(archs[0])

    import torch

    from ofa_edge.train import images
    from ofa_edge.train.finetune import LEARNING_RATE, FinetuneOptions

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded = read_images(data, "train", checkpoint.space, out)
    parts = images.split_training(loaded, heldout or heldout_of(checkpoint))
    if checkpoint.metadata.data.get("heldout_sha256") not in (None, parts.heldout.sha256()):
        out.warning("other images were kept out when the supernet was trained: it may have seen those it is judged on")
    require_writable(out_file.parent)
    judged = parts.heldout if split == "heldout" else read_images(data, "val", checkpoint.space, out)
    rate = LEARNING_RATE if learning_rate is None else learning_rate
    chosen = FinetuneOptions(epochs, rate, batch_size, precision, seed, workers)
    words = f"{data.name}, {split}, {len(judged)} images"
    result = _run(checkpoint, archs[0], parts.train, judged, chosen, record(data, parts), out_file, out)
    out.result({**result, "judged_on": words})


def _run(
    checkpoint: Checkpoint,
    arch: Arch,
    source: ImageSet,
    judged: ImageSet,
    chosen: FinetuneOptions,
    data: dict[str, object],
    out_file: Path,
    out: Output,
) -> dict[str, object]:
    """Judge, train, judge, write; what the command answers."""
    import dataclasses

    from ofa_edge.supernet.network import Supernet
    from ofa_edge.train import finetune as training
    from ofa_edge.train.distributed import Ranks
    from ofa_edge.weights import checkpoint as checkpoints
    from ofa_edge.weights.cut import subnet_arrays

    space = checkpoint.space
    network = Supernet(space, arch).to(Ranks.here().device)
    network.load(subnet_arrays(space, checkpoint.arrays, arch))
    before, _ = training.judge(network, arch, source, judged, chosen.seed)
    out.say(f"top-1 {100 * before:.2f} % before, on {len(judged)} images")
    seconds = training.finetune(network, arch, source, chosen, StepReport(out))
    after, statistics = training.judge(network, arch, source, judged, chosen.seed)
    metadata = dataclasses.replace(
        checkpoint.metadata,
        source=f"checkpoint {checkpoint.sha256}; {checkpoint.metadata.source}",
        recipe={
            "recipe": dataclasses.asdict(chosen.recipe),
            "seed": chosen.seed,
            "supernet": checkpoint.metadata.recipe,
        },
        data=data,
        bank={},
    )
    sha256 = checkpoints.save(out_file, network.arrays(), None, metadata, space=space, running=statistics, arch=arch)
    return {
        "arch": codecs.encode(space, arch),
        "macs": cost(space.blocks(arch)).macs,
        "top1": {"before": before, "after": after},
        "epochs": chosen.epochs,
        "seconds": round(seconds, 1),
        "checkpoint": str(out_file),
        "sha256": sha256,
    }
