"""`ofa-edge deploy`, `status`, `releases`, `rollback` and `prune`: releases on devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, milliseconds, table
from ofa_edge.errors import OfaEdgeError

if TYPE_CHECKING:
    from ofa_edge.deploy.bundle import Bundle
    from ofa_edge.deploy.outcome import Outcome
    from ofa_edge.device import ConnectOptions
    from ofa_edge.device.session import Session
    from ofa_edge.latency.conditions import RunsOn
    from ofa_edge.latency.model import LatencyModel


def deploy(
    host: options.Hosts,
    app: options.App = None,
    budget: options.BudgetText = None,
    selection: Annotated[
        Path | None, typer.Option("--selection", metavar="FILE", help="What `ofa-edge select --out` wrote.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="A bundle folder, as --keep-bundle writes it.")
    ] = None,
    keep_bundle: Annotated[
        Path | None, typer.Option("--keep-bundle", metavar="DIR", help="Also write the bundle to this folder.")
    ] = None,
    table_file: options.LatencyTableFile = None,
    accuracy_table: Annotated[
        Path | None, typer.Option("--accuracy-table", metavar="FILE", help="The supernet's own if left out.")
    ] = None,
    supernet: options.Supernet = "embedded",
    runtime: options.Runtime = "onnxruntime",
    threads: options.Threads = 1,
    cores: options.Cores = None,
    confidence: options.Confidence = 0.95,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    accept_stale: Annotated[
        bool, typer.Option("--accept-stale", help="Deploy although the device is not as it was when profiled.")
    ] = False,
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> None:
    """Compile a subnet, bring it to devices, and switch to it only where it holds its promise there.

    Golden outputs and the latency in fresh processes are checked on the device before and after the switch; where
    the promise breaks, the old release stays (exit 7).
    """
    from ofa_edge.deploy import bundle as bundles
    from ofa_edge.search.budget import Budget

    out = Output(as_json)
    options.exactly_one(budget=budget, selection=selection, bundle=bundle)
    limits = None if budget is None else Budget.parse(budget)
    mask = options.cores(cores)
    runs_on = _runs_on(runtime, threads, mask)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)

    def deploy_one(session: Session, name: str) -> Outcome:
        if bundle is not None:
            ready, latency = bundles.read(bundle), None
        else:
            ready, latency = make_bundle(
                session,
                out,
                app=app,
                budget=limits,
                selection=selection,
                table_file=table_file,
                accuracy_table=accuracy_table,
                supernet=supernet,
                runs_on=runs_on,
                confidence=confidence,
                seed=seed,
            )
        if keep_bundle is not None:
            bundles.write(ready, keep_bundle)
        return install(session, ready, out, host=name, latency=latency, dry_run=dry_run, accept_stale=accept_stale)

    _each_host(host, connecting, out, deploy_one)


def make_bundle(
    session: Session,
    out: Output,
    *,
    app: str | None,
    budget: Any,
    selection: Path | None,
    table_file: Path | None,
    accuracy_table: Path | None,
    supernet: str,
    runs_on: RunsOn,
    confidence: float,
    seed: int,
) -> tuple[Bundle, LatencyModel | None]:
    """The bundle for a device, and the latency model it was chosen with (None where its table is not at hand).

    A selection file is taken as it is; a budget chooses from the device's newest table that fits it.
    """
    from ofa_edge.cli import inputs, selecting
    from ofa_edge.deploy import assemble
    from ofa_edge.latency.model import LatencyModel
    from ofa_edge.search.selection import Selection
    from ofa_edge.weights import checkpoint as checkpoints

    checkpoint = checkpoints.load(supernet)
    space = checkpoint.space
    if selection is not None:
        chosen = Selection.read(selection, space)
        found = inputs.table_of_selection(chosen, table_file, session.facts, out)
        latency = None if found is None else LatencyModel.from_table(found)
    else:
        found = inputs.device_latency_table(table_file, session.facts, runs_on, space.name, out)
        models = inputs.models(found, inputs.accuracy_table(accuracy_table, space.name, checkpoint, out), seed)
        chosen = selecting.choose_exact(models, budget, confidence=confidence, seed=seed).selection
        latency = models.latency
    ready = assemble.assemble(
        chosen,
        checkpoint,
        app=app or space.name,
        runs_on=runs_on,
        conditions=None if found is None else found.conditions,
    )
    return ready, latency


def install(
    session: Session,
    bundle: Bundle,
    out: Output,
    *,
    host: str,
    latency: LatencyModel | None,
    dry_run: bool = False,
    accept_stale: bool = False,
) -> Outcome:
    """Deploy a bundle through a session, saying each step. Raises as deploy.run.deploy."""
    from ofa_edge.deploy import assemble, run

    return run.deploy(
        session,
        bundle,
        measure=assemble.measurer(session, bundle, latency),
        dry_run=dry_run,
        accept_stale=accept_stale,
        host=host,
        progress=lambda planned: out.say(f"{host}: {planned.step} {planned.detail}".rstrip()),
    )


def describe(outcome: dict[str, Any]) -> str:
    """A deployment's outcome for people; for one that was only planned, its steps."""
    planned = outcome["steps"] if outcome["state"] == "unchanged" else []
    return fields(
        {
            "state": outcome["state"],
            "release": f"{outcome['release']}" + (f" (before: {outcome['previous']})" if outcome["previous"] else ""),
            "predicted": milliseconds(outcome["predicted_ms"]),
            "measured": milliseconds(outcome["measured_ms"]),
            "budget": milliseconds(outcome["budget_ms"]),
            "promise": outcome["promise"],
            "top-1": "-" if outcome["top1"] is None else f"{outcome['top1']:.1f} %, predicted",
            "reason": outcome["reason"] or "-",
        }
    ) + "".join(
        [
            *(f"\nnote: {notice}" for notice in outcome["notices"]),
            *(f"\nwould {one['step']}: {one['detail']}".rstrip(": ") for one in planned),
        ]
    )


def status(
    host: options.Host,
    app: options.App = None,
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> None:
    """What runs on a device: current and previous release, the lock, and the newest journal records."""
    from ofa_edge.deploy import run

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with _open(host, connecting) as session:
        found = run.status(session, app or _default_app())
    out.result(found, lambda: _status_text(found))


def releases(
    host: options.Host,
    app: options.App = None,
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> None:
    """The releases a device keeps."""
    from ofa_edge.deploy import run

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with _open(host, connecting) as session:
        found = run.status(session, app or _default_app())
    value = {name: found[name] for name in ("app", "current", "previous", "releases")}
    out.result(
        value,
        lambda: table(
            ["release", ""],
            [
                [one, {found["current"]: "current", found["previous"]: "previous"}.get(one, "")]
                for one in found["releases"]
            ],
        ),
    )


def rollback(
    host: options.Hosts,
    app: options.App = None,
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> None:
    """Make the release before the current one current again, after checking its files and outputs on the device."""
    from ofa_edge.deploy import run

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)

    def back(session: Session, name: str) -> Outcome:
        return run.rollback(
            session,
            app or _default_app(),
            host=name,
            progress=lambda planned: out.say(f"{name}: {planned.step} {planned.detail}".rstrip()),
        )

    _each_host(host, connecting, out, back)


def prune(
    host: options.Host,
    app: options.App = None,
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    as_json: options.Json = False,
) -> None:
    """Remove all releases but the current and the previous one."""
    from ofa_edge.deploy import run

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with _open(host, connecting) as session:
        value = run.prune(session, app or _default_app(), host=host)
    out.result(value)


def _each_host(
    hosts: Sequence[str], connecting: ConnectOptions, out: Output, action: Callable[[Session, str], Outcome]
) -> None:
    """Run an action on each device; one outcome for one host, a list for several, exit 1 where any failed."""
    from ofa_edge.device import Inventory

    names = list(Inventory.load(connecting.inventory).expand(list(hosts)))
    if len(names) == 1:
        with _open(names[0], connecting) as session:
            value = action(session, names[0]).as_json()
        out.result(value, lambda: describe(value))
        return
    results: list[dict[str, Any]] = []
    for name in names:
        try:
            with _open(name, connecting) as session:
                results.append({"host": name, **action(session, name).as_json()})
        except OfaEdgeError as error:
            out.warning(f"{name}: {error.message}")
            results.append({"host": name, **error.details, "error": error.as_json()})
    rows = [
        [
            one["host"],
            one.get("state", "failed"),
            one.get("release") or "-",
            milliseconds(one.get("measured_ms")),
            one.get("promise", "-"),
            one.get("reason") or one.get("error", {}).get("message", ""),
        ]
        for one in results
    ]
    out.result(results, lambda: table(["host", "state", "release", "measured", "promise", "reason"], rows))
    if any("error" in one for one in results):
        raise typer.Exit(1)


def _open(host: str, connecting: ConnectOptions) -> Session:
    from ofa_edge.device import open_device

    return open_device(host, options=connecting)


def _runs_on(runtime: str, threads: int, cores: list[int] | None) -> RunsOn:
    from ofa_edge.latency.conditions import RunsOn

    runs_on = RunsOn(runtime, threads)
    return runs_on if cores is None else replace(runs_on, cores=tuple(cores))


def _default_app() -> str:
    from ofa_edge.space.spaces import OFA_LITE0

    return OFA_LITE0.name


def _status_text(found: dict[str, Any]) -> str:
    lines = {
        "app": found["app"],
        "current": found["current"] or "none",
        "previous": found["previous"] or "none",
        "releases": " ".join(found["releases"]) or "none",
    }
    if found["lock"]:
        lock = found["lock"]
        lines["lock"] = lock["holder"] + (f", for {lock['age_s']:.0f} s" if lock["alive"] else ", which ended")
    if found["problem"]:
        lines["problem"] = str(found["problem"])
    if found["unfinished"]:
        lines["unfinished"] = f"{found['unfinished']}; the next deploy puts it right"
    records = [
        "  ".join(f"{key}={value}" for key, value in record.items() if not isinstance(value, (dict, list)))
        for record in found["journal"]
    ]
    return "\n".join([fields(lines), *records])
