"""`ofa-edge status`, `releases`, `rollback` and `prune`: what runs on devices, and what is kept there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import many, options
from ofa_edge.cli.deploying import describe
from ofa_edge.cli.output import fields, milliseconds, table
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.space.spaces import OFA_LITE0

if TYPE_CHECKING:
    from device_agents import wire
    from ofa_edge.deploy.manifest import Manifest, Mode
    from ofa_edge.deploy.outcome import Measure, Timing


@reaches
def status(
    reach: Reach,
    host: options.Host,
    app: options.App = None,
) -> None:
    """What runs on a device: current and previous release, the mode, the lock, and the newest journal records."""
    from ofa_edge.deploy import run

    with reach.open(host) as session:
        found = run.status(session, app or OFA_LITE0.name)
    reach.out.result(found, lambda: _status_text(found, host))


@reaches
def releases(
    reach: Reach,
    host: options.Host,
    app: options.App = None,
) -> None:
    """The releases a device keeps, the modes of the current one, and what became of deployments there."""
    from ofa_edge.deploy import run

    with reach.open(host) as session:
        found = run.status(session, app or OFA_LITE0.name)
    keys = ("app", "current", "previous", "mode", "modes", "releases", "journal")
    value = {name: found[name] for name in keys}
    words = {value["current"]: f"current{_in_mode(found)}", value["previous"]: "previous"}
    rows = [[release, words.get(release, "")] for release in value["releases"]]
    listed = table(["release", ""], rows) if rows else f"no release of {value['app']}"
    reach.out.result(value, lambda: "\n".join([listed, *_journal(found["journal"])]))


@reaches
def rollback(
    reach: Reach,
    host: options.Hosts,
    app: options.App = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also hold each mode's latency against its budget, before the switch.")
    ] = False,
    post_switch: options.PostSwitch = None,
    health: options.Health = None,
    hook_timeout: options.HookTimeout = 60.0,
    parallel: options.Parallel = 4,
) -> None:
    """Make the release before the current one current again, after checking its files and outputs on the device.

    Where something is wrong with it the current one stays (exit 7).
    """
    from ofa_edge.deploy import run
    from ofa_edge.deploy.fleet import Order
    from ofa_edge.deploy.hooks import Hooks

    hooks = Hooks.parse(post_switch, health, hook_timeout)

    def back(job: many.Job) -> Mapping[str, Any]:
        return run.rollback(
            job.session,
            app or OFA_LITE0.name,
            measure=_measuring(job) if measure else None,
            hooks=hooks,
            host=job.host,
            progress=job.progress,
        ).as_json()

    many.each_host(
        reach,
        reach.expanded(host),
        back,
        order=Order(0, parallel),
        describe=describe,
        describe_all=many.deployments,
    )


def _measuring(job: many.Job) -> Measure:
    """Measures a release that is on the device, by the table that its manifest names where that is at hand."""
    from ofa_edge.cli import unchanged
    from ofa_edge.deploy import assemble
    from ofa_edge.latency.models.predictors import model_of

    def measure(manifest: Manifest, mode: Mode) -> Timing | wire.Failed:
        made_with = unchanged.table_by_hash(manifest.sources.latency_table, job.session.facts)
        model = None if made_with is None else model_of(made_with)
        return assemble.measurer(job.session, {mode.name: model}, on_process=job.stop.check)(manifest, mode)

    return measure


@reaches
def prune(
    reach: Reach,
    host: options.Host,
    app: options.App = None,
) -> None:
    """Remove all releases but the current and the previous one."""
    from ofa_edge.deploy import run

    with reach.open(host) as session:
        value = run.prune(session, app or OFA_LITE0.name, host=host)
    reach.out.result(value)


def _status_text(found: Mapping[str, Any], host: str) -> str:
    lines = {
        "app": found["app"],
        "current": (found["current"] or "none") + _in_mode(found),
        "previous": found["previous"] or "none",
        "releases": " ".join(found["releases"]) or "none",
    }
    if lock := found["lock"]:
        lines["lock"] = lock["holder"] + (f", for {lock['age_s']:.0f} s" if lock["alive"] else ", which ended")
    if found["problem"]:
        lines["problem"] = str(found["problem"])
    if found["unfinished"]:
        lines["unfinished"] = _unfinished(found, host)
    return "\n".join([fields(lines), *_journal(found["journal"])])


def _unfinished(found: Mapping[str, Any], host: str) -> str:
    """What state a deployment without an end left, and what to type."""
    release, at = found["unfinished"], f"--host {host} --app {found['app']}"
    if found["lock"] and found["lock"]["alive"]:
        return f"{release} is being deployed"
    back = found["unfinished_kind"] == "rollback"
    what, verb = (f"rollback to {release}", "rollback") if back else (f"deployment of {release}", "deploy")
    if found["unfinished_step"] != "switching" or found["current"] != release:
        return f"the {what} stopped before its switch; the next `ofa-edge {verb} {at}` clears it up"
    words = f"the {what} stopped after its switch: it runs, but was not checked since and is not committed"
    if back:
        return f"{words}; `ofa-edge rollback {at}` tries it again"
    to = f"goes back to {found['previous']}" if found["previous"] else "takes it away, nothing ran before"
    again = f"`ofa-edge deploy {at}` with its bundle or selection tries it again"
    return f"{words}; {again}, `ofa-edge rollback {at}` {to}"


def _in_mode(found: Mapping[str, Any]) -> str:
    """The mode, where there is a choice."""
    return f", mode {found['mode']} of {', '.join(found['modes'])}" if len(found["modes"]) > 1 else ""


def _journal(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each: when, what, the plain values, the median that was measured; reasons last, they may be long."""
    lines = []
    for record in records:
        facts = record.get("facts")
        plain = {key: value for key, value in record.items() if value not in (None, "") and not _is_nested(value)}
        if isinstance(facts, dict) and isinstance(measured := facts.get("measured_ms"), (int, float)):
            plain["measured"] = milliseconds(measured).replace(" ", "")
        when, event, reason = _when(plain.pop("time", None)), plain.pop("event", "?"), plain.pop("reason", None)
        said = "  ".join([when, f"{event:<11}", *(f"{key}={value}" for key, value in plain.items())])
        lines.append(f"{said}  reason: {reason}" if reason else said)
    return lines


def _when(seconds: Any) -> str:
    """By the device's clock, in UTC: one without a battery may be far off."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e11:
        return "?" * len("2026-01-01 00:00:00")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))
