"""How a session with an agent begins: ship it where it is absent, start it, hear its hello, ask what the device is.

In: a Link. Out: a Session. Rules kept: the agent's bytes are checked on the device before they run; only what follows
the nonce line counts; what the login shell says before has a cap, and the whole a deadline.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass

from device_agents import wire
from ofa_edge import errors
from ofa_edge.device import provision
from ofa_edge.device.link import Channel, Link, one_line
from ofa_edge.device.session import Session
from ofa_edge.errors import DeviceLost, OfaEdgeError, ProtocolError
from ofa_edge.limits import LIMITS, Limits


def open_session(
    link: Link,
    *,
    limits: Limits = LIMITS,
    owns_link: bool = False,
) -> Session:
    """Ship the agent where it is absent, start it and ask for the facts.

    Args:
        link: an open link; its `root` None: the device's OFA_EDGE_HOME, else ~/.ofa-edge.
        owns_link: close the link with the session.

    Raises:
        DeviceLost: no agent came up.
        OfaEdgeError: the device refused (no usable Python, a folder that cannot be written).
    """
    agent = provision.agent()
    for attempt in (1, 2):
        nonce = secrets.token_hex(16)
        channel = link.start(provision.boot_argv(link.python, nonce, link.root, agent.sha256))
        session: Session | None = None
        try:
            hello = _handshake(channel, link, nonce, limits)
            if isinstance(hello, _Absent):
                if attempt == 2:
                    raise ProtocolError(f"{link.name} does not keep the agent that was put there")
                link.put(agent.data, f"{hello.root}/agent/{agent.sha256}.pyz")
                channel.close(limits.close_seconds)
                continue
            session = Session(link, channel, hello.root, limits=limits, owns_link=owns_link)
            session.facts = wire.Facts.parse(session.call("facts", {}, timeout=2 * limits.load_seconds))
            return session
        except BaseException as error:
            with contextlib.suppress(OfaEdgeError):
                channel.close(limits.close_seconds)
            if owns_link:
                link.close()
            if isinstance(error, wire.WireError):
                raise ProtocolError(f"{link.name} does not speak the agent's protocol: {error}") from error
            raise
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class _Ready:
    """The agent runs; `root` is absolute there."""

    root: str


@dataclass(frozen=True)
class _Absent:
    """It must be shipped first."""

    root: str


def _handshake(channel: Channel, link: Link, nonce: str, limits: Limits) -> _Ready | _Absent:
    """Skip what the login shell says; the line after the nonce is the first that counts."""
    deadline = time.monotonic() + limits.handshake_seconds
    mark = nonce.encode("ascii") + b" "
    noise = 0
    while noise <= limits.noise_bytes:
        try:
            line = channel.readline(limits.noise_bytes + 1, max(0.0, deadline - time.monotonic()))
        except DeviceLost as error:
            raise type(error)(
                f"{link.name}: no agent came up: {error.message}", hint="try `ofa-edge doctor --host HOST`"
            ) from error
        if not line:
            status = channel.close(limits.close_seconds)
            raise _no_agent(link, status, one_line(channel.stderr_tail()))
        if line.startswith(mark):
            return _hello(line[len(mark) :], link)
        noise += len(line)
    raise ProtocolError(
        f"{link.name} printed more than {limits.noise_bytes} bytes before the agent started",
        hint="make its login shell quiet for commands (see ~/.bashrc there)",
    )


def _hello(line: bytes, link: Link) -> _Ready | _Absent:
    """Raises WireError, and OfaEdgeError where the device refuses."""
    hello = wire.Fields("hello", wire.loads(line))
    kind = next((kind for kind in ("refused", "absent", "ready") if hello.has(kind)), "ready")
    fields = wire.Fields(kind, hello.take(kind))
    hello.done()
    if kind == "refused":
        raise OfaEdgeError(
            f"{link.name}: {wire.clean(str(fields.take('message')))}",
            hint="name another interpreter with --python, or another folder with --root",
        )
    if kind == "ready":
        fields.whole("protocol", wire.PROTOCOL, wire.PROTOCOL)
    root = fields.text("root", "/.*")
    fields.done()
    return _Absent(root) if kind == "absent" else _Ready(root)


def _no_agent(link: Link, status: int | None, tail: str) -> OfaEdgeError:
    said = f": {tail}" if tail else ""
    if status in (126, 127):
        return errors.UsageError(
            f"{link.name} has no {link.python}{said}",
            hint="install Python 3.9 or newer there, or name the interpreter with --python or in devices.toml",
        )
    why = "the link was cut or the process was killed" if status in (None, -1) else f"exit status {status}"
    return DeviceLost(f"{link.name}: no agent came up ({why}){said}", hint="try `ofa-edge doctor --host HOST`")
