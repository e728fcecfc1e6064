"""`ofa-edge status`, `releases`, `rollback` and `prune`: what runs on devices, and what is kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ofa_edge.cli import options
from ofa_edge.cli.deploying import each_host, expanded
from ofa_edge.cli.output import Output, fields, table
from ofa_edge.space.spaces import OFA_LITE0

if TYPE_CHECKING:
    from ofa_edge.deploy.outcome import Outcome
    from ofa_edge.device.session import Session


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
    from ofa_edge.device import open_device

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with open_device(host, options=connecting) as session:
        found = run.status(session, app or OFA_LITE0.name)
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
    from ofa_edge.device import open_device

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with open_device(host, options=connecting) as session:
        found = run.status(session, app or OFA_LITE0.name)
    value = {name: found[name] for name in ("app", "current", "previous", "releases")}
    words = {value["current"]: "current", value["previous"]: "previous"}
    rows = [[release, words.get(release, "")] for release in value["releases"]]
    out.result(value, lambda: table(["release", ""], rows) if rows else f"no release of {value['app']}")


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
            app or OFA_LITE0.name,
            host=name,
            progress=lambda planned: out.say(f"{name}: {planned.step} {planned.detail}".rstrip()),
        )

    each_host(expanded(host, connecting), connecting, out, back)


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
    from ofa_edge.device import open_device

    out = Output(as_json)
    connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
    with open_device(host, options=connecting) as session:
        value = run.prune(session, app or OFA_LITE0.name, host=host)
    out.result(value)


def _status_text(found: dict[str, Any]) -> str:
    lines = {
        "app": found["app"],
        "current": found["current"] or "none",
        "previous": found["previous"] or "none",
        "releases": " ".join(found["releases"]) or "none",
    }
    if lock := found["lock"]:
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
