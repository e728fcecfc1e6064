"""The supervisor: the agent's long-lived process. It loads no runtime, so a runtime cannot take it down.

In: requests on stdin, one a line. Out: replies on stdout, in the order of the requests. Rules kept: a worker's
crash or deadline costs one job; every reply has its request's id and every stream an end record with its
count; a stream can be cancelled; at the end of stdin the worker is killed at once and the agent stops; an
agent that hears nothing for an hour stops too (a cut link ends no stdin), one that holds a deployment lock after
three minutes: a host that is busy with a transfer says `alive` meanwhile.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Callable

from device_agents import cores, facts, health, hooks, pruning, sites, slots, wire
from device_agents.root import Root
from device_agents.wire import AgentError
from device_agents.worker_process import WorkerLost, WorkerProcess

LOAD_SECONDS = 120.0
"""Start a worker, import its runtime, load a model; an emulated board needs most of it."""
IDLE_SECONDS = 3600.0
LOCKED_IDLE_SECONDS = 180.0
MAX_WAITING = 64
"""Requests that wait while one is answered; a host sends the next one when it has its reply."""
STOP_SECONDS = 30.0
"""After stdin ended an op in flight has this long; then the process ends, whatever hangs, and a hook with it."""
OPS = {**slots.OPS, **sites.OPS}


_STREAMS: dict[str, Callable[[Any], wire.MeasureJob | wire.EnergyJob]] = {
    "measure": wire.MeasureJob.parse,
    "energy": wire.EnergyJob.parse,
}


class Supervisor:
    """Serves one host.

    Args:
        root: our folder here, prepared.
        replies: where replies are written; flushed after each line.
        worker_argv: how to start a worker.
        extra: further ops, name -> function of (root, args).
        load_seconds: a job's deadline is this plus twice its own limit.
        locked_idle_seconds: silence of a host that holds a deployment lock, after which it counts as gone.
    """

    def __init__(
        self,
        root: Root,
        replies: BinaryIO,
        worker_argv: Sequence[str],
        extra: Mapping[str, Callable[[Root, dict[str, Any]], dict[str, Any]]] = OPS,
        load_seconds: float = LOAD_SECONDS,
        locked_idle_seconds: float = LOCKED_IDLE_SECONDS,
    ):
        self._root = root
        self._replies = replies
        self._worker_argv = list(worker_argv)
        self._extra = extra
        self._load_seconds = load_seconds
        self._locked_idle_seconds = locked_idle_seconds
        self._patience = IDLE_SECONDS
        self._worker: WorkerProcess | None = None
        self._queue: queue.Queue[wire.Request | None] = queue.Queue()
        self._streaming: int | None = None
        self._cancelled = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Event()

    def serve(self, requests: BinaryIO) -> None:
        """Answer until `requests` ends, a line in it is malformed, too many wait, or the host is silent too long."""
        threading.Thread(target=self._listen, args=(requests,), daemon=True).start()
        try:
            while not self._stopping.is_set():
                request = self._queue.get(timeout=self._patience)
                if request is None:
                    return
                if request.op != "alive":  # which wants no answer
                    self._answer(request)
        except (queue.Empty, BrokenPipeError):
            return
        finally:
            self._drop_worker()
            self._ended.set()

    # ----------------------------------------------------------------------------- the other thread

    def _listen(self, requests: BinaryIO) -> None:
        while True:
            line = requests.readline(wire.MAX_LINE + 1)
            try:
                request = wire.parse_request(line) if line.endswith(b"\n") else None
            except wire.WireError as error:
                sys.stderr.write(f"agent: {error}\n")
                request = None
            if request is None or self._queue.qsize() >= MAX_WAITING:
                break
            if request.op == "alive" and not self._queue.empty():
                continue
            if request.op == "cancel" and request.args.get("id") == self._streaming:
                self._cancelled.set()
                self._kill_worker()
            self._queue.put(request)
        self._stopping.set()
        self._kill_worker()
        self._queue.put(None)
        if not self._ended.wait(STOP_SECONDS):
            hooks.stop()
            os._exit(1)

    def _kill_worker(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.kill()

    # ---------------------------------------------------------------------------------------- ops

    def _answer(self, request: wire.Request) -> None:
        try:
            if request.op in _STREAMS:
                self._write(wire.End(request.id, self._stream(request)))
                return
            result = self._run(request)
            if request.op in ("lock", "unlock"):
                self._patience = self._locked_idle_seconds if request.op == "lock" else IDLE_SECONDS
            self._write(wire.Result(request.id, result))
        except AgentError as error:
            self._write(wire.Refusal(request.id, error.kind, error.message))
        except wire.WireError as error:
            self._write(wire.Refusal(request.id, "usage", str(error)))
        except BrokenPipeError:
            raise
        except OSError as error:
            refusal = AgentError.of(error)
            self._write(wire.Refusal(request.id, refusal.kind, refusal.message))
        except Exception as error:  # a defect or the system's refusal ends one request, not the agent
            self._write(wire.Refusal(request.id, "failed", f"{type(error).__name__}: {error}"))

    def _run(self, request: wire.Request) -> dict[str, Any]:
        args = wire.Fields("args", request.args)
        if request.op in self._extra:
            return self._extra[request.op](self._root, dict(request.args))
        if request.op == "facts":
            return wire.to_wire(self._facts())
        if request.op == "health":
            return wire.to_wire(health.collect())
        if request.op == "space":
            return {"free_bytes": self._root.free_bytes}
        if request.op == "missing":
            return {"missing": self._root.missing(args.items("sha256s", wire.MAX_HASHES))}
        if request.op == "discard":
            return {"count": pruning.discard(self._root, args.items("sha256s", wire.MAX_HASHES))}
        if request.op == "arrived":
            size, sha256 = self._root.arrived(args.sha256("sha256"))
            return {"bytes": size, "sha256": sha256, "free_bytes": self._root.free_bytes}
        if request.op == "forget":
            self._root.forget(args.sha256("sha256"))
            return {}
        if request.op == "unpack":
            return {"count": self._root.unpack(args.sha256("sha256"))}
        if request.op == "check":
            return self._check(request.args)
        if request.op == "cancel":
            self._cancelled.clear()
            self._drop_worker()
            return {}
        raise AgentError("usage", f"the agent has no op {request.op!r}")

    def _facts(self) -> wire.Facts:
        try:
            worker = self._ready_worker(fresh=False)
            reply = worker.ask("probe", {}, self._load_seconds)
        except WorkerLost as error:
            sys.stderr.write(f"agent: {error}\n")
            self._drop_worker()
            return facts.collect({})
        found = reply.result if isinstance(reply, wire.Result) else {}
        return facts.collect(found.get("runtimes", {}), sensors=found.get("sensors", ()), child=worker.pid)

    def _stream(self, request: wire.Request) -> int:
        """Jobs of `measure` or `energy`, one row each; returns their number."""
        parse = _STREAMS[request.op]
        args = wire.Fields("args", request.args)
        jobs = [parse(job) for job in args.items("jobs", wire.MAX_JOBS)]
        fresh = args.flag("fresh")
        args.done()
        allowed = set(cores.usable())
        for job in jobs:
            if job.cores is not None and not set(job.cores) <= allowed:
                raise AgentError("usage", f"cores {list(job.cores)} are not all among {sorted(allowed)}")
        self._cancelled.clear()
        self._streaming = request.id
        try:
            done = 0
            for job in jobs:
                row = self._one(request.op, job, fresh=fresh)
                if self._cancelled.is_set() or self._stopping.is_set():
                    break
                self._write(wire.Row(request.id, row))
                done += 1
            return done
        finally:
            self._streaming = None
            self._cancelled.clear()

    def _one(self, op: str, job: wire.MeasureJob | wire.EnergyJob, *, fresh: bool) -> dict[str, Any]:
        try:
            worker = self._ready_worker(fresh=fresh)
            reply = worker.ask(op, {"job": wire.to_wire(job)}, 2 * job.limit_seconds + self._load_seconds)
        except WorkerLost as error:
            self._drop_worker()
            return wire.result_row(wire.Failed(job.key, wire.clean(str(error))))
        if isinstance(reply, wire.Result):
            return dict(reply.result)
        if reply.kind == "no-runtime":
            raise AgentError(reply.kind, reply.message)
        return wire.result_row(wire.Failed(job.key, reply.message))

    def _check(self, args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            reply = self._ready_worker(fresh=True).ask("check", args, self._load_seconds)
        except WorkerLost as error:
            raise AgentError("failed", str(error)) from error
        finally:
            self._drop_worker()
        if isinstance(reply, wire.Refusal):
            raise AgentError(reply.kind, reply.message)
        return dict(reply.result)

    # ------------------------------------------------------------------------------------- inside

    def _ready_worker(self, *, fresh: bool) -> WorkerProcess:
        if fresh or (self._worker is not None and not self._worker.alive):
            self._drop_worker()
        if self._worker is None:
            self._worker = WorkerProcess(self._worker_argv)
            if self._stopping.is_set() or self._cancelled.is_set():
                self._worker.kill()  # the order came while no worker was there to be killed
        return self._worker

    def _drop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _write(self, reply: wire.Reply) -> None:
        self._replies.write(wire.reply_line(reply))
        self._replies.flush()


def main(nonce: str, root_path: str, worker_argv: Sequence[str]) -> None:
    """The agent process: say hello after the nonce, then serve stdin."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints on stderr
    try:
        root = Root(root_path)
        root.prepare()
        hello = {"ready": {"protocol": wire.PROTOCOL, "root": root.path}}
    except OSError as error:
        hello = {"refused": {"message": wire.clean(f"{error.filename}: {error.strerror}")}}
    replies.write(f"\n{nonce} {wire.dumps(hello)}\n".encode("ascii"))
    replies.flush()
    if "ready" in hello:
        Supervisor(root, replies, worker_argv).serve(sys.stdin.buffer)
