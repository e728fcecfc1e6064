"""The ssh link: a device reached as `ssh` would reach it.

In: a host as typed. Out: processes and files there. Rules kept: the command line is quoted word by word; stdout and
stderr are drained side by side; a file that is put is written beside its name, its size checked, then renamed; no wait
is endless. How the connection comes about and whom it trusts: ssh_connection.py.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shlex
import threading
import time
from collections.abc import Callable

import paramiko

from device_agents import wire
from ofa_edge.device.link import LineBuffer, printable
from ofa_edge.device.ssh_config import Address
from ofa_edge.device.ssh_connection import Connection, SshOptions
from ofa_edge.device.ssh_guard import Breach, GuardedSocket, SftpPipe, cap
from ofa_edge.errors import DeviceLost, ProtocolError
from ofa_edge.limits import Limits
from ofa_edge.settings import device_python

_WRITE = 1 << 15
_AHEAD = 8
"""Pieces that are under way before their answers are waited for, 256 KiB. When a connection dies its server drops what
it had received and not yet written: no more than these, where paramiko alone would have 3 MB under way. A round trip of
5 ms costs a link of 5 MB/s a tenth of its speed."""


class SshChannel:
    """A process behind an SSH channel. Implements link.Channel."""

    def __init__(self, channel: paramiko.Channel, limits: Limits, guard: GuardedSocket):
        self._channel = channel
        self._guard = guard
        self._limits = limits
        self._lines = LineBuffer(self._receive)
        self._tail = bytearray()
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    def write(self, data: bytes, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        try:
            while view:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError
                self._channel.settimeout(left)
                view = view[self._channel.send(view[:_WRITE].tobytes()) :]
        except TimeoutError:
            raise DeviceLost(f"the agent took no input for {timeout:.0f} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._cut(error) from error

    def readline(self, limit: int, timeout: float) -> bytes:
        try:
            return self._lines.readline(limit, timeout)
        except TimeoutError:
            raise DeviceLost(f"the agent said nothing for {timeout:.0f} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._cut(error) from error

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
        chunk = self._channel.recv(1 << 16)
        if not chunk and self._guard.breach:
            raise ProtocolError(self._guard.breach)
        return chunk

    def _cut(self, error: Exception) -> DeviceLost:
        if self._guard.breach:
            return ProtocolError(self._guard.breach)
        return DeviceLost(f"the link was cut ({_said(error) or 'end of stream'})")

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
        self._sftp: tuple[paramiko.SFTPClient, SftpPipe] | None = None

    def start(self, argv: list[str]) -> SshChannel:
        try:
            channel = self._open(lambda channel: channel.exec_command(command_line(argv)))
        except (OSError, EOFError, paramiko.SSHException) as error:
            kind = ProtocolError if self.connection.guard.breach else DeviceLost
            why = self.connection.guard.breach or _said(error) or "the link was cut"
            raise kind(f"{self.name}: cannot start a process there: {why}") from error
        return SshChannel(channel, self._limits, self.connection.guard)

    def put(self, data: bytes, remote_path: str) -> None:
        part = f"{remote_path}.{secrets.token_hex(4)}.part"
        try:
            sftp, pipe = self._open_sftp()
            pipe.begin(self._limits.put_seconds + len(data) / self._limits.put_rate, len(data) // _WRITE)
            try:
                _write(sftp, data, part)
                sftp.posix_rename(part, remote_path)
            except BaseException:
                with contextlib.suppress(Exception):
                    pipe.begin(self._limits.close_seconds, 1)
                    sftp.remove(part)
                raise
        except Exception as error:  # a hostile server can make every layer of the SFTP client stumble
            raise self._not_put(error, remote_path) from error

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        try:
            sftp, pipe = self._open_sftp()
            pipe.begin(self._limits.put_seconds + len(data) / self._limits.put_rate, len(data) // _WRITE)
            _write(sftp, data, remote_path, offset)
        except Exception as error:  # as in put
            raise self._not_put(error, remote_path) from error

    def close(self) -> None:
        self.connection.close()

    def _open(self, ask: Callable[[paramiko.Channel], None]) -> paramiko.Channel:
        """A channel on which the server has agreed to what `ask` asks; paramiko would wait for ever for its answer."""
        channel = self.connection.transport.open_session(timeout=self._limits.connect_seconds)
        watch = threading.Timer(self._limits.connect_seconds, _give_up, [channel])
        watch.daemon = True
        watch.start()
        try:
            ask(cap(channel, self.connection.guard))
        finally:
            watch.cancel()
        return channel

    def _open_sftp(self) -> tuple[paramiko.SFTPClient, SftpPipe]:
        if self._sftp is None:
            pipe = SftpPipe(self._open(lambda channel: channel.invoke_subsystem("sftp")), self._limits.put_seconds)
            self._sftp = paramiko.SFTPClient(pipe), pipe  # type: ignore[arg-type]
        return self._sftp

    def _not_put(self, error: Exception, path: str) -> DeviceLost:
        """Why a file is not there, for the user; after it the SFTP channel is not used again."""
        if not isinstance(error, FileNotFoundError) and self._sftp is not None:
            with contextlib.suppress(Exception):
                self._sftp[0].close()
            self._sftp = None
        breach = self.connection.guard.breach or (error.args[1] if isinstance(error, Breach) else "")
        if breach:
            return ProtocolError(f"{self.name} cannot be given {path}: {breach}")
        if isinstance(error, TimeoutError):
            return DeviceLost(f"{self.name}: {path} took too long, the device stopped answering or the link is slow")
        if isinstance(error, FileNotFoundError):
            return DeviceLost(f"{self.name} has no folder {posixpath.dirname(path)}")
        return DeviceLost(
            f"{self.name}: cannot write {path}: {_said(error) or type(error).__name__}",
            hint="look whether the device's disk is full, and whether its sshd has `Subsystem sftp`",
        )


def _give_up(channel: paramiko.Channel) -> None:
    """Close a channel that nobody waits for any more; its connection may have ended before it."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def _said(error: Exception) -> str:
    """An error of paramiko's, which may hold the server's own words."""
    return wire.clean(str(error), 300)


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


def _write(sftp: paramiko.SFTPClient, data: bytes, path: str, offset: int | None = None) -> None:
    """Write a new file, or with `offset` into one that is there. Each piece says where it goes, so that what a dead
    connection still has to write of the same file does no harm."""
    with sftp.open(path, "wb" if offset is None else "r+b") as stream:
        stream.seek(offset or 0)
        view = memoryview(data)
        for number, start in enumerate(range(0, len(data), _WRITE), 1):
            stream.set_pipelined(number % _AHEAD != 0)
            stream.write(bytes(view[start : start + _WRITE]))
    size, want = sftp.stat(path).st_size, (offset or 0) + len(data)
    if size != want:
        raise OSError(f"{size} of {want} bytes arrived")
