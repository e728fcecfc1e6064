"""One action on several devices: what `deploy`, `rollback` and `mode set` share.

In: hosts as typed, an action on a session. Out: one value for one device, a list for several, and the exit code. Rules
kept: with one device its error is the command's; with several each has its row, and any failure is exit 1; progress
says whose it is; Ctrl-C ends with what became of each device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ofa_edge.cli.output import Output, milliseconds, table
from ofa_edge.cli.reaching import Reach
from ofa_edge.errors import Interrupted

if TYPE_CHECKING:
    from ofa_edge.deploy.fleet import Order, Stop
    from ofa_edge.deploy.plan import Planned
    from ofa_edge.device.session import Session


class Job(NamedTuple):
    """One device's turn.

    Attributes:
        said: talks about this device.
        stop: Ctrl-C; asked by `progress`, and by whatever else takes its time.
    """

    session: Session
    host: str
    said: Output
    stop: Stop

    def progress(self, planned: Planned) -> None:
        """Say a step of a deployment, unless it is to stop here. Raises Interrupted."""
        self.stop.check()
        self.said.say(f"{planned.step} {planned.detail}".rstrip())


Action = Callable[[Job], Mapping[str, Any]]


def each_host(
    reach: Reach,
    hosts: Sequence[str],
    action: Action,
    *,
    order: Order,
    describe: Callable[[Mapping[str, Any]], str],
    describe_all: Callable[[Sequence[Mapping[str, Any]]], str],
) -> None:
    """Do it on each device and print what became of them; exit 1 where any failed, 130 after Ctrl-C.

    Raises:
        OfaEdgeError: the one device's own.
    """
    from ofa_edge.deploy.fleet import Machines, carry_out

    out, connecting = reach.out, reach.connecting
    machines, asking = Machines(), threading.Lock()

    def on(host: str, stop: Stop) -> Mapping[str, Any]:
        said = Output(out.as_json, about=host)
        own = replace(connecting, notify=said.notice, ask=_one_at_a_time(connecting.ask, asking))
        with Reach(own, said).open(host) as session:
            busy = "waits: another name of this machine is being worked on"
            with machines.alone(session.facts, lambda: said.say(busy)):
                stop.check()
                return action(Job(session, host, said, stop))

    def stopping() -> None:
        out.warning("stopping: each device ends its step and goes back; Ctrl-C again leaves at once")

    results, interrupted = carry_out(hosts, on, order=order, stopping=stopping)
    if len(results) == 1:
        (one,) = results
        if one.error is not None:
            raise one.error.__cause__ if one.internal and one.error.__cause__ else one.error
        if one.value is None:
            raise Interrupted(f"{one.host}: {one.skipped}", hint="run the same command again")
        value = one.value
        out.result(value, lambda: describe(value))
        return
    values = [one.as_json() for one in results]
    for one in results:
        if one.error is not None:
            said = one.error.message.removeprefix(f"{one.host}: ")
            out.warning(f"{one.host}: {said}" + (f"; {one.error.hint}" if one.error.hint else ""))
    out.result(values, lambda: describe_all(values))
    if interrupted:
        raise typer.Exit(Interrupted.code)
    if any(one.failed for one in results):
        raise typer.Exit(1)


def _one_at_a_time(ask: Callable[[str], str | None] | None, lock: threading.Lock) -> Callable[[str], str | None]:
    """Questions of several links (a key's passphrase) come one after the other."""

    def asks(prompt: str) -> str | None:
        from ofa_edge.device.ssh_auth import ask_on_terminal

        with lock:
            return (ask or ask_on_terminal)(prompt)

    return asks


# -- what is said of deployments ------------------------------------------------------------------
def deployments(results: Sequence[Mapping[str, Any]]) -> str:
    """One table of outcomes; below it the steps of those that were only planned."""
    rows = [
        [
            one["host"],
            one.get("state") or "failed",
            one.get("release") or "-",
            milliseconds(one.get("measured_ms")),
            milliseconds(one.get("measured_p90_ms")),
            one.get("promise", "-"),
            one.get("reason") or one.get("error", {}).get("message", ""),
        ]
        for one in results
    ]
    lines = [f"{one['host']}: {line}" for one in results for line in (*notices(one), *planned(one))]
    return "\n".join([table(["host", "state", "release", "measured", "p90", "promise", "reason"], rows), *lines])


def notices(outcome: Mapping[str, Any]) -> list[str]:
    return [f"note: {notice}" for notice in outcome.get("notices", ())]


def planned(outcome: Mapping[str, Any]) -> list[str]:
    """The steps of a deployment that was only planned; those of one that ran were said as they ran."""
    from ofa_edge.deploy.outcome import ONLY_PLANNED

    steps = outcome["steps"] if outcome.get("reason") == ONLY_PLANNED else []
    return [f"would {one['step']}: {one['detail']}".rstrip(": ") for one in steps]
