"""A host that is hostile, or a root somebody else has been in: the shipped agent refuses, loses a worker at most, and
goes on."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device_agents import wire
from device_agents.root import Root
from ofa_edge.device import Session, open_session
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import BadFile, DeviceLost, OfaEdgeError, UsageError

SHA = "0" * 64


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("attacked")
    with open_session(LocalLink(python=sys.executable, root=str(root))) as opened:
        yield opened
        assert opened.missing([SHA]) == [SHA]  # it served to the end


def push(session: Session, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    if session.missing([sha256]):
        session.push({sha256: data})
    return sha256


def outcome(session: Session, job: wire.MeasureJob) -> wire.Measured | wire.Failed:
    (result,) = session.measure([job], fresh=False)
    return result


def works(session: Session, tiny_onnx: bytes) -> bool:
    job = wire.MeasureJob("after", push(session, tiny_onnx), {"h": 8, "w": 8}, max_seconds=0.05)
    return isinstance(outcome(session, job), wire.Measured)


def test_a_path_as_a_key_is_a_name_and_as_a_hash_is_refused(agent: Session, tiny_onnx: bytes) -> None:
    path = "../../etc/passwd"
    job = wire.MeasureJob(path, push(agent, tiny_onnx), {"h": 8, "w": 8}, max_seconds=0.05)
    assert outcome(agent, job).key == path
    for op, args in (
        ("missing", {"sha256s": [path]}), ("unpack", {"sha256": path}), ("unpack", {"sha256": SHA + "/.."}),
        ("measure", {"jobs": [{**wire.to_wire(job), "model": path}], "fresh": False}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            agent.call(op, args)


@pytest.mark.parametrize("size", [1 << 20, 1 << 15])
def test_a_shape_beyond_all_memory_costs_one_job(agent: Session, tiny_onnx: bytes, size: int) -> None:
    """The input of the smaller one has 13 GB, drawn in double precision 26: more than what is refused to the worker
    only on machines with as much."""
    if size < 1 << 20 and os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 24 << 30:
        pytest.skip("a machine with so much memory would serve it")
    job = wire.MeasureJob("huge", push(agent, tiny_onnx), {"h": size, "w": size}, max_seconds=0.05)
    result = outcome(agent, job)
    assert isinstance(result, wire.Failed)
    assert works(agent, tiny_onnx)


def garbage(tiny_onnx: bytes) -> list[bytes]:
    rng = random.Random(7)
    flipped = []
    for _ in range(6):
        data = bytearray(tiny_onnx)
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
        flipped.append(bytes(data))
    flat = (0x1C).to_bytes(4, "little") + b"TFL3" + rng.randbytes(2000)
    return [b"", b"\0" * 1000, rng.randbytes(5000), b"TFL3", flat, tiny_onnx[: len(tiny_onnx) // 2], *flipped]


def test_garbage_as_a_model_costs_one_job_in_every_runtime(agent: Session, tiny_onnx: bytes) -> None:
    for runtime in sorted(agent.facts.runtimes):
        jobs = [
            wire.MeasureJob(f"{runtime} {i}", push(agent, data), {"h": 8, "w": 8}, runtime=runtime, max_seconds=0.02)
            for i, data in enumerate(garbage(tiny_onnx))
        ]
        results = list(agent.measure(jobs, fresh=False))
        assert [result.key for result in results] == [job.key for job in jobs]
        assert all(isinstance(result, wire.Failed) for result in results[:6])
    assert works(agent, tiny_onnx)


@pytest.mark.parametrize(
    "changes",
    [
        {"cores": [4095]}, {"cores": [-1]}, {"cores": [1 << 40]}, {"cores": [0] * 2000}, {"threads": 10**9},
        {"max_seconds": 1e9}, {"runtime": "../evil"}, {"shape": {"h": 1 << 40}}, {"shape": {"h": 0}},
        {"runtime": "no_such_runtime"},
    ],
)  # fmt: skip
def test_a_job_out_of_range_is_refused_or_fails_and_the_agent_goes_on(
    agent: Session, tiny_onnx: bytes, changes: dict[str, Any]
) -> None:
    job = {**wire.to_wire(wire.MeasureJob("k", push(agent, tiny_onnx), {"h": 8, "w": 8}, max_seconds=0.05)), **changes}
    with contextlib.suppress(UsageError):
        ident = agent._send("measure", {"jobs": [job], "fresh": False})
        reply = agent._receive(ident, 60)
        assert isinstance(reply, wire.Row)
        assert isinstance(wire.parse_row(wire.Measured, reply.row), wire.Failed)
        assert agent._receive(ident, 60) == wire.End(ident, 1)
    assert works(agent, tiny_onnx)


def test_a_hundred_thousand_jobs_in_a_request_are_refused(agent: Session) -> None:
    with pytest.raises(UsageError, match="at most 1000"):
        agent.call("measure", {"jobs": [0] * 100_000, "fresh": False})


@pytest.mark.parametrize("line", [b"garbage\n", b"[" * 100_000 + b"\n", b"x" * (wire.MAX_LINE + 2)])
def test_a_line_that_is_no_request_ends_the_agent(tmp_path: Path, line: bytes) -> None:
    with open_session(LocalLink(python=sys.executable, root=str(tmp_path))) as session:
        session._channel.write(line, 30)
        with pytest.raises(DeviceLost, match="stopped"):
            session._receive(1, 60)


def test_more_requests_than_a_host_sends_end_the_agent(tmp_path: Path, tiny_onnx: bytes) -> None:
    with open_session(LocalLink(python=sys.executable, root=str(tmp_path))) as session:
        job = wire.MeasureJob("k", push(session, tiny_onnx), {"h": 512, "w": 512}, target_rel=0.001, max_seconds=300)
        session._send("measure", {"jobs": [wire.to_wire(job)], "fresh": False})
        line = b"".join(wire.request_line(1000 + i, "space", {}) for i in range(100))
        session._channel.write(line, 30)
        with pytest.raises(DeviceLost, match="stopped"):
            list(iter(lambda: session._read(60), b""))


@pytest.mark.parametrize("name", ["blobs", "incoming", "work"])
def test_a_link_where_a_folder_of_ours_belongs_is_refused(tmp_path: Path, name: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / name).symlink_to(elsewhere)
    with pytest.raises(OfaEdgeError, match=f"{name}: is a link where a folder"):
        open_session(LocalLink(python=sys.executable, root=str(root)))
    assert list(elsewhere.iterdir()) == []


def test_links_pipes_and_folders_among_the_blobs_are_not_followed_or_waited_for(
    agent: Session, tmp_path: Path, tiny_onnx: bytes
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(tiny_onnx + b"\0")
    sha256 = hashlib.sha256(tiny_onnx + b"\0").hexdigest()
    blob = Path(agent.root, "blobs", sha256)
    for place in (lambda: blob.symlink_to(secret), lambda: os.mkfifo(blob), lambda: blob.mkdir()):
        place()
        assert agent.missing([sha256]) == [sha256]
        result = outcome(agent, wire.MeasureJob("k", sha256, {"h": 8, "w": 8}))
        assert isinstance(result, wire.Failed)
        assert "link" in result.reason or "not a regular file" in result.reason
        (os.rmdir if blob.is_dir() else os.unlink)(blob)
    for place in (lambda p: p.symlink_to(secret), lambda p: os.mkfifo(p)):
        place(Path(agent.root, "incoming", f"{SHA}.pack.gz"))
        for op in ("arrived", "unpack"):
            with pytest.raises(BadFile, match="link|regular"):
                agent.call(op, {"sha256": SHA})
            assert os.path.lexists(Path(agent.root, "incoming", f"{SHA}.pack.gz")) is (op == "arrived")
    assert secret.exists()


def test_an_entry_larger_than_the_disk_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(str(tmp_path))
    root.prepare()
    pack = gzip.compress(b"%s %d\n" % (SHA.encode(), 1 << 30) + b"\0" * (1 << 20))
    name = hashlib.sha256(pack).hexdigest()
    (tmp_path / "incoming" / f"{name}.pack.gz").write_bytes(pack)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 29))
    with pytest.raises(wire.AgentError, match="more than is free"):
        root.unpack(name)
    assert list((tmp_path / "blobs").iterdir()) == []
    assert list((tmp_path / "incoming").iterdir()) == []
