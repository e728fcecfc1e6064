"""An authenticated SSH connection: sockets that notice a cut, jump hosts, host keys verified before anything else.

In: an address and SshOptions. Out: a Connection. Rules kept: the socket is ours, so that small packets leave at once
and a dead peer ends the connection within seconds (paramiko sets neither); every hop's host key is verified before
anything of ours is sent to it; nothing laxer than accept-new exists.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from device_agents import wire
from ofa_edge.device import host_keys
from ofa_edge.device.ssh_auth import Ask, ask_on_terminal, authenticate
from ofa_edge.device.ssh_config import Address, SshTarget, resolve
from ofa_edge.device.ssh_guard import GuardedSocket
from ofa_edge.errors import DeviceLost, TrustError, UsageError
from ofa_edge.limits import LIMITS, Limits

# Without a handler of anybody's, Python would print paramiko's complaints, with the server's own words in them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_MAX_HOPS = 8
_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # algorithms of a key that known_hosts calls ssh-rsa


@dataclass(frozen=True)
class SshOptions:
    """How to connect.

    Args:
        accept_new: record the key of a host that was never seen; a changed key is refused all the same.
        identity: a key file to try first.
        config: an ssh_config to read instead of the user's.
        ask: asks for passphrases.
        notify: told one sentence when a host key was recorded.
    """

    accept_new: bool = False
    identity: Path | None = None
    config: Path | None = None
    ask: Ask = ask_on_terminal
    notify: Callable[[str], None] = lambda text: None
    limits: Limits = LIMITS


class Connection:
    """Transports from hop to hop; the last one leads to the device."""

    def __init__(self) -> None:
        self._transports: list[paramiko.Transport] = []
        self._proxies: list[subprocess.Popen[bytes]] = []

    @classmethod
    def to(cls, address: Address, options: SshOptions) -> Connection:
        """Connect and authenticate.

        Raises:
            UsageError: the configuration is wrong.
            TrustError: host key or authentication.
            DeviceLost: nobody answers.
        """
        connection = cls()
        try:
            connection._extend(address, options, follow_jump=True)
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def transport(self) -> paramiko.Transport:
        return self._transports[-1]

    @property
    def guard(self) -> GuardedSocket:
        """Of the hop to the device."""
        guard = self.transport.sock
        assert isinstance(guard, GuardedSocket)
        return guard

    def close(self) -> None:
        """Close everything, the device's end first; never raises."""
        for transport in reversed(self._transports):
            with contextlib.suppress(Exception):
                transport.close()
        for proxy in self._proxies:
            proxy.terminate()
            proxy.wait()

    def _extend(self, address: Address, options: SshOptions, *, follow_jump: bool) -> None:
        """Add a hop to `address`, and before it those that its configuration asks for."""
        if len(self._transports) >= _MAX_HOPS:
            raise UsageError(f"more than {_MAX_HOPS} jump hosts on the way to {address.host}")
        target = resolve(address, config=options.config)
        if follow_jump and target.proxy_jump:
            for i, hop in enumerate(target.proxy_jump.split(",")):
                jump = Address.parse(hop.strip())
                if jump.host == address.host:
                    raise UsageError(f"ssh's configuration lets {address.host} jump over itself")
                self._extend(jump, options, follow_jump=i == 0)
        name = host_keys.lookup_name(target.host_key_alias or target.host, target.port)
        self._transports.append(_transport(self._socket(target, options.limits), target, name, options))
        _verify_host(self.transport, target, name, options)
        authenticate(self.transport, target, name, identity=options.identity, ask=options.ask)
        self.guard.authenticated()

    def _socket(self, target: SshTarget, limits: Limits) -> Any:
        """Something to speak SSH over: a channel of the hop before, a ProxyCommand, or a socket of our own."""
        try:
            if self._transports:
                there = (target.host, target.port)
                return self.transport.open_channel(
                    "direct-tcpip", there, ("127.0.0.1", 0), timeout=limits.connect_seconds
                )
            if target.proxy_command:
                return self._proxy(target)
            connection = socket.create_connection((target.host, target.port), timeout=limits.connect_seconds)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise DeviceLost(
                f"cannot reach {target.host} port {target.port}: {wire.clean(str(error), 300) or 'the link was cut'}",
                hint="is it on, in this network, and does its sshd run? `ssh` to it must work first",
            ) from error
        notice_cuts(connection, limits.lost_seconds)
        return connection

    def _proxy(self, target: SshTarget) -> socket.socket:
        """The user's ProxyCommand, run as ssh runs it, behind a socket."""
        values = {"%h": target.host, "%p": str(target.port), "%r": target.user, "%%": "%"}
        command = re.sub("%[hpr%]", lambda match: values[match[0]], target.proxy_command)
        ours, its = socket.socketpair()
        with its:
            self._proxies.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command}"],
                    stdin=its.fileno(),
                    stdout=its.fileno(),
                    start_new_session=True,
                )
            )
        return ours


def notice_cuts(connection: socket.socket, seconds: float) -> None:
    """Small packets leave at once, and a dead peer ends the connection after about `seconds`, whether we send
    (TCP_USER_TIMEOUT) or wait (keepalive). Options a system lacks are left out."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    third = max(1, int(seconds / 3))
    values = {"TCP_KEEPIDLE": third, "TCP_KEEPINTVL": third, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": int(seconds * 1000)}
    for option, value in values.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _transport(connection: Any, target: SshTarget, name: str, options: SshOptions) -> paramiko.Transport:
    """Key exchange; the host's known key types are asked for first, as OpenSSH does."""
    guard = GuardedSocket(connection)
    transport = paramiko.Transport(guard)  # type: ignore[arg-type]
    transport.banner_timeout = transport.auth_timeout = options.limits.connect_seconds
    try:
        _prefer_known_types(transport, [entry.key_type for entry in _known(target, name)])
        transport.start_client(timeout=options.limits.connect_seconds)
        if not transport.initial_kex_done:  # start_client returns at its limit without a word
            raise TimeoutError(f"no key exchange within {options.limits.connect_seconds:.0f} s")
    except (OSError, EOFError, paramiko.SSHException) as error:
        transport.close()
        why = guard.breach or wire.clean(str(error), 300) or "the link was cut"
        raise DeviceLost(
            f"{name} does not answer as an SSH server: {why}", hint="is this the port of its sshd?"
        ) from error
    return transport


def _prefer_known_types(transport: paramiko.Transport, types: list[str]) -> None:
    options = transport.get_security_options()
    known = [name for key_type in types for name in (_RSA if key_type == "ssh-rsa" else (key_type,))]
    offered = tuple(options.key_types)
    options.key_types = tuple(sorted(offered, key=lambda name: name not in known))


def _known(target: SshTarget, name: str) -> list[host_keys.KnownKey]:
    return host_keys.known_keys([*target.known_hosts, *target.global_known_hosts], name)


def _verify_host(transport: paramiko.Transport, target: SshTarget, name: str, options: SshOptions) -> None:
    shown = transport.get_remote_server_key()
    key_type, key = shown.get_name(), shown.asbytes()
    known = _known(target, name)
    verdict = host_keys.judge(known, key)
    if verdict is host_keys.Verdict.UNKNOWN and target.port != host_keys.DEFAULT_PORT:
        # OpenSSH: a host known without its port is known, if the key is the same.
        plain = _known(target, host_keys.lookup_name(target.host_key_alias or target.host, host_keys.DEFAULT_PORT))
        if host_keys.judge(plain, key) in (host_keys.Verdict.KNOWN, host_keys.Verdict.REVOKED):
            verdict = host_keys.judge(plain, key)
    if verdict is host_keys.Verdict.KNOWN:
        return
    if verdict is not host_keys.Verdict.UNKNOWN or not (options.accept_new or target.accept_new):
        raise host_keys.refusal(verdict, name, key_type, key, known)
    if not target.known_hosts:
        raise TrustError(f"{name} is new, and ssh's configuration names no known_hosts file to record its key in")
    host_keys.record(target.known_hosts[0], name, key_type, key, hashed=target.hash_known_hosts)
    options.notify(f"{name}: recorded its {key_type} key {host_keys.fingerprint(key)} in {target.known_hosts[0]}")
