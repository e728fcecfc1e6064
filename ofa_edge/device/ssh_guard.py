"""What stands between paramiko and a hostile SSH server: caps and deadlines that paramiko itself does not have.

In: the socket of a connection, its channels. Out: the same, guarded. Rules kept: before we are authenticated a server
may send little; it may claim no packet that no server needs, and send on a channel no more than its window (paramiko
keeps whatever comes); an SFTP server answers a transfer within its deadline and in few bytes. A breach is remembered
in words and ends the connection.
"""

from __future__ import annotations

import errno
import time
from typing import Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe

_GREETING_BYTES = 256 << 10
"""Banner, key exchange and authentication together; OpenSSH needs about 10 KB of it."""
_PACKET_BYTES = 1 << 20
"""One packet; OpenSSH's own limit is 256 KiB, paramiko's offers ask for 32."""
_PIPE_BYTES = 4 << 20
"""Unread bytes of a channel: twice the window paramiko offers."""
_REPLY_BYTES = 256
"""An SFTP server's answer to one written piece, generously (a status has some 30)."""
_REPLIES_BYTES = 1 << 20


class Breach(ConnectionAbortedError):
    """The server broke a limit. `args` are a number and a text, as paramiko's thread expects of a socket's error."""

    def __init__(self, text: str):
        super().__init__(errno.ECONNABORTED, text)


class GuardedSocket:
    """A socket, or what paramiko takes for one, that ends where the server breaks a limit.

    Attributes:
        breach: in words, "" as long as there was none.
    """

    def __init__(self, connection: Any):
        self._connection = connection
        self._greeting: int | None = _GREETING_BYTES
        self.breach = ""

    def authenticated(self) -> None:
        """From here on the amount is the channels' business."""
        self._greeting = None

    def recv(self, size: int) -> bytes:
        if self.breach or size > _PACKET_BYTES:
            self.breaks(f"its server claims a packet of {size} bytes")
        data: bytes = self._connection.recv(size)
        if self._greeting is not None:
            self._greeting -= len(data)
            if self._greeting < 0:
                self.breaks(f"its server sent more than {_GREETING_BYTES} bytes before it let us in")
        return data

    def breaks(self, text: str) -> None:
        """Remember the first breach and raise it."""
        self.breach = self.breach or text
        raise Breach(self.breach)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _CappedPipe(BufferedPipe):  # type: ignore[type-arg]
    """A channel's unread bytes; more than a server may have sent are a breach."""

    def __init__(self, guard: GuardedSocket):
        super().__init__()
        self._guard = guard

    def feed(self, data: Any) -> None:
        if len(self) + len(data) > _PIPE_BYTES:
            self._guard.breaks("its server sends more than its window allows")
        super().feed(data)


def cap(channel: paramiko.Channel, guard: GuardedSocket) -> paramiko.Channel:
    """Bound what a channel keeps; called before anything was asked for on it."""
    channel.in_buffer = _CappedPipe(guard)
    channel.in_stderr_buffer = _CappedPipe(guard)
    return channel


class SftpPipe:
    """The channel of an SFTP client, with a deadline and a cap for each transfer (`begin`)."""

    def __init__(self, channel: paramiko.Channel, silence: float):
        self._channel = channel
        self._silence = silence
        self.begin(silence, 0)

    def begin(self, seconds: float, requests: int) -> None:
        """The next transfer takes at most so long and asks so often."""
        self._deadline = time.monotonic() + seconds
        self._left = _REPLIES_BYTES + _REPLY_BYTES * requests

    def recv(self, size: int) -> bytes:
        self._wait()
        data = self._channel.recv(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise Breach("its SFTP server answers without end")
        return data

    def send(self, data: bytes) -> int:
        self._wait()
        return self._channel.send(data)

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._channel.settimeout(min(self._silence, left))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)
