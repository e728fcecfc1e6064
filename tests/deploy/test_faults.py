"""The fault matrix: whatever stops, at whatever point, the device runs the old release or the new one, and the
next deployment succeeds.

Cases are generated: each scenario is run with a fault at its first request (or change of the disk), at its
second, and so on until the fault is no longer reached. `python -m tests.deploy.test_faults` counts them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_agents import wire
from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy import modes, run
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.hooks import Hooks
from ofa_edge.deploy.outcome import Outcome, State, Timing
from ofa_edge.deploy.plan import Wishes
from ofa_edge.errors import DeviceLost, OfaEdgeError
from tests.deploy.double import (
    APP,
    DISK_KINDS,
    REQUEST_KINDS,
    Application,
    Clock,
    Device,
    Fault,
    Killed,
    Kind,
    make_bundle,
    running,
)

MODES = ("full", "low")
OLDER, OLD, NEW = (make_bundle(float(number), modes=MODES) for number in (1, 2, 3))
SIGNED = NEW.signed(Ed25519PrivateKey.from_private_bytes(bytes(32)))
HOOKS = Hooks.parse("restart camera", "ask camera", 5.0)
UNWELL = {"exit": 1, "seconds": 0.1, "output": "no"}
HELD = {"full": Timing(15.2), "low": Timing(8.0)}
LIMIT = 400  # more than any scenario has requests or changes
EVERYWHERE = range(LIMIT)
EVERY = 10


class Scenario(NamedTuple):
    """`prepare` the device, then `act` on it with a fault; afterwards it runs one of `allowed`. `hooks` are the
    application's replies, by kind and release."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Device], object]
    allowed: set[str | None]
    hooks: Mapping[tuple[str, str], dict[str, object]] = MappingProxyType({})


def deploy(device: Device, *, bundle: Bundle = NEW, **timings: Timing) -> Outcome:
    return run.deploy(device, bundle, measure=Clock(by_mode={**HELD, **timings}), wishes=Wishes(hooks=HOOKS))


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
    shutil.rmtree(rehearsal)
    assert running(root) == NEW.release


def prepare_unsigned(root: Path) -> None:
    prepare_two(root)
    deploy(Device(root))


def sign(device: Device) -> None:
    deploy(device, bundle=SIGNED)


def differing_outputs(device: Device) -> None:
    device.checked = wire.Checked(1.0, 0.5, True, False)
    deploy(device)


def rollback(device: Device) -> None:
    run.rollback(device, APP, measure=Clock(by_mode=HELD), hooks=HOOKS)


def set_low(device: Device) -> None:
    modes.change(device, APP, "low")


SCENARIOS = [
    Scenario("the first release", prepare_nothing, deploy, {None, NEW.release}),
    Scenario("the third release", prepare_two, deploy, {OLD.release, NEW.release}),
    Scenario("after a deployment that stopped half way", prepare_half_done, deploy, {OLD.release, NEW.release}),
    Scenario("one mode's promise is broken", prepare_two, lambda d: deploy(d, low=Timing(99.0)), {OLD.release}),
    Scenario("differing outputs", prepare_two, differing_outputs, {OLD.release}),
    Scenario(
        "post-switch fails", prepare_two, deploy, {OLD.release, NEW.release}, {("post-switch", NEW.release): UNWELL}
    ),
    Scenario("health fails", prepare_two, deploy, {OLD.release, NEW.release}, {("health", NEW.release): UNWELL}),
    Scenario("a rollback", prepare_two, rollback, {OLD.release, OLDER.release}),
    Scenario("the current release is signed", prepare_unsigned, sign, {NEW.release}),
    Scenario("a mode is set", prepare_two, set_low, {OLD.release}),
]


def cases(scenario: Scenario, kind: Kind, root: Path, places: range = EVERYWHERE) -> int:
    """Run the cases of a scenario and a kind of fault at these places; how many there were."""
    pristine = root / "pristine"
    pristine.mkdir()
    scenario.prepare(pristine)
    opened = running(pristine) if scenario.prepare is not prepare_half_done else OLD.release
    for number, at in enumerate(places):
        place = root / "device"
        shutil.copytree(pristine, place, symlinks=True)
        application = Application(place, opened, scenario.hooks)
        device = Device(place, Fault(kind, at), application=application)
        end: BaseException | None = None
        try:
            scenario.act(device)
        except (OfaEdgeError, Killed) as error:
            end = error
        if not device.reached:
            shutil.rmtree(place)
            shutil.rmtree(pristine)
            return number
        case = f"{kind} {at}: {device.log[-2:]} {device.changes[-2:]}: {end!r}"
        left = running(place)
        assert left in scenario.allowed, case
        heard = application.heard or end is None  # else whatever it has open is not this deployment's doing
        if left and heard and not isinstance(end, (DeviceLost, Killed)) and not told_of_the_application(end):
            assert application.opened == left, case
        assert modes.show(Device(place), APP).mode in MODES if left else True, case
        wanted = SIGNED if scenario.act is sign else NEW
        again = deploy(Device(place, application=Application(place, left)), bundle=wanted)
        assert again.state in (State.COMMITTED, State.UNCHANGED), case
        assert running(place) == NEW.release, case
        assert bundles.read((place / APP / "current").resolve()).signature == wanted.signature, case
        assert modes.change(Device(place), APP, "low").mode == "low", case
        # What a stopped clean-up left is swept by the next deployment that has something to do.
        assert again.state is State.UNCHANGED or leftovers(place) == [], case
        shutil.rmtree(place)
    raise AssertionError(f"still faults after {LIMIT}")


KINDS = (*REQUEST_KINDS, *DISK_KINDS)
of_all_kinds = pytest.mark.parametrize("kind", KINDS)
in_all_scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@of_all_kinds
@in_all_scenarios
def test_old_or_new_and_the_next_deployment_succeeds(scenario: Scenario, kind: Kind, root: Path) -> None:
    """At every tenth place, for each kind of fault beginning at another; the slow test has them all."""
    first = KINDS.index(kind) % (2 if scenario.act in (set_low, sign) else EVERY)
    assert cases(scenario, kind, root, range(first, LIMIT, EVERY)) >= 1


@pytest.mark.slow
@of_all_kinds
@in_all_scenarios
def test_old_or_new_wherever_it_stops(scenario: Scenario, kind: Kind, root: Path) -> None:
    assert cases(scenario, kind, root) >= 2  # the least: setting a mode makes two requests


def told_of_the_application(end: BaseException | None) -> bool:
    """The fault hit the very command by which the application opens the old release, and a notice says so."""
    notices = end.details.get("notices", ()) if isinstance(end, OfaEdgeError) else ()
    return any("post-switch command" in notice for notice in notices)


def leftovers(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / APP).rglob(".*"))


def main() -> None:
    """Run all cases and print how many there were: scenarios down, kinds of fault across."""
    memory = Path("/dev/shm")
    total = 0
    for scenario in SCENARIOS:
        counts = []
        for kind in KINDS:
            with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
                counts.append(cases(scenario, kind, Path(folder)))
        total += sum(counts)
        sys.stdout.write(f"| {scenario.name} | {' | '.join(map(str, counts))} |\n")
    sys.stdout.write(f"{total} cases; kinds: {'; '.join(KINDS)}\n")


if __name__ == "__main__":
    main()
