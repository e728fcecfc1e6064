"""What a device says of an app: the reply to the agent's op `state`, checked.

In: the reply, and what else is known of the device. Out: a DeviceState, which plans are made from (plan.py). Rule kept:
what a device sends is typed and capped here; a name in it is a plain name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from device_agents import wire
from ofa_edge.deploy.manifest import MODE_NAME, NAME
from ofa_edge.errors import ProtocolError

_MAX_RELEASES = 10_000


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock; `age_s` is None for a process that has ended."""

    name: str
    age_s: float | None
    alive: bool
    mine: bool


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A deployment that was begun and not ended; `origin` was current before it, `step` is the last recorded, `kind`
    tells a rollback."""

    release: str
    origin: str | None
    kind: str
    step: str

    @property
    def is_rollback(self) -> bool:
        return self.kind == "rollback"


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What plans are made from.

    Attributes:
        current: the release the device runs; `problem` is what is wrong with its files, '' for nothing.
        previous: the one before it, by the journal.
        mode: the current release's mode that the application uses; None where none is current or it is damaged.
        counter: the current release's.
        signature: sha256 of the signature of the release that is current once settled, None where it has none.
        needs_hands: why nothing can be decided, '' where all is well.
        committed: the journal's record of the last commit, with the figures of its trial in `facts`.
        trials: trials of each release since its last commit.
        missing: those blobs of the bundle that the device lacks.
        facts: what the device is.
    """

    current: str | None
    problem: str
    previous: str | None
    mode: str | None
    counter: int
    signature: str | None
    needs_hands: str
    releases: tuple[str, ...]
    unfinished: Unfinished | None
    committed: Mapping[str, Any]
    trials: Mapping[str, int]
    lock: Holder | None
    free_bytes: int
    facts: wire.Facts
    missing: frozenset[str] = frozenset()

    @property
    def settled(self) -> DeviceState:
        """The state once the op `recover` has put back what was half done, as far as it is known now."""
        if self.unfinished is None or self.unfinished.origin == self.current:
            return self
        return replace(self, current=self.unfinished.origin, problem="", mode=None, counter=0)


def parse_state(reply: Mapping[str, Any], facts: wire.Facts, missing: frozenset[str] = frozenset()) -> DeviceState:
    """Read a reply to the op `state`.

    Raises:
        ProtocolError: it is none.
    """
    try:
        f = wire.Fields("state", reply)
        names = f.items("releases", _MAX_RELEASES)
        trials = f.take("trials")
        counts = wire.Fields("trials", trials)
        return DeviceState(
            current=f.text("current", NAME) if f.maybe("current") else None,
            problem=f.text("problem"),
            previous=f.text("previous", NAME) if f.maybe("previous") else None,
            mode=f.text("mode", MODE_NAME) if f.maybe("mode") else None,
            counter=f.whole("counter"),
            signature=f.sha256("signature") if f.maybe("signature") else None,
            needs_hands=f.text("needs_hands"),
            releases=tuple(wire.Fields("release", {"name": name}).text("name", NAME) for name in names),
            unfinished=_unfinished(f.take("unfinished")) if f.maybe("unfinished") else None,
            committed=_record(f.take("committed")) if f.maybe("committed") else {},
            trials={name: counts.whole(name, 0, 1 << 31) for name in trials},
            lock=_holder(f.take("lock")) if f.maybe("lock") else None,
            free_bytes=f.whole("free_bytes"),
            facts=facts,
            missing=missing,
        )
    except wire.WireError as error:
        raise ProtocolError(f"the device's answer to 'state' is none: {error}") from error


def _unfinished(value: Any) -> Unfinished:
    f = wire.Fields("unfinished", value)
    origin = f.text("from", NAME) if f.maybe("from") else None
    return Unfinished(f.text("release", NAME), origin, f.text("kind", limit=40), f.text("step", limit=40))


def _holder(value: Any) -> Holder:
    f = wire.Fields("lock", value)
    age = f.number("age_s") if f.maybe("age_s") else None
    return Holder(f.text("holder", limit=200), age, f.flag("alive"), f.flag("mine"))


def _record(value: Any) -> Mapping[str, Any]:
    wire.Fields("record", value)
    return dict(value)
