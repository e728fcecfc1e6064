"""`ofa-edge devices`: names for devices, and runtimes for those that have none.

In: devices.toml, hosts. Out: entries, facts, and devices that are ready to be profiled. Nothing is removed on a device
without a yes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge import settings, strict_json
from ofa_edge.cli import options
from ofa_edge.cli.output import fields, table
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.errors import DeviceLost, OfaEdgeError, UsageError
from ofa_edge.files import write_whole

if TYPE_CHECKING:
    from device_agents.wire import Facts
    from ofa_edge.device.inventory import Device
    from ofa_edge.device.runtime_setup import Ready, Removed

devices = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Names for devices, and their runtimes."
)

HostName = Annotated[str, typer.Argument(metavar="HOST", help="local, [user@]host[:port], or a name of devices.toml.")]


@devices.command("list")
@reaches
def list_devices(
    reach: Reach,
    check: Annotated[bool, typer.Option("--check", help="Connect to each and ask what it is.")] = False,
) -> None:
    """The devices of devices.toml and the latency tables there are for them; with --check also what they are."""
    from ofa_edge.device import Inventory

    out, inventory = reach.out, Inventory.load()
    rows = [_row(device, reach, check=check) for device in inventory.devices]
    if not rows:
        out.notice(f"no devices in {settings.devices_file()}; `ofa-edge devices add NAME HOST` adds one")
    out.result(rows, lambda: _list_text(rows))
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@devices.command("add")
@reaches
def add_device(
    reach: Reach,
    name: Annotated[str, typer.Argument(metavar="NAME", help="How to call it.")],
    host: Annotated[str, typer.Argument(metavar="HOST", help="local or [user@]host[:port].")],
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="GROUP", help="--host @GROUP means all of it; repeatable.")
    ] = None,
    root: Annotated[str | None, typer.Option("--root", metavar="DIR", help="Where our files go on the device.")] = None,
    no_connect: Annotated[bool, typer.Option("--no-connect", help="Write the entry without trying it.")] = False,
) -> None:
    """Give a device a name in devices.toml, after trying to connect to it."""
    from ofa_edge.device.inventory import Device, add, require_free

    out = reach.out
    _require_address(host)
    require_free(name)
    at = replace(reach.connecting, root=root)
    device = Device(name, host, at.python, root, tuple(group or ()))
    value: dict[str, Any] = {"name": name, "host": host, "facts": None, "runtimes": None, "tables": []}
    facts: Facts | None = None
    if not no_connect:
        facts = _facts(host, replace(reach, connecting=at))
        value |= _known(facts)
        if not facts.runtimes:
            out.notice(f"it has no runtime yet; `ofa-edge devices setup {name}` brings one")
    value["file"] = str(add(device))
    if facts is not None:
        _remember(name, facts)
    out.result(value, lambda: f"{name} is {host}, in {value['file']}")


@devices.command("setup")
@reaches
def setup_device(
    reach: Reach,
    host: HostName,
    runtime: options.Runtime = "onnxruntime",
    python_version: Annotated[
        str | None,
        typer.Option("--python-version", metavar="X.Y", help="Use the interpreter pythonX.Y there, not python3."),
    ] = None,
) -> None:
    """Bring a runtime to a device that needs no pip and no network for it, and prove it by running a model there.

    The packages are downloaded here, by this machine's pip, and kept for the next device of the kind. A runtime that
    the device's Python has already is left alone.
    """
    from ofa_edge.device import connect, runtime_setup
    from ofa_edge.latency.proof import proof

    out, connecting = reach.out, reach.connecting
    connecting = replace(connecting, python=_interpreter(connecting.python, python_version))
    with closing(connect(host, options=connecting)) as link:
        ready = runtime_setup.setup(
            link, runtime, lambda: proof(runtime), cache=settings.home() / "cache" / "sites", notify=out.say
        )
    if python_version:
        out.notice(f"commands use python3 there; name this one with --python python{python_version}")
    _remember(host, ready.facts)
    value = {"host": host, **_ready_json(ready)}
    out.result(value, lambda: _ready_text(host, ready))


@devices.command("remove")
@reaches
def remove_device(
    reach: Reach,
    host: HostName,
    runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="Only this runtime; all if left out.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Also releases, models and the agent: all of ours on the device.")
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Only take the entry out; do not connect.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take the runtimes that `setup` brought off a device, and out of devices.toml the entry that `add` wrote."""
    from ofa_edge.device import Inventory, connect, runtime_setup
    from ofa_edge.device.inventory import take_out

    known = Inventory.load().get(host) is not None
    if forget and not known:
        raise UsageError(f"{settings.devices_file()} has no {host[:80]!r}", hint="`ofa-edge devices list` shows all")
    found: Removed | None = None
    if not forget:
        what = "everything of ours, releases too," if everything else "the runtimes that were set up"
        _require_yes(yes, f"remove {what} from {host}?")
        with _or_forget(host, known), closing(connect(host, options=reach.connecting)) as link:
            found = runtime_setup.remove(link, runtime, everything=everything)
    entry = take_out(host) if not runtime else False
    if forget and not entry:
        reach.out.notice(f"a person wrote the entry {host} into {settings.devices_file()}; take it out there")
    value: dict[str, Any] = {
        "host": host,
        "removed": [] if found is None else found.removed,
        "kept": [] if found is None else found.kept,
        "root": None if found is None else found.root,
        "entry_removed": entry,
    }
    reach.out.result(value, lambda: _removed_text(value))


# ---------------------------------------------------------------------------------------- inside


def _interpreter(python: str | None, version: str | None) -> str | None:
    import re

    if version is None:
        return python
    if python is not None:
        raise UsageError("--python and --python-version cannot be used together", hint="give one of them")
    if not re.fullmatch(r"3\.[0-9]{1,2}", version):
        raise UsageError(f"--python-version {version[:20]!r} is no version", hint="write it as 3.11")
    return f"python{version}"


def _require_address(host: str) -> None:
    """What a command would take for a HOST later must be one now, and not a name or group of devices.toml."""
    if host.startswith("@"):
        raise UsageError(f"{host[:80]!r} is a group", hint="give [user@]host[:port]")
    if host.startswith("adb:"):
        raise UsageError("adb is not in this version", hint="reach the device over ssh")
    if host != "local":
        from ofa_edge.device.ssh_config import Address

        Address.parse(host)


def _require_yes(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked whether to remove it", hint="say so with --yes")
    if not typer.confirm(question, err=True):
        raise OfaEdgeError("nothing was removed")


@contextmanager
def _or_forget(host: str, known: bool) -> Iterator[None]:
    """A device that is gone for good can still be taken out of devices.toml; its errors say how."""
    try:
        yield
    except DeviceLost as error:
        if known:
            error.hint = f"{error.hint}; `ofa-edge devices remove {host} --forget` only takes it out of devices.toml"
        raise


def _facts(host: str, reach: Reach) -> Facts:
    with reach.open(host) as session:
        return session.facts


def _known(facts: Facts) -> dict[str, Any]:
    """What a JSON row says of a device that answered."""
    return {"facts": asdict(facts), "runtimes": dict(facts.runtimes), "tables": _tables(facts.device_model)}


def _tables(model: str) -> list[str]:
    return sorted(map(str, settings.tables_dir(model).glob("*.jsonl")))


def _remembered() -> dict[str, str]:
    """Names of devices -> the model each was when it last answered; nothing depends on it but what `list` shows."""
    try:
        found = strict_json.loads((settings.home() / "cache" / "devices.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def _remember(name: str, facts: Facts) -> None:
    if (known := _remembered()).get(name) != facts.device_model:
        with suppress(OSError):
            text = strict_json.dumps({**known, name: facts.device_model})
            write_whole(settings.home() / "cache" / "devices.json", text.encode())


def _row(device: Device, reach: Reach, *, check: bool) -> dict[str, Any]:
    """One device; where it is not asked, its tables are those of the model it was last."""
    model = _remembered().get(device.name)
    row: dict[str, Any] = {
        "name": device.name,
        "host": device.address,
        "python": device.python,
        "root": device.root,
        "groups": list(device.groups),
        "facts": None,
        "runtimes": None,
        "tables": None if model is None else _tables(model),
        "error": None,
    }
    if not check:
        return row
    try:
        facts = _facts(device.name, reach)
        row |= _known(facts)
        _remember(device.name, facts)
    except OfaEdgeError as error:
        reach.out.warning(f"{device.name}: {error.message}")
        row["error"] = error.as_json()
    return row


def _list_text(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        facts = row["facts"]
        state = "does not answer" if row["error"] else "-" if facts is None else facts["device_model"]
        if facts and facts["emulated"]:
            state += " (emulated)"
        runtimes = ", ".join(f"{name} {version}" for name, version in (row["runtimes"] or {}).items())
        count = "-" if row["tables"] is None else len(row["tables"])
        cells.append([row["name"], row["host"], " ".join(row["groups"]), state, runtimes or "-", count])
    return table(["name", "host", "groups", "model", "runtimes", "tables"], cells) if cells else "no devices"


def _ready_json(ready: Ready) -> dict[str, Any]:
    return {
        "runtime": ready.runtime,
        "version": ready.version,
        "state": ready.state,
        "site": ready.site,
        "sha256": ready.sha256,
        "bytes_pushed": ready.bytes_pushed,
        "rel": ready.rel,
        **_known(ready.facts),
    }


def _ready_text(host: str, ready: Ready) -> str:
    if ready.state == "own":
        return f"{host}: its Python has {ready.runtime} {ready.version} of its own; nothing to do"
    if ready.state == "already there":
        return f"{host}: {ready.runtime} {ready.version} is already there"
    return fields(
        {
            "device": f"{host}, {ready.facts.device_model}{', emulated' if ready.facts.emulated else ''}",
            "runtime": f"{ready.runtime} {ready.version}",
            "site": f"{ready.site}",
            "proof": f"a block's outputs equal the host's to {ready.rel:.1e}",
            "next": f"ofa-edge profile --host {host} --runtime {ready.runtime}",
        }
    )


def _removed_text(value: dict[str, Any]) -> str:
    lines = [f"removed {name} from {value['root']}" for name in value["removed"]]
    if value["kept"]:
        lines.append(f"left in {value['root']}, which is not ours alone: {' '.join(value['kept'])}")
    if value["entry_removed"]:
        lines.append(f"took {value['host']} out of devices.toml")
    return "\n".join(lines) or "nothing of ours was there"
