"""`ofa-edge supernet`: what a checkpoint is, and published weights into one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output

supernet = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show a checkpoint, or import published weights."
)


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
    Output(as_json).result(
        {
            "space": found.space.name,
            "sha256": found.sha256,
            "labels": list(metadata.labels),
            "data": dict(metadata.data),
            "recipe": dict(metadata.recipe),
            "licence": metadata.licence,
            "source": metadata.source,
            "bn_bank": bank,
        }
    )


@supernet.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="EfficientNet-Lite0's torch state dict.")],
    out: options.Out,
    space: Annotated[str, typer.Option("--space", metavar="SPACE")] = "ofa-lite0",
    as_json: options.Json = False,
) -> None:
    """Read published weights into a checkpoint to train from (no BN bank: subnets need training first).

    Its channels are sorted as `train` sorts them, so training from it is training from the file.
    """
    import torch

    from ofa_edge.errors import UsageError
    from ofa_edge.space.spaces import OFA_LITE0, get_space
    from ofa_edge.supernet.network import Supernet
    from ofa_edge.weights import checkpoint as checkpoints
    from ofa_edge.weights import imports

    target = get_space(space)
    if target != OFA_LITE0:
        raise UsageError(f"weights for {space} cannot be imported yet", hint="use --space ofa-lite0")
    given = imports.from_lite0(imports.read_torch_file(file), target, imports.IMAGENETTE_ROWS)
    given |= imports.identity_transforms(target)
    network = Supernet(target)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in given.items()})
    network.sort_channels()
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    published = digest == imports.LITE0_SHA256
    metadata = checkpoints.Metadata(
        space=space,
        labels=tuple(f"imagenet {row}" for row in imports.IMAGENETTE_ROWS),
        source=imports.LITE0_SOURCE if published else f"{file.name}, sha256 {digest}",
        licence=imports.LITE0_LICENCE if published else "unknown: ask whoever made the file",
        recipe={},
        data={},
        bank={},
    )
    sha256 = checkpoints.save(out, arrays, None, metadata)
    Output(as_json).result({"space": space, "sha256": sha256, "tensors": len(arrays)})
