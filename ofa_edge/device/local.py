"""The `local` link: this machine as a device, the agent a separate process.

In: an argument list or bytes. Out: pipes to a child. The child gets its own session, so that Ctrl-C on the
terminal stops the host only, which then closes the child's stdin: the one way an agent is asked to stop.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ofa_edge.device.link import LineBuffer, printable
from ofa_edge.errors import DeviceLost, UsageError
from ofa_edge.limits import LIMITS
from ofa_edge.settings import device_python


class LocalChannel:
    """A child process. Implements Channel."""

    def __init__(self, process: subprocess.Popen[bytes]):
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._lines = LineBuffer(self._receive)
        self._tail = bytearray()
        os.set_blocking(process.stdin.fileno(), False)
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    def write(self, data: bytes, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        while view:
            if not _ready(self._stdin.fileno(), select.POLLOUT, deadline - time.monotonic()):
                raise DeviceLost(f"the agent took no input for {timeout:.0f} s")
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise DeviceLost(f"the agent has stopped ({error.strerror})") from error

    def readline(self, limit: int, timeout: float) -> bytes:
        try:
            return self._lines.readline(limit, timeout)
        except TimeoutError:
            raise DeviceLost(f"the agent said nothing for {timeout:.0f} s") from None

    def stderr_tail(self) -> str:
        return printable(self._tail)

    def close(self, timeout: float) -> int | None:
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            status: int | None = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = None
        self._stdout.close()
        self._drain.join(1.0)
        return status

    def _receive(self, timeout: float) -> bytes:
        if not _ready(self._stdout.fileno(), select.POLLIN, timeout):
            raise TimeoutError
        return os.read(self._stdout.fileno(), 1 << 16)

    def _drain_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._tail += chunk
                del self._tail[: -LIMITS.stderr_bytes]


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


class LocalLink:
    """Implements Link."""

    def __init__(self, *, python: str | None = None, root: str | None = None):
        self.name = "local"
        self.python = python or device_python() or sys.executable
        self.root = root

    def start(self, argv: list[str]) -> LocalChannel:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"cannot start {argv[0]}: {error.strerror}", hint="name another interpreter with --python"
            ) from error
        return LocalChannel(process)

    def put(self, data: bytes, remote_path: str) -> None:
        final = Path(remote_path)
        try:
            with tempfile.NamedTemporaryFile(dir=final.parent, suffix=".part", delete=False) as part:
                try:
                    part.write(data)
                    part.flush()
                    os.fsync(part.fileno())
                    os.replace(part.name, final)
                except BaseException:
                    os.unlink(part.name)
                    raise
        except OSError as error:
            raise DeviceLost(
                f"cannot write {remote_path}: {error.strerror}",
                hint="make room there, or name another folder with --root",
            ) from error

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        try:
            descriptor = os.open(remote_path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "wb") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise DeviceLost(f"cannot write {remote_path}: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is held."""
