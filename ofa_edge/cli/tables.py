"""`ofa-edge table`: tables that others measured, read into ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.errors import UsageError

table = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Read tables that others measured."
)

FORMATS = ("accuracy-csv",)


@table.callback()
def _group() -> None:
    """Keeps `import` a command of its own while it is the only one."""


@table.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of one table.")],
    space: Annotated[str, typer.Option("--space", metavar="SPACE", help="A named space, or its TOML file.")],
    out_file: options.Out,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="accuracy-csv: columns 'Sub-network' (OFA's dict), 'Top-1 Acc (%)' and, if there, 'MACs', which are "
            "checked.",
        ),
    ] = "accuracy-csv",
    images: Annotated[int, typer.Option("--n", min=1, help="How many images each top-1 was measured on.")] = 50_000,
    data: Annotated[str | None, typer.Option("--images", metavar="TEXT", help="These images, in words.")] = None,
    as_json: options.Json = False,
) -> None:
    """Read measured accuracies into an accuracy table; repeated measurements of a subnet become their mean."""
    from ofa_edge.accuracy.importing import import_csv
    from ofa_edge.space.spaces import get_space

    out = Output(as_json)
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}", hint=f"use one of: {', '.join(FORMATS)}")
    words = data or f"imported from {', '.join(sorted(file.name for file in files))}, {images} images"
    found = import_csv(files, get_space(space), images, out_file, data=words[:2000])
    if found.rows > found.subnets:
        out.say(
            f"{found.rows} measurements of {found.subnets} subnets: those of one subnet, which differ by up to "
            f"{100 * found.spread:.3f} points, become their mean"
        )
    out.result(
        {
            "table": str(out_file),
            "rows": found.rows,
            "subnets": found.subnets,
            "spread_points": 100 * found.spread,
        }
    )
