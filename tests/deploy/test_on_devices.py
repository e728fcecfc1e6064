"""Deployment to a real agent with a real runtime, on this machine and through a real sshd, with real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_agents import wire
from ofa_edge.deploy import bundle, run
from ofa_edge.deploy.bundle import Bundle, Part, Tensors
from ofa_edge.deploy.manifest import Budget, Manifest, Mode
from ofa_edge.deploy.outcome import Measure, Promise, State, Timing
from ofa_edge.deploy.plan import Planned, Step
from ofa_edge.device import open_device
from ofa_edge.device.session import Session
from ofa_edge.errors import DeviceLost, LockHeld, RolledBack
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import APP, Clock, Device, model, running

REPOSITORY = Path(__file__).resolve().parents[2]
ANY_TIME_MS, NO_TIME_MS = 1e6, 1e-6  # budgets that no machine misses, or meets


def tiny(number: float, *, budget_ms: float = ANY_TIME_MS, golden_error: float = 0.0) -> Bundle:
    """A bundle of a model that adds `number`; its golden outputs are off by `golden_error`."""
    inputs = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    golden = Tensors(inputs, inputs + np.float32(number + golden_error))
    promise = bundle.Promise(Budget(latency_ms=budget_ms))
    part = Part(OFA_LITE0.smallest(), model(number), golden, RunsOn(), promise)
    return bundle.build(app=APP, space=OFA_LITE0, parts=[part], labels=("a",))


OLD, NEW = tiny(1.0), tiny(2.0)


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest) -> str:
    """What --host would be."""
    if request.param == "local":
        return "local"
    return str(request.getfixturevalue("sshd").host)


def with_steps(local: list[str], ssh: list[str]) -> pytest.MarkDecorator:
    """The steps at which something is killed, here and through sshd: each case takes seconds."""
    cases = [("local", step) for step in local] + [("ssh", step) for step in ssh]
    return pytest.mark.parametrize(("host", "step"), cases, indirect=["host"])


def install_old(session: Session) -> Path:
    """Put OLD on the device without its agent, which is quicker; returns the device's folder."""
    root = Path(session.root)
    run.deploy(Device(root), OLD, measure=Clock())
    assert running(root) == OLD.release
    return root


@pytest.fixture
def session(host: str) -> Iterator[Session]:
    with open_device(host) as opened:
        yield opened


def once(session: Session) -> Measure:
    """One fresh process, for a moment."""

    def measure(manifest: Manifest, mode: Mode) -> Timing | wire.Failed:
        job = wire.MeasureJob(manifest.release, manifest.file(mode.model).sha256, max_seconds=0.1, target_rel=0.5)
        (result,) = session.measure([job], fresh=True)
        return result if isinstance(result, wire.Failed) else Timing(result.figures.median)

    return measure


def deploy(session: Session, made: Bundle, progress: run.Progress = run.silent) -> run.Outcome:
    return run.deploy(session, made, measure=once(session), progress=progress)


def test_the_life_of_an_app(session: Session) -> None:
    root = Path(session.root)
    first = deploy(session, OLD)
    assert (first.state, first.default.promise) == (State.COMMITTED, Promise.HELD)
    assert first.default.measured_ms is not None
    assert running(root) == OLD.release

    assert deploy(session, NEW).previous == OLD.release
    assert deploy(session, NEW).state is State.UNCHANGED
    signed = NEW.signed(Ed25519PrivateKey.generate())
    assert deploy(session, signed).state is State.UNCHANGED
    assert bundle.read(root / APP / "releases" / NEW.release).signed_by == signed.signed_by
    assert running(root) == NEW.release

    with pytest.raises(RolledBack, match="the budget is 1e-06 ms") as broken:
        deploy(session, tiny(3.0, budget_ms=NO_TIME_MS))
    assert broken.value.details["promise"] == "broken"
    with pytest.raises(RolledBack, match="outputs on the device differ"):
        deploy(session, tiny(3.0, golden_error=0.01))
    assert running(root) == NEW.release

    assert run.rollback(session, APP).release == OLD.release
    assert running(root) == OLD.release
    status = run.status(session, APP)
    assert (status["current"], status["previous"], status["unfinished"]) == (OLD.release, NEW.release, None)
    events = [record["event"] for record in status["journal"]]
    assert events.count("committed") == 3
    assert events.count("rolled-back") == 2


def test_a_second_host_is_told_who_deploys(session: Session, host: str) -> None:
    def meanwhile(planned: Planned) -> None:
        if planned.step is Step.SWITCH:
            with open_device(host) as other, pytest.raises(LockHeld, match="has been deploying for"):
                deploy(other, OLD)

    assert deploy(session, NEW, meanwhile).state is State.COMMITTED


KILLED_HOST = """
import os, signal, sys
from ofa_edge.device import open_device
from tests.deploy.test_on_devices import NEW, deploy
def progress(planned):
    if planned.step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
with open_device(sys.argv[1]) as session:
    deploy(session, NEW, progress)
"""


@with_steps(["upload", "stage", "check latency", "switch", "verify", "commit", "prune"], ["stage", "verify"])
@pytest.mark.slow
def test_a_host_that_is_killed_leaves_old_or_new(host: str, step: str) -> None:
    with open_device(host) as session:
        root = install_old(session)
    killed = subprocess.run([sys.executable, "-c", KILLED_HOST, host, step], cwd=REPOSITORY, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert running(root) in {OLD.release, NEW.release}
    with open_device(host) as session:
        wait_for_the_lock(session)
        assert deploy(session, NEW).state in (State.COMMITTED, State.UNCHANGED)
        assert run.status(session, APP)["previous"] == OLD.release
    assert running(root) == NEW.release


@with_steps(["switch", "prune"], ["verify"])
def test_an_agent_that_is_killed_leaves_old_or_new(host: str, step: str) -> None:
    agent_killed(host, step)


@pytest.mark.slow
@with_steps(["stage", "check outputs", "verify"], ["stage"])
def test_an_agent_that_is_killed_at_any_other_step_leaves_old_or_new(host: str, step: str) -> None:
    agent_killed(host, step)


def agent_killed(host: str, step: str) -> None:
    with open_device(host) as session:
        root = install_old(session)

        def kill(planned: Planned) -> None:
            if planned.step == step:
                os.kill(json.loads((root / APP / "lock").read_text())["pid"], signal.SIGKILL)

        if step == "prune":
            assert deploy(session, NEW, kill).notices
        else:
            with pytest.raises(DeviceLost) as lost:
                deploy(session, NEW, kill)
            assert lost.value.details["state"] is None
    assert running(root) in {OLD.release, NEW.release}
    with open_device(host) as session:
        assert deploy(session, NEW).state in (State.COMMITTED, State.UNCHANGED)
    assert running(root) == NEW.release


def wait_for_the_lock(session: Session) -> None:
    """Until the agent of a host that was killed has seen that its input ended."""
    while (held := run.status(session, APP)["lock"]) and held["alive"]:
        pass
