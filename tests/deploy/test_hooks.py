"""What a person has run around the switch: it decides whether a release stays, and the old one is opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ofa_edge.deploy import run
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.hooks import Hooks
from ofa_edge.deploy.outcome import Outcome, State, Timing
from ofa_edge.deploy.plan import Wishes
from ofa_edge.errors import DeviceLost, RolledBack, UsageError
from tests.deploy.double import APP, Application, Clock, Device, Fault, Kind, make_bundle, running

OLD, NEW = make_bundle(1.0), make_bundle(2.0)
HOOKS = Hooks.parse("restart camera", "ask camera", 5.0)
FAILS = {"exit": 3, "seconds": 0.2, "output": "camera: no such model"}
LATE = {"exit": None, "seconds": 5.0, "output": "stopped after 5 s"}
ABSENT = {"exit": None, "seconds": 0.0, "output": "it cannot be started: No such file"}


def deploy(device: Device, bundle: Bundle = NEW, hooks: Hooks = HOOKS, **options: Any) -> Outcome:
    return run.deploy(device, bundle, measure=Clock(), wishes=Wishes(hooks=hooks), **options)


def on(root: Path, **replies: dict[str, Any]) -> Device:
    """A device whose application answers for NEW as told, by the kind of hook."""
    kinds = {"post_switch": "post-switch", "health": "health"}
    by_hook = {(kinds[name], NEW.release): reply for name, reply in replies.items()}
    return Device(root, application=Application(root, running(root), by_hook))


def test_the_application_opens_the_release_before_it_is_asked(root: Path) -> None:
    device = on(root)
    outcome = deploy(device)
    assert outcome.state is State.COMMITTED
    assert device.application.heard == [("post-switch", NEW.release), ("health", NEW.release)]
    assert device.application.opened == NEW.release
    steps = [str(planned.step) for planned in outcome.steps]
    assert steps[steps.index("switch") :] == ["switch", "post-switch", "verify", "health", "commit", "prune"]


@pytest.mark.parametrize("hook", ["post_switch", "health"])
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (FAILS, "command ended with status 3: camera: no such model"),
        (LATE, "command gave no status: stopped after 5 s"),
        (ABSENT, "command gave no status: it cannot be started: No such file"),
    ],
)
def test_a_hook_that_does_not_end_well_rolls_back(root: Path, hook: str, reply: dict[str, Any], said: str) -> None:
    deploy(on(root), OLD)
    device = on(root, **{hook: reply})
    with pytest.raises(RolledBack) as error:
        deploy(device)
    assert error.value.details["reason"] == f"its {hook.replace('_', '-')} {said}"
    assert running(root) == OLD.release
    assert device.application.opened == OLD.release, "told once more, so that it opens the old release"
    assert device.application.heard[-1] == ("post-switch", OLD.release)
    assert error.value.details["reason"] in run.status(Device(root), APP)["journal"][-1]["reason"]


def test_an_application_that_does_not_come_back_is_a_notice(root: Path) -> None:
    deploy(on(root), OLD)
    replies = {("health", NEW.release): FAILS, ("post-switch", OLD.release): FAILS}
    with pytest.raises(RolledBack) as error:
        deploy(Device(root, application=Application(root, OLD.release, replies)))
    assert error.value.details["notices"] == [
        f"back at release {OLD.release}, its post-switch command ended with status 3: camera: no such model"
    ]


def test_the_first_release_that_fails_leaves_nothing_to_open(root: Path) -> None:
    device = on(root, health=FAILS)
    with pytest.raises(RolledBack, match="no release runs"):
        deploy(device)
    assert running(root) is None
    assert device.application.heard == [("post-switch", NEW.release), ("health", NEW.release)]


def test_a_failure_before_the_switch_disturbs_no_application(root: Path) -> None:
    deploy(on(root), OLD)
    device = on(root)
    with pytest.raises(RolledBack):
        run.deploy(device, NEW, measure=Clock([Timing(99.0)]), wishes=Wishes(hooks=HOOKS))
    assert device.application.heard == []


def test_a_command_that_cannot_start_does_not_count_against_the_release(root: Path) -> None:
    for _ in range(4):
        with pytest.raises(RolledBack):
            deploy(on(root, post_switch=ABSENT))
    assert deploy(on(root)).state is State.COMMITTED


def test_a_release_that_is_unhealthy_three_times_is_refused(root: Path) -> None:
    for _ in range(3):
        with pytest.raises(RolledBack):
            deploy(on(root, health=FAILS))
    with pytest.raises(Exception, match="failed its trial 3 times"):
        deploy(on(root))


def test_a_rollback_opens_and_asks_too(root: Path) -> None:
    deploy(on(root), OLD)
    deploy(on(root))
    device = on(root)
    assert run.rollback(device, APP, hooks=HOOKS).state is State.COMMITTED
    assert device.application.heard == [("post-switch", OLD.release), ("health", OLD.release)]
    unhealthy = on(root, health=FAILS)
    with pytest.raises(RolledBack, match="health command"):
        run.rollback(unhealthy, APP, hooks=HOOKS)
    assert (running(root), unhealthy.application.opened) == (OLD.release, OLD.release)


def test_a_rollback_holds_the_latency_against_the_budget_if_asked(root: Path) -> None:
    deploy(on(root), OLD)
    deploy(on(root))
    with pytest.raises(RolledBack, match="it takes 99 ms there"):
        run.rollback(Device(root), APP, measure=Clock([Timing(99.0)]))
    assert running(root) == NEW.release
    back = run.rollback(Device(root), APP, measure=Clock([Timing(15.0, p90_ms=16.0)]))
    assert (back.default.measured_ms, back.default.measured_p90_ms, back.default.promise) == (15.0, 16.0, "held")


def test_after_an_interruption_the_application_opens_what_runs(root: Path) -> None:
    deploy(on(root), OLD)
    application = Application(root, OLD.release)
    at = requests_until(root, "verify")
    with pytest.raises(DeviceLost):
        deploy(Device(root, Fault(Kind.LINK_CUT_BEFORE, at), application=application))
    assert (running(root), application.opened) == (NEW.release, NEW.release)
    failing = make_bundle(3.0)
    with pytest.raises(RolledBack):
        run.deploy(
            Device(root, application=application), failing, measure=Clock([Timing(99.0)]), wishes=Wishes(hooks=HOOKS)
        )
    assert (running(root), application.opened) == (OLD.release, OLD.release)


def test_an_interruption_before_the_switch_disturbs_no_application(root: Path) -> None:
    deploy(on(root), OLD)
    with pytest.raises(DeviceLost):
        deploy(Device(root, Fault(Kind.LINK_CUT_BEFORE, requests_until(root, "switch"))))
    device = on(root)
    with pytest.raises(RolledBack):
        run.deploy(device, make_bundle(3.0), measure=Clock([Timing(99.0)]), wishes=Wishes(hooks=HOOKS))
    assert device.application.heard == []


def requests_until(root: Path, op: str) -> int:
    """How many requests come before an op in a deployment of NEW."""
    import shutil

    copy = root.with_name(root.name + "-rehearsal")
    shutil.copytree(root, copy, symlinks=True)
    try:
        device = on(copy)
        deploy(device)
        return device.log.index(op)
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("systemctl --user restart camera", ("systemctl", "--user", "restart", "camera")),
        ("sh -c 'echo $HOME; true'", ("sh", "-c", "echo $HOME; true")),
        (r"a\ b ''", ("a b", "")),
    ],
)
def test_a_command_is_split_as_a_shell_would_and_never_is_one(line: str, words: tuple[str, ...]) -> None:
    assert Hooks.parse(line, None).post_switch == words


@pytest.mark.parametrize(
    ("line", "message"),
    [("", "names no command"), ("  ", "names no command"), ("''", "names no command"), ("a 'b", "cannot be split"),
     ("a " * 65, "longer than 64 words"), ("a" * 5000, "4096 bytes")],
)  # fmt: skip
def test_a_command_that_is_none_is_refused_before_anything_is_done(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Hooks.parse(None, line)
    assert "--health" in error.value.message
    assert error.value.hint
