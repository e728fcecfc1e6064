"""A conversation with the agent on a device: ask, stream, stop. How it begins: opening.py.

In: a Channel to a running agent. Out: wire values. Rules kept: every reply has the id of its request; a stream is
complete only with its end record and the right count; every read has a cap and every wait a deadline. Whatever else
a device sends is a ProtocolError that names the device, and the session is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from device_agents import wire
from ofa_edge import errors
from ofa_edge.device.identity import require_same_machine
from ofa_edge.device.link import Channel, Link, one_line
from ofa_edge.device.sites import RUNTIMES, pip_name
from ofa_edge.device.transfer import Courier, packs
from ofa_edge.errors import DeviceLost, OfaEdgeError, ProtocolError
from ofa_edge.limits import Limits

T = TypeVar("T")
R = TypeVar("R", bound="wire.Measured | wire.Energy | wire.Failed")
_Job = wire.MeasureJob | wire.EnergyJob

_ERRORS: dict[str, type[OfaEdgeError]] = {
    "usage": errors.UsageError,
    "bad-file": errors.BadFile,
    "refused": errors.DeploymentRefused,
    "lock-held": errors.LockHeld,
    "needs-hands": errors.NeedsHands,
    "rolled-back": errors.RolledBack,
}


class Session:
    """One running agent. Use as a context manager; not for several threads.

    Attributes:
        link: how the device is reached; closed with the session only if `owns_link`.
        facts: what the device is, asked once at the start.
        root: our folder there, absolute.
    """

    facts: wire.Facts

    def __init__(self, link: Link, channel: Channel, root: str, *, limits: Limits, owns_link: bool = False):
        self.link = link
        self.root = root
        self._channel = channel
        self._limits = limits
        self._owns_link = owns_link
        self._id = 0
        self._unheard: set[int] = set()
        self._closed = False

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """Those of `sha256s` that are not on the device, in the order given."""
        absent: set[str] = set()
        for start in range(0, len(sha256s), wire.MAX_HASHES):
            asked = list(sha256s[start : start + wire.MAX_HASHES])
            found = self._only(self.call("missing", {"sha256s": asked}), lambda r: r.items("missing", wire.MAX_HASHES))
            if not set(map(str, found)) <= set(asked):
                raise self._broken("it misses hashes nobody asked for")
            absent.update(found)
        return [sha256 for sha256 in sha256s if sha256 in absent]

    def discard(self, sha256s: Sequence[str]) -> int:
        """Remove blobs that are there, but for those of releases; how many were removed."""
        parts = [list(sha256s[i : i + wire.MAX_HASHES]) for i in range(0, len(sha256s), wire.MAX_HASHES)]
        return sum(self._only(self.call("discard", {"sha256s": p}), lambda r: r.whole("count")) for p in parts)

    def push(self, blobs: Mapping[str, bytes]) -> int:
        """Bring blobs to the device, content-addressed, in few large transfers. One that was cut goes on where it was.

        Args:
            blobs: sha256 -> bytes; all are sent, ask `missing` before.

        Returns:
            Bytes sent now, compressed.

        Raises:
            NoRoom: not enough of it there; it names what is free and what the transfer needs.
            OfaEdgeError: a blob arrived damaged.
            DeviceLost: the link was cut; blobs unpacked before it stay, and so does what came of the others.
        """
        courier = Courier(self.link, self.root, self._ask, self._alive)
        return sum(courier.bring(pack) for pack in packs(blobs, self._limits.pack_bytes))

    def measure(self, jobs: Sequence[wire.MeasureJob], *, fresh: bool) -> Iterator[wire.Measured | wire.Failed]:
        """Time models; results come in the jobs' order, as they are ready.

        Args:
            jobs: their models (and anchors) were pushed before.
            fresh: a new worker process for each job.

        Closing the iterator early stops the agent's work on the rest.

        Raises:
            OfaEdgeError: the runtime is not on the device, or a job asks for cores it does not have.
            DeviceLost: the link was cut; results yielded before it stand.
        """
        for start in range(0, len(jobs), self._limits.request_jobs):
            part = jobs[start : start + self._limits.request_jobs]
            yield from self._stream("measure", part, wire.Measured, fresh=fresh)

    def energy(self, jobs: Sequence[wire.EnergyJob]) -> Iterator[wire.Energy | wire.Failed]:
        """Energy of runs, one result a job, in their order; as `measure` in all else.

        Args:
            jobs: their models were pushed before, their sensors are out of `facts.sensors`.
        """
        for start in range(0, len(jobs), self._limits.request_jobs):
            part = jobs[start : start + self._limits.request_jobs]
            yield from self._stream("energy", part, wire.Energy, fresh=False)

    def ask_facts(self) -> wire.Facts:
        """The facts as they are now; what a device may change while it runs (its governor) may be another.

        Raises:
            ProtocolError: another machine answers than at the start, or it has restarted under us.
        """
        now = self._parsed(wire.Facts.parse, self.call("facts", {}, timeout=2 * self._limits.load_seconds))
        try:
            require_same_machine(self.facts, now, device=self.link.name)
        except ProtocolError:
            self.close()
            raise
        return now

    def health(self) -> wire.Health:
        """How fit the device is to be measured: its settings, its heat, its other work. Changes nothing there."""
        return self._parsed(wire.Health.parse, self.call("health", {}))

    def check(self, args: Mapping[str, Any]) -> wire.Checked:
        """The op `check`: golden outputs on the device, in a fresh worker.

        Args:
            args: model, inputs, outputs (sha256; tensors are raw little-endian float32), input_shape,
                output_shape, runtime, threads.
        """
        return self._parsed(wire.Checked.parse, self.call("check", args, timeout=self._limits.load_seconds * 2))

    def call(self, op: str, args: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        """One request, one reply.

        Args:
            timeout: seconds to wait for the reply; None is the ordinary limit.

        Raises:
            OfaEdgeError: what the agent refused, as the class of its kind.
            DeviceLost, ProtocolError: no reply, or none that is one.
        """
        try:
            reply = self._receive(self._send(op, args), timeout or self._limits.reply_seconds)
        except KeyboardInterrupt:  # who goes back after it asks again, and hears this request's reply first
            self._unheard.add(self._id)
            raise
        if not isinstance(reply, wire.Result):
            raise self._broken(f"it answered {op!r} with a stream")
        return dict(reply.result)

    def close(self) -> None:
        """Stop the agent (its stdin ends), and the link if it is ours; never raises."""
        if not self._closed:
            self._closed = True
            self._channel.close(self._limits.close_seconds)
            if self._owns_link:
                self.link.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------------------------- inside

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Meanwhile the agent hears that we are there, so that it needs little patience with a host that is not.

        Nothing else may use the agent's channel inside it."""
        done = threading.Event()

        def tell() -> None:
            with contextlib.suppress(OfaEdgeError):
                while not done.wait(self._limits.alive_seconds):
                    self._channel.write(wire.request_line(0, "alive", {}), self._limits.reply_seconds)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join(self._limits.reply_seconds)

    def _stream(self, op: str, jobs: Sequence[_Job], kind: type[R], *, fresh: bool) -> Iterator[R | wire.Failed]:
        """The rows of one request, one a job, in their order."""
        ident = self._send(op, {"jobs": [wire.to_wire(job) for job in jobs], "fresh": fresh})
        done = 0
        open_stream = True
        try:
            for job in jobs:
                # Twice the job's own limit: the agent ends it long before, the host only when the agent is mute.
                reply = self._receive(ident, 2 * job.limit_seconds + 2 * self._limits.load_seconds)
                if not isinstance(reply, wire.Row):
                    open_stream = False
                    raise self._broken(f"its stream ended after {done} of {len(jobs)} results")
                result = self._parsed(lambda row: wire.parse_row(kind, row), reply.row)
                if result.key != job.key:
                    raise self._broken(f"it sent a result of {result.key!r} where that of {job.key!r} was due")
                done += 1
                yield result
            self._expect_end(ident, done)
            open_stream = False
        except OfaEdgeError:
            open_stream = False
            raise
        finally:
            if open_stream and not self._closed:
                self._cancel(ident)

    def _expect_end(self, ident: int, count: int) -> None:
        reply = self._receive(ident, self._limits.reply_seconds)
        if not isinstance(reply, wire.End):
            raise self._broken(f"it went on after the last of {count} results, without an end record")
        if reply.count != count:
            raise self._broken(f"its end record counts {reply.count} results, there were {count}")

    def _cancel(self, ident: int) -> None:
        """Stop a stream the caller has left, so that the next request finds a clean line."""
        try:
            cancel = self._send("cancel", {"id": ident})
            deadline = time.monotonic() + self._limits.reply_seconds
            for _ in range(self._limits.request_jobs + 2):  # rows under way, the stream's end, the answer
                line = self._read(max(0.0, deadline - time.monotonic()))
                reply = self._parsed(wire.parse_reply, line)
                if isinstance(reply, wire.Result) and reply.id == cancel:
                    return
        except OfaEdgeError:
            pass
        self.close()

    def _send(self, op: str, args: Mapping[str, Any]) -> int:
        if self._closed:
            raise DeviceLost(f"the session with {self.link.name} is over")
        self._id += 1
        self._lost(lambda: self._channel.write(wire.request_line(self._id, op, args), self._limits.reply_seconds))
        return self._id

    def _receive(self, ident: int, timeout: float) -> wire.Reply:
        """The next reply to request `ident`; a refusal is raised as the error it names."""
        reply = self._parsed(wire.parse_reply, self._read(timeout))
        while reply.id in self._unheard:
            self._unheard.remove(reply.id)
            reply = self._parsed(wire.parse_reply, self._read(timeout))
        if reply.id != ident:
            raise self._broken(f"it answered request {reply.id}, asked was {ident}")
        if isinstance(reply, wire.Refusal):
            raise refusal_error(reply, self.link.name, self.link.python)
        return reply

    def _read(self, timeout: float) -> bytes:
        line = self._lost(lambda: self._channel.readline(self._limits.line_bytes, timeout))
        if not line.endswith(b"\n"):
            raise self._ended()
        return line

    def _lost(self, action: Callable[[], T]) -> T:
        """Do something with the channel; when it fails the session is over."""
        try:
            return action()
        except DeviceLost as error:
            self.close()
            hint = error.hint or "results so far are kept; run the same command again with --resume"
            raise type(error)(f"{self.link.name}: {error.message}", hint=hint) from error

    def _ask(self, op: str, args: Mapping[str, Any], take: Callable[[wire.Fields], T]) -> T:
        """What `take` finds in the reply to a request."""
        return self._only(self.call(op, args), take)

    def _only(self, result: Mapping[str, Any], take: Callable[[wire.Fields], T]) -> T:
        """What `take` finds in a reply that holds nothing else."""

        def parse(value: Mapping[str, Any]) -> T:
            fields = wire.Fields("reply", value)
            found = take(fields)
            fields.done()
            return found

        return self._parsed(parse, result)

    def _parsed(self, parse: Callable[[Any], T], value: Any) -> T:
        try:
            return parse(value)
        except wire.WireError as error:
            raise self._broken(str(error)) from error

    def _broken(self, what: str) -> ProtocolError:
        self.close()
        return ProtocolError(
            f"{self.link.name} does not speak the agent's protocol: {what}",
            hint="run it again; if it stays so, look for other programs that write to the agent's output",
        )

    def _ended(self) -> DeviceLost:
        self._closed = True
        status = self._channel.close(self._limits.close_seconds)
        if self._owns_link:
            self.link.close()
        tail = one_line(self._channel.stderr_tail())
        why = "the link was cut or the agent was killed" if status in (None, -1) else f"exit status {status}"
        return DeviceLost(
            f"{self.link.name}: the agent stopped ({why})" + (f": {tail}" if tail else ""),
            hint="results so far are kept; run the same command again with --resume",
        )


def refusal_error(refusal: wire.Refusal, device: str, python: str) -> OfaEdgeError:
    """The host's error for an agent's refusal; `python` is the interpreter that runs it."""
    if refusal.kind == "no-runtime":
        # It begins with the runtime's name; what a device says is only compared with names that we know.
        runtime = next((name for name in RUNTIMES if refusal.message.startswith(f"{name} ")), RUNTIMES[0])
        return errors.UsageError(
            f"{device}: {refusal.message}",
            hint=f"bring it there with `ofa-edge devices setup {device} --runtime {runtime}` (or `{python} -m pip "
            f"install {pip_name(runtime)}`), or name a Python that has it with --python, in devices.toml or in "
            "OFA_EDGE_DEVICE_PYTHON",
        )
    return _ERRORS.get(refusal.kind, OfaEdgeError)(f"{device}: {refusal.message}")
