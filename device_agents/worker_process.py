"""The supervisor's side of a worker: start it, ask it, notice how it died.

In: an argument list and requests. Out: replies, or WorkerLost with the reason in words. Rules kept: every wait
has a deadline; what the worker says on stderr is drained all the time and only its tail kept, so that five
megabytes of it stop nothing; a worker that broke a rule is killed, never asked again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from device_agents import wire

_TAIL = 2000


class WorkerLost(Exception):
    """The worker crashed, was killed, passed its deadline or answered nonsense; the text says which."""


class WorkerProcess:
    """One worker process. Started in the thread that lives as long as the supervisor: the worker's death
    signal hangs on that thread."""

    def __init__(self, argv: Sequence[str]):
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._id = 0
        self._pending = b""
        self._tail = bytearray()
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, op: str, args: object, seconds: float) -> wire.Result | wire.Refusal:
        """One request, one reply.

        Raises:
            WorkerLost: no reply; the worker is dead afterwards.
        """
        self._id += 1
        try:
            self._write(wire.request_line(self._id, op, args))  # type: ignore[arg-type]
            reply = wire.parse_reply(self._readline(time.monotonic() + seconds, seconds))
        except wire.WireError as error:
            self.kill()
            raise WorkerLost(f"the worker's reply is none: {error}") from error
        if not isinstance(reply, (wire.Result, wire.Refusal)) or reply.id != self._id:
            self.kill()
            raise WorkerLost("the worker answered another request")
        return reply

    def kill(self) -> None:
        """End it now and collect it; safe to call twice and from another thread."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            while line:
                line = line[stdin.write(line) or 0 :]
        except OSError:
            raise WorkerLost(self._obituary()) from None

    def _readline(self, deadline: float, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        poll = select.poll()
        poll.register(stdout.fileno(), select.POLLIN)
        while b"\n" not in self._pending:
            if len(self._pending) > wire.MAX_LINE:
                raise wire.WireError("an endless line")
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.kill()
                raise WorkerLost(f"no result within {seconds:.0f} s")
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise WorkerLost(self._obituary())
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _obituary(self) -> str:
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.kill()
            return "the worker closed its output"
        self._drain.join(1.0)
        said = wire.clean(self._tail.decode("utf-8", "replace").strip(), 500)
        if status == -signal.SIGKILL:
            cause = "the worker was killed (SIGKILL: out of memory?)"
        elif status < 0:
            cause = f"the worker crashed ({_signal_name(-status)})"
        else:
            cause = f"the worker ended with status {status}"
        return f"{cause}: {said}" if said else cause

    def _drain_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        while True:
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                return
            self._tail += chunk
            del self._tail[:-_TAIL]

    def close(self) -> None:
        """Kill it and give its pipes back."""
        self.kill()
        self._drain.join(1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
