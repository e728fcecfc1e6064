"""`ofa-edge deploy`: subnets on devices, proven there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import many, options
from ofa_edge.cli.output import Output, fields, milliseconds, table
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from ofa_edge.cli.makers import Maker, Ready
    from ofa_edge.deploy.outcome import Outcome
    from ofa_edge.deploy.plan import Planned, Wishes
    from ofa_edge.device.session import Session


@reaches
def deploy(
    reach: Reach,
    host: options.Hosts,
    app: options.App = None,
    budget: options.BudgetText = None,
    selection: Annotated[
        Path | None, typer.Option("--selection", metavar="FILE", help="What `ofa-edge select --out` wrote.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="NAME", help="Only this one of a family's modes; all of them where left out."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="BUNDLE", help="A bundle: a folder, or one file (.ofab).")
    ] = None,
    keep_bundle: Annotated[
        Path | None,
        typer.Option(
            "--keep-bundle", metavar="BUNDLE", help="Also write the bundle here, as one file if it ends .ofab."
        ),
    ] = None,
    table_file: options.LatencyTableFile = None,
    accuracy_table: options.AccuracyTableFile = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FILE", help="The predictor a selection was made with; it is only checked."
        ),
    ] = None,
    supernet: options.Supernet = "embedded",
    runtime: options.MaybeRuntime = None,
    threads: options.MaybeThreads = None,
    cores: options.Cores = None,
    precision: options.FilePrecision = None,
    data: options.CalibrationData = None,
    confidence: options.Confidence = 0.95,
    seed: options.Seed = 0,
    trust: options.Trust = None,
    sign: options.Sign = None,
    post_switch: options.PostSwitch = None,
    health: options.Health = None,
    hook_timeout: options.HookTimeout = 60.0,
    canary: Annotated[
        int | None,
        typer.Option(
            "--canary",
            metavar="N",
            min=0,
            help="The first N must succeed before the others begin; 0: none. Left out: 1 of more than two.",
        ),
    ] = None,
    parallel: options.Parallel = 4,
    dry_run: options.DryRun = False,
    accept_stale: Annotated[
        bool, typer.Option("--accept-stale", help="Deploy although the device is not as it was when profiled.")
    ] = False,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Deploy a bundle whose counter is below the current release's.")
    ] = False,
) -> None:
    """Compile subnets, bring them to devices, and switch to them only where they hold their promises there.

    Golden outputs and latencies of every mode are checked on the device in fresh processes before the switch, files and
    --health after it; where anything is not as promised, the old release stays (exit 7). Several devices go at once,
    each for itself; a run again touches only those that lack the release.
    """
    from ofa_edge.cli import signing as signings
    from ofa_edge.cli.making import Asked
    from ofa_edge.cli.signing import Signing
    from ofa_edge.deploy import bundle as bundles
    from ofa_edge.deploy.fleet import Order
    from ofa_edge.deploy.hooks import Hooks
    from ofa_edge.deploy.plan import Wishes

    options.exactly_one(budget=budget, selection=selection, bundle=bundle)
    for name, given in (("mode", mode), ("predictor", predictor)):
        if given is not None and selection is None:
            raise UsageError(f"--{name} is of --selection", hint=f"leave --{name} out, or give a selection's file")
    if bundle is not None and data is not None:
        raise UsageError("--data is for bundles that are made here", hint="leave --data out")
    wishes = Wishes(accept_stale, allow_downgrade, Hooks.parse(post_switch, health, hook_timeout))
    hosts = reach.expanded(host)
    if keep_bundle is not None and len(hosts) > 1:
        raise UsageError(
            f"--keep-bundle keeps one bundle, and each of {len(hosts)} devices has its own", hint="give one --host"
        )
    signing = Signing.read(sign, trust, makes=bundle is None)
    make: Maker
    if bundle is not None:
        from ofa_edge.cli.makers import from_bundle

        make = from_bundle(bundle, app, signing)
    else:
        make = _maker(
            Asked(runtime, threads, cores, precision),
            budget=budget,
            selection=selection,
            mode=mode,
            files=(table_file, accuracy_table, predictor),
            supernet=supernet,
            app=app,
            data=data,
            out=reach.out,
            settings={"confidence": confidence, "seed": seed, "accept_stale": accept_stale},
        )

    def deploy_one(job: many.Job) -> Mapping[str, Any]:
        ready = make(job.session, job.said)
        if bundle is None:
            ready = ready._replace(bundle=signing.done(ready.bundle, signings.NEW))
        if keep_bundle is not None:
            bundles.write(ready.bundle, keep_bundle)
        return install(
            job.session,
            ready,
            host=job.host,
            wishes=wishes,
            dry_run=dry_run,
            progress=job.progress,
            on_process=job.stop.check,
        ).as_json()

    many.each_host(
        reach,
        hosts,
        deploy_one,
        order=Order(canary, parallel),
        describe=describe,
        describe_all=many.deployments,
    )


def _maker(
    asked: Any,
    *,
    budget: str | None,
    selection: Path | None,
    mode: str | None,
    files: tuple[Path | None, Path | None, Path | None],
    supernet: str,
    app: str | None,
    data: Path | None,
    out: Output,
    settings: Mapping[str, Any],
) -> Maker:
    """Of --selection or --budget. Raises as makers.from_selection and from_budget."""
    from ofa_edge.cli import makers
    from ofa_edge.cli.making import Making
    from ofa_edge.search.budget import Budget
    from ofa_edge.weights import checkpoint as checkpoints

    limits = None if budget is None else Budget.parse(budget)
    making = Making(checkpoints.load(supernet), app, asked, data, out)
    if selection is not None:
        return makers.from_selection(selection, mode, makers.Named(*files), making)
    assert limits is not None, "exactly one of them is given"
    table_file, accuracy_table, _ = files
    return makers.from_budget(limits, table_file, accuracy_table, making, **settings)


def install(
    session: Session,
    ready: Ready,
    *,
    host: str,
    progress: Callable[[Planned], None],
    wishes: Wishes | None = None,
    dry_run: bool = False,
    on_process: Callable[[], object] = lambda: None,
) -> Outcome:
    """Deploy a bundle through a session. Raises as deploy.run.deploy.

    Args:
        on_process: called after each process that is timed.
    """
    from ofa_edge.deploy import assemble, run
    from ofa_edge.deploy.plan import Wishes

    return run.deploy(
        session,
        ready.bundle,
        measure=assemble.measurer(session, ready.models, on_process=on_process),
        dry_run=dry_run,
        wishes=wishes or Wishes(),
        host=host,
        progress=progress,
    )


def describe(outcome: Mapping[str, Any]) -> str:
    """A deployment's outcome for people; for one that was only planned, its steps."""
    lines = {
        "state": outcome["state"],
        "release": outcome["release"] + (f" (before: {outcome['previous']})" if outcome["previous"] else ""),
        "predicted": milliseconds(outcome["predicted_ms"]),
        "measured": milliseconds(outcome["measured_ms"]) + _p90(outcome["measured_p90_ms"]),
        "budget": milliseconds(outcome["budget_ms"]) + _p90(outcome["modes"][0]["budget_p90_ms"]),
        "promise": outcome["promise"],
        "top-1": "-" if outcome["top1"] is None else f"{outcome['top1']:.1f} %, predicted",
        "reason": outcome["reason"] or "-",
    }
    modes = [_modes(outcome["modes"])] if len(outcome["modes"]) > 1 else []
    return "\n".join([fields(lines), *modes, *many.notices(outcome), *many.planned(outcome)])


def _modes(modes: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            mode["name"],
            milliseconds(mode["predicted_ms"]),
            milliseconds(mode["measured_ms"]),
            milliseconds(mode["measured_p90_ms"]),
            milliseconds(mode["budget_ms"]),
            mode["promise"],
        ]
        for mode in modes
    ]
    return table(["mode", "predicted", "measured", "p90", "budget", "promise"], rows)


def _p90(value: float | None) -> str:
    return "" if value is None else f" (p90 {milliseconds(value)})"
