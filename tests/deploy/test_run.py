"""What a deployment promises to whoever starts it: its ends, its reasons, its figures."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.cli import releases
from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy import run
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.manifest import Manifest, Mode
from ofa_edge.deploy.outcome import ONLY_PLANNED, Outcome, Promise, State, Timing
from ofa_edge.deploy.plan import Planned, Step, Wishes
from ofa_edge.device.session import Session
from ofa_edge.errors import (
    BadFile,
    DeploymentRefused,
    DeviceLost,
    Interrupted,
    LockHeld,
    NeedsHands,
    OfaEdgeError,
    RolledBack,
    UsageError,
)
from tests.deploy.double import APP, FACTS, Clock, Device, Fault, Kind, make_bundle, running, size

OLD, NEW = make_bundle(1.0), make_bundle(2.0)
KEYS = {
    "state", "release", "previous", "predicted_ms", "measured_ms", "budget_ms", "promise", "top1", "steps", "reason",
}  # fmt: skip


def deploy(device: Device, bundle: Bundle = NEW, *timings: Timing | wire.Failed, **options: Any) -> Outcome:
    return run.deploy(device, bundle, measure=Clock(timings or (Timing(15.2),)), **options)


def ends_in(kind: type[OfaEdgeError], device: Device, *args: Any, **options: Any) -> OfaEdgeError:
    with pytest.raises(kind) as caught:
        deploy(device, *args, **options)
    assert type(caught.value) is kind
    assert caught.value.hint
    json.dumps(caught.value.as_json(), allow_nan=False)
    return caught.value


def last_record(device: Device) -> dict[str, Any]:
    record: dict[str, Any] = run.status(device, APP)["journal"][-1]
    return record


# -- good ends ----------------------------------------------------------------------------------------


def test_a_session_is_a_device() -> None:
    def accepts(session: Session) -> None:
        run.status(session, APP)  # read by the type checker

    assert accepts


def test_a_first_release_is_committed(root: Path) -> None:
    outcome = deploy(Device(root))
    assert running(root) == NEW.release
    assert (outcome.state, outcome.default.promise, outcome.previous) == (State.COMMITTED, Promise.HELD, None)
    default = outcome.default
    assert (default.predicted_ms, default.measured_ms, default.budget_ms, default.top1) == (15.0, 15.2, 20.0, 91.5)
    value = outcome.as_json()
    assert value.keys() >= KEYS
    assert [step["step"] for step in value["steps"]] == [
        "begin", "upload", "stage", "check outputs", "check latency", "switch", "verify", "commit", "prune",
    ]  # fmt: skip


def test_the_next_release_names_the_one_before(root: Path) -> None:
    deploy(Device(root), OLD)
    assert deploy(Device(root)).previous == OLD.release
    status = run.status(Device(root), APP)
    assert (status["current"], status["previous"]) == (NEW.release, OLD.release)
    assert status["manifest"]["release"] == NEW.release


def test_the_same_release_again_is_unchanged_and_moves_nothing(root: Path) -> None:
    deploy(Device(root), OLD)
    deploy(Device(root))
    device, clock = Device(root), Clock()
    outcome = run.deploy(device, NEW, measure=clock)
    assert (outcome.state, outcome.previous) == (State.UNCHANGED, OLD.release)
    assert (outcome.default.measured_ms, outcome.default.promise) == (15.2, Promise.HELD)
    assert device.log == ["missing", "state"]
    assert (clock.calls, device.pushed, device.changes) == (0, 0, [])


def test_what_recovery_leaves_as_it_was_is_not_journalled_as_refused(root: Path) -> None:
    deploy(Device(root), OLD)
    left = Device(root)
    left.call("lock", {"app": APP, "holder": "a host that dies"})
    left.call("begin", {"app": APP, "release": NEW.release, "kind": "deploy"})
    left.call("unlock", {"app": APP})
    device = Device(root)
    assert deploy(device, OLD).state is State.UNCHANGED
    assert last_record(device)["event"] == "rolled-back"


@pytest.mark.parametrize("value", [["held"], {"a": 1}, 10**400, True, "x"])
def test_figures_of_a_device_that_are_none_are_left_out(value: Any) -> None:
    before = Outcome.begun(NEW.manifest, None)
    found = before.recalling({"measured_ms": value, "measured_p90_ms": value, "promise": value}).default
    assert (found.measured_ms, found.measured_p90_ms, found.promise) == (None, None, Promise.NOT_CHECKABLE)


def test_a_second_release_sends_only_what_changed(root: Path) -> None:
    deploy(Device(root), OLD)
    device = Device(root)
    deploy(device, make_bundle(1.0, budget_ms=19.0))
    assert 0 < device.pushed < 3000, "only the manifest differs"
    device = Device(root)
    deploy(device, NEW)
    unchanged = NEW.blobs().keys() & OLD.blobs().keys()
    assert unchanged
    assert device.pushed == sum(len(data) for sha, data in NEW.blobs().items() if sha not in unchanged)


def test_another_budget_is_another_promise_and_another_release(root: Path) -> None:
    first, second = deploy(Device(root)), deploy(Device(root), make_bundle(2.0, budget_ms=16.0))
    assert second.state is State.COMMITTED
    assert (first.default.budget_ms, second.default.budget_ms) == (20.0, 16.0)
    assert first.release != second.release


def test_a_dry_run_shows_the_steps_and_changes_nothing(root: Path) -> None:
    device = Device(root)
    outcome = deploy(device, dry_run=True)
    assert outcome.state is State.UNCHANGED
    assert [str(planned.step) for planned in outcome.steps][:3] == ["lock", "begin", "upload"]
    assert device.changes == []
    executed = deploy(Device(root)).steps
    assert [p for p in outcome.steps if p.step not in ("lock", "unlock")] == list(executed)


def test_progress_is_told_before_each_step(root: Path) -> None:
    seen: list[Planned] = []
    outcome = deploy(Device(root), progress=seen.append)
    assert [planned.step for planned in seen] == ["lock", *(planned.step for planned in outcome.steps)]


def test_damaged_files_of_the_current_release_are_repaired(root: Path) -> None:
    deploy(Device(root))
    (root / APP / "current" / "model.onnx").write_bytes(b"rotten")
    outcome = deploy(Device(root))
    assert outcome.state is State.COMMITTED
    assert running(root) == NEW.release


def test_blobs_that_another_apps_prune_removes_meanwhile_are_sent_again(root: Path) -> None:
    others = [make_bundle(number, app="other") for number in (2.0, 3.0, 4.0)]
    deploy(Device(root), others[0])  # of NEW's model
    deploy(Device(root), others[1])

    def meanwhile(planned: Planned) -> None:
        if planned.step is Step.STAGE:
            deploy(Device(root), others[2])
            assert Device(root).missing(list(NEW.blobs())) != []

    assert deploy(Device(root), progress=meanwhile).state is State.COMMITTED
    assert running(root) == NEW.release


def test_a_signature_lies_beside_the_release_and_can_be_verified_there(root: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signed = NEW.signed(key)
    assert deploy(Device(root), signed).state is State.COMMITTED
    there = bundles.read((root / APP / "current").resolve())
    assert (there.signature, there.signed_by) == (signed.signature, signed.signed_by)
    assert deploy(Device(root), OLD).state is State.COMMITTED
    assert bundles.read((root / APP / "current").resolve()).signature is None


def test_the_signature_of_a_release_that_is_current_comes_without_a_switch_or_a_trial(root: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    deploy(Device(root), OLD)
    first = deploy(Device(root))
    for byte in range(2):  # none there, then another one
        signed = NEW.signed(Ed25519PrivateKey.from_private_bytes(bytes([byte] * 32)))
        device = Device(root)
        for blob in NEW.blobs():  # the models are not needed for it
            device.disk.discard([blob])
        planned = deploy(device, signed, dry_run=True)
        assert ([str(one.step) for one in planned.steps], planned.reason) == (["lock", "sign", "unlock"], ONLY_PLANNED)
        done = deploy(device, signed)
        assert (done.state, done.previous, done.modes) == (State.UNCHANGED, OLD.release, first.modes)
        assert "its signature was brought" in done.reason
        assert bundles.read((root / APP / "current").resolve()).signature == signed.signature
        assert not {"begin", "trial", "switch"} & {*device.log}
        assert run.status(device, APP)["journal"][-1]["event"] == "signed"
        assert deploy(device, signed).steps == deploy(device, NEW).steps == ()
    assert run.status(Device(root), APP)["unfinished"] is None


def test_a_bundle_for_another_kind_of_device_is_refused(root: Path) -> None:
    error = ends_in(DeploymentRefused, Device(root), NEW.counted(1, "riscv64"))
    assert "is made for riscv64, Testboard 4 is aarch64" in error.message
    assert "devices setup" in error.hint


# -- the promise --------------------------------------------------------------------------------------


def test_a_broken_promise_leaves_the_old_release(root: Path) -> None:
    deploy(Device(root), OLD)
    device = Device(root)
    error = ends_in(RolledBack, device, NEW, Timing(20.1))
    assert running(root) == OLD.release
    assert error.details["state"] == "rolled-back"
    assert error.details["promise"] == "broken"
    assert error.details["measured_ms"] == 20.1
    assert error.details["reason"] == "it takes 20.1 ms there, the budget is 20 ms"
    assert f"release {OLD.release} still runs" in error.message
    record = last_record(device)
    assert (record["event"], record["reason"]) == ("rolled-back", error.details["reason"])
    assert record["facts"]["measured_ms"] == 20.1


def test_the_budget_itself_is_within_the_budget(root: Path) -> None:
    assert deploy(Device(root), NEW, Timing(20.0)).default.promise is Promise.HELD


def test_a_disturbed_latency_is_taken_again(root: Path) -> None:
    outcome = deploy(Device(root), NEW, Timing(40.0, ("steal",)), Timing(30.0, ("load",)), Timing(15.0))
    assert (outcome.default.measured_ms, outcome.default.promise, outcome.notices) == (15.0, Promise.HELD, ())


def test_the_third_disturbed_latency_counts(root: Path) -> None:
    clock = Clock([Timing(40.0, ("steal",))])
    with pytest.raises(RolledBack, match="disturbed: steal"):
        run.deploy(Device(root), NEW, measure=clock)
    assert clock.calls == 3
    outcome = deploy(Device(root), NEW, Timing(19.0, ("steal",)))
    assert outcome.default.promise is Promise.HELD
    assert "steal" in outcome.notices[0]


def test_an_emulated_device_keeps_no_promise(root: Path) -> None:
    clock = Clock([Timing(900.0, ("steal",))])
    device = Device(root, facts=replace(FACTS, emulated=True))
    outcome = run.deploy(device, make_bundle(at=None), measure=clock)
    assert (outcome.state, outcome.default.promise, outcome.default.measured_ms) == (
        State.COMMITTED,
        Promise.NOT_CHECKABLE,
        900.0,
    )
    assert clock.calls == 1


def test_without_a_budget_nothing_was_promised(root: Path) -> None:
    outcome = deploy(Device(root), make_bundle(budget_ms=None), Timing(900.0))
    assert (outcome.state, outcome.default.promise) == (State.COMMITTED, Promise.NOT_CHECKABLE)


# -- trials that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checked", "reason"),
    [
        (wire.Checked(0.1, 2e-4, True, True), "differ by 0.0002 of the largest"),
        (wire.Checked(None, None, False, False), "not finite"),
    ],
)
def test_differing_outputs_leave_the_old_release(root: Path, checked: wire.Checked, reason: str) -> None:
    deploy(Device(root), OLD)
    device = Device(root, checked=checked)
    clock = Clock()
    with pytest.raises(RolledBack, match=reason):
        run.deploy(device, NEW, measure=clock)
    assert running(root) == OLD.release
    assert clock.calls == 0
    assert reason in last_record(device)["reason"]


def test_outputs_may_differ_by_the_tolerance(root: Path) -> None:
    assert deploy(Device(root, checked=wire.Checked(1.0, 1e-4, True, False))).state is State.COMMITTED


def test_a_model_that_crashes_is_a_failed_trial(root: Path) -> None:
    ends_in(RolledBack, Device(root), NEW, wire.Failed("k", "signal 11"))
    assert run.status(Device(root), APP)["current"] is None


def test_after_three_failed_trials_a_release_is_refused_until_it_changes(root: Path) -> None:
    for _ in range(3):
        ends_in(RolledBack, Device(root), NEW, Timing(99.0))
    device = Device(root)
    error = ends_in(DeploymentRefused, device, NEW, Timing(15.0))
    assert error.details["state"] == "refused"
    assert "failed its trial 3 times" in last_record(device)["reason"]
    assert deploy(Device(root), make_bundle(2.0, budget_ms=21.0), Timing(15.0)).state is State.COMMITTED


def test_a_host_that_gives_up_does_not_count_against_the_release(root: Path) -> None:
    def interrupted(manifest: Manifest, mode: Mode) -> Timing:
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(Interrupted, match="interrupted; no release runs"):
            run.deploy(Device(root), NEW, measure=interrupted)
    assert last_record(Device(root))["reason"] == "the host stopped"
    assert deploy(Device(root)).state is State.COMMITTED


def test_a_device_that_dies_of_the_trial_counts(root: Path) -> None:
    for _ in range(3):
        device = Device(root)

        def dies(manifest: Manifest, mode: Mode, device: Device = device) -> Timing:
            device.dead = DeviceLost("testboard: the link was cut")
            raise device.dead

        with pytest.raises(DeviceLost):
            run.deploy(device, NEW, measure=dies)
    ends_in(DeploymentRefused, Device(root))


# -- refusals and losses ------------------------------------------------------------------------------


def test_a_stale_bundle_is_refused_or_measured(root: Path) -> None:
    other = replace(FACTS, governor="powersave")
    error = ends_in(BadFile, Device(root, facts=other))
    assert "governor: 'performance' and 'powersave'" in error.message
    assert running(root) is None
    assert deploy(Device(root, facts=other), wishes=Wishes(accept_stale=True)).state is State.COMMITTED


def test_a_device_without_the_runtime_is_refused(root: Path) -> None:
    error = ends_in(DeploymentRefused, Device(root, facts=replace(FACTS, runtimes={})))
    assert "no runtime 'onnxruntime'" in error.message


def test_an_app_with_an_agents_name_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="keeps a folder"):
        deploy(Device(root), make_bundle(app="blobs"))


def test_two_hosts_at_once_the_second_is_told_who_deploys(root: Path) -> None:
    first = Device(root)
    found: list[OfaEdgeError] = []

    def meanwhile(manifest: Manifest, mode: Mode) -> Timing:
        second = Device(root, others={first.me})
        found.append(ends_in(LockHeld, second, OLD))
        return Timing(15.0)

    assert run.deploy(first, NEW, measure=meanwhile).state is State.COMMITTED
    assert "has been deploying for" in found[0].message
    assert found[0].details["state"] == "refused"
    assert running(root) == NEW.release
    assert deploy(Device(root, others={first.me}), OLD).state is State.COMMITTED


def test_a_lock_lost_in_the_race_is_reported_as_held(root: Path) -> None:
    """Both hosts saw a free lock; one of them took it first."""
    first, second = Device(root), Device(root)
    first.others.add(second.me)
    second.others.add(first.me)
    both = threading.Barrier(2)
    ends: list[Outcome | OfaEdgeError] = []

    def host(device: Device, bundle: Bundle) -> None:
        ask = device.call

        def after_both_looked(op: str, args: Any) -> dict[str, Any]:
            if op == "lock":
                both.wait(30)
            return ask(op, args)

        device.call = after_both_looked  # type: ignore[method-assign]
        try:
            ends.append(deploy(device, bundle))
        except LockHeld as error:
            ends.append(error)

    threads = [threading.Thread(target=host, args=pair) for pair in ((first, OLD), (second, NEW))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    committed = [end for end in ends if isinstance(end, Outcome)]
    assert committed
    assert len(ends) == 2
    assert running(root) in {outcome.release for outcome in committed}


def test_a_full_disk_is_seen_before_anything_is_sent(root: Path) -> None:
    device = Device(root, free=1_000_000)
    error = ends_in(DeploymentRefused, device)
    assert "1.0 MB free" in error.message
    assert device.pushed == 0


def test_a_disk_that_fills_up_on_the_way_leaves_the_old_release(root: Path) -> None:
    deploy(Device(root), OLD)
    sent = sum(len(data) for sha256, data in NEW.blobs().items() if sha256 not in OLD.blobs())
    device = Device(root, quota=size(root) + sent + 1000)  # room for the journal, not for a release
    error = ends_in(RolledBack, device)
    assert error.details["reason"] == "testboard: the device's disk is full"
    assert "create manifest.json" in device.changes
    assert running(root) == OLD.release
    assert last_record(device)["event"] == "rolled-back"
    assert deploy(Device(root)).state is State.COMMITTED


def test_a_disk_with_no_room_for_the_journal_needs_hands(root: Path) -> None:
    deploy(Device(root), OLD)
    at = next(i for i, change in enumerate(changes_of_a_deployment(root)) if change == "create manifest.json")
    with pytest.raises(NeedsHands, match="going back failed: .* disk is full"):
        deploy(Device(root, Fault(Kind.DISK_FULL, at)))
    assert running(root) == OLD.release
    assert deploy(Device(root)).state is State.COMMITTED


def test_a_lost_device_says_to_run_it_again(root: Path) -> None:
    error = ends_in(DeviceLost, Device(root, Fault(Kind.LINK_CUT_AFTER, 6)))
    assert "run the same command again" in error.hint
    assert error.details["state"] is None
    assert error.details["release"] == NEW.release


def test_a_device_somebody_changed_needs_hands(root: Path) -> None:
    deploy(Device(root), OLD)
    link = root / APP / "current"
    link.unlink()
    link.mkdir()
    error = ends_in(NeedsHands, Device(root))
    assert error.details["state"] == "needs-hands"
    assert "move it away" in run.status(Device(root), APP)["problem"]


def test_nothing_after_the_commit_undoes_it(root: Path) -> None:
    for bundle in (make_bundle(7.0), OLD):
        deploy(Device(root), bundle)
    at = [i for i, change in enumerate(changes_of_a_deployment(root)) if change.startswith("rename .trash")]
    assert at
    device = Device(root, Fault(Kind.DISK_ERROR, at[0]))
    outcome = deploy(device)
    assert (outcome.state, running(root)) == (State.COMMITTED, NEW.release)
    assert "not removed" in outcome.notices[0]


def changes_of_a_deployment(root: Path) -> list[str]:
    """The changes of the disk that deploying NEW makes, tried on a copy."""
    copy = root.with_name(root.name + "-rehearsal")
    shutil.copytree(root, copy, symlinks=True)
    try:
        device = Device(copy)
        deploy(device)
        return device.changes
    finally:
        shutil.rmtree(copy)


# -- going back ---------------------------------------------------------------------------------------


def test_a_rollback_returns_to_the_release_before_and_back_again(root: Path) -> None:
    deploy(Device(root), OLD)
    deploy(Device(root))
    outcome = run.rollback(Device(root), APP)
    assert (outcome.state, outcome.release, outcome.previous) == (State.COMMITTED, OLD.release, NEW.release)
    assert running(root) == OLD.release
    assert run.rollback(Device(root), APP).release == NEW.release


def test_a_rollback_checks_before_it_switches(root: Path) -> None:
    deploy(Device(root), OLD)
    deploy(Device(root))
    with pytest.raises(RolledBack, match=f"release {NEW.release} still runs"):
        run.rollback(Device(root, checked=wire.Checked(1.0, 1.0, True, False)), APP)
    (root / APP / "releases" / OLD.release / "model.onnx").write_bytes(b"rotten")
    with pytest.raises(BadFile, match="damaged"):
        run.rollback(Device(root), APP)
    assert running(root) == NEW.release


def test_there_is_no_way_back_from_the_first_release(root: Path) -> None:
    deploy(Device(root))
    with pytest.raises(DeploymentRefused, match="no release before"):
        run.rollback(Device(root), APP)
    assert running(root) == NEW.release


def test_a_rollback_does_not_wear_out_a_release(root: Path) -> None:
    deploy(Device(root), OLD)
    deploy(Device(root))
    for _ in range(4):
        with pytest.raises(RolledBack):
            run.rollback(Device(root, checked=wire.Checked(1.0, 1.0, True, False)), APP)
    assert deploy(Device(root), OLD).state is State.COMMITTED


def test_a_failed_release_takes_no_room(root: Path) -> None:
    deploy(Device(root), OLD)
    before = size(root / "blobs")
    ends_in(RolledBack, Device(root), NEW, Timing(99.0))
    assert run.status(Device(root), APP)["releases"] == [OLD.release]
    assert size(root / "blobs") == before


def test_pruning_keeps_the_way_back(root: Path) -> None:
    for number in (5.0, 6.0, 7.0):
        deploy(Device(root), make_bundle(number))
    stray = root / APP / "releases" / "by-hand"
    stray.mkdir()
    assert run.prune(Device(root), APP) == {"app": APP, "removed": ["by-hand"]}
    assert run.prune(Device(root), APP) == {"app": APP, "removed": []}
    assert run.rollback(Device(root), APP).release == make_bundle(6.0).release


# -- status -------------------------------------------------------------------------------------------


def test_status_of_a_device_that_knows_nothing_of_the_app(root: Path) -> None:
    status = run.status(Device(root), APP)
    assert (status["current"], status["previous"], status["journal"], status["mode"]) == (None, None, [], None)
    assert not (root / APP).exists()


def test_status_tells_who_deploys_and_what_was_interrupted(root: Path) -> None:
    with pytest.raises(DeviceLost):
        deploy(Device(root, Fault(Kind.LINK_CUT_AFTER, 6)))
    status = run.status(Device(root), APP)
    assert status["unfinished"] == NEW.release
    assert status["lock"]["alive"] is False
    assert "@" in status["lock"]["holder"]


def dies_before_verify(device: Device) -> Callable[[Planned], None]:
    """The host of an attempt dies between its switch and its commit."""

    def dies(planned: Planned) -> None:
        if planned.step is Step.VERIFY:
            device.dead = DeviceLost("testboard: the link was cut")

    return dies


def stopped_after_the_switch(root: Path) -> None:
    """Three releases came, and the host of NEW's deployment died between its switch and its commit."""
    deploy(Device(root), make_bundle(0.5))
    deploy(Device(root), OLD)
    device = Device(root)
    with pytest.raises(DeviceLost):
        deploy(device, progress=dies_before_verify(device))
    assert running(root) == NEW.release


def test_status_says_in_words_that_a_release_runs_uncommitted_and_what_to_type(root: Path) -> None:
    stopped_after_the_switch(root)
    found = run.status(Device(root), APP)
    said = releases._status_text(found, "pi")
    assert f"the deployment of {NEW.release} stopped after its switch: it runs, but was not checked since" in said
    assert f"`ofa-edge rollback --host pi --app {APP}` goes back to {OLD.release}" in said
    under_way = {**found, "lock": {"holder": "ann", "age_s": 1.0, "alive": True}}
    assert "is being deployed" in releases._status_text(under_way, "pi")
    for other in ({"current": OLD.release}, {"unfinished_step": "trial"}):  # the latter of a repair
        assert "stopped before its switch" in releases._status_text({**found, **other}, "pi")


def test_a_rollback_from_a_release_that_was_never_committed_goes_back_to_the_one_before_it(root: Path) -> None:
    stopped_after_the_switch(root)
    done = run.rollback(Device(root), APP)
    assert (done.state, done.release, done.previous) == (State.COMMITTED, OLD.release, NEW.release)
    assert running(root) == OLD.release
    assert run.status(Device(root), APP)["unfinished"] is None
    assert run.rollback(Device(root), APP).release == make_bundle(0.5).release


def test_a_rollback_that_was_interrupted_after_its_switch_is_done_again(root: Path) -> None:
    deploy(Device(root), OLD)
    deploy(Device(root))
    device = Device(root)
    with pytest.raises(DeviceLost):
        run.rollback(device, APP, progress=dies_before_verify(device))
    said = releases._status_text(run.status(Device(root), APP), "pi")
    assert f"the rollback to {OLD.release} stopped after its switch" in said
    assert f"`ofa-edge rollback --host pi --app {APP}` tries it again" in said
    assert run.rollback(Device(root), APP).release == running(root) == OLD.release
    assert run.status(Device(root), APP)["unfinished"] is None


def test_a_rollback_of_an_uncommitted_first_release_says_that_none_is_left(root: Path) -> None:
    device = Device(root)
    with pytest.raises(DeviceLost):
        deploy(device, progress=dies_before_verify(device))
    assert "takes it away, nothing ran before" in releases._status_text(run.status(Device(root), APP), "pi")
    with pytest.raises(DeploymentRefused, match="has been undone; app camera had no release before it") as caught:
        run.rollback(Device(root), APP)
    assert "deploy --host" in caught.value.hint
    assert running(root) is None
    assert deploy(Device(root)).state is State.COMMITTED


@pytest.mark.parametrize("damage", [b"", b"{}"])
def test_a_manifest_that_was_damaged_on_the_device_is_sent_again(root: Path, damage: bytes) -> None:
    device = Device(root)
    device.push(NEW.blobs())
    Path(device.disk.blob_path(NEW.sha256(bundles.MANIFEST))).write_bytes(damage)
    assert deploy(device).state is State.COMMITTED


def test_a_journal_from_the_device_is_safe_to_print(root: Path) -> None:
    deploy(Device(root))
    with (root / APP / "journal.jsonl").open("a") as journal:
        journal.write('{"event":"refused","release":"x","reason":"\\u001b[2Jgone","facts":{"a":"\\u0007"}}\n')
    record = last_record(Device(root))
    assert record["reason"] == " [2Jgone"
    assert record["facts"] == {"a": " "}
