"""Commands of the user that belong to a deployment: restart the application after the switch, ask it how it is.

In: an argument list from the host, a time limit. Out: its exit status and the end of what it said. Rules kept: no shell
sees it; it runs in a process group of its own, which is killed as a whole when its time is over or the agent has to
end, but for what runs as another user, by sudo, which is not waited for; what it says is bounded and cleaned; what it
leaves running after it ended well is the user's business.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from device_agents.releases import App
from device_agents.strict_json import WireError, clean

MAX_ARGUMENTS = 64
MAX_SECONDS = 3600.0
OUTPUT = 2000
"""Characters that are kept of what a command says: the last ones."""
_MAX_ARGUMENT = 4096
_KILL_SECONDS = 5.0  # for a killed command to be gone
_DRAIN_SECONDS = 0.5  # for the rest of the output, where something keeps the pipe open

_running: set[int] = set()


def arguments(values: Sequence[Any]) -> list[str]:
    """An argument list off the wire. Raises WireError."""
    if not values or not all(isinstance(v, str) and len(v) <= _MAX_ARGUMENT and "\0" not in v for v in values):
        raise WireError("argv must be one or more texts")
    if not values[0]:
        raise WireError("argv must begin with a program")
    return list(values)


def hook(app: App, release: str, hook: str, argv: list[str], timeout_s: float) -> dict[str, Any]:
    """Run a command: {"exit", "seconds", "output"}; `exit` is null where it was killed at its limit or did not start,
    and negative where a signal ended it."""
    environment = {
        **os.environ,
        "OFA_EDGE_APP": app.name,
        "OFA_EDGE_RELEASE": release,
        "OFA_EDGE_KIND": hook,
        "OFA_EDGE_CURRENT": str(app.link),
    }
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            argv,
            cwd=app.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return {"exit": None, "seconds": 0.0, "output": clean(f"it cannot be started: {error}", OUTPUT)}
    status: int | None
    note = ""
    _running.add(process.pid)
    assert process.stdout is not None
    said = _Tail(process.stdout)
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        status, note = None, f"stopped after {timeout_s:g} s"
        _kill(process.pid)
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # what `sudo` starts is not ours to kill
            note += ", but it belongs to another user and still runs"
    finally:
        _running.discard(process.pid)
    seconds = round(time.monotonic() - began, 3)
    return {"exit": status, "seconds": seconds, "output": said.text(note)}


def stop() -> None:
    """Kill what runs: the agent has to end."""
    for group in list(_running):
        _kill(group)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or another user's
        os.killpg(group, signal.SIGKILL)


class _Tail:
    """Reads a pipe to its end and keeps the last of it."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._bytes = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self, note: str) -> str:
        """What was said, on one line, `note` at its end."""
        self._thread.join(_DRAIN_SECONDS)
        lines = bytes(self._bytes).decode("utf-8", "replace").splitlines()
        told = [line.strip() for line in [*lines, note] if line.strip()]
        return clean(" | ".join(told)[-OUTPUT:], OUTPUT)

    def _read(self) -> None:
        with self._stream as stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._bytes += chunk
                del self._bytes[: -4 * OUTPUT]
