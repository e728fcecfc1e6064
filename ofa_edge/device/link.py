"""The seam to a device: start one process there, put one file there, or go on with one that was cut.

In: an argument list, bytes. Out: a Channel to the process. A phone fits too: there `start` runs the
supervisor on the host, `put` is an adb push, and so is `extend`, beside the file, which the shell then joins. Rules: no
shell text is built from anything but the argument list; a file that was put is either complete under its name or not
there; one that is extended is for the agent to judge; every wait has a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from device_agents import wire
from ofa_edge.errors import ProtocolError


class Channel(Protocol):
    """A running process on the device: lines of bytes in and out."""

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of `data`.

        Raises:
            DeviceLost: the process or the link is gone, or took nothing for `timeout` seconds.
        """

    def readline(self, limit: int, timeout: float) -> bytes:
        """One line with its newline; b"" when the process has ended its output.

        Raises:
            DeviceLost: nothing complete came within `timeout` seconds, or the link is gone.
            ProtocolError: the line is longer than `limit` bytes.
        """

    def stderr_tail(self) -> str:
        """The last few KB of the process' stderr, made printable."""

    def close(self, timeout: float) -> int | None:
        """Close its stdin, wait at most `timeout` seconds, then end it; never raises.

        Returns:
            The exit status, None when there is none to be had.
        """


class Link(Protocol):
    """A way to reach one device.

    Attributes:
        name: how messages call the device.
        python: the interpreter to start there.
        root: our folder there as the user wrote it (may start with ~), or None for the device's default.
    """

    name: str
    python: str
    root: str | None

    def start(self, argv: list[str]) -> Channel:
        """Start a process on the device.

        Raises:
            DeviceLost: the link is gone.
            UsageError: (local) there is no such program.
        """

    def put(self, data: bytes, remote_path: str) -> None:
        """Write a file, atomically; the folder exists, `remote_path` is absolute.

        Raises:
            DeviceLost: the link was cut, or the device is full; nothing lies under `remote_path` then.
        """

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        """Write `data` at `offset` of a file that is there, and is not longer; what comes before a cut stays.

        It can be done again from any offset up to what is there: the same bytes go to the same places.

        Raises:
            DeviceLost: the link was cut, or the device is full; part of `data` may have arrived.
        """

    def close(self) -> None:
        """Give the connection back; never raises."""


class LineBuffer:
    """Cuts lines out of a byte stream with a cap and a deadline.

    `receive(timeout)` returns what has come, b"" at the end of the stream, and raises TimeoutError.
    """

    def __init__(self, receive: Callable[[float], bytes]):
        self._receive = receive
        self._data = bytearray()
        self._ended = False

    def readline(self, limit: int, timeout: float) -> bytes:
        """As Channel.readline, but a wait that is over raises TimeoutError.

        A stream that ends inside a line gives that piece, without a newline.
        """
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            end = self._data.find(b"\n", seen)
            if 0 <= end < limit or (self._ended and end < 0 and len(self._data) < limit):
                size = end + 1 if end >= 0 else len(self._data)
                line = bytes(self._data[:size])
                del self._data[:size]
                return line
            if len(self._data) >= limit:
                raise ProtocolError(f"the device sent a line of more than {limit} bytes")
            seen = len(self._data)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            chunk = self._receive(left)
            self._data += chunk
            self._ended = not chunk


def printable(data: bytes | bytearray) -> str:
    """Device output as text a terminal may show."""
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()


def one_line(text: str, limit: int = 400) -> str:
    """The end of device output as part of a sentence: whole lines would let a device write lines of its own among
    ours."""
    return wire.clean(" | ".join(line.strip() for line in text[-limit:].splitlines() if line.strip()))
