"""The ssh link: a device reached as `ssh` would reach it.

In: a host as typed. Out: processes and files there. Rules kept: the command line is quoted word by word; stdout and
stderr are drained side by side; a file is written beside its name, its size checked, then renamed; no wait is
endless. How the connection comes about and whom it trusts: ssh_connection.py.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shlex
import threading

import paramiko

from ofa_edge.device.link import LineBuffer, printable
from ofa_edge.device.ssh_config import Address
from ofa_edge.device.ssh_connection import Connection, SshOptions
from ofa_edge.errors import DeviceLost
from ofa_edge.limits import Limits
from ofa_edge.settings import device_python

_WRITE = 1 << 15


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
    """Implements link.Link over an authenticated connection, which it owns; made by `connect`."""

    def __init__(self, name: str, connection: Connection, *, python: str | None, root: str | None, limits: Limits):
        self.name = name
        self.python = python or device_python() or "python3"
        self.root = root
        self.connection = connection
        self._limits = limits
        self._sftp: paramiko.SFTPClient | None = None

    def start(self, argv: list[str]) -> SshChannel:
        try:
            channel = self.connection.transport.open_session(timeout=self._limits.connect_seconds)
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
        self.connection.close()

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            channel = self.connection.transport.open_session(timeout=self._limits.connect_seconds)
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
    host: str, *, python: str | None = None, root: str | None = None, name: str = "", options: SshOptions
) -> SshLink:
    """Connect to [user@]host[:port], read through the user's ssh configuration, over its jump hosts.

    Raises:
        UsageError: the host is none.
        TrustError: host key or authentication.
        DeviceLost: nobody answers.
    """
    connection = Connection.to(Address.parse(host), options)
    return SshLink(name or host, connection, python=python, root=root, limits=options.limits)


def _write(sftp: paramiko.SFTPClient, data: bytes, path: str) -> None:
    with sftp.open(path, "wb") as stream:
        stream.set_pipelined(True)
        view = memoryview(data)
        for start in range(0, len(data), _WRITE):
            stream.write(bytes(view[start : start + _WRITE]))
    size = sftp.stat(path).st_size
    if size != len(data):
        raise OSError(f"{size} of {len(data)} bytes arrived")
