"""The fault matrix: whatever stops, at whatever point, the device runs the old release or the new one, and the
next deployment succeeds.

Cases are generated: each scenario is run with a fault at its first request (or change of the disk), at its
second, and so on until the fault is no longer reached.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from device_agents import wire
from ofa_edge.deploy import run
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.outcome import Outcome, State, Timing
from ofa_edge.errors import OfaEdgeError
from tests.deploy.double import (
    APP,
    DISK_KINDS,
    REQUEST_KINDS,
    Clock,
    Device,
    Fault,
    Killed,
    Kind,
    make_bundle,
    running,
)

OLDER, OLD, NEW = make_bundle(1.0), make_bundle(2.0), make_bundle(3.0)
LIMIT = 400  # more than any scenario has requests or changes


class Scenario(NamedTuple):
    """`prepare` the device, then `act` on it with a fault; afterwards it runs one of `allowed`."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Device], object]
    allowed: set[str | None]


def deploy(device: Device, *timings: Timing, bundle: Bundle = NEW) -> Outcome:
    return run.deploy(device, bundle, measure=Clock(timings or (Timing(15.2),)))


def prepare_nothing(root: Path) -> None:
    pass


def prepare_two(root: Path) -> None:
    deploy(Device(root), bundle=OLDER)
    deploy(Device(root), bundle=OLD)


def prepare_half_done(root: Path) -> None:
    """The host died between the switch and the commit."""
    prepare_two(root)
    rehearsal = root.with_name("rehearsal")
    shutil.copytree(root, rehearsal, symlinks=True)
    device = Device(rehearsal)
    deploy(device)
    with pytest.raises(Killed):
        deploy(Device(root, Fault(Kind.HOST_KILLED_AFTER, device.log.index("switch"))))
    assert running(root) == NEW.release


def broken_promise(device: Device) -> None:
    deploy(device, Timing(99.0))


def differing_outputs(device: Device) -> None:
    device.checked = wire.Checked(1.0, 0.5, True, False)
    deploy(device)


SCENARIOS = [
    Scenario("the first release", prepare_nothing, deploy, {None, NEW.release}),
    Scenario("the third release", prepare_two, deploy, {OLD.release, NEW.release}),
    Scenario("after a deployment that stopped half way", prepare_half_done, deploy, {OLD.release, NEW.release}),
    Scenario("a broken promise", prepare_two, broken_promise, {OLD.release}),
    Scenario("differing outputs", prepare_two, differing_outputs, {OLD.release}),
    Scenario("a rollback", prepare_two, lambda device: run.rollback(device, APP), {OLD.release, OLDER.release}),
]


@pytest.mark.parametrize("kind", [*REQUEST_KINDS, *DISK_KINDS])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_old_or_new_and_the_next_deployment_succeeds(scenario: Scenario, kind: Kind, root: Path) -> None:
    pristine = root / "pristine"
    pristine.mkdir()
    scenario.prepare(pristine)
    for at in range(LIMIT):
        place = root / "device"
        shutil.copytree(pristine, place, symlinks=True)
        device = Device(place, Fault(kind, at))
        with contextlib.suppress(OfaEdgeError, Killed):
            scenario.act(device)
        if not device.reached:
            assert at >= 8  # the scenario has more requests and changes than this
            return
        case = f"{kind} {at}: {device.log[-2:]} {device.changes[-2:]}"
        assert running(place) in scenario.allowed, case
        again = run.deploy(Device(place), NEW, measure=Clock())
        assert again.state in (State.COMMITTED, State.UNCHANGED), case
        assert running(place) == NEW.release, case
        # What a stopped clean-up left is swept by the next deployment that has something to do.
        assert again.state is State.UNCHANGED or leftovers(place) == [], case
        shutil.rmtree(place)
    pytest.fail(f"still faults after {LIMIT}")


def leftovers(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / APP).rglob(".*"))
