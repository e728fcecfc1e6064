"""`ofa-edge train`: a supernet from images, phase by phase, resumable."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import OFA_LITE0, get_space
from ofa_edge.train import schedule

if TYPE_CHECKING:
    from ofa_edge.train.images import ImageSet
    from ofa_edge.train.trainer import Trainer

CHECKPOINT_FILE = "supernet.safetensors"
SCRATCH = "scratch"


def train(
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="A named space.")],
    data: options.Data,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run and its checkpoint.")],
    recipe: Annotated[str, typer.Option("--recipe", help="sandwich: largest, smallest and a random subnet a step.")] = (
        "sandwich"
    ),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CKPT",
            help="Initial weights: a checkpoint, or 'scratch'. ofa-lite0's default is ImageNet's EfficientNet-Lite0.",
        ),
    ] = None,
    heldout: Annotated[
        int, typer.Option("--heldout", min=100, help="Training images kept out, for accuracy tables.")
    ] = 1000,
    epochs_scale: Annotated[
        float, typer.Option("--epochs-scale", min=0.0, help="Multiplies every phase's epochs (at least one each).")
    ] = 1.0,
    checkpoint_minutes: Annotated[
        float, typer.Option("--checkpoint-minutes", min=0.0, help="How often the run's state is saved.")
    ] = 5.0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="All cores where left out.")] = None,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Train a supernet on the `train` split of --data; --resume goes on where a stopped run was.

    The result is OUT/supernet.safetensors: half-precision weights, the BN bank, and where both come from.
    """
    out = Output(as_json)
    target, plan = get_space(space), schedule.get_recipe(recipe)
    state = out_dir / "state.pt"
    if state.exists() and not resume:
        raise UsageError(f"{out_dir} holds a run already", hint="go on with --resume, or give another --out")

    import torch

    from ofa_edge.train import images
    from ofa_edge.train.trainer import Trainer, TrainOptions

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    splits = images.split_training(read_images(data, "train", target, out), heldout)
    out.say(
        f"{len(splits.train)} images to train on, {len(splits.heldout)} held out, "
        f"{len(splits.unseen)} unseen by published weights kept for tests"
    )
    trainer = Trainer(target, plan, splits, out_dir, TrainOptions(seed, checkpoint_minutes, epochs_scale), _Report(out))
    origin = _start(trainer, target, source, out)
    trainer.origin = origin[0]
    if resume:
        trainer.resume()
        out.say(f"resumed at phase {trainer.position.phase + 1}, epoch {trainer.position.epoch + 1}")
    results = trainer.run()
    checkpoint, loss = _ship(trainer, out_dir / CHECKPOINT_FILE, origin, data, out)
    out.result(
        {
            "phases": [dataclasses.asdict(result) for result in results],
            "checkpoint": str(checkpoint),
            "bank": loss,
        }
    )


def read_images(data: Path, split: str, space: Space, out: Output) -> ImageSet:
    """The images of a split, with what is said about them.

    Raises:
        UsageError: there are none, or they are of more classes than the space has.
    """
    from ofa_edge.train import images

    out.say(f"reading images of {split} from {data}")
    loaded = images.load_images(data, split)
    if loaded.corrupt:
        out.warning(f"{len(loaded.corrupt)} corrupt images left out: {', '.join(loaded.corrupt[:5])}")
    if int(loaded.labels.max()) >= space.classes:
        raise UsageError(
            f"the images have {loaded.labels.max() + 1} classes, space {space.name} has {space.classes}",
            hint="give images of the space's classes, labelled from 0",
        )
    return loaded


class _Report:
    """Shows a phase's epoch every twenty steps: loss, rate, time left in the phase."""

    def __init__(self, out: Output):
        self._out = out
        self._losses: list[float] = []
        self._since = time.monotonic()

    def __call__(self, progress: Any) -> None:
        self._losses.append(progress.loss)
        if progress.step % 20 and progress.step != progress.steps:
            return
        seconds = time.monotonic() - self._since
        left = (progress.epochs - progress.epoch) * progress.steps - progress.step
        rate = len(self._losses) / max(seconds, 1e-9)
        self._out.say(
            f"{progress.phase}: epoch {progress.epoch + 1}/{progress.epochs} step {progress.step}/{progress.steps} "
            f"loss {sum(self._losses) / len(self._losses):.3f}, {rate * progress.batch_size:.0f} images/s, "
            f"{left / rate / 60:.0f} min left in this phase"
        )
        self._losses.clear()
        self._since = time.monotonic()


def _start(trainer: Trainer, space: Space, source: str | None, out: Output) -> tuple[str, str]:
    """Give the network its initial weights; returns their source and licence."""
    from ofa_edge.weights import checkpoint, imports

    if source == SCRATCH or (source is None and space != OFA_LITE0):
        out.say("starting from random weights")
        return "random", "that of the training data"
    if source is None:
        out.say(f"starting from {imports.LITE0_SOURCE}")
        state = imports.read_torch_file(imports.lite0_package_file())
        trainer.start_from(imports.from_lite0(state, space, imports.IMAGENETTE_ROWS))
        trainer.network.sort_channels()
        return imports.LITE0_SOURCE, imports.LITE0_LICENCE
    given = checkpoint.load(source)
    if given.space != space:
        raise UsageError(f"{source} is a supernet of {given.space.name}, not of {space.name}", hint="give its --space")
    trainer.start_from(given.arrays)
    return f"checkpoint {given.sha256}; {given.metadata.source}", given.metadata.licence


def _ship(
    trainer: Trainer, path: Path, origin: tuple[str, str], data: Path, out: Output
) -> tuple[Path, dict[str, float]]:
    """Fit the BN bank to the trained weights, measure what it loses, write the checkpoint."""
    from ofa_edge.train import trainer as training
    from ofa_edge.weights import checkpoint

    out.say(f"fitting the BN bank to {training.BANK_SUBNETS} subnets")
    bank = trainer.fit_bank(training.BANK_SUBNETS)
    out.say("measuring what the bank loses against recalibration")
    loss = trainer.bank_loss(bank)
    splits = trainer.splits
    metadata = checkpoint.Metadata(
        space=trainer.space.name,
        labels=_labels(data, trainer.space.classes),
        source=origin[0],
        licence=origin[1],
        recipe=trainer.identity(),
        data={
            "name": data.name,
            "train": len(splits.train),
            "train_sha256": splits.train.sha256(),
            "heldout": len(splits.heldout),
            "heldout_sha256": splits.heldout.sha256(),
        },
        bank=loss,
    )
    arrays = {name: value.detach().numpy() for name, value in trainer.network.state_dict().items()}
    checkpoint.save(path, arrays, bank, metadata)
    return path, loss


def _labels(data: Path, classes: int) -> tuple[str, ...]:
    """Class names from a labels.txt beside the images (`id name` a line), else the class numbers."""
    folder = data if data.is_dir() else data.parent
    file = folder / "labels.txt"
    if file.is_file():
        lines = [line.split(maxsplit=1)[-1] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(lines) == classes:
            return tuple(lines)
    return tuple(str(index) for index in range(classes))
