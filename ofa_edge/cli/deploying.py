"""`ofa-edge deploy`: a subnet on devices, proven there; and what an action on several devices has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, milliseconds, table
from ofa_edge.errors import OfaEdgeError, UsageError

if TYPE_CHECKING:
    from device_agents.wire import Facts
    from ofa_edge.cli.signing import Signing
    from ofa_edge.deploy.bundle import Bundle
    from ofa_edge.deploy.outcome import Outcome
    from ofa_edge.device import ConnectOptions
    from ofa_edge.device.session import Session
    from ofa_edge.latency.conditions import Conditions, RunsOn
    from ofa_edge.latency.model import LatencyModel
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.families import Family
    from ofa_edge.search.selection import Selection

    # What a device gets: its bundle, and the latency model it was chosen with (None where its table is not at hand).
    Maker = Callable[[Session], tuple[Bundle, LatencyModel | None]]
    # What was selected for a device, and the conditions it was selected under where they are known.
    Pick = Callable[[Facts], tuple[Selection, Conditions | None]]


def deploy(
    host: options.Hosts,
    app: options.App = None,
    budget: options.BudgetText = None,
    selection: Annotated[
        Path | None, typer.Option("--selection", metavar="FILE", help="What `ofa-edge select --out` wrote.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="NAME", help="Which of a family's modes: `select --mode NAME:...`.")
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
    runtime: options.Runtime = "onnxruntime",
    threads: options.Threads = 1,
    cores: options.Cores = None,
    confidence: options.Confidence = 0.95,
    seed: options.Seed = 0,
    trust: options.Trust = None,
    sign: options.Sign = None,
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
    from ofa_edge.cli.signing import Signing
    from ofa_edge.deploy import assemble
    from ofa_edge.deploy import bundle as bundles
    from ofa_edge.search.budget import Budget

    out = Output(as_json)
    options.exactly_one(budget=budget, selection=selection, bundle=bundle)
    for name, given in (("mode", mode), ("predictor", predictor)):
        if given is not None and selection is None:
            raise UsageError(f"--{name} is of --selection", hint=f"leave --{name} out, or give a selection's file")
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    hosts = expanded(host, connecting)
    if keep_bundle is not None and len(hosts) > 1:
        raise UsageError(
            f"--keep-bundle keeps one bundle, and each of {len(hosts)} devices has its own", hint="give one --host"
        )
    signing = Signing.read(sign, trust, makes=bundle is None)
    runs_on = options.runs_on(runtime, threads, cores)
    if bundle is None:  # which says itself how it runs
        assemble.require_deployable(runs_on)
    # Everything that does not depend on the device is read now: a mistyped file ends here, before any device is asked.
    make: Maker
    if bundle is not None:
        make = from_bundle(bundle, app, signing)
    elif selection is not None:
        named = Named(table_file, accuracy_table, predictor)
        make = from_selection(selection, mode, named, out, supernet=supernet, app=app, runs_on=runs_on)
    else:
        make = from_budget(
            Budget.parse(budget or ""),
            table_file,
            accuracy_table,
            out,
            supernet=supernet,
            app=app,
            runs_on=runs_on,
            confidence=confidence,
            seed=seed,
            accept_stale=accept_stale,
        )

    def deploy_one(session: Session, name: str) -> Outcome:
        ready, latency = make(session)
        if bundle is None:
            ready = signing.done(ready, "the new bundle")
        if keep_bundle is not None:
            bundles.write(ready, keep_bundle)
        return install(session, ready, out, host=name, latency=latency, dry_run=dry_run, accept_stale=accept_stale)

    each_host(hosts, connecting, out, deploy_one)


def from_bundle(path: Path, app: str | None, signing: Signing) -> Maker:
    """Every device gets this bundle, as it is.

    Raises:
        UsageError: there is none, or it is of another app; as assemble.require_deployable.
        BadFile: the bundle is damaged, or not signed by a trusted key.
    """
    from ofa_edge.deploy import assemble
    from ofa_edge.deploy import bundle as bundles

    ready = signing.done(bundles.read(path), str(path))
    for mode in ready.manifest.modes:
        assemble.require_deployable(mode.runs.runs_on(), mode.conditions)
    if app not in (None, ready.manifest.app):
        raise UsageError(f"{path} is a bundle of app {ready.manifest.app}, not of {app}", hint="leave --app out")
    return lambda session: (ready, None)


class Named(NamedTuple):
    """Files that a selection was made with, where a person named them."""

    latency_table: Path | None = None
    accuracy_table: Path | None = None
    predictor: Path | None = None


def from_selection(
    file: Path, mode: str | None, named: Named, out: Output, *, supernet: str, app: str | None, runs_on: RunsOn
) -> Maker:
    """Every device gets the selected subnet; of a family the one that was chosen for it.

    Raises:
        UsageError: a file cannot be opened, or a family has no such mode; as assemble.require_deployable.
        BadFile: it is no selection, was made for another checkpoint, or a file it was made with is another or changed.
    """
    from ofa_edge.cli import unchanged
    from ofa_edge.deploy import assemble
    from ofa_edge.latency.predictors import model_of
    from ofa_edge.search import families
    from ofa_edge.search.selection import Selection
    from ofa_edge.weights import checkpoint as checkpoints

    checkpoint = checkpoints.load(supernet)
    found = families.read(file, checkpoint.space)
    if isinstance(found, Selection):
        if mode is not None:
            raise UsageError(f"{file} is one selection and has no modes", hint="leave --mode out")
        pick = _only(found)
        each = [found]
    else:
        pick = _member_for(found, mode, named.latency_table, file, runs_on)
        each = [member.selection for member in found.of_mode(mode, str(file))]
    for chosen in each:
        assemble.require_checkpoint(chosen, checkpoint)
        unchanged.require_accuracies_unchanged(chosen, named.accuracy_table, named.predictor)
    table = None
    if named.latency_table is not None:
        table = unchanged.table_of_one(each, named.latency_table)
    assemble.require_deployable(runs_on, None if table is None else table.conditions)

    def make(session: Session) -> tuple[Bundle, LatencyModel | None]:
        chosen, at = pick(session.facts)
        made_with = table or unchanged.find_selections_table(chosen, session.facts)
        if made_with is not None:
            at = made_with.conditions
        elif at is None:
            unchanged.warn_unchecked(session.facts, out)
        ready = assemble.assemble(chosen, checkpoint, app=app or checkpoint.space.name, runs_on=runs_on, conditions=at)
        return ready, None if made_with is None else model_of(made_with)

    return make


def _only(chosen: Selection) -> Pick:
    return lambda facts: (chosen, None)


def _member_for(family: Family, mode: str | None, table_file: Path | None, file: Path, runs_on: RunsOn) -> Pick:
    """The member for a device, or the one made with the table at `table_file`."""
    from ofa_edge.latency.conditions import conditions
    from ofa_edge.latency.table import LatencyTable

    if table_file is not None:
        named = family.member_of_table(mode, LatencyTable.read(table_file).sha256, str(file))
        return lambda facts: (named.selection, named.conditions)

    def pick(facts: Facts) -> tuple[Selection, Conditions | None]:
        member = family.member(mode, conditions(facts, runs_on), str(file))
        return member.selection, member.conditions

    return pick


def from_budget(
    budget: Budget,
    table_file: Path | None,
    accuracy_table: Path | None,
    out: Output,
    *,
    supernet: str,
    app: str | None,
    runs_on: RunsOn,
    confidence: float,
    seed: int,
    accept_stale: bool,
) -> Maker:
    """Every device gets the best subnet within the budget by its own table, or by the one at `table_file`.

    Raises:
        UsageError: a file cannot be opened; as assemble.require_deployable.
        BadFile: a table is damaged, or the accuracy table is of another checkpoint.
    """
    from ofa_edge.cli import choosing, inputs
    from ofa_edge.deploy import assemble
    from ofa_edge.latency.table import LatencyTable
    from ofa_edge.weights import checkpoint as checkpoints

    checkpoint = checkpoints.load(supernet)
    named = None if table_file is None else LatencyTable.read(table_file)
    assemble.require_deployable(runs_on, None if named is None else named.conditions)
    accuracy = inputs.accuracy_table(accuracy_table, checkpoint.sha256, out)

    def make(session: Session) -> tuple[Bundle, LatencyModel | None]:
        found = inputs.device_latency_table(
            named, session.facts, runs_on, checkpoint.space.name, out, accept_stale=accept_stale
        )
        models = inputs.Models(found, accuracy, seed)
        chosen = choosing.choose_exact(models, budget, confidence=confidence).selection
        ready = assemble.assemble(
            chosen, checkpoint, app=app or checkpoint.space.name, runs_on=runs_on, conditions=found.conditions
        )
        return ready, models.latency

    return make


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


def describe(outcome: Mapping[str, Any]) -> str:
    """A deployment's outcome for people; for one that was only planned, its steps."""
    return "\n".join(
        [
            fields(
                {
                    "state": outcome["state"],
                    "release": outcome["release"]
                    + (f" (before: {outcome['previous']})" if outcome["previous"] else ""),
                    "predicted": milliseconds(outcome["predicted_ms"]),
                    "measured": milliseconds(outcome["measured_ms"]),
                    "budget": milliseconds(outcome["budget_ms"]),
                    "promise": outcome["promise"],
                    "top-1": "-" if outcome["top1"] is None else f"{outcome['top1']:.1f} %, predicted",
                    "reason": outcome["reason"] or "-",
                }
            ),
            *(f"note: {notice}" for notice in outcome["notices"]),
            *_planned(outcome),
        ]
    )


def _planned(outcome: Mapping[str, Any]) -> list[str]:
    """The steps of a deployment that was only planned; those of one that ran were said as they ran."""
    steps = outcome["steps"] if outcome.get("state") == "unchanged" else []
    return [f"would {one['step']}: {one['detail']}".rstrip(": ") for one in steps]


def expanded(hosts: Sequence[str], connecting: ConnectOptions) -> list[str]:
    """Each host once, groups replaced by their devices. Raises as Inventory.load and expand."""
    from ofa_edge.device import Inventory

    return Inventory.load(connecting.inventory).expand(hosts)


def each_host(
    hosts: Sequence[str], connecting: ConnectOptions, out: Output, action: Callable[[Session, str], Outcome]
) -> None:
    """Run an action on each device; one outcome for one host, a list for several, exit 1 where any failed."""
    from ofa_edge.device import open_device

    if len(hosts) == 1:
        with open_device(hosts[0], options=connecting) as session:
            value = action(session, hosts[0]).as_json()
        out.result(value, lambda: describe(value))
        return
    results: list[dict[str, Any]] = []
    for host in hosts:
        try:
            with open_device(host, options=connecting) as session:
                results.append({"host": host, **action(session, host).as_json()})
        except OfaEdgeError as error:
            out.warning(f"{host}: {error.message}")
            results.append({"host": host, **error.details, "error": error.as_json()})
    out.result(results, lambda: _describe_all(results))
    if any("error" in one for one in results):
        raise typer.Exit(1)


def _describe_all(results: Sequence[Mapping[str, Any]]) -> str:
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
    planned = [f"{one['host']}: {line}" for one in results for line in _planned(one)]
    return "\n".join([table(["host", "state", "release", "measured", "promise", "reason"], rows), *planned])
