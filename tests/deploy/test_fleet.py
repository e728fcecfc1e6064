"""Many devices: canaries first, so many at once, one machine never twice, and Ctrl-C tells what became of each."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.deploy import run
from ofa_edge.deploy.fleet import Machines, Order, Result, Stop, carry_out
from ofa_edge.deploy.manifest import Manifest, Mode
from ofa_edge.deploy.outcome import Timing
from ofa_edge.errors import Interrupted, OfaEdgeError, RolledBack
from tests.deploy.double import FACTS, Clock, Device, make_bundle, running

HOSTS = [f"pi{number}" for number in range(6)]
OLD, NEW = make_bundle(1.0), make_bundle(2.0)


def states(results: list[Result]) -> list[str]:
    return [str(result.as_json().get("state")) for result in results]


def committed(host: str, stop: Stop) -> Mapping[str, Any]:
    return {"state": "committed"}


def test_results_come_in_the_order_of_the_hosts() -> None:
    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        return {"state": "committed", "me": host}

    found, interrupted = carry_out(HOSTS, action, order=Order())
    assert [one.as_json()["me"] for one in found] == [one.host for one in found] == HOSTS
    assert not interrupted


@pytest.mark.parametrize(
    ("count", "canary", "first"),
    [(1, None, 1), (2, None, 2), (3, None, 1), (6, None, 1), (6, 0, 6), (6, 2, 2), (6, 9, 6), (2, 1, 1)],
)
def test_one_of_more_than_two_goes_first_unless_told_otherwise(count: int, canary: int | None, first: int) -> None:
    waves = Order(canary).waves(HOSTS[:count])
    assert len(waves[0]) == first
    assert [host for wave in waves for host in wave] == HOSTS[:count]


def test_the_others_begin_after_the_canaries_have_succeeded() -> None:
    order: list[str] = []

    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        order.append(host)
        return {"state": "committed"}

    carry_out(HOSTS, action, order=Order(canary=2, parallel=6))
    assert set(order[:2]) == set(HOSTS[:2])


def test_a_canary_that_fails_keeps_the_others_as_they_are() -> None:
    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        raise RolledBack(f"{host}: too slow", details={"state": "rolled-back"})

    found, _ = carry_out(HOSTS, action, order=Order())
    assert states(found) == ["rolled-back"] + ["skipped"] * 5
    assert found[1].as_json()["reason"] == "pi0 failed, and went first"
    assert all(one.failed for one in found)


def test_one_that_fails_later_stops_nobody() -> None:
    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        if host == "pi3":
            raise ValueError("a mistake of ours")
        return {"state": "committed"}

    found, _ = carry_out(HOSTS, action, order=Order())
    assert [one.host for one in found if one.failed] == ["pi3"]
    assert "internal error: ValueError: a mistake" in found[3].as_json()["error"]["message"]


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_never_more_than_so_many_at_once(parallel: int) -> None:
    meet = threading.Barrier(parallel)
    now, most, lock = 0, 0, threading.Lock()

    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meet.wait(30)  # as many are really there at once
        with lock:
            now -= 1
        return {"state": "committed"}

    hosts = [f"pi{number}" for number in range(4)]
    carry_out(hosts, action, order=Order(canary=0, parallel=parallel))
    assert most <= parallel


def test_two_names_of_one_machine_go_one_after_the_other() -> None:
    machines, inside, waited = Machines(), set[str](), threading.Event()
    facts = {"a": FACTS, "b": FACTS, "c": replace(FACTS, boot_id="other"), "d": replace(FACTS, boot_id="unknown")}

    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        with machines.alone(facts[host], waited.set):
            assert not (host in "ab" and inside & {"a", "b"})
            inside.add(host)
            if host in "ab" and not waited.is_set():
                waited.wait(30)  # until the other one is known to wait
            inside.discard(host)
        return {"state": "committed"}

    found, _ = carry_out("abcd", action, order=Order(canary=0))
    assert not any(one.failed for one in found), [one.as_json() for one in found]
    assert waited.is_set()


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_sends_each_device_back_and_says_so(tmp_path: Path) -> None:
    """One device is before its commit, one has committed, one has not begun."""
    roots = {host: tmp_path / host for host in ("a", "b", "c")}
    for root in roots.values():
        root.mkdir()
        run.deploy(Device(root), OLD, measure=Clock())
    measuring, done = threading.Event(), threading.Event()

    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        def measure(manifest: Manifest, mode: Mode) -> Timing:
            if host == "a":
                done.wait(30)
                measuring.set()
                while not stop.asked:
                    pass
            return Timing(15.0)

        outcome = run.deploy(
            Device(roots[host]), NEW, measure=measure, host=host, progress=lambda planned: stop.check()
        )
        done.set()
        while not stop.asked:  # so that the third never begins
            pass
        return outcome.as_json()

    def interrupt() -> None:
        measuring.wait(30)
        press_ctrl_c()

    threading.Thread(target=interrupt).start()
    told: list[str] = []
    found, interrupted = carry_out(
        [*roots], action, order=Order(canary=0, parallel=2), stopping=lambda: told.append("stopping")
    )
    assert interrupted
    assert told == ["stopping"]
    assert states(found) == ["rolled-back", "committed", "skipped"]
    assert f"release {OLD.release} still runs" in found[0].as_json()["error"]["message"]
    assert [running(root) for root in roots.values()] == [OLD.release, NEW.release, OLD.release]
    again = carry_out(
        [*roots],
        lambda host, stop: run.deploy(Device(roots[host]), NEW, measure=Clock()).as_json(),
        order=Order(),
    )[0]
    assert states(again) == ["committed", "unchanged", "committed"], "only those that lack the release are touched"


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_second_ctrl_c_waits_for_nobody() -> None:
    begun, over = threading.Barrier(3), threading.Event()

    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        begun.wait(30)
        over.wait(30)
        return {"state": "committed"}

    def interrupt() -> None:
        begun.wait(30)
        press_ctrl_c()

    threading.Thread(target=interrupt).start()
    found, interrupted = carry_out(["a", "b", "c"], action, order=Order(canary=0, parallel=2), stopping=press_ctrl_c)
    over.set()
    assert interrupted
    assert states(found) == ["None", "None", "skipped"]
    assert "old release or the new one" in found[0].as_json()["error"]["message"]


def test_what_is_stopped_before_its_first_step_changed_nothing(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted) as error:
        run.deploy(Device(tmp_path), NEW, measure=Clock(), progress=lambda planned: stop.check())
    assert running(tmp_path) is None
    assert error.value.hint


def test_one_that_waits_when_it_is_interrupted_is_skipped() -> None:
    def action(host: str, stop: Stop) -> Mapping[str, Any]:
        stop.set()
        stop.check()
        return {"state": "committed"}

    (one,), interrupted = carry_out(["a"], action, order=Order())
    assert (one.as_json()["state"], one.as_json()["reason"]) == ("skipped", "interrupted before it began")
    assert interrupted


def test_a_failure_is_told_with_its_facts() -> None:
    error = OfaEdgeError("pi: no", hint="yes", details={"state": "refused", "release": "r"})
    value = Result("pi", error=error).as_json()
    assert (value["host"], value["state"], value["release"], value["error"]["hint"]) == ("pi", "refused", "r", "yes")
    assert value["error"]["details"] == {}, "not said twice"
