"""Transfers that go on where they were cut: what is there is not sent again, what is something else is never continued,
and nothing is unpacked before the whole was hashed on the device."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device_agents import wire
from ofa_edge.device import ConnectOptions, Session, open_device, open_session, transfer
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import BadFile, DeviceLost, NoRoom
from ofa_edge.limits import LIMITS
from tests.cable import Cable
from tests.device import fake
from tests.sshd import Sshd

PLACES = sorted(number * 0.618 % 1 for number in range(1, 11))
"""Shares of the whole, in step with nothing."""
SIZE = 6_000_000
UNDER_WAY = 8 * 32_768
"""Bytes that a server may have received and not yet written when its connection ends (device/ssh.py)."""


def blobs(*contents: bytes) -> dict[str, bytes]:
    return {hashlib.sha256(data).hexdigest(): data for data in contents}


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- packs ---------------------------------------------------------------------------------------------


def test_the_same_blobs_make_the_same_pack_in_whatever_order_and_whenever() -> None:
    one = blobs(b"a", b"b" * 1000, noise(10_000))
    other = dict(reversed(list(one.items())))
    packs = list(transfer.packs(one, 1 << 20))
    assert packs == list(transfer.packs(other, 1 << 20))
    (pack,) = packs
    assert pack.sha256 == hashlib.sha256(pack.data).hexdigest()
    assert pack.data[4:8] == bytes(4), "a time in the gzip header would make another pack"
    assert len(gzip.decompress(pack.data)) == pack.unpacked_bytes


def test_what_is_left_after_the_first_pack_makes_the_same_further_packs() -> None:
    everything = blobs(*(noise(100, seed) for seed in range(20)))
    first, *others = transfer.packs(everything, 450)
    there = sorted(everything)[: len(first.blobs)]
    left = {sha256: data for sha256, data in everything.items() if sha256 not in there}
    assert list(transfer.packs(left, 450)) == others


# -- a link that is cut ---------------------------------------------------------------------------------


class Frayed(LocalLink):
    """The local link, cut after so many bytes of the next transfer; remembers what it carried."""

    left: int | None = None

    def __init__(self, root: Path):
        super().__init__(python=sys.executable, root=str(root))
        self.carried: list[tuple[int, int]] = []

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        cut, self.left = self.left, None
        arriving = data[:cut]
        super().extend(arriving, remote_path, offset)
        self.carried.append((offset, len(arriving)))
        if cut is not None:
            raise DeviceLost("cut")


@pytest.fixture
def frayed(tmp_path: Path) -> Frayed:
    return Frayed(tmp_path / "device")


@pytest.fixture
def session(frayed: Frayed) -> Iterator[Session]:
    with open_session(frayed) as opened:
        yield opened


def part_of(session: Session) -> Path:
    (file,) = Path(session.root, "incoming").iterdir()
    return file


def test_a_transfer_goes_on_where_it_was_cut(frayed: Frayed, session: Session) -> None:
    data = blobs(noise(100_000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    for left in (0, 1, 40_000):
        frayed.left = left
        with pytest.raises(DeviceLost, match="cut"):
            session.push(data)
    assert session.push(data) == len(pack.data) - 40_001
    assert frayed.carried == [(0, 0), (0, 1), (1, 40_000), (40_001, len(pack.data) - 40_001)]
    assert session.missing(list(data)) == []
    assert list(Path(session.root, "incoming").iterdir()) == []


def test_a_whole_transfer_that_was_not_unpacked_is_not_sent_again(frayed: Frayed, session: Session) -> None:
    data = blobs(noise(10_000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    frayed.left = len(pack.data)
    with pytest.raises(DeviceLost):
        session.push(data)
    assert session.push(data) == 0
    assert len(frayed.carried) == 1
    assert session.missing(list(data)) == []


@pytest.mark.parametrize("damage", ["other bytes", "zeros at its end", "longer than the whole"])
def test_what_is_no_beginning_of_the_transfer_is_not_continued(frayed: Frayed, session: Session, damage: str) -> None:
    data = blobs(noise(50_000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    frayed.left = 20_000
    with pytest.raises(DeviceLost):
        session.push(data)
    file = part_of(session)
    content = {
        "other bytes": noise(20_000, seed=9),
        "zeros at its end": pack.data[:19_000] + bytes(1000),
        "longer than the whole": pack.data + b"x",
    }[damage]
    file.write_bytes(content)
    assert session.push(data) == len(pack.data)
    assert session.missing(list(data)) == []


def test_another_release_does_not_continue_the_transfer_of_the_one_before(frayed: Frayed, session: Session) -> None:
    one, other = blobs(noise(50_000, seed=1)), blobs(noise(50_000, seed=2))
    frayed.left = 20_000
    with pytest.raises(DeviceLost):
        session.push(one)
    (pack,) = transfer.packs(other, LIMITS.pack_bytes)
    assert session.push(other) == len(pack.data)
    assert frayed.carried[-1] == (0, len(pack.data))
    assert part_of(session).stat().st_size == 20_000, "the first may still be continued"


def test_bytes_that_change_on_the_way_are_refused_and_sent_anew(frayed: Frayed, session: Session) -> None:
    data = blobs(noise(50_000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    frayed.left = len(pack.data)
    with pytest.raises(DeviceLost):
        session.push(data)
    part_of(session).write_bytes(pack.data[:-1] + b"?")
    with pytest.raises(BadFile, match="another hash"):
        session.call("unpack", {"sha256": pack.sha256})
    assert session.missing(list(data)) == list(data)
    assert session.push(data) == len(pack.data)


class Racing(Frayed):
    """The local link; at a moment of the next transfer something else happens on the device."""

    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        before, self.before = self.before, None
        after, self.after = self.after, None
        if before:
            before()
        super().extend(data, remote_path, offset)
        if after:
            after()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_hosts_that_send_the_same_both_have_it_there(tmp_path: Path, moment: str) -> None:
    data = blobs(noise(20_000))
    link = Racing(tmp_path / "device")
    with open_session(link) as session, open_session(LocalLink(root=str(tmp_path / "device"))) as other:
        setattr(link, moment, lambda: other.push(data))
        session.push(data)
        assert session.missing(list(data)) == []
        assert list(Path(session.root, "incoming").iterdir()) == []


def test_a_transfer_that_a_jump_of_the_clock_made_look_abandoned_is_sent_again(tmp_path: Path) -> None:
    data = blobs(noise(20_000))
    link = Racing(tmp_path / "device")
    with open_session(link) as session:

        def jump() -> None:
            """The file is from 1970 now; another agent starts and sweeps."""
            os.utime(part_of(session), (0, 0))
            with open_session(LocalLink(root=session.root)):
                pass

        link.after = jump
        assert session.push(data) > 20_000
        assert session.missing(list(data)) == []


def test_a_second_release_sends_only_what_changed(frayed: Frayed, session: Session) -> None:
    shared, old, new = noise(200_000, 1), noise(50_000, 2), noise(50_000, 3)
    first, second = blobs(shared, old), blobs(shared, new)
    assert session.push({sha256: first[sha256] for sha256 in session.missing(list(first))}) > 250_000
    lacking = session.missing(list(second))
    assert lacking == list(blobs(new))
    assert 50_000 < session.push({sha256: second[sha256] for sha256 in lacking}) < 51_000


def test_room_is_asked_for_what_is_left_and_for_what_comes_out_of_it(tmp_path: Path) -> None:
    (pack,) = transfer.packs(blobs(noise(50_000)), LIMITS.pack_bytes)
    link = Frayed(tmp_path)
    (tmp_path / "incoming").mkdir()
    (tmp_path / pack.file).write_bytes(pack.data[:1])

    def bring(there: int, free: int) -> int:
        replies = {
            "arrived": {"bytes": there, "sha256": hashlib.sha256(pack.data[:there]).hexdigest(), "free_bytes": free},
            "unpack": {"count": 1},
        }
        courier = transfer.Courier(
            link, str(tmp_path), lambda op, args, take: take(wire.Fields(op, replies[op])), contextlib.nullcontext
        )
        return courier.bring(pack)

    need = len(pack.data) + pack.unpacked_bytes
    with pytest.raises(NoRoom):
        bring(there=0, free=need - 1)
    assert bring(there=1, free=need - 1) == len(pack.data) - 1
    assert bring(there=0, free=need) == len(pack.data)


def test_the_double_goes_on_too(tmp_path: Path) -> None:
    device = fake.FakeDevice(tmp_path)
    data = blobs(noise(10_000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    with open_session(fake.FakeLink(device)) as session:
        device.cut_put = True
        with pytest.raises(DeviceLost):
            session.push(data)
        assert session.push(data) == len(pack.data) - len(pack.data) // 2
        assert session.missing(list(data)) == []


def test_a_packed_file_of_nothing_but_links_is_not_written_through(frayed: Frayed, session: Session) -> None:
    data = blobs(noise(1000))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    secret = Path(session.root, "secret")
    secret.write_bytes(b"")
    Path(session.root, pack.file).symlink_to(secret)
    with pytest.raises(BadFile, match="link"):
        session.push(data)
    assert secret.read_bytes() == b""


# -- over a real sshd -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_upload_cut_at_ten_places_sends_hardly_a_byte_twice(sshd: Sshd) -> None:
    data = blobs(noise(SIZE))
    (pack,) = transfer.packs(data, LIMITS.pack_bytes)
    options = ConnectOptions(limits=replace(LIMITS, lost_seconds=5.0))
    carried, before = 0, 0
    for place in PLACES:
        with Cable.to(sshd) as cable, open_device(cable.host, options=options) as session:
            file = Path(session.root, pack.file)
            opened = cable.sent
            cable.cut_after(max(1, int(len(pack.data) * place) - before))
            with pytest.raises(DeviceLost):
                session.push(data)
            carried += cable.sent - opened
        there = settled_size(file)
        assert before <= there <= carried
        before = there
    with open_device(sshd.host) as session:
        assert session.push(data) == len(pack.data) - before
        assert session.missing(list(data)) == []
        (sha256,) = data
        assert hashlib.sha256(Path(session.root, "blobs", sha256).read_bytes()).hexdigest() == sha256
    assert carried - before <= len(PLACES) * (UNDER_WAY + 64_000)  # and what SSH itself says


def settled_size(file: Path) -> int:
    """The size of a file that nobody writes any more: the server's process of a dead connection may still."""
    while any(writes(pid, file) for pid in os.listdir("/proc") if pid.isdigit()):
        os.sched_yield()
    return file.stat().st_size


def writes(pid: str, file: Path) -> bool:
    try:
        return any(os.path.realpath(f"/proc/{pid}/fd/{fd}") == str(file) for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False
