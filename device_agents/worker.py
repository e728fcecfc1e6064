"""The worker: one process, one runtime, no decisions.

In: requests of the supervisor, one JSON line each, on stdin. Out: one reply line each. Rules kept: models are
read by hash and verified; what a library prints goes to stderr, never between replies; after a job its
session is gone, except an anchor's and a sentinel's; the worker dies with its supervisor and before it when
memory runs out, so that a crash or a greedy model costs one job and nothing else.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from device_agents import cores, memory, power, timing, trust, wire
from device_agents.root import Root

RUNTIMES = {"onnxruntime": "onnxruntime_cpu", "litert": "litert_cpu"}
"""Runtime name on the wire -> module in runtimes/."""

_PR_SET_PDEATHSIG = 1


class Worker:
    """Serves jobs on one root. `runtimes` maps a name to a module with Model and version()."""

    def __init__(self, root: Root, clock: timing.Clock, runtimes: Mapping[str, Any] | None = None):
        self._root = root
        self._clock = clock
        self._runtimes: dict[str, Any] = dict(runtimes or {})
        self._anchor: tuple[Any, Any] = (None, None)  # key, model
        self._sentinel: tuple[Any, Any] = (None, None)
        self._seen: set[tuple[Any, ...]] = set()
        self._cores = cores.usable()
        self._signals = trust.Signals()
        self._sensors: Mapping[str, power.Sensor] | None = None

    def handle(self, request: wire.Request) -> wire.Reply:
        """One reply; an op's own failure is a Refusal."""
        ops = {"probe": self._probe, "measure": self._measure, "energy": self._energy, "check": self._check}
        try:
            if request.op not in ops:
                raise wire.AgentError("usage", f"the worker has no op {request.op!r}")
            return wire.Result(request.id, ops[request.op](request.args))
        except wire.AgentError as error:
            return wire.Refusal(request.id, error.kind, error.message)
        except Exception as error:
            # A runtime raises its own classes, which this module cannot name.
            return wire.Refusal(request.id, "failed", f"{type(error).__name__}: {error}")

    # ---------------------------------------------------------------------------------------- ops

    def _probe(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Which runtimes really load here."""
        found = {}
        for name in RUNTIMES:
            try:
                found[name] = self._runtime(name).version()
            except wire.AgentError:
                continue
        return {"runtimes": found, "sensors": list(self._power())}

    def _measure(self, args: Mapping[str, Any]) -> dict[str, Any]:
        job = wire.MeasureJob.parse(args.get("job"))
        runtime = self._runtime(job.runtime)
        cores.pin(self._cores if job.cores is None else job.cores)
        model, peak = self._weighed(runtime, job)
        anchor = None if job.anchor is None else self._model(runtime, job, job.anchor, job.anchor_shape, keep=True)
        usable = self._cores if job.cores is None else tuple(job.cores)
        before = self._signals.read(usable)
        gc.disable()
        try:
            if anchor is None:
                timed = timing.time_alone(
                    model.run, target_rel=job.target_rel, max_seconds=job.max_seconds, clock=self._clock
                )
            else:
                timed = timing.time_beside(
                    model.run, anchor.run, target_rel=job.target_rel, max_seconds=job.max_seconds, clock=self._clock
                )
        finally:
            gc.enable()
            del model
            gc.collect()
        after = self._signals.read(usable)
        flags = timed.flags + trust.flags(before, after, threads=job.threads)
        measured = wire.Measured(
            job.key, timed.figures, timed.anchor, timed.ratio, timed.batch, timed.seconds,
            timed.cpu_over_wall, timed.involuntary_switches, flags, trust.noise(before, after), peak,
        )  # fmt: skip
        return wire.result_row(measured)

    def _energy(self, args: Mapping[str, Any]) -> dict[str, Any]:
        job = wire.EnergyJob.parse(args.get("job"))
        runtime = self._runtime(job.runtime)
        sensor = self._power().get(job.sensor)
        if sensor is None:
            raise wire.AgentError("failed", f"there is no sensor {job.sensor} that can be read")
        cores.pin(self._cores if job.cores is None else job.cores)
        model = self._model(runtime, job, job.model, job.shape)
        clock = power.Clock()
        with power.Meter(sensor, clock) as meter:
            found = power.measure(
                model.run, meter, key=job.key, sensor=job.sensor, seconds=job.seconds, windows=job.windows, clock=clock
            )
        return wire.result_row(found)

    def _check(self, args: Mapping[str, Any]) -> dict[str, Any]:
        f = wire.Fields("check", args)
        model, inputs, outputs = f.sha256("model"), f.sha256("inputs"), f.sha256("outputs")
        input_shape, output_shape = f.wholes("input_shape", 8, 1), f.wholes("output_shape", 8, 1)
        runtime = self._runtime(f.text("runtime"))
        threads = f.whole("threads", 1, 256)
        f.done()
        session = runtime.Model(self._root.read_blob(model), {}, threads)
        golden = importlib.import_module("device_agents.runtimes.golden")
        given, expected = self._root.read_blob(inputs), self._root.read_blob(outputs)
        checked: wire.Checked = golden.compare(session, given, input_shape, expected, output_shape)
        return wire.to_wire(checked)

    # ------------------------------------------------------------------------------------- inside

    def _power(self) -> Mapping[str, power.Sensor]:
        """The sensors, found once."""
        if self._sensors is None:
            self._sensors = power.sensors()
        return self._sensors

    def _runtime(self, name: str) -> Any:
        """A runtime's module, imported at the first use.

        Raises:
            AgentError: 'no-runtime' when it is not installed or does not load.
        """
        if name not in self._runtimes:
            if name not in RUNTIMES:
                raise wire.AgentError("usage", f"no runtime is called {name!r}")
            try:
                self._runtimes[name] = importlib.import_module(f"device_agents.runtimes.{RUNTIMES[name]}")
            except Exception as error:  # a library that is there may fail to load in any way
                said = f"{name} does not load in {sys.executable}: {error}"
                raise wire.AgentError("no-runtime", wire.clean(said, 500)) from None
        return self._runtimes[name]

    def _weighed(self, runtime: Any, job: wire.MeasureJob) -> tuple[Any, int | None]:
        """The target, and by how much it made the peak of memory grow; that is known in a fresh worker only, before the
        anchor is there."""
        if self._seen:
            return self._model(runtime, job, job.model, job.shape), None
        growth = memory.Growth()
        model = self._model(runtime, job, job.model, job.shape)
        model.run()
        return model, growth.bytes()

    def _model(
        self,
        runtime: Any,
        job: wire.MeasureJob | wire.EnergyJob,
        sha256: str,
        shape: Mapping[str, int],
        *,
        keep: bool = False,
    ) -> Any:
        """A prepared model. The last anchor (`keep`) stays for the next job, and so does the last model that was
        asked for a second time: the sentinel."""
        pinned = None if job.cores is None else tuple(job.cores)
        key = (job.runtime, sha256, tuple(sorted(shape.items())), job.threads, pinned)
        for kept, model in (self._anchor, self._sentinel):
            if kept == key:
                return model
        model = runtime.Model(self._root.read_blob(sha256), shape, job.threads)
        model.prepare()
        if keep:
            self._anchor = (key, model)
        elif key in self._seen:
            self._sentinel = (key, model)
        self._seen.add(key)
        return model


def serve(worker: Worker, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer until the requests end."""
    while True:
        line = requests.readline(wire.MAX_LINE + 1)
        if not line.endswith(b"\n"):
            return
        replies.write(wire.reply_line(worker.handle(wire.parse_request(line))))
        replies.flush()


def main(root_path: str) -> None:
    """The worker process: stdin and stdout are the supervisor's pipes."""
    _die_with_parent()
    _die_first_of_memory()
    _have_no_more_than_there_is()
    root = Root(root_path)
    os.chdir(root.work)  # a model's relative paths lead into an empty folder
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Worker(root, timing.Clock()), sys.stdin.buffer, replies)


def _die_with_parent() -> None:
    """Linux: SIGKILL when the supervisor goes, however it goes."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def _die_first_of_memory() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError:
        return


def _have_no_more_than_there_is() -> None:
    """More writable memory than the machine has is refused at once, where the system would promise it and then look
    for a victim: a job of an absurd shape fails in a moment."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if there > 0 and (most == resource.RLIM_INFINITY or there < most):
            resource.setrlimit(resource.RLIMIT_DATA, (there, most))
    except (OSError, ValueError):
        return
