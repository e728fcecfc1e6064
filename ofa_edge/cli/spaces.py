"""`ofa-edge spaces`: the named spaces and their counts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import SPACES, get_space


def spaces(
    space: Annotated[str | None, typer.Argument(metavar="SPACE", help="All of them where left out.")] = None,
    resolutions: options.Resolutions = None,
    as_json: options.Json = False,
) -> None:
    """List the named spaces, or describe one: its axes, how many subnets, how many blocks a table needs."""
    out = Output(as_json)
    if space is None:
        described = [describe(found, options.resolutions(resolutions, found.resolutions)) for found in SPACES.values()]
        out.result(described, lambda: "\n\n".join(map(as_text, described)))
    else:
        found = get_space(space)
        one = describe(found, options.resolutions(resolutions, found.resolutions))
        out.result(one, lambda: as_text(one))


def describe(space: Space, resolutions: tuple[int, ...]) -> dict[str, Any]:
    """Axes and exact counts of a space at some input sizes in pixels.

    `subnets` is the number at one resolution; `rows` counts every place and choice as OFA's tables do,
    `distinct_blocks` the blocks that are really different, which is what has to be measured.
    """
    return {
        "name": space.name,
        "axes": {
            "resolution": list(space.resolutions),
            "depth": [list(stage.depths) for stage in space.stages],
            "kernel": [list(stage.kernels) for stage in space.stages],
            "expand": [list(stage.expands) for stage in space.stages],
        },
        "resolutions": list(resolutions),
        "subnets": space.count(),
        "distinct_blocks": len(space.distinct_blocks(resolutions)),
        "rows": sum(len(space.rows(resolution)) for resolution in resolutions),
    }


def as_text(described: dict[str, Any]) -> str:
    """The same for people: one line an axis, stages separated by bars."""
    axes = described["axes"]
    lines = {"space": described["name"], "resolutions": _values(described["resolutions"])}
    for axis in ("depth", "kernel", "expand"):
        lines[f"{axis} by stage"] = " | ".join(map(_values, axes[axis]))
    lines["subnets"] = f"{described['subnets']:,} at each resolution"
    lines["blocks"] = f"{described['distinct_blocks']} distinct, {described['rows']} rows in an OFA-style table"
    return fields(lines)


def _values(values: list[int]) -> str:
    return " ".join(map(str, values))
