"""`ofa-edge train`: a supernet from images, phase by phase, resumable, on one machine or under torchrun."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.images import HELDOUT, read_images, record
from ofa_edge.cli.output import Output
from ofa_edge.cli.steps import StepReport
from ofa_edge.errors import UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.space.spaces import OFA_LITE0, get_space
from ofa_edge.train import schedule

if TYPE_CHECKING:
    from ofa_edge.train.trainer import Trainer

CHECKPOINT_FILE = "supernet.safetensors"
SCRATCH = "scratch"


def train(
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="A named space, or a TOML file of one.")],
    data: options.Data,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run and its checkpoint.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="sandwich: largest, smallest and a random subnet a step (BigNAS). progressive: the largest net, then "
            "kernels, depths, expand ratios, widths (Once-for-All, with its epochs). single-path: one random subnet a "
            "step (SPOS). transfer: a new head on --from's weights, then few epochs of all. no-shrinking: the epochs "
            "of progressive with random subnets from the start, for comparison.",
        ),
    ] = "sandwich",
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CKPT",
            help="Initial weights: a checkpoint, or 'scratch'; other classes than its own get a new head. ofa-lite0's "
            "default is ImageNet's EfficientNet-Lite0.",
        ),
    ] = None,
    heldout: Annotated[
        int, typer.Option("--heldout", min=100, help="Training images kept out, for accuracy tables.")
    ] = HELDOUT,
    epochs_scale: Annotated[
        float,
        typer.Option("--epochs-scale", min=0.0, max=1e4, help="Multiplies every phase's epochs (at least one each)."),
    ] = 1.0,
    rate_scale: Annotated[
        float, typer.Option("--rate-scale", min=0.0, max=1e4, help="Multiplies every phase's learning rate.")
    ] = 1.0,
    subnets_scale: Annotated[
        float,
        typer.Option("--subnets-scale", min=0.0, max=100, help="Multiplies the random subnets a step (at least one)."),
    ] = 1.0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=2, help="Images a step, all ranks together; the rate grows with it. 64 if left out."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="macs=N", help="Draw only subnets of at most so many MACs: macs=200M."),
    ] = None,
    transforms_only: Annotated[
        bool, typer.Option("--transforms-only", help="The kernel phase trains the kernel transforms alone.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option("--precision", help="fp32, bf16, fp16; auto: bf16 on a GPU, else fp32, the faster there."),
    ] = "auto",
    sync_bn: Annotated[
        bool, typer.Option("--sync-bn", help="Under torchrun: batch norm over the batches of all ranks.")
    ] = False,
    bank_subnets: Annotated[
        int | None,
        typer.Option("--bank-subnets", min=0, help="Subnets the BN bank is fitted to; 200 if left out, 0 for no bank."),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option("--checkpoint-minutes", min=0.0, help="How often the run's state is saved.")
    ] = 5.0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="All cores where left out.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that make batches.")] = 1,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Train a supernet on the `train` split of --data; --resume goes on where a stopped run was.

    The result is OUT/supernet.safetensors: half-precision weights, the BN bank, and where both come from. On many
    machines or GPUs: `torchrun --nproc-per-node N --no-python ofa-edge train ...`, with an OUT that all ranks see.
    """
    plan, target = schedule.get_recipe(recipe), get_space(space)
    limit = _macs(budget)
    if recipe == schedule.TRANSFER.name and source in (None, SCRATCH) and target != OFA_LITE0:
        raise UsageError("recipe transfer starts from trained weights", hint="name them with --from CKPT")
    if (out_dir / "state.pt").exists() and not resume:
        raise UsageError(f"{out_dir} holds a run already", hint="go on with --resume, or give another --out")

    import torch

    from ofa_edge.train import images
    from ofa_edge.train.distributed import Ranks
    from ofa_edge.train.options import TrainOptions
    from ofa_edge.train.trainer import Trainer

    with Ranks.here() as ranks:
        if threads:  # accelerate sets its own number
            torch.set_num_threads(threads)
        out = Output(as_json) if ranks.main else _silent()
        torch.manual_seed(seed)
        loaded = read_images(data, "train", None, out)
        labels = images.class_names(data, loaded)
        splits = images.split_training(loaded, heldout)
        out.say(
            f"{len(splits.train)} images of {len(labels)} classes to train on, {len(splits.heldout)} held out, "
            f"{len(splits.unseen)} unseen by published weights kept for tests"
        )
        chosen = TrainOptions(
            seed=seed,
            checkpoint_minutes=checkpoint_minutes,
            epochs_scale=epochs_scale,
            rate_scale=rate_scale,
            subnets_scale=subnets_scale,
            batch_size=batch_size,
            most_macs=limit,
            transforms_only=transforms_only,
            precision=precision,
            sync_bn=sync_bn,
            workers=workers,
        )
        trainer = Trainer(target.with_classes(len(labels)), plan, splits, out_dir, chosen, StepReport(out), ranks)
        _say_plan(trainer, plan, out)
        origin = _start(trainer, source, labels, out)
        trainer.origin = origin[0]
        if resume:
            trainer.resume()
            out.say(_where(trainer))
        results = trainer.run()
        if not ranks.main:
            return
        checkpoint, loss = _ship(trainer, out_dir / CHECKPOINT_FILE, origin, data, labels, bank_subnets, out)
    out.result(
        {
            "phases": [dataclasses.asdict(result) for result in results],
            "checkpoint": str(checkpoint),
            "bank": loss,
            "images": len(splits.train),
            "corrupt": list(loaded.corrupt),
        }
    )


def _where(trainer: Trainer) -> str:
    position, phases = trainer.position, trainer.recipe.phases
    if position.phase == len(phases):
        return "every phase is done already"
    phase = phases[position.phase]
    return f"resumed in phase {phase.name}, epoch {position.epoch + 1}/{phase.epochs}, after step {position.step}"


def _macs(text: str | None) -> int | None:
    """The MACs that --budget allows a subnet in training."""
    if text is None:
        return None
    budget = Budget.parse(text)
    if list(budget.as_json()) != ["macs"]:
        raise UsageError(f"training limits MACs only, not {text!r}", hint="write --budget macs=200M")
    return budget.macs


def _silent() -> Output:
    """For all ranks but the first."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  it lives as long as the process
    return Output(stdout=nowhere, stderr=nowhere)


def _say_plan(trainer: Trainer, recipe: schedule.Recipe, out: Output) -> None:
    """What will be run, and which phases of the recipe open nothing in this space."""
    runs = ", ".join(f"{phase.name} {phase.epochs:.0f}" for phase in trainer.recipe.phases)
    out.say(f"recipe {recipe.name}, epochs a phase: {runs}; {trainer.recipe.batch_size} images a step")
    kept = {phase.name for phase in trainer.recipe.phases}
    if left := [phase.name for phase in recipe.phases if phase.name not in kept]:
        out.say(f"left out, as they open nothing in space {trainer.space.name}: {', '.join(left)}")


def _start(trainer: Trainer, source: str | None, labels: tuple[str, ...], out: Output) -> tuple[str, str]:
    """Give the network its initial weights; returns their source and licence."""
    from ofa_edge.weights import checkpoint, imports

    space = trainer.space
    if source == SCRATCH or (source is None and space.name != OFA_LITE0.name):
        out.say("starting from random weights")
        return "random", "that of the training data"
    if source is None:
        out.say(f"starting from {imports.LITE0_SOURCE}")
        state = imports.read_torch_file(imports.lite0_package_file())
        new_head = trainer.start_from(imports.from_lite0(state, OFA_LITE0, imports.IMAGENETTE_ROWS))
        trainer.network.sort_channels()
        origin = imports.LITE0_SOURCE, imports.LITE0_LICENCE
    else:
        given = checkpoint.load(source)
        if given.arch is not None:
            raise UsageError(f"{source} holds one subnet, not a supernet", hint="go on with it by `ofa-edge finetune`")
        if given.space.with_classes(space.classes) != space:
            other = "of another space of that name" if given.space.name == space.name else f"of {given.space.name}"
            raise UsageError(f"{source} is a supernet {other}, not of {space.name}", hint="give its --space")
        # As many classes of other names are other classes.
        new_head = trainer.start_from(given.arrays, keep_head=given.metadata.labels in ((), labels))
        origin = f"checkpoint {given.sha256}; {given.metadata.source}", given.metadata.licence
    if new_head:
        out.say(f"a new head for {space.classes} classes")
    return origin


def _ship(
    trainer: Trainer,
    path: Path,
    origin: tuple[str, str],
    data: Path,
    labels: tuple[str, ...],
    bank_subnets: int | None,
    out: Output,
) -> tuple[Path, dict[str, float]]:
    """Fit the BN bank to the trained weights, measure what it loses, write the checkpoint."""
    from ofa_edge.train import bank as banks
    from ofa_edge.weights import checkpoint

    subnets = banks.BANK_SUBNETS if bank_subnets is None else bank_subnets
    bank, loss = None, {}
    if subnets:
        out.say(f"fitting the BN bank to {subnets} subnets")
        bank = trainer.fit_bank(subnets)
        out.say("measuring what the bank loses against recalibration")
        loss = trainer.bank_loss(bank)
    metadata = checkpoint.Metadata(
        space=trainer.space.name,
        labels=labels,
        source=origin[0],
        licence=origin[1],
        recipe=trainer.identity(),
        data=record(data, trainer.splits),
        bank=loss,
    )
    checkpoint.save(path, trainer.network.arrays(), bank, metadata, space=trainer.space)
    return path, loss
