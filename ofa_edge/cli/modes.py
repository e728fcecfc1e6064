"""`ofa-edge mode`: which subnet of its release a device uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ofa_edge.cli import many, options
from ofa_edge.cli.output import milliseconds, table
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.space.spaces import OFA_LITE0

mode = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show or set the power mode of devices: which subnet of its release the application uses.",
)


@mode.command("set")
@reaches
def set_(
    reach: Reach,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A mode of the current release.")],
    host: options.Hosts,
    app: options.App = None,
    parallel: options.Parallel = 4,
) -> None:
    """Make a mode of the current release the one that the application uses.

    The device writes it in one step and into its journal; an application sees the old mode or the new one.
    """
    from ofa_edge.deploy import modes
    from ofa_edge.deploy.fleet import Order

    def change(job: many.Job) -> Mapping[str, Any]:
        return modes.change(job.session, app or OFA_LITE0.name, name, host=job.host).as_json()

    many.each_host(
        reach,
        reach.expanded(host),
        change,
        order=Order(0, parallel),
        describe=_changed,
        describe_all=_all_changed,
    )


@mode.command()
@reaches
def show(
    reach: Reach,
    host: options.Host,
    app: options.App = None,
) -> None:
    """The modes of a device's current release, and the one in use."""
    from ofa_edge.deploy import modes

    with reach.open(host) as session:
        value = modes.show(session, app or OFA_LITE0.name, host=host).as_json()
    reach.out.result(value, lambda: _shown(value))


def _changed(value: Mapping[str, Any]) -> str:
    if value["mode"] == value["previous"]:
        return f"mode {value['mode']}, as before"
    return f"mode {value['mode']} (before: {value['previous']}), in {milliseconds(1000 * value['seconds'])}"


def _all_changed(values: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            one["host"],
            one.get("mode", "-"),
            one.get("previous", "-"),
            one.get("reason") or one.get("error", {}).get("message", ""),
        ]
        for one in values
    ]
    return table(["host", "mode", "before", "reason"], rows)


def _shown(value: Mapping[str, Any]) -> str:
    rows = [
        [
            one["name"] + (" *" if one["name"] == value["mode"] else ""),
            f"{one['resolution']} px",
            "-" if one["top1"] is None else f"{one['top1']:.1f} %",
            milliseconds(one["predicted_ms"]),
            milliseconds(one["budget_ms"]),
            f"{one['runtime']} {one['precision']}",
        ]
        for one in value["modes"]
    ]
    return table(["mode", "input", "top-1", "predicted", "budget", "runs on"], rows)
