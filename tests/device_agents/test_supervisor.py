"""The supervisor with worker processes that crash, hang and talk nonsense: each costs one job, never the agent."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from device_agents import wire
from device_agents.root import Root
from device_agents.supervisor import Supervisor

WORKER = [sys.executable, str(Path(__file__).with_name("scripted_worker.py"))]
SHA = "0" * 64


class Host:
    """The other end of a supervisor that serves in a thread."""

    def __init__(self, folder: Path):
        root = Root(str(folder))
        root.prepare()
        requests, self.requests = _pipe()
        self.replies, replies = _pipe()
        self.supervisor = Supervisor(root, replies, WORKER, {"boom": _boom, "echo": _echo}, load_seconds=10.0)
        self.ended = threading.Event()
        self.id = 0

        def serve() -> None:
            with replies:
                self.supervisor.serve(requests)
            self.ended.set()

        self.input = requests
        threading.Thread(target=serve, daemon=True).start()

    def send(self, op: str, args: dict[str, Any]) -> int:
        self.id += 1
        self.requests.write(wire.request_line(self.id, op, args))
        self.requests.flush()
        return self.id

    def read(self) -> wire.Reply:
        return wire.parse_reply(self.replies.readline())

    def call(self, op: str, args: dict[str, Any] | None = None) -> wire.Reply:
        ident = self.send(op, args or {})
        reply = self.read()
        assert reply.id == ident
        return reply

    def measure(self, *keys: str, fresh: bool = False, seconds: float = 5.0) -> list[wire.Measured | wire.Failed]:
        jobs = [wire.to_wire(wire.MeasureJob(key, SHA, max_seconds=seconds)) for key in keys]
        self.send("measure", {"jobs": jobs, "fresh": fresh})
        rows = []
        while isinstance(reply := self.read(), wire.Row):
            rows.append(wire.parse_row(wire.Measured, reply.row))
        assert reply == wire.End(self.id, len(rows))
        return rows


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


def _boom(root: Root, args: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("a defect")


def _echo(root: Root, args: dict[str, Any]) -> dict[str, Any]:
    return args


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    if not host.requests.closed:
        host.requests.close()
    assert host.ended.wait(20)
    host.replies.close()
    host.input.close()


def failed(row: wire.Measured | wire.Failed) -> str:
    assert isinstance(row, wire.Failed)
    return row.reason


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("segfault", "crashed (SIGSEGV)"),
        ("oom", "SIGKILL"),
        ("exit", "status 3: Killed by a library"),
        ("refuse", "no such operator"),
        ("garbage", "not JSON"),
        ("endless", "an endless line"),
    ],
)
def test_a_bad_job_costs_one_job(host: Host, key: str, reason: str) -> None:
    before, bad, after = host.measure("a", key, "b")
    assert isinstance(before, wire.Measured)
    assert reason in failed(bad)
    assert isinstance(after, wire.Measured)
    assert after.key == "b"


def test_a_job_that_hangs_is_ended_at_its_deadline(host: Host) -> None:
    host.supervisor._load_seconds = 0.5
    assert "no result within" in failed(host.measure("hang", seconds=0.01)[0])
    host.supervisor._load_seconds = 10.0
    assert isinstance(host.measure("next")[0], wire.Measured)


def test_five_megabytes_of_stderr_stop_nothing(host: Host) -> None:
    assert all(isinstance(row, wire.Measured) for row in host.measure("noise1", "noise2"))


def process_of(row: wire.Measured | wire.Failed) -> int:
    assert isinstance(row, wire.Measured)
    return row.involuntary_switches  # the scripted worker reports its process id there


def test_fresh_means_a_process_for_each_job(host: Host) -> None:
    assert len({process_of(row) for row in host.measure("a", "b", "c", fresh=True)}) == 3
    assert len({process_of(row) for row in host.measure("a", "b", "c", fresh=False)}) == 1


def test_a_runtime_that_is_missing_ends_the_stream_with_an_error(host: Host) -> None:
    job = wire.to_wire(wire.MeasureJob("no-runtime", SHA))
    assert host.call("measure", {"jobs": [job, job], "fresh": False}) == wire.Refusal(
        1, "no-runtime", "it does not load"
    )


def test_cores_the_device_does_not_have_are_refused_before_any_job(host: Host) -> None:
    job = wire.to_wire(wire.MeasureJob("a", SHA, cores=(4000,)))
    reply = host.call("measure", {"jobs": [job], "fresh": False})
    assert isinstance(reply, wire.Refusal)
    assert reply.kind == "usage"


def test_a_stream_can_be_cancelled_and_the_next_request_is_answered(host: Host) -> None:
    jobs = [wire.to_wire(wire.MeasureJob(key, SHA, max_seconds=600)) for key in ("a", "hang", "b")]
    stream = host.send("measure", {"jobs": jobs, "fresh": False})
    assert isinstance(host.read(), wire.Row)
    cancel = host.send("cancel", {"id": stream})
    assert host.read() == wire.End(stream, 1)
    assert host.read() == wire.Result(cancel, {})
    assert isinstance(host.measure("again")[0], wire.Measured)


def test_cancelling_what_is_over_changes_nothing(host: Host) -> None:
    host.measure("a")
    assert host.call("cancel", {"id": 1}) == wire.Result(2, {})
    assert isinstance(host.measure("b")[0], wire.Measured)


def test_the_end_of_stdin_ends_a_hanging_job_and_the_agent(host: Host) -> None:
    host.send("measure", {"jobs": [wire.to_wire(wire.MeasureJob("hang", SHA, max_seconds=600))], "fresh": False})
    host.requests.close()
    assert host.ended.wait(20)


@pytest.mark.parametrize("line", [b"garbage\n", b"{}\n", b'{"id":1,"op":"X","args":{}}\n', b"x" * (wire.MAX_LINE + 10)])
def test_a_line_that_is_no_request_ends_the_agent(host: Host, line: bytes) -> None:
    host.requests.write(line)
    host.requests.flush()
    assert host.ended.wait(20)


def test_a_defect_in_an_op_ends_one_request(host: Host) -> None:
    assert host.call("boom") == wire.Refusal(1, "failed", "ZeroDivisionError: a defect")
    assert host.call("echo", {"a": 1}) == wire.Result(2, {"a": 1})
    reply = host.call("unheard-of")
    assert isinstance(reply, wire.Refusal)
    assert reply.kind == "usage"


def test_energy_is_a_stream_whose_bad_jobs_cost_one_job(host: Host) -> None:
    jobs = [wire.to_wire(wire.EnergyJob(key, SHA, "scripted")) for key in ("a", "segfault", "b")]
    ident = host.send("energy", {"jobs": jobs, "fresh": False})
    rows = [wire.parse_row(wire.Energy, reply.row) for reply in (host.read(), host.read(), host.read())]  # type: ignore[union-attr]
    assert host.read() == wire.End(ident, 3)
    assert rows[0] == wire.Energy("a", "scripted", 1.0, 3.0, 2.0, 2.0, 2.0, 9, 6)
    assert isinstance(rows[1], wire.Failed)
    assert rows[2].key == "b"


def test_facts_come_with_the_runtimes_that_load(host: Host) -> None:
    reply = host.call("facts")
    assert isinstance(reply, wire.Result)
    found = wire.Facts.parse(reply.result)
    assert found.runtimes == {"onnxruntime": "scripted"}
    assert found.sensors == ("scripted",)


def test_blobs_are_asked_for_and_unpacked_by_hash_only(host: Host) -> None:
    assert host.call("missing", {"sha256s": [SHA]}) == wire.Result(1, {"missing": [SHA]})
    for args in ({"sha256": "../x"}, {"sha256": SHA}, {}):
        assert isinstance(host.call("unpack", args), wire.Refusal)
    assert isinstance(host.call("missing", {"sha256s": ["../../etc/passwd"]}), wire.Refusal)
    reply = host.call("space")
    assert isinstance(reply, wire.Result)
    assert reply.result["free_bytes"] > 0


def test_blobs_are_discarded_by_hash_only(host: Host, tmp_path: Path) -> None:
    blob = next(tmp_path.rglob("blobs")) / SHA
    blob.write_bytes(b"x")
    assert isinstance(host.call("discard", {"sha256s": ["../../etc/passwd"]}), wire.Refusal)
    assert host.call("discard", {"sha256s": [SHA, "1" * 64]}) == wire.Result(2, {"count": 1})
    assert not blob.exists()


def test_a_check_runs_in_a_worker(host: Host) -> None:
    reply = host.call("check", {})
    assert isinstance(reply, wire.Result)
    assert wire.Checked.parse(reply.result).finite


def test_a_silent_host_with_a_lock_is_gone_soon_one_that_says_alive_is_not(tmp_path: Path) -> None:
    """Without its lock it would be waited for for an hour, which the test's timeout does not give it."""
    root = Root(str(tmp_path))
    root.prepare()
    requests, sink = _pipe()
    read, replies = _pipe()
    ops = {"lock": _echo, "unlock": _echo}
    agent = Supervisor(root, replies, WORKER, ops, locked_idle_seconds=1.0)
    with requests, sink, read, replies:
        serving = threading.Thread(target=agent.serve, args=(requests,), daemon=True)
        serving.start()
        for line in [wire.request_line(1, "lock", {})] + 12 * [wire.request_line(0, "alive", {})]:
            sink.write(line)
            sink.flush()
            serving.join(0.2)
        sink.write(wire.request_line(2, "unlock", {}) + wire.request_line(3, "lock", {}))
        sink.flush()
        assert [wire.parse_reply(read.readline()).id for _ in range(3)] == [1, 2, 3]
        serving.join(30)
        assert not serving.is_alive()
        sink.close()
        assert agent._stopping.wait(10)
