"""Blobs as they travel: in few large packs, each called by the hash of its own bytes, and sent on where they were cut.

In: blobs by their sha256; the agent's answers; a Link. Out: packs, unpacked on the device. Rules kept: the same blobs
make the same packs, in whatever order they come and whatever the time, so that a transfer that was cut is found again
by its name; what is there is continued only where it is, by its hash, a beginning of the pack; the device hashes the
whole before it unpacks any of it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from device_agents import wire
from ofa_edge.device.link import Link
from ofa_edge.errors import BadFile, DeviceLost, NoRoom, OfaEdgeError

T = TypeVar("T")

# Weights hardly compress, random ones that repeat themselves do at any level: the fastest.
_GZIP_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Pack:
    """A transfer.

    Attributes:
        data: a row of entries, gzipped: a blob's sha256, a space, its size in decimal, a newline, its bytes.
        sha256: of `data`.
        blobs: the sha256 of those in it.
        unpacked_bytes: of the blobs.
    """

    data: bytes = field(repr=False)
    sha256: str
    blobs: tuple[str, ...]
    unpacked_bytes: int

    @property
    def file(self) -> str:
        """Where it travels to, below our folder on the device."""
        return f"incoming/{self.sha256}.pack.gz"


def packs(blobs: Mapping[str, bytes], limit: int) -> Iterator[Pack]:
    """Packs of at most `limit` bytes of blobs each, or of the one blob that is larger."""
    group: dict[str, bytes] = {}
    for sha256, data in sorted(blobs.items()):
        if group and sum(map(len, group.values())) + len(data) > limit:
            yield _packed(group)
            group = {}
        group[sha256] = data
    if group:
        yield _packed(group)


def _packed(blobs: Mapping[str, bytes]) -> Pack:
    rows = b"".join(b"%s %d\n%s" % (sha256.encode("ascii"), len(data), data) for sha256, data in blobs.items())
    data = gzip.compress(rows, _GZIP_LEVEL, mtime=0)
    return Pack(data, hashlib.sha256(data).hexdigest(), tuple(blobs), len(rows))


class Ask(Protocol):
    """One request to the agent; the reply is read strictly, what is wrong with it ends the session."""

    def __call__(self, op: str, args: Mapping[str, Any], take: Callable[[wire.Fields], T]) -> T: ...


class Courier:
    """Brings packs to one device.

    Args:
        root: our folder there.
        ask: for the session's requests.
        alive: entered while a file travels and the agent hears nothing else.
    """

    def __init__(self, link: Link, root: str, ask: Ask, alive: Callable[[], AbstractContextManager[None]]):
        self._link = link
        self._root = root
        self._ask = ask
        self._alive = alive

    def bring(self, pack: Pack) -> int:
        """Send what the device lacks of a pack, and have it unpacked; bytes sent.

        Another host that sends the same pack takes it away when it has unpacked it, and an agent whose clock jumped may
        sweep it up as abandoned: what has its blobs then is done, and what has not is sent once more.

        Raises:
            NoRoom: too little of it there, before the transfer or in it.
            BadFile: it arrived damaged, twice.
            DeviceLost: the link was cut; what came stays there.
        """
        try:
            return self._send(pack)
        except (BadFile, DeviceLost) as error:
            if self._has(pack):
                self._forget(pack)
                return 0
            if isinstance(error, DeviceLost):
                raise
            return self._send(pack)

    def _has(self, pack: Pack) -> bool:
        with contextlib.suppress(OfaEdgeError):
            args = {"sha256s": list(pack.blobs)}
            return not self._ask("missing", args, lambda reply: reply.items("missing", len(pack.blobs)))
        return False

    def _send(self, pack: Pack) -> int:
        there, free = self._arrived(pack)
        self._require_room(pack, there, free)
        if rest := pack.data[there:]:
            try:
                with self._alive():
                    self._link.extend(rest, f"{self._root}/{pack.file}", there)
            except DeviceLost:
                self._give_room_back(pack)
                raise

        def all_of_them(reply: wire.Fields) -> None:
            if reply.whole("count") != len(pack.blobs):
                raise wire.WireError("it unpacked another number of blobs than were sent")

        self._ask("unpack", {"sha256": pack.sha256}, all_of_them)
        return len(rest)

    def _arrived(self, pack: Pack) -> tuple[int, int]:
        """How many bytes of a pack are there, and how many more there is room for.

        What is there and no beginning of the pack (a power cut may leave anything) is removed.
        """

        def look(reply: wire.Fields) -> tuple[int, str, int]:
            return reply.whole("bytes"), reply.sha256("sha256"), reply.whole("free_bytes")

        there, sha256, free = self._ask("arrived", {"sha256": pack.sha256}, look)
        if there <= len(pack.data) and hashlib.sha256(pack.data[:there]).hexdigest() == sha256:
            return there, free
        self._ask("forget", {"sha256": pack.sha256}, lambda reply: None)
        return 0, self._ask("arrived", {"sha256": pack.sha256}, look)[2]

    def _require_room(self, pack: Pack, there: int, free: int) -> None:
        need = len(pack.data) - there + pack.unpacked_bytes  # the transfer and what comes out of it, for a moment both
        if free < need:
            raise NoRoom(
                f"{self._link.name} has {free >> 20} MiB free in {self._root}, this transfer needs {need >> 20} MiB",
                hint="make room there, or name another folder with --root",
            )

    def _forget(self, pack: Pack) -> None:
        with contextlib.suppress(OfaEdgeError):
            self._ask("forget", {"sha256": pack.sha256}, lambda reply: None)

    def _give_room_back(self, pack: Pack) -> None:
        """After a transfer that did not end well: where the device still answers and is full, what came of it goes.

        Raises:
            NoRoom: that was it.
        """
        try:
            self._require_room(pack, *self._arrived(pack))
        except NoRoom:
            self._forget(pack)
            raise
        except OfaEdgeError:
            return
