"""`ofa-edge supernet`: what a checkpoint is, and published weights into one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, as_lines
from ofa_edge.space import codecs
from ofa_edge.space.spaces import OFA_LITE0, SPACES, definition, get_space
from ofa_edge.weights.bank import Statistics

supernet = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show a checkpoint, or import published weights.",
)

_LABELS_SHOWN = 20  # in text; --json gives all


@supernet.command()
def info(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint file or 'embedded'.")] = "embedded",
    as_json: options.Json = False,
) -> None:
    """What a checkpoint holds: its space, what trained it, on what, from what, under which licence."""
    from ofa_edge.weights import checkpoint as checkpoints

    found = checkpoints.load(checkpoint)
    metadata = found.metadata
    bank: dict[str, Any] | None = None
    if found.bank is not None:
        bank = {"batch_norms": len(found.bank.coefficients), "loss_against_recalibration": dict(metadata.bank)}
    value = {
        "space": found.space.name,
        "sha256": found.sha256,
        "labels": list(metadata.labels),
        "data": dict(metadata.data),
        "recipe": dict(metadata.recipe),
        "licence": metadata.licence,
        "source": metadata.source,
        "bn_bank": bank,
        "running_statistics": None if found.running is None else {"batch_norms": len(found.running)},
        "definition": None if found.space.name in SPACES else definition(found.space),
        "arch": None if found.arch is None else codecs.encode(found.space, found.arch),
    }
    labels = metadata.labels
    if len(labels) > _LABELS_SHOWN:
        labels = (f"{len(labels):,}: {labels[0]}, {labels[1]}, ...",)
    Output(as_json).result(value, lambda: as_lines(value | {"labels": list(labels)}))


@supernet.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A torch state dict, as its authors published it.")],
    out: options.Out,
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="What FILE is a supernet of.")] = "ofa-lite0",
    as_json: options.Json = False,
) -> None:
    """Read published weights into a checkpoint: Once-for-All's supernets, or EfficientNet-Lite0 to train from.

    Once-for-All's come with running statistics, so their subnets can be exported (`--bn running`). Lite0's network is
    the largest subnet alone; its channels are sorted as `train` sorts them, so training from it is training from FILE.
    """
    from ofa_edge.weights import checkpoint as checkpoints
    from ofa_edge.weights import imports
    from ofa_edge.weights.from_ofa import from_ofa

    target, state = get_space(space), imports.read_torch_file(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if target == OFA_LITE0:
        labels, arrays, running = _lite0(state)
    else:
        published = from_ofa(state, target)
        target, arrays, running = published.space, published.arrays, published.running
        labels = tuple(f"class {index}" for index in range(target.classes))
    published_lite0 = digest == imports.LITE0_SHA256
    metadata = checkpoints.Metadata(
        space=target.name,
        labels=labels,
        source=imports.LITE0_SOURCE if published_lite0 else f"{file.name}, sha256 {digest}, which is not a known file",
        licence=imports.LITE0_LICENCE if published_lite0 else "unknown: ask whoever made the file",
        recipe={},
        data={},
        bank={},
    )
    sha256 = checkpoints.save(
        out, arrays, None, metadata, space=target, running=running or None, single_precision=bool(running)
    )
    Output(as_json).result(
        {"space": target.name, "sha256": sha256, "tensors": len(arrays), "batch_norms": len(running)}
    )


def _lite0(state: dict[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, np.ndarray], Statistics]:
    """Labels and sorted arrays of EfficientNet-Lite0's weights; the statistics of one subnet are not kept."""
    from ofa_edge.supernet.network import Supernet
    from ofa_edge.weights import imports

    given = imports.from_lite0(state, OFA_LITE0, imports.IMAGENETTE_ROWS) | imports.identity_transforms(OFA_LITE0)
    network = Supernet(OFA_LITE0)
    network.load(given)
    network.sort_channels()
    return tuple(f"imagenet {row}" for row in imports.IMAGENETTE_ROWS), network.arrays(), {}
