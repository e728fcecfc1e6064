"""A device that is a value: the in-process double of a Link, its Channel and the agent behind it.

In: facts, a function from job to result, further ops, faults to happen. Out: a Link that `open_session` speaks to in
earnest, so a test of another stage runs the real session, the real wire and real files in a folder, without a
process, a runtime or a clock.

    device = FakeDevice(tmp_path, time_model=lambda job: measured(job.key, 2.5))
    with open_session(FakeLink(device)) as session: ...
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device_agents import wire
from ofa_edge.errors import DeviceLost
from tests.boards import BOARD

TimeModel = Callable[[wire.MeasureJob], wire.Measured | wire.Failed]
Op = Callable[[dict[str, Any]], dict[str, Any]]

FACTS = replace(
    BOARD,
    device_model="Fake Board 1",
    soc="fake,soc",
    kernel="Linux 6.6.0",
    serial="0000",
    boot_id="00000000-0000-4000-8000-000000000000",
    agent=wire.AGENT_VERSION,
)


EQUAL = wire.Checked(max_abs=0.0, rel=0.0, finite=True, argmax_equal=True)


def figures(median: float, *, n: int = 50, spread: float = 0.01) -> wire.Figures:
    """Figures around a median: everything else lies `spread` (relative) to its sides."""
    low, high = median * (1 - spread), median * (1 + spread)
    return wire.Figures(n, low, low, median, high, low, high, median, median * spread)


def measured(
    key: str,
    median_ms: float,
    *,
    anchor_ms: float | None = None,
    seconds: float = 0.1,
    flags: tuple[str, ...] = (),
    spread: float = 0.01,
) -> wire.Measured:
    """A result with this median; with `anchor_ms` also the anchor's and the ratio. As many runs as fit `seconds`."""
    n = max(1, min(50, int(1e3 * seconds / (median_ms + (anchor_ms or 0.0)))))
    return wire.Measured(
        key=key,
        figures=figures(median_ms, n=n, spread=spread),
        anchor=None if anchor_ms is None else figures(anchor_ms, n=n, spread=spread),
        ratio=None if anchor_ms is None else figures(median_ms / anchor_ms, spread=spread),
        batch=1,
        seconds=seconds,
        cpu_over_wall=1.0,
        involuntary_switches=0,
        flags=flags,
    )


def _one_millisecond(job: wire.MeasureJob) -> wire.Measured:
    return measured(job.key, 1.0, anchor_ms=1.0 if job.anchor else None)


@dataclass
class FakeDevice:
    """What the device is and does; tests change it while it runs.

    Attributes:
        folder: our root there, a real folder of this machine.
        time_model: answers measure jobs.
        checked: answers the op `check`.
        ops: further ops, name -> function of the args; may raise wire.AgentError.
        cut_after: the link is cut after the host has read this many lines (None: never); counts down.
        cut_put: the link is cut in the middle of the next transfer, half of which has arrived.
        clock: seconds that measuring took so far.
        log: op names in the order of the requests.
        jobs: all jobs that were measured.
    """

    folder: Path
    facts: wire.Facts = FACTS
    health: wire.Health = wire.Health()
    time_model: TimeModel = _one_millisecond
    checked: wire.Checked = EQUAL
    ops: dict[str, Op] = field(default_factory=dict)
    cut_after: int | None = None
    cut_put: bool = False
    clock: float = 0.0
    log: list[str] = field(default_factory=list)
    jobs: list[wire.MeasureJob] = field(default_factory=list)

    def blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def prepare(self) -> None:
        for name in ("agent", "blobs", "incoming"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def answer(self, request: wire.Request) -> Iterator[wire.Reply]:
        """The replies to one request."""
        if request.op == "alive":  # wants no answer
            return
        self.log.append(request.op)
        try:
            if request.op == "measure":
                yield from self._measure(request)
            elif request.op == "energy":
                yield from self._energy(request)
            else:
                yield wire.Result(request.id, self._run(request.op, dict(request.args)))
        except wire.AgentError as error:
            yield wire.Refusal(request.id, error.kind, error.message)

    def _measure(self, request: wire.Request) -> Iterator[wire.Reply]:
        jobs = [wire.MeasureJob.parse(job) for job in request.args["jobs"]]
        for job in jobs:
            if job.runtime not in self.facts.runtimes:
                raise wire.AgentError("no-runtime", f"{job.runtime} does not load")
            self.jobs.append(job)
            result = self._time(job)
            self.clock += result.seconds if isinstance(result, wire.Measured) else job.max_seconds
            yield wire.Row(request.id, wire.result_row(result))
        yield wire.End(request.id, len(jobs))

    def _energy(self, request: wire.Request) -> Iterator[wire.Reply]:
        """1 W at rest, 3 W while a model runs, which takes a millisecond."""
        jobs = [wire.EnergyJob.parse(job) for job in request.args["jobs"]]
        for job in jobs:
            there = job.sensor in self.facts.sensors
            found = wire.Energy(job.key, job.sensor, 1.0, 3.0, 2.0, 1.9, 2.1, 1000, job.windows)
            row = wire.result_row(found if there else wire.Failed(job.key, f"there is no sensor {job.sensor}"))
            yield wire.Row(request.id, row)
        yield wire.End(request.id, len(jobs))

    def _time(self, job: wire.MeasureJob) -> wire.Measured | wire.Failed:
        for blob in (job.model, job.anchor):
            if blob and not self.blob(blob).exists():
                return wire.Failed(job.key, f"blob {blob} is not on the device")
        return self.time_model(job)

    def _run(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if op in self.ops:
            return self.ops[op](args)
        if op == "facts":
            return wire.to_wire(self.facts)
        if op == "health":
            return wire.to_wire(self.health)
        if op == "space":
            return {"free_bytes": 1 << 40}
        if op == "discard":
            there = [self.blob(sha256) for sha256 in args["sha256s"] if self.blob(sha256).exists()]
            for blob in there:
                blob.unlink()
            return {"count": len(there)}
        if op == "missing":
            return {"missing": [sha256 for sha256 in args["sha256s"] if not self.blob(sha256).exists()]}
        if op in ("arrived", "forget", "unpack"):
            return self._transfer(op, self.folder / "incoming" / f"{args['sha256']}.pack.gz")
        if op == "check":
            return wire.to_wire(self.checked)
        raise wire.AgentError("usage", f"the agent has no op {op!r}")

    def _transfer(self, op: str, pack: Path) -> dict[str, Any]:
        if op == "unpack":
            return {"count": self._unpack(pack)}
        if op == "forget":
            pack.unlink(missing_ok=True)
            return {}
        pack.touch()
        there = pack.read_bytes()
        return {"bytes": len(there), "sha256": hashlib.sha256(there).hexdigest(), "free_bytes": 1 << 40}

    def _unpack(self, pack: Path) -> int:
        count = 0
        with gzip.open(pack) as stream:
            while header := stream.readline():
                sha256, size = header.split()
                self.blob(sha256.decode()).write_bytes(stream.read(int(size)))
                count += 1
        pack.unlink()
        return count


class FakeChannel:
    """Implements link.Channel: requests are answered when the host reads."""

    def __init__(self, device: FakeDevice, hello: Mapping[str, Any], nonce: str):
        self._device = device
        first = [b"Welcome to the fake board\n", f"{nonce} {json.dumps(hello)}\n".encode()]
        self._streams: deque[Iterator[bytes]] = deque([iter(first)])
        self._stopped = "absent" in hello

    def write(self, data: bytes, timeout: float) -> None:
        if self._device.cut_after == 0 or self._stopped:
            raise DeviceLost("the link was cut")
        for line in data.splitlines(keepends=True):
            request = wire.parse_request(line)
            if request.op == "cancel":
                self._streams = deque([iter([wire.reply_line(wire.Result(request.id, {}))])])
            else:
                self._streams.append(map(wire.reply_line, self._device.answer(request)))

    def readline(self, limit: int, timeout: float) -> bytes:
        if self._device.cut_after is not None:
            if self._device.cut_after == 0:
                return b""
            self._device.cut_after -= 1
        while self._streams:
            for line in self._streams[0]:
                return line
            self._streams.popleft()
        if self._stopped:
            return b""
        raise DeviceLost(f"the agent said nothing for {timeout:.0f} s")

    def stderr_tail(self) -> str:
        return ""

    def close(self, timeout: float) -> int | None:
        self._stopped = True
        return None if self._device.cut_after == 0 else 0


class FakeLink:
    """Implements link.Link."""

    def __init__(self, device: FakeDevice, *, name: str = "fake"):
        self.name = name
        self.python = "python3"
        self.root: str | None = str(device.folder)
        self.device = device
        self.closed = False

    def start(self, argv: list[str]) -> FakeChannel:
        if self.device.cut_after == 0:
            raise DeviceLost("the link was cut")
        self.device.prepare()
        nonce, sha256 = argv[-3], argv[-1]
        root = str(self.device.folder)
        if not (self.device.folder / "agent" / f"{sha256}.pyz").exists():
            return FakeChannel(self.device, {"absent": {"root": root}}, nonce)
        return FakeChannel(self.device, {"ready": {"protocol": wire.PROTOCOL, "root": root}}, nonce)

    def put(self, data: bytes, remote_path: str) -> None:
        self._maybe_cut(remote_path)
        Path(remote_path).write_bytes(data)

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        with open(remote_path, "r+b") as file:
            file.seek(offset)
            file.write(data[: len(data) // 2])
            file.flush()
            self._maybe_cut(remote_path)
            file.write(data[len(data) // 2 :])

    def _maybe_cut(self, path: str) -> None:
        if self.device.cut_put or self.device.cut_after == 0:
            self.device.cut_put = False
            raise DeviceLost(f"cannot write {path}: the link was cut")

    def close(self) -> None:
        self.closed = True
