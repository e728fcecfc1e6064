"""`ofa-edge spaces`: the named spaces and one's own, their axes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields
from ofa_edge.errors import UsageError
from ofa_edge.space import schema
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import SPACES, definition, get_space


def spaces(
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="A name, or a TOML file; all named ones where left out.")
    ] = None,
    resolutions: options.Resolutions = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the space as a TOML file, to start one's own from.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the named spaces, or describe one: its axes, how many subnets, how many blocks a table needs."""
    out = Output(as_json)
    if space is None:
        if toml:
            raise UsageError("--toml prints one space", hint="for instance `ofa-edge spaces ofa-mbv3-w1.0 --toml`")
        described = [describe(found, options.resolutions(resolutions, found.resolutions)) for found in SPACES.values()]
        out.result(described, lambda: "\n\n".join(map(as_text, described)))
        return
    found = get_space(space)
    if toml:
        out.result(definition(found), lambda: schema.as_toml(found).rstrip("\n"))
        return
    one = describe(found, options.resolutions(resolutions, found.resolutions))
    out.result(one, lambda: as_text(one))


def describe(space: Space, resolutions: tuple[int, ...]) -> dict[str, Any]:
    """Axes and exact counts of a space at some input sizes in pixels.

    `subnets` is the number at one resolution, `all_subnets` at all of these; `rows` counts the blocks of each
    resolution by itself, as OFA's tables do, `distinct_blocks` those that are really different, which is what has to be
    measured. Axes `width` (the stem's middle, the stem, each stage) and `stem_depth` are empty where nothing of it is
    elastic.

    Raises:
        UsageError: a resolution is not in the space.
    """
    for resolution in resolutions:
        space.check(space.largest(resolution))
    stem_depths = space.stem.depths if len(space.stem.depths) > 1 else ()
    return {
        "name": space.name,
        "axes": {
            "resolution": list(space.resolutions),
            "depth": [list(stage.depths) for stage in space.stages],
            "kernel": [list(stage.kernels) for stage in space.stages],
            "expand": [list(stage.expands) for stage in space.stages],
            "width": [list(choices) for choices in space.width_choices],
            "stem_depth": list(stem_depths),
        },
        "resolutions": list(resolutions),
        "subnets": space.count(),
        "all_subnets": space.count() * len(resolutions),
        "distinct_blocks": len(space.distinct_blocks(resolutions)),
        "rows": sum(len(space.rows(resolution)) for resolution in resolutions),
    }


def as_text(described: dict[str, Any]) -> str:
    """The same for people: one line an axis, stages separated by bars."""
    axes = described["axes"]
    lines = {"space": described["name"], "resolutions": _range(described["resolutions"])}
    for axis in ("depth", "kernel", "expand"):
        lines[f"{axis} by stage"] = " | ".join(map(_values, axes[axis]))
    if axes["width"]:
        middle, stem, *stages = map(_values, axes["width"])
        lines["width by stage"] = " | ".join(stages)
        lines["width of the stem"] = f"{middle} | {stem}"
    if axes["stem_depth"]:
        lines["optional blocks of the stem"] = _values(axes["stem_depth"])
    number = len(described["resolutions"])
    everywhere = f", {described['all_subnets']:,} at all {number}" if number > 1 else ""
    lines["subnets"] = f"{described['subnets']:,} at each resolution{everywhere}"
    lines["blocks"] = f"{described['distinct_blocks']:,} distinct, {described['rows']:,} rows in an OFA-style table"
    return fields(lines)


def _values(values: Sequence[float]) -> str:
    return " ".join(map(str, values))


def _range(values: Sequence[int]) -> str:
    """Many evenly spaced values as the range that --resolutions takes."""
    steps = {b - a for a, b in pairwise(values)}
    if len(values) > 6 and len(steps) == 1:
        return f"{values[0]}:{values[-1]}:{steps.pop()}"
    return _values(values)
