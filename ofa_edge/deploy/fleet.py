"""Many devices: who goes first, how many at once, and what became of each.

In: names of devices and an action on one of them. Out: a Result for each, in their order. Rules kept:

- The first ones (the canaries) must all succeed before the others begin; else the others are skipped.
- Never more than so many at once, and never two names of one machine: they are told apart by their boot id, and a
  measurement there would be disturbed by the other deployment.
- Ctrl-C is heard by all: each ends at its next step and goes back, what has not begun is skipped; a second one leaves
  at once, and the devices are as after a cut link: old or new, for the next deployment to put right.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from device_agents import wire
from ofa_edge.errors import Interrupted, OfaEdgeError

PARALLEL = 4
_UNTOLD = ("", "unknown")
_LOOK_SECONDS = 0.2
_NOT_BEGUN = "interrupted before it began"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one device: the action's value, or its error; neither where it was skipped, with the reason.
    `internal`: the error is a mistake of ours, and its cause."""

    host: str
    value: Mapping[str, Any] | None = None
    error: OfaEdgeError | None = None
    skipped: str = ""
    internal: bool = False

    @property
    def failed(self) -> bool:
        return self.value is None

    def as_json(self) -> dict[str, Any]:
        """The value's keys, or those of the error's details; `host` first, `error` or a `reason` where it failed. The
        details are not said twice."""
        if self.value is not None:
            return {"host": self.host, **self.value}
        if self.error is None:
            return {"host": self.host, "state": "skipped", "reason": self.skipped}
        return {"host": self.host, **self.error.details, "error": {**self.error.as_json(), "details": {}}}


@dataclass(frozen=True, slots=True)
class Order:
    """How many go first, and how many at once. `canary` None: one of more than two devices, else none."""

    canary: int | None = None
    parallel: int = PARALLEL

    def waves(self, hosts: Sequence[str]) -> list[list[str]]:
        """Who goes together; a wave begins after the one before has succeeded."""
        first = (1 if len(hosts) > 2 else 0) if self.canary is None else self.canary
        return [wave for wave in (list(hosts[:first]), list(hosts[first:])) if wave]


class Stop:
    """Whether Ctrl-C was pressed; actions ask between their steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Interrupted once it was."""
        if self.asked:
            raise Interrupted("interrupted", hint="nothing was changed; run the same command again")


@dataclass
class Machines:
    """One action at a time on a machine, by whatever name it was reached."""

    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _own: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def alone(self, facts: wire.Facts, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Wait until nobody else works on the machine of these facts; `waits` is called where that is so."""
        if facts.boot_id in _UNTOLD:
            yield
            return
        with self._own:
            lock = self._locks.setdefault(facts.boot_id, threading.Lock())
        if not lock.acquire(blocking=False):
            waits()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


Action = Callable[[str, Stop], Mapping[str, Any]]


def carry_out(
    hosts: Sequence[str],
    action: Action,
    *,
    order: Order,
    stopping: Callable[[], object] = lambda: None,
) -> tuple[list[Result], bool]:
    """Do an action on each device.

    Args:
        action: called as action(host, stop) in a thread of its own; asks `stop` between its steps.
        stopping: called at the first Ctrl-C.

    Returns:
        Results in the order of `hosts`; whether it was interrupted.
    """
    stop, found = Stop(), dict[str, Result]()
    failed: list[str] = []
    for wave in order.waves(hosts):
        if failed or stop.asked:
            break
        _wave(wave, action, order.parallel, stop, found, stopping)
        failed = [host for host in wave if host not in found or found[host].failed]
    why = f"{', '.join(failed)} failed, and went first" if failed and not stop.asked else _NOT_BEGUN
    return [found.get(host) or Result(host, skipped=why) for host in hosts], stop.asked


def _wave(
    hosts: Sequence[str],
    action: Action,
    parallel: int,
    stop: Stop,
    found: dict[str, Result],
    stopping: Callable[[], object],
) -> None:
    """Fills `found`. The threads are daemons: a second Ctrl-C waits for none of them."""
    waiting, begun = deque(hosts), set[str]()

    def work(ended: threading.Event) -> None:
        try:
            while waiting and not stop.asked:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    begun.add(host := waiting.popleft())
                    found[host] = _done(host, action, stop)
        finally:
            ended.set()

    ends = [threading.Event() for _ in range(min(parallel, len(hosts)))]
    threads = [threading.Thread(target=work, args=(ended,), daemon=True) for ended in ends]
    try:
        try:
            for thread in threads:
                thread.start()
            _wait(threads, ends)
        except KeyboardInterrupt:
            stop.set()
            stopping()
            _wait(threads, ends)
    except KeyboardInterrupt:
        pass
    for host in begun - set(found):
        error = Interrupted(
            f"{host}: left in the middle; it runs the old release or the new one",
            hint="run the same command again: it first puts right what was left half done",
            details={"state": None},
        )
        found[host] = Result(host, error=error)


def _wait(threads: Sequence[threading.Thread], ends: Sequence[threading.Event]) -> None:
    """Until all that were started have ended. Not by joining them: a join that Ctrl-C interrupts takes its thread for
    ended (Python 3.11). Looked at again and again: a signal that another thread got is heard only between two waits."""
    for thread, ended in zip(threads, ends, strict=True):
        while not ended.wait(_LOOK_SECONDS) and thread.ident is not None:
            pass


def _done(host: str, action: Action, stop: Stop) -> Result:
    try:
        return Result(host, action(host, stop))
    except OfaEdgeError as error:
        if isinstance(error, Interrupted) and not error.details:  # before its first step
            return Result(host, skipped=_NOT_BEGUN)
        return Result(host, error=error)
    except Exception as error:  # a mistake of ours on one device must not hide what became of the others
        said = f"{host}: internal error: {type(error).__name__}: {error}"
        told = OfaEdgeError(said[:500], hint="this is a fault of ofa-edge; try this device alone")
        told.__cause__ = error
        return Result(host, error=told, internal=True)
