"""Images for the commands that take --data: reading a split, how much of it was held out, and saying so.

In: a path and a checkpoint. Out: an ImageSet, or what a checkpoint records of its images. Pillow and pyarrow load when
images are read, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ofa_edge.cli.output import Output
from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Space
from ofa_edge.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ofa_edge.train.images import ImageSet, Splits

# Training images kept out, where nobody says how many.
HELDOUT = 1000


def read_images(data: Path, split: str, space: Space | None, out: Output) -> ImageSet:
    """The images of a split, with what is said about them.

    Args:
        space: whose classes they must be of; None where any will do.

    Raises:
        UsageError: there are none, or they are of more classes than the space has.
    """
    from ofa_edge.train import images

    out.say(f"reading images of {split} from {data}")
    loaded = images.load_images(data, split)
    if loaded.corrupt:
        out.warning(f"{len(loaded.corrupt)} corrupt images left out: {', '.join(loaded.corrupt[:5])}")
    if space is not None and int(loaded.labels.max()) >= space.classes:
        raise UsageError(
            f"the images have {loaded.labels.max() + 1} classes, space {space.name} has {space.classes}",
            hint="give images of the space's classes, labelled from 0",
        )
    return loaded


def heldout_of(checkpoint: Checkpoint) -> int:
    """How many training images were kept out when it was trained, or the usual number where it does not say."""
    recorded = checkpoint.metadata.data.get("heldout")
    return recorded if type(recorded) is int and recorded > 0 else HELDOUT


def record(data: Path, splits: Splits) -> dict[str, object]:
    """What a checkpoint says of the images it was trained on."""
    return {
        "name": data.name,
        "train": len(splits.train),
        "train_sha256": splits.train.sha256(),
        "heldout": len(splits.heldout),
        "heldout_sha256": splits.heldout.sha256(),
    }
