"""The ssh link: a device reached as `ssh` would reach it.

In: a host as typed. Out: processes and files there. Rules kept: the socket is ours, so that small packets leave at
once and a cut link is noticed within seconds (paramiko sets neither); the host key is verified before anything
of ours is sent; the command line is quoted word by word; a file is written beside its name, its size checked,
then renamed; no wait is endless.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shlex
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from ofa_edge.device import host_keys
from ofa_edge.device.link import LineBuffer, printable
from ofa_edge.device.ssh_auth import Ask, ask_on_terminal, authenticate
from ofa_edge.device.ssh_config import Address, SshTarget, resolve
from ofa_edge.errors import DeviceLost, TrustError, UsageError
from ofa_edge.limits import LIMITS, Limits
from ofa_edge.settings import device_python

_WRITE = 1 << 15
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


class SshChannel:
    """A process behind an SSH channel. Implements link.Channel."""

    def __init__(self, channel: paramiko.Channel, limits: Limits):
        self._channel = channel
        self._limits = limits
        self._lines = LineBuffer(self._receive)
        self._tail = bytearray()
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    def write(self, data: bytes, timeout: float) -> None:
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise DeviceLost(f"the agent took no input for {timeout:.0f} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise DeviceLost(f"the link was cut ({error or 'end of stream'})") from error

    def readline(self, limit: int, timeout: float) -> bytes:
        try:
            return self._lines.readline(limit, timeout)
        except TimeoutError:
            raise DeviceLost(f"the agent said nothing for {timeout:.0f} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise DeviceLost(f"the link was cut ({error or 'end of stream'})") from error

    def stderr_tail(self) -> str:
        return printable(self._tail)

    def close(self, timeout: float) -> int | None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()
        self._channel.status_event.wait(timeout)
        status = self._channel.exit_status if self._channel.status_event.is_set() else -1
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._drain.join(1.0)
        return None if status == -1 else status  # paramiko's -1 says that there was none

    def _receive(self, timeout: float) -> bytes:
        self._channel.settimeout(timeout)
        return self._channel.recv(1 << 16)

    def _drain_stderr(self) -> None:
        while True:
            try:
                chunk = self._channel.recv_stderr(1 << 16)
            except TimeoutError:
                continue
            except (OSError, EOFError, paramiko.SSHException):
                return
            if not chunk:
                return
            self._tail += chunk
            del self._tail[: -self._limits.stderr_bytes]


class SshLink:
    """Implements link.Link over an authenticated connection; made by `connect`."""

    def __init__(
        self, name: str, chain: list[paramiko.Transport], *, python: str | None, root: str | None, limits: Limits
    ):
        self.name = name
        self.python = python or device_python() or "python3"
        self.root = root
        self._chain = chain
        self._limits = limits
        self._sftp: paramiko.SFTPClient | None = None

    def start(self, argv: list[str]) -> SshChannel:
        try:
            channel = self._chain[-1].open_session(timeout=self._limits.connect_seconds)
            channel.exec_command(command_line(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise DeviceLost(f"{self.name}: cannot start a process there: {error or 'the link was cut'}") from error
        return SshChannel(channel, self._limits)

    def put(self, data: bytes, remote_path: str) -> None:
        part = f"{remote_path}.{secrets.token_hex(4)}.part"
        try:
            sftp = self._open_sftp()
            try:
                _write(sftp, data, part)
                sftp.posix_rename(part, remote_path)
            except BaseException:
                with contextlib.suppress(Exception):
                    sftp.remove(part)
                raise
        except TimeoutError as error:
            raise DeviceLost(f"{self.name}: {remote_path} took longer than {self._limits.put_seconds:.0f} s") from error
        except FileNotFoundError as error:
            raise DeviceLost(f"{self.name} has no folder {posixpath.dirname(remote_path)}") from error
        except Exception as error:  # a hostile server can make every layer of the SFTP client stumble
            raise DeviceLost(
                f"{self.name}: cannot write {remote_path}: {error or type(error).__name__}",
                hint="look whether the device's disk is full, and whether its sshd has `Subsystem sftp`",
            ) from error

    def close(self) -> None:
        for connection in [self._sftp, *reversed(self._chain)]:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            channel = self._chain[-1].open_session(timeout=self._limits.connect_seconds)
            channel.settimeout(self._limits.put_seconds)
            channel.invoke_subsystem("sftp")
            self._sftp = paramiko.SFTPClient(channel)
        return self._sftp


def command_line(argv: list[str]) -> str:
    """One line for the login shell, every word quoted; only a leading ~/ of the program is left to it."""
    program, *arguments = argv
    first = "~/" + shlex.quote(program[2:]) if program.startswith("~/") else shlex.quote(program)
    return " ".join([first, *map(shlex.quote, arguments)])


def connect(
    host: str, *, python: str | None = None, root: str | None = None, name: str = "", options: SshOptions = SshOptions()
) -> SshLink:
    """Connect to [user@]host[:port], read through the user's ssh configuration, over its jump hosts.

    Raises:
        UsageError: the host is none.
        TrustError: host key or authentication.
        DeviceLost: nobody answers.
    """
    chain: list[paramiko.Transport] = []
    try:
        _extend(chain, Address.parse(host), options, follow_jump=True)
    except BaseException:
        for transport in reversed(chain):
            transport.close()
        raise
    return SshLink(name or host, chain, python=python, root=root, limits=options.limits)


def _extend(chain: list[paramiko.Transport], address: Address, options: SshOptions, *, follow_jump: bool) -> None:
    """Add a connection to `address` behind the last of `chain`, with the hops its configuration asks for before it."""
    if len(chain) >= _MAX_HOPS:
        raise UsageError(f"more than {_MAX_HOPS} jump hosts on the way to {address.host}")
    target = resolve(address, config=options.config)
    if follow_jump and target.proxy_jump:
        for i, hop in enumerate(target.proxy_jump.split(",")):
            jump = Address.parse(hop.strip())
            if jump.host == address.host:
                raise UsageError(f"ssh's configuration lets {address.host} jump over itself")
            _extend(chain, jump, options, follow_jump=i == 0)
    name = host_keys.lookup_name(target.host_key_alias or target.host, target.port)
    transport = _transport(_socket(chain, target, options), target, name, options)
    chain.append(transport)
    _verify_host(transport, target, name, options)
    authenticate(transport, target, name, identity=options.identity, ask=options.ask)


def _socket(chain: list[paramiko.Transport], target: SshTarget, options: SshOptions) -> Any:
    limits = options.limits
    try:
        if chain:
            return chain[-1].open_channel(
                "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=limits.connect_seconds
            )
        if target.proxy_command:
            return paramiko.ProxyCommand(_expand(target.proxy_command, target))
        connection = socket.create_connection((target.host, target.port), timeout=limits.connect_seconds)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise DeviceLost(
            f"cannot reach {target.host} port {target.port}: {error or 'the link was cut'}",
            hint="is it on, in this network, and does its sshd run? `ssh` to it must work first",
        ) from error
    notice_cuts(connection, limits.lost_seconds)
    return connection


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
    transport = paramiko.Transport(connection)
    transport.banner_timeout = transport.auth_timeout = options.limits.connect_seconds
    try:
        _prefer_known_types(transport, [entry.key_type for entry in _known(target, name)])
        transport.start_client(timeout=options.limits.connect_seconds)
    except (OSError, EOFError, paramiko.SSHException) as error:
        transport.close()
        raise DeviceLost(
            f"{name} does not answer as an SSH server: {error or 'the link was cut'}",
            hint="is this the port of its sshd?",
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


def _expand(command: str, target: SshTarget) -> str:
    """ssh_config's tokens in a ProxyCommand."""
    for token, value in (("%h", target.host), ("%p", str(target.port)), ("%r", target.user), ("%%", "%")):
        command = command.replace(token, value)
    return command


def _write(sftp: paramiko.SFTPClient, data: bytes, path: str) -> None:
    with sftp.open(path, "wb") as stream:
        stream.set_pipelined(True)
        view = memoryview(data)
        for start in range(0, len(data), _WRITE):
            stream.write(bytes(view[start : start + _WRITE]))
    size = sftp.stat(path).st_size
    if size != len(data):
        raise OSError(f"{size} of {len(data)} bytes arrived")
