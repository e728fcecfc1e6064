"""What a person has run on the device around a switch: `--post-switch` and `--health`.

In: a command line each, split here, never shell text there. Out: Hooks, and what running one gave. Rules kept: the
post-switch command makes the application open `current` again, the health command says whether it works with it; both
have a deadline that the device keeps; what they print is data of the device and is cleaned before it is shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from device_agents import wire
from ofa_edge.errors import ProtocolError, UsageError
from ofa_edge.limits import LIMITS

TIMEOUT_SECONDS = 60.0
MAX_WORDS, MAX_BYTES = 64, 4096  # of a command; the agent counts the same words
_SHOWN = 300  # characters of a hook's output that a reason quotes


class Kind(StrEnum):
    POST_SWITCH = "post-switch"
    HEALTH = "health"


class HookFailed(Exception):
    """A hook did not end well; `started` is false where the device could not even start it."""

    def __init__(self, reason: str, *, started: bool):
        super().__init__(reason)
        self.started = started


class Device(Protocol):
    """What a hook needs of a session with a device's agent."""

    def call(self, op: str, args: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """Argument lists; empty for none."""

    post_switch: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    timeout_s: float = TIMEOUT_SECONDS

    @classmethod
    def parse(cls, post_switch: str | None, health: str | None, timeout_s: float = TIMEOUT_SECONDS) -> Self:
        """From command lines as a shell would split them.

        Raises:
            UsageError: one is empty, too long or has an open quote.
        """
        return cls(_words("--post-switch", post_switch), _words("--health", health), timeout_s)

    def argv(self, kind: Kind) -> tuple[str, ...]:
        return self.post_switch if kind is Kind.POST_SWITCH else self.health

    def run(self, device: Device, app: str, release: str, kind: Kind) -> None:
        """Run a hook on the device, with `release` current there.

        Raises:
            HookFailed: it did not start, ended with another status than 0, or outlived its time.
            OfaEdgeError: the device refused, or is gone.
        """
        args = {
            "app": app,
            "release": release,
            "kind": str(kind),
            "argv": list(self.argv(kind)),
            "timeout_s": self.timeout_s,
        }
        try:
            reply = device.call("hook", args, timeout=self.timeout_s + LIMITS.reply_seconds)
            f = wire.Fields("hook", reply)
            status = f.whole("exit", -255, 255) if f.maybe("exit") else None
            seconds, output = f.number("seconds"), wire.clean(str(f.take("output")), 4096).strip()
        except wire.WireError as error:
            raise ProtocolError(f"the device's answer to 'hook' is none: {error}") from error
        if status == 0:
            return
        # The device says in the output why there is no status: its time was over, or it cannot be started.
        ended = "gave no status" if status is None else f"ended with status {status}"
        said = f": {output[-_SHOWN:]}" if output else ""
        raise HookFailed(f"its {kind} command {ended}{said}", started=status is not None or seconds > 0)


def _words(option: str, line: str | None) -> tuple[str, ...]:
    if line is None:
        return ()
    hint = f"give one command with its arguments, such as {option} 'systemctl --user restart camera'"
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise UsageError(f"{option} {line[:80]!r} cannot be split: {error}", hint=hint) from error
    if not words or not words[0]:
        raise UsageError(f"{option} names no command", hint=hint)
    if len(words) > MAX_WORDS or len(line.encode()) > MAX_BYTES:
        raise UsageError(f"{option} is longer than {MAX_WORDS} words or {MAX_BYTES} bytes", hint=hint)
    return words
