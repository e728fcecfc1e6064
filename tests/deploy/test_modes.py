"""A release with several modes: each is proven before the switch, and the device is told which one to use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.deploy import modes, run
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.outcome import Outcome, Promise, State, Timing
from ofa_edge.deploy.plan import Wishes
from ofa_edge.errors import DeploymentRefused, OfaEdgeError, RolledBack
from tests.deploy.double import APP, FACTS, Clock, Device, make_bundle, running

TWO = make_bundle(2.0, modes=["full", "low"], p90_ms=25.0)
HELD = {"full": Timing(15.0, p90_ms=16.0), "low": Timing(8.0, p90_ms=9.0)}


def deploy(device: Device, bundle: Bundle = TWO, **timings: Timing | wire.Failed) -> Outcome:
    return run.deploy(device, bundle, measure=Clock(by_mode={**HELD, **timings}))


def test_each_mode_is_proven_by_its_own_budget(root: Path) -> None:
    device = Device(root)
    outcome = deploy(device)
    value = outcome.as_json()
    assert [mode["name"] for mode in value["modes"]] == ["full", "low"]
    assert [mode["measured_ms"] for mode in value["modes"]] == [15.0, 8.0]
    assert [mode["budget_ms"] for mode in value["modes"]] == [20.0, 10.0]
    assert [mode["budget_p90_ms"] for mode in value["modes"]] == [25.0, 12.5]
    assert {mode["promise"] for mode in value["modes"]} == {"held"}
    assert device.log.count("check") == 2
    for key in ("measured_ms", "measured_p90_ms", "predicted_ms", "budget_ms", "promise", "top1"):
        assert value[key] == value["modes"][0][key], "the top is of the default mode"


@pytest.mark.parametrize(
    ("timing", "reason"),
    [
        (Timing(10.1, p90_ms=11.0), "mode low: it takes 10.1 ms there, the budget is 10 ms"),
        (Timing(9.0, p90_ms=13.0), "mode low: its 90th percentile is 13 ms there, the budget is 12.5 ms"),
        (Timing(9.0), "mode low: its 90th percentile was not measured"),
        (wire.Failed("k", "signal 11"), "mode low: the model failed while it was timed: signal 11"),
    ],
)
def test_one_mode_that_breaks_its_promise_leaves_the_old_release(
    root: Path, timing: Timing | wire.Failed, reason: str
) -> None:
    deploy(Device(root), make_bundle(1.0, modes=["full", "low"]))
    before = running(root)
    with pytest.raises(RolledBack) as error:
        deploy(Device(root), low=timing)
    assert error.value.details["reason"].startswith(reason)
    assert error.value.details["modes"][0]["promise"] == "held"
    assert running(root) == before


def test_the_90th_percentile_is_reported_where_nothing_limits_it(root: Path) -> None:
    outcome = run.deploy(Device(root), make_bundle(), measure=Clock([Timing(15.0, p90_ms=40.0)]))
    assert (outcome.default.promise, outcome.default.measured_p90_ms) == (Promise.HELD, 40.0)
    assert run.status(Device(root), APP)["journal"][-1]["facts"]["measured_p90_ms"] == 40.0


def test_a_budget_of_the_90th_percentile_alone_is_a_promise(root: Path) -> None:
    bundle = make_bundle(budget_ms=None, p90_ms=20.0)
    assert run.deploy(Device(root), bundle, measure=Clock([Timing(15.0, p90_ms=20.0)])).default.promise is Promise.HELD


def test_an_unchanged_release_remembers_the_figures_of_every_mode(root: Path) -> None:
    first = deploy(Device(root))
    again = deploy(Device(root))
    assert again.state is State.UNCHANGED
    assert again.modes == first.modes


@pytest.mark.parametrize(
    "facts", ['"x"', '{"modes":"not json"}', '{"modes":"[1]"}', '{"modes":"{\\"low\\":[NaN,1,2]}"}']
)
def test_figures_that_cannot_be_read_are_not_there(root: Path, facts: str) -> None:
    deploy(Device(root))
    journal = root / APP / "journal.jsonl"
    *lines, last = journal.read_text().splitlines()
    record = json.loads(last)
    record["facts"] = json.loads(facts)
    journal.write_text("\n".join([*lines, json.dumps(record)]) + "\n")
    again = deploy(Device(root))
    assert again.state is State.UNCHANGED
    assert [mode.measured_ms for mode in again.modes] == [None, None]


def test_an_emulated_device_keeps_no_modes_promise(root: Path) -> None:
    device = Device(root, facts=replace(FACTS, emulated=True))
    outcome = run.deploy(device, make_bundle(modes=["full", "low"], at=None), measure=Clock([Timing(900.0)]))
    assert {mode.promise for mode in outcome.modes} == {Promise.NOT_CHECKABLE}


# -- the mode in use --------------------------------------------------------------------------------


def test_a_new_release_runs_in_its_first_mode_until_another_is_set(root: Path) -> None:
    deploy(Device(root))
    assert run.status(Device(root), APP)["mode"] == "full"
    done = modes.change(Device(root), APP, "low")
    assert (done.mode, done.previous, done.modes, done.release) == ("low", "full", ("full", "low"), TWO.release)
    assert (root / APP / "mode").read_text() == "low\n"
    status = run.status(Device(root), APP)
    assert (status["mode"], status["modes"]) == ("low", ["full", "low"])
    assert (status["journal"][-1]["event"], status["journal"][-1]["mode"]) == ("mode", "low")
    there = modes.show(Device(root), APP).as_json()
    assert (there["mode"], [mode["name"] for mode in there["modes"]]) == ("low", ["full", "low"])


def test_a_mode_outlives_a_release_that_has_it(root: Path) -> None:
    deploy(Device(root))
    modes.change(Device(root), APP, "low")
    outcome = deploy(Device(root), make_bundle(3.0, modes=["full", "low"]))
    assert outcome.notices == ()
    assert modes.show(Device(root), APP).mode == "low"


def test_a_release_without_the_mode_in_use_says_what_it_runs_in(root: Path) -> None:
    deploy(Device(root))
    modes.change(Device(root), APP, "low")
    outcome = deploy(Device(root), make_bundle(3.0))
    assert outcome.notices == ("the device is in mode low, which this release lacks: it runs in default",)
    assert modes.show(Device(root), APP).mode == "default"


def refused(action: Any, message: str) -> OfaEdgeError:
    with pytest.raises(DeploymentRefused, match=message) as error:
        action()
    assert error.value.hint
    return error.value


def test_a_mode_that_is_not_there_is_refused_and_named(root: Path) -> None:
    refused(lambda: modes.change(Device(root), APP, "low"), "no release of camera is current")
    deploy(Device(root))
    error = refused(lambda: modes.change(Device(root), APP, "../low"), "no mode '../low'")
    assert error.hint == "it has full, low"
    (root / APP / "current" / "manifest.json").write_text("{}")
    refused(lambda: modes.show(Device(root), APP), "release")


def test_a_mode_is_changed_while_somebody_deploys(root: Path) -> None:
    deploy(Device(root))
    deploying = Device(root)
    deploying.call("lock", {"app": APP, "holder": "ann@desk"})
    assert modes.change(Device(root, others={deploying.me}), APP, "low").mode == "low"


def test_a_downgrade_is_refused_unless_it_is_meant(root: Path) -> None:
    deploy(Device(root), make_bundle(5.0, counter=5))
    with pytest.raises(DeploymentRefused, match="a downgrade") as error:
        deploy(Device(root), make_bundle(4.0, counter=4))
    assert error.value.details["state"] == "refused"
    assert "downgrade" in run.status(Device(root), APP)["journal"][-1]["reason"]
    older = run.deploy(Device(root), make_bundle(4.0, counter=4), measure=Clock(), wishes=Wishes(allow_downgrade=True))
    assert older.state is State.COMMITTED
    assert run.rollback(Device(root), APP).release == make_bundle(5.0, counter=5).release
    assert run.rollback(Device(root), APP).state is State.COMMITTED, "going back is no downgrade"
