"""Blobs on the device: nothing is there under a name that is not the hash of its bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agents.root import Root
from device_agents.wire import AgentError


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(str(tmp_path))
    made.prepare()
    return made


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def arrive(root: Root, pack: bytes) -> str:
    packed = gzip.compress(pack)
    name = sha256_of(packed)
    Path(root.path, "incoming", f"{name}.pack.gz").write_bytes(packed)
    return name


def entry(data: bytes) -> bytes:
    return b"%s %d\n%s" % (sha256_of(data).encode(), len(data), data)


def test_a_pack_becomes_blobs_and_is_gone(root: Root) -> None:
    blobs = [b"one", b"", b"two\n" * 1000]
    assert root.unpack(arrive(root, b"".join(map(entry, blobs)))) == 3
    assert [root.read_blob(sha256_of(data)) for data in blobs] == blobs
    assert root.missing([sha256_of(b"one"), sha256_of(b"other")]) == [sha256_of(b"other")]
    assert os.listdir(os.path.join(root.path, "incoming")) == []


@pytest.mark.parametrize(
    "pack",
    [
        entry(b"good") + entry(b"cut short")[:-2],
        entry(b"good") + b"%s %d\n%s" % (sha256_of(b"x").encode(), 3, b"not"),
        entry(b"good") + b"../../etc/passwd 3\nabc",
        entry(b"good") + b"%s -1\n" % sha256_of(b"").encode(),
        entry(b"good") + b"%s 99999999999\n" % sha256_of(b"").encode(),
        entry(b"good") + b"\xff" * 200,
    ],
)
def test_a_malformed_pack_leaves_only_whole_blobs(root: Root, pack: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        root.unpack(arrive(root, pack))
    assert caught.value.kind == "bad-file"
    assert os.listdir(os.path.join(root.path, "blobs")) == [sha256_of(b"good")]
    assert os.listdir(os.path.join(root.path, "incoming")) == []


@pytest.mark.parametrize(
    "damage", [lambda z: z[:-4], lambda z: b"not gzip at all", lambda z: z[:30] + b"\0\0" + z[32:]]
)
def test_a_transfer_that_is_no_gzip_is_refused(root: Root, damage: Callable[[bytes], bytes]) -> None:
    damaged = damage(gzip.compress(entry(os.urandom(4000))))
    path = Path(root.path, "incoming", f"{sha256_of(damaged)}.pack.gz")
    path.write_bytes(damaged)
    with pytest.raises(AgentError) as caught:
        root.unpack(sha256_of(damaged))
    assert caught.value.kind == "bad-file"
    assert not path.exists()


def test_a_transfer_that_never_came_is_an_error(root: Root) -> None:
    with pytest.raises(AgentError, match="did not arrive"):
        root.unpack("0" * 64)


def test_a_damaged_blob_is_refused_and_removed(root: Root) -> None:
    root.unpack(arrive(root, entry(b"model")))
    name = sha256_of(b"model")
    Path(root.blob_path(name)).write_bytes(b"mod3l")
    with pytest.raises(AgentError, match="damaged"):
        root.read_blob(name)
    assert root.missing([name]) == [name]


@pytest.mark.parametrize("name", ["../agent/x", "/etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_hash_becomes_a_path(root: Root, name: str) -> None:
    for use in (root.blob_path, root.read_blob, root.unpack, root.arrived, root.forget):
        with pytest.raises(AgentError, match="not a sha256"):
            use(name)


def test_a_transfer_nobody_finished_is_dropped_after_a_day(root: Root) -> None:
    Path(root.path, "agent").mkdir()
    names = ("incoming/old.pack.gz", "incoming/new.pack.gz", "blobs/old.7.part", "agent/old.part", f"blobs/{'0' * 64}")
    for name in names:
        Path(root.path, name).write_bytes(b"x")
        if "new" not in name:
            os.utime(Path(root.path, name), (time.time() - 90_000, time.time() - 90_000))
    root.prepare()
    assert [name for name in names if Path(root.path, name).exists()] == ["incoming/new.pack.gz", f"blobs/{'0' * 64}"]


def test_what_arrived_of_a_transfer_is_told_with_its_hash(root: Root) -> None:
    packed = gzip.compress(entry(b"model"))
    name = sha256_of(packed)
    file = Path(root.path, "incoming", f"{name}.pack.gz")
    assert root.arrived(name) == (0, sha256_of(b""))
    assert file.read_bytes() == b""
    file.write_bytes(packed[:10])
    assert root.arrived(name) == (10, sha256_of(packed[:10]))
    root.forget(name)
    root.forget(name)
    assert not file.exists()


@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_transfer_that_is_not_whole_is_not_unpacked(root: Root, kept: int) -> None:
    packed = gzip.compress(entry(b"model"))
    name = sha256_of(packed)
    Path(root.path, "incoming", f"{name}.pack.gz").write_bytes(packed[:kept])
    with pytest.raises(AgentError, match="have another hash"):
        root.unpack(name)
    assert os.listdir(os.path.join(root.path, "blobs")) == []
    assert os.listdir(os.path.join(root.path, "incoming")) == []


def test_another_transfer_under_the_name_is_not_unpacked(root: Root) -> None:
    name = sha256_of(b"what was promised")
    Path(root.path, "incoming", f"{name}.pack.gz").write_bytes(gzip.compress(entry(b"evil")))
    with pytest.raises(AgentError, match="have another hash"):
        root.unpack(name)
    assert os.listdir(os.path.join(root.path, "blobs")) == []
