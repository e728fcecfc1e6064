"""From a HOST as typed to a Link: `local`, [user@]host[:port], or a name from devices.toml.

In: the host and ConnectOptions. Out: an open Link. Options come before devices.toml, and devices.toml before the
environment; the SSH library is loaded only for a host that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ofa_edge.device.inventory import Device, Inventory
from ofa_edge.device.link import Link
from ofa_edge.device.local import LocalLink
from ofa_edge.device.opening import open_session
from ofa_edge.device.session import Session
from ofa_edge.errors import UsageError
from ofa_edge.limits import LIMITS, Limits
from ofa_edge.settings import ssh_config


@dataclass(frozen=True)
class ConnectOptions:
    """What options and their defaults say about reaching devices.

    Args:
        python: interpreter on the device; else devices.toml, OFA_EDGE_DEVICE_PYTHON, then this one (local) or python3.
        root: our folder on the device; else devices.toml, then the device's own OFA_EDGE_HOME, then ~/.ofa-edge.
        accept_new: record the key of a host that was never seen.
        identity: a private key to try first.
        ssh_config: an ssh_config to read instead of the user's.
        inventory: a devices.toml; else ./devices.toml, then the home's.
        ask: asks for a passphrase (returns None when nobody can be asked); None: on the terminal.
        notify: told one sentence when a host key was recorded.
    """

    python: str | None = None
    root: str | None = None
    accept_new: bool = False
    identity: Path | None = None
    ssh_config: Path | None = None
    inventory: Path | None = None
    ask: Callable[[str], str | None] | None = None
    notify: Callable[[str], None] = lambda text: None
    limits: Limits = LIMITS


def connect(host: str, *, options: ConnectOptions = ConnectOptions()) -> Link:
    """Open a link.

    Raises:
        UsageError: the host is none, or of a kind this version does not have.
        TrustError: host key or authentication.
        DeviceLost: nobody answers.
        BadFile: devices.toml is wrong.
    """
    device = Inventory.load(options.inventory).get(host) or Device(host, host)
    python, root = options.python or device.python, options.root or device.root
    address = device.address
    if address.startswith("adb:"):
        raise UsageError("adb is not in this version", hint="reach the device over ssh, or profile on `local`")
    if address.startswith("@"):
        raise UsageError(f"{address[:80]!r} is a group", hint="this command takes one host")
    if address == "local":
        return LocalLink(python=python, root=root)
    from ofa_edge.device import ssh, ssh_connection

    ssh_options = ssh_connection.SshOptions(
        accept_new=options.accept_new,
        identity=options.identity,
        config=options.ssh_config or ssh_config(),
        notify=options.notify,
        limits=options.limits,
        **({"ask": options.ask} if options.ask else {}),
    )
    return ssh.connect(address, python=python, root=root, name=host, options=ssh_options)


def open_device(host: str, *, options: ConnectOptions = ConnectOptions()) -> Session:
    """Connect and start the agent; closing the session closes the link too. Raises as `connect` and `open_session`."""
    return open_session(connect(host, options=options), limits=options.limits, owns_link=True)
