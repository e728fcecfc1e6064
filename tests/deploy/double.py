"""A device for tests: the agent's real release ops on a real folder, without a process or a link between.

Requests and replies pass through the wire's own text form, so what cannot be sent fails here too. Faults are
placed by number: the n-th request, or the n-th change of the disk, of one life of the agent; a hook counts as a change
when it starts and when it ends. What a Device does after its death is what a dead one does: nothing, whoever asks.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper

from device_agents import wire
from device_agents.disk import Disk
from device_agents.process import Process
from device_agents.slots import OPS
from ofa_edge.deploy import bundle
from ofa_edge.deploy.bundle import Bundle, Part, Promise, Tensors
from ofa_edge.deploy.manifest import DEFAULT_MODE, Budget, Manifest, Mode, Predicted
from ofa_edge.deploy.outcome import Timing
from ofa_edge.device.session import refusal_error
from ofa_edge.errors import DeviceLost
from ofa_edge.latency.conditions import Conditions, RunsOn, conditions
from ofa_edge.space.spaces import OFA_LITE0
from tests.boards import BOARD

T = TypeVar("T")
APP = "camera"
FACTS = replace(
    BOARD,
    device_model="Testboard 4",
    soc="T1000",
    kernel="6.1",
    runtimes={"onnxruntime": "1.20.0"},
    serial="unknown",
    boot_id="b",
)
CONDITIONS = conditions(FACTS, RunsOn())


class Kind(StrEnum):
    """What goes wrong, and where `at` counts."""

    ERROR = "the agent answers with an error"
    HOST_KILLED_BEFORE = "host killed before a request"
    HOST_KILLED_AFTER = "host killed before it heard the reply"
    LINK_CUT_BEFORE = "link cut before the reply"
    LINK_CUT_AFTER = "link cut after the effect"
    AGENT_KILLED = "agent killed before a change of the disk"
    REBOOT = "device restarted before a change of the disk, what was not synced is lost"
    DISK_ERROR = "one change of the disk fails"
    DISK_FULL = "the disk is full from a change on"


REQUEST_KINDS = (
    Kind.ERROR, Kind.HOST_KILLED_BEFORE, Kind.HOST_KILLED_AFTER, Kind.LINK_CUT_BEFORE, Kind.LINK_CUT_AFTER,
)  # fmt: skip
DISK_KINDS = (Kind.AGENT_KILLED, Kind.REBOOT, Kind.DISK_ERROR, Kind.DISK_FULL)
# What needs room on a full disk; removing and renaming do not.
GROWING = frozenset({"mkdir", "create", "write", "sync", "append", "symlink"})


class Fault(NamedTuple):
    kind: Kind
    at: int


class Killed(BaseException):
    """The host's process ended here; no handler of it runs to any effect."""


class _AgentKilled(BaseException):
    """The agent's process ended here."""


@dataclass
class Application:
    """What the hooks are about: a program that keeps the release open that was current when it was told to look.

    Attributes:
        root: the device's folder; None: there is no program to be told.
        opened: the release.
        replies: what a hook's command gives, by its kind and the release it is for; else status 0.
        heard: the hooks that ran to their end: kind and release.
    """

    root: Path | None = None
    opened: str | None = None
    replies: Mapping[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    heard: list[tuple[str, str]] = field(default_factory=list)

    def reopen(self) -> None:
        if self.root is not None:
            self.opened = running(self.root)

    def run(self, kind: str, release: str) -> dict[str, Any]:
        if kind == "post-switch":
            self.reopen()
        self.heard.append((kind, release))
        return self.replies.get((kind, release), {"exit": 0, "seconds": 0.1, "output": ""})


class _Name(NamedTuple):
    name: str = "testboard"
    python: str = "python3"


@dataclass(frozen=True)
class SizedDisk(Disk):
    """A disk that says how much room it has."""

    free: int = 1 << 40

    @property
    def free_bytes(self) -> int:
        return self.free


@dataclass
class Device:
    """One life of an agent on the folder `root`, and the host's session with it.

    Attributes:
        free: bytes the disk claims to have left.
        quota: bytes below `root` from which on nothing more can be written; removing makes room again.
        others: processes that live besides this one, for locks.
        checked: what golden outputs give here.
        application: what hooks reach.
        log: names of the requests so far.
        reached: the fault has happened.
    """

    root: Path
    fault: Fault | None = None
    facts: wire.Facts = FACTS
    others: set[Process] = field(default_factory=set)
    checked: wire.Checked = field(default_factory=lambda: wire.Checked(1e-6, 1e-6, True, True))
    application: Application = field(default_factory=Application)
    log: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    free: int = 1 << 40
    quota: int | None = None
    pushed: int = 0
    reached: bool = False
    dead: BaseException | None = None
    unsynced: list[Path] = field(default_factory=list)

    _pids = itertools.count(1000)

    def __post_init__(self) -> None:
        self.me = Process(next(self._pids), "boot", 1)
        self.disk = SizedDisk(
            str(self.root),
            effect=self._effect,
            me=self.me,
            alive=lambda process: process in self.others,
            free=self.free,
        )
        self.disk.prepare()

    # -- the Device protocol ----------------------------------------------------------------------
    def missing(self, sha256s: Sequence[str]) -> list[str]:
        return self._request("missing", lambda: self.disk.missing(sha256s))

    def push(self, blobs: Mapping[str, bytes]) -> int:
        def unpack() -> int:
            pack = b"".join(b"%s %d\n%s" % (sha.encode(), len(data), data) for sha, data in blobs.items())
            packed = gzip.compress(pack)
            name = hashlib.sha256(packed).hexdigest()
            (self.root / "incoming" / f"{name}.pack.gz").write_bytes(packed)
            return self.disk.unpack(name)

        self.pushed += sum(map(len, blobs.values()))
        return self._request("push", unpack)

    def check(self, args: Mapping[str, Any]) -> wire.Checked:
        def compare() -> wire.Checked:
            for blob in ("model", "inputs", "outputs"):
                self.disk.read_blob(args[blob])
            return self.checked

        return self._request("check", compare)

    def call(self, op: str, args: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        request = wire.parse_request(wire.request_line(1, op, args))
        return self._request(op, lambda: self._answer(request))

    # -- inside --------------------------------------------------------------------------------------
    def _answer(self, request: wire.Request) -> dict[str, Any]:
        try:
            op = self._hook if request.op == "hook" else OPS[request.op]
            reply: wire.Reply = wire.Result(1, op(self.disk, dict(request.args)))
        except wire.AgentError as error:
            reply = wire.Refusal(1, error.kind, error.message)
        heard = wire.parse_reply(wire.reply_line(reply))
        if isinstance(heard, wire.Refusal):
            raise refusal_error(heard, _Name().name, _Name().python)
        assert isinstance(heard, wire.Result)
        return dict(heard.result)

    def _hook(self, disk: Disk, args: dict[str, Any]) -> dict[str, Any]:
        """The agent's own op, but for the process: it checks the request by running `true`, the application answers."""
        folder = self.root / args["app"]
        try:
            self._effect("hook", folder)
            OPS["hook"](disk, {**args, "argv": ["true"] if args["argv"] else []})
            reply = self.application.run(args["kind"], args["release"])
            self._effect("hooked", folder)
        except OSError as error:
            raise wire.AgentError("failed", str(error)) from error
        return reply

    def _request(self, name: str, action: Callable[[], T]) -> T:
        if self.dead is not None:
            raise self.dead
        if self.fault == (Kind.ERROR, len(self.log)):
            self.reached = True
            self.log.append(name)
            raise refusal_error(wire.Refusal(1, "failed", "it would not"), _Name().name, _Name().python)
        self._maybe(Kind.HOST_KILLED_BEFORE, Kind.LINK_CUT_BEFORE)
        try:
            out = action()
        except _AgentKilled:
            self.dead = DeviceLost("testboard: the agent stopped")
            raise self.dead from None
        self._maybe(Kind.HOST_KILLED_AFTER, Kind.LINK_CUT_AFTER)
        self.log.append(name)
        return out

    def _maybe(self, killed: Kind, cut: Kind) -> None:
        if self.fault is not None and self.fault.at == len(self.log) and self.fault.kind in (killed, cut):
            self.reached = True
            self.dead = Killed() if self.fault.kind is killed else DeviceLost("testboard: the link was cut")
            raise self.dead

    def _effect(self, change: str, path: Path) -> None:
        number = len(self.changes)
        self.changes.append(f"{change} {path.name}")
        if change == "create":
            self.unsynced.append(path)
        elif change not in ("write", "sync"):
            self.unsynced.clear()  # a file is written and synced before anything else is done
        if self.quota is not None and change in GROWING and size(self.root) > self.quota:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        if self.fault is None or self.fault.kind not in DISK_KINDS or number < self.fault.at:
            return
        if self.fault.kind is Kind.DISK_FULL:
            self.reached = True
            if change in GROWING:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        elif number == self.fault.at:
            self.reached = True
            if self.fault.kind is Kind.DISK_ERROR:
                raise OSError(errno.EIO, "Input/output error", str(path))
            if self.fault.kind is Kind.REBOOT:
                self._reboot(change, path)
            raise _AgentKilled

    def _reboot(self, change: str, path: Path) -> None:
        """What was written and not synced has no bytes then, or half a line; applications start and look."""
        for file in self.unsynced:
            if file.exists():
                file.write_bytes(b"")
        if change == "write" and not self.unsynced:
            with path.open("ab") as journal:
                journal.write(b'{"event":"beg')
        self.application.reopen()


def size(root: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())


def model(bias: float) -> bytes:
    """A tiny valid ONNX model; different numbers make different bytes."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "bias"], ["output"])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def make_bundle(
    number: float = 1.0,
    *,
    budget_ms: float | None = 20.0,
    p90_ms: float | None = None,
    app: str = APP,
    at: Conditions | None = CONDITIONS,
    runs_on: RunsOn | None = None,
    counter: int = 0,
    modes: Sequence[str] = (DEFAULT_MODE,),
) -> Bundle:
    """A bundle of the tiny model; `number` tells releases apart. Each further mode has half the budget of the one
    before."""
    parts = [make_part(number, budget_ms, p90_ms, at, runs_on, name, place) for place, name in enumerate(modes)]
    return bundle.build(app=app, space=OFA_LITE0, parts=parts, labels=("cat", "dog")).counted(counter)


def make_part(
    number: float,
    budget_ms: float | None = 20.0,
    p90_ms: float | None = None,
    at: Conditions | None = CONDITIONS,
    runs_on: RunsOn | None = None,
    name: str = DEFAULT_MODE,
    place: int = 0,
) -> Part:
    """The mode of such a bundle that stands at this place."""
    inputs = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    bias, share = number + 100 * place, 0.5**place
    budget = Budget(latency_ms=budget_ms and budget_ms * share, p90_ms=p90_ms and p90_ms * share)
    predicted = Predicted(value=15.0 * share, low=14.0 * share, high=16.0 * share)
    promise = Promise(budget, predicted, 91.5 - place, at)
    golden = Tensors(inputs, inputs + np.float32(bias))
    return Part(OFA_LITE0.smallest(), model(bias), golden, runs_on or RunsOn(), promise, name)


@dataclass
class Clock:
    """A scripted `measure`: gives the timings in turn, the last for ever; a mode's own where `by_mode` has one."""

    timings: Sequence[Timing | wire.Failed] = (Timing(15.2),)
    by_mode: Mapping[str, Timing | wire.Failed] = field(default_factory=dict)
    calls: int = 0

    def __call__(self, manifest: Manifest, mode: Mode) -> Timing | wire.Failed:
        self.calls += 1
        if mode.name in self.by_mode:
            return self.by_mode[mode.name]
        return self.timings[min(self.calls, len(self.timings)) - 1]


def running(root: Path, app: str = APP) -> str | None:
    """The release an application would open now, every byte of it checked; None for none at all."""
    link = root / app / "current"
    if not link.is_symlink():
        assert not link.exists()
        return None
    found = bundle.read(link.resolve())
    assert link.resolve() == (root / app / "releases" / found.release).resolve()
    return found.release
