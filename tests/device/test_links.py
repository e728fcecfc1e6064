"""The seam itself: lines with a cap and a deadline, the local link, and the double other stages are tested with."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agents import wire
from ofa_edge.device import open_session
from ofa_edge.device.link import LineBuffer, printable
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import DeviceLost, OfaEdgeError, ProtocolError, UsageError
from tests.device import fake


def lines_of(*chunks: bytes) -> LineBuffer:
    source: Iterator[bytes] = iter(chunks)
    return LineBuffer(lambda timeout: next(source, b""))


def test_lines_are_cut_however_the_bytes_come() -> None:
    lines = lines_of(b"on", b"e\ntwo\nth", b"ree", b"\n", b"rest")
    assert [lines.readline(100, 1) for _ in range(6)] == [b"one\n", b"two\n", b"three\n", b"rest", b"", b""]


@pytest.mark.parametrize("chunks", [(b"x" * 11,), (b"x" * 5, b"x" * 6), (b"x" * 10 + b"\n",), (b"x" * 10,)])
def test_a_line_longer_than_the_limit_is_an_error(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        lines_of(*chunks).readline(10, 1)


def test_a_wait_that_is_over_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        LineBuffer(lambda timeout: b"x").readline(1 << 30, 0.0)


def test_what_a_device_says_on_stderr_is_made_printable() -> None:
    assert printable(b"\x1b[31mred\xff\nline\r\n") == "[31mred\ufffd\nline"


def test_a_local_process_takes_more_input_than_a_pipe_holds_and_answers() -> None:
    link = LocalLink(python=sys.executable)
    channel = link.start([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"])
    channel.write(b"x" * 1_000_000, 20)
    channel._stdin.close()
    assert channel.readline(100, 20) == b"1000000\n"
    assert channel.close(5) == 0


def test_a_local_process_that_reads_nothing_is_not_written_to_for_ever() -> None:
    channel = LocalLink().start([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(DeviceLost, match="took no input"):
        channel.write(b"x" * 10_000_000, 0.2)
    assert channel.close(0.1) is None


def test_a_local_file_arrives_whole_or_not_at_all(tmp_path: Path) -> None:
    link = LocalLink()
    link.put(b"old", str(tmp_path / "file"))
    link.put(b"new", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "folder").mkdir()
    for target in ("none/file", "folder"):
        with pytest.raises(DeviceLost, match="cannot write"):
            link.put(b"new", str(tmp_path / target))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


# ------------------------------------------------------------------------------------------ the double


@pytest.fixture
def device(tmp_path: Path) -> fake.FakeDevice:
    return fake.FakeDevice(tmp_path, time_model=lambda job: fake.measured(job.key, float(job.shape.get("h", 1))))


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_fake_device_speaks_the_real_protocol(device: fake.FakeDevice) -> None:
    link = fake.FakeLink(device)
    with open_session(link, owns_link=True) as session:
        assert session.facts == fake.FACTS
        model = sha256_of(b"model")
        assert session.missing([model]) == [model]
        assert session.push({model: b"model"}) > 5
        assert session.missing([model]) == []
        jobs = [wire.MeasureJob(str(h), model, {"h": h}) for h in (3, 4)]
        results = list(session.measure(jobs, fresh=True))
        assert [r.figures.median for r in results if isinstance(r, wire.Measured)] == [3.0, 4.0]
        assert device.clock == pytest.approx(0.2)
        assert session.check({}).argmax_equal
        (absent,) = session.measure([wire.MeasureJob("x", "0" * 64)], fresh=True)
        assert isinstance(absent, wire.Failed)
    assert link.closed


def test_the_fake_devices_ops_and_refusals_are_the_tests_own(device: fake.FakeDevice) -> None:
    def refuse(args: dict[str, object]) -> dict[str, object]:
        raise wire.AgentError("usage", "not today")

    device.ops = {"echo": lambda args: args, "refuse": refuse}
    with open_session(fake.FakeLink(device)) as session:
        assert session.call("echo", {"a": [1]}) == {"a": [1]}
        with pytest.raises(UsageError, match="not today"):
            session.call("refuse", {})
        with pytest.raises(OfaEdgeError, match="no op"):
            session.call("unheard-of", {})


def test_the_fake_link_can_be_cut_and_comes_back(device: fake.FakeDevice) -> None:
    model = sha256_of(b"model")
    jobs = [wire.MeasureJob(str(i), model) for i in range(5)]
    session = open_session(fake.FakeLink(device))
    session.push({model: b"model"})
    device.cut_after = 2
    results = session.measure(jobs, fresh=False)
    assert [next(results).key for _ in range(2)] == ["0", "1"]
    with pytest.raises(DeviceLost):
        next(results)
    with pytest.raises(DeviceLost):
        open_session(fake.FakeLink(device))
    device.cut_after = None
    with open_session(fake.FakeLink(device)) as again:
        assert len(list(again.measure(jobs, fresh=False))) == 5
        device.cut_put = True
        with pytest.raises(DeviceLost):
            again.push({sha256_of(b"other"): b"other"})


def test_leaving_the_fakes_stream_early_stops_it(device: fake.FakeDevice) -> None:
    with open_session(fake.FakeLink(device)) as session:
        model = sha256_of(b"model")
        session.push({model: b"model"})
        for _ in session.measure([wire.MeasureJob(str(i), model) for i in range(50)], fresh=False):
            break
        assert len(device.jobs) == 1
        assert session.missing([model]) == []


def test_more_jobs_than_fit_one_request_come_in_order(device: fake.FakeDevice) -> None:
    with open_session(fake.FakeLink(device)) as session:
        model = sha256_of(b"model")
        session.push({model: b"model"})
        jobs = [wire.MeasureJob(str(i), model) for i in range(450)]
        assert [result.key for result in session.measure(jobs, fresh=False)] == [job.key for job in jobs]
    assert device.log.count("measure") == 3


def test_blobs_travel_in_few_transfers_of_bounded_size(device: fake.FakeDevice) -> None:
    from dataclasses import replace

    from ofa_edge.limits import LIMITS

    blobs = {sha256_of(bytes([i])): bytes([i]) * 1 for i in range(10)}
    with open_session(fake.FakeLink(device), limits=replace(LIMITS, pack_bytes=4)) as session:
        session.push(blobs)
        assert session.missing(list(blobs)) == []
        assert session.push({}) == 0
    assert device.log.count("unpack") == 3
