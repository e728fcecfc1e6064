"""The fault matrix over a real sshd: real kills, cut links, full disks, pulled cables. Whatever happens, the device
runs the old release or the new one, and the next deployment succeeds and sweeps up.

Every kind of fault at some of the steps; tests/deploy/test_faults.py has all kinds at all steps, against the double.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string

from ofa_edge.deploy import bundle, run
from ofa_edge.deploy.bundle import Bundle, Part, Tensors
from ofa_edge.deploy.outcome import Outcome, State
from ofa_edge.deploy.plan import Planned, Step
from ofa_edge.device import ConnectOptions, open_device
from ofa_edge.device.session import Session
from ofa_edge.errors import DeviceLost, LockHeld, OfaEdgeError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.limits import LIMITS
from ofa_edge.space.spaces import OFA_LITE0
from tests import sshd as servers
from tests.cable import Cable
from tests.deploy.double import APP, Clock, Device, model, running
from tests.deploy.test_on_devices import ANY_TIME_MS, OLD, REPOSITORY, once
from tests.deploy.test_on_devices import NEW as SMALL
from tests.netns import Namespace, NoNamespaces, namespace
from tests.sshd import Sshd

pytestmark = pytest.mark.slow

BALLAST = 2_000_000
ENOUGH = 40 << 20
"""Of a disk: for both releases and what a plan wants to leave free."""


def large(number: float) -> Bundle:
    """As `tiny`, with two megabytes of weights that nobody uses and no compression shrinks: its upload can be cut."""
    made = load_model_from_string(model(number))
    weights = np.random.default_rng(int(number)).bytes(BALLAST)
    made.graph.initializer.append(helper.make_tensor("ballast", TensorProto.UINT8, [BALLAST], weights, raw=True))
    inputs = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    golden = Tensors(inputs, inputs + np.float32(number))
    promise = bundle.Promise(bundle.Budget(latency_ms=ANY_TIME_MS))
    part = Part(OFA_LITE0.smallest(), bytes(made.SerializeToString()), golden, RunsOn(), promise)
    return bundle.build(app=APP, space=OFA_LITE0, parts=[part], labels=("a",))


NEW = large(2.0)
PATIENCE = replace(LIMITS, lost_seconds=3.0, connect_seconds=10.0)
Fault = Callable[[], object]


class Board:
    """A device behind an sshd of its own, on which OLD runs."""

    def __init__(self, server: Sshd, python: str = sys.executable):
        self.server = server
        self.options = ConnectOptions(python=python, ssh_config=server.config, limits=PATIENCE)
        self.root = server.root
        self.root.mkdir(exist_ok=True)
        run.deploy(Device(self.root), OLD, measure=Clock())

    def open(self, host: str | None = None) -> Session:
        return open_device(host or self.server.host, options=self.options)

    def deploy(self, step: Step, fault: Fault, *, host: str | None = None) -> OfaEdgeError | Outcome:
        """Deploy NEW; `fault` happens when `step` begins. How it ended for the host."""
        happened = []

        def at(planned: Planned) -> None:
            if planned.step is step:
                happened.append(planned)
                fault()

        try:
            with self.open(host) as session:
                return run.deploy(session, NEW, measure=once(session), progress=at)
        except OfaEdgeError as error:
            return error
        finally:
            assert happened, f"no step {step}"

    def settle(self, host: str | None = None) -> None:
        """What must hold after every fault, at once and after the next deployment."""
        assert running(self.root) in {OLD.release, NEW.release}
        with self.open(host) as session:
            held = wait_for_the_lock(session)
            assert held is None or "@" in held
            assert run.deploy(session, NEW, measure=once(session)).state in (State.COMMITTED, State.UNCHANGED)
            status = run.status(session, APP)
            assert (status["current"], status["previous"]) == (NEW.release, OLD.release)
            assert (status["unfinished"], status["problem"]) == (None, "")
            run.prune(session, APP)
        assert running(self.root) == NEW.release
        app = self.root / APP
        assert sorted(path.name for path in app.iterdir() if path.name.startswith(".")) == []
        assert sorted(path.name for path in (app / "releases").iterdir()) == sorted({OLD.release, NEW.release})
        assert list((self.root / "incoming").iterdir()) == []

    @property
    def agent(self) -> int:
        """The process of the agent that deploys."""
        return int(json.loads((self.root / APP / "lock").read_text())["pid"])

    def events(self) -> list[str]:
        journal = (self.root / APP / "journal.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in journal]


def wait_for_the_lock(session: Session) -> str | None:
    """Until the agent of a host that is gone has noticed and ended; who held it."""
    holder = None
    while (held := run.status(session, APP)["lock"]) and held["alive"]:
        assert held["age_s"] >= 0
        holder = held["holder"]
    return holder


def named(value: object) -> str:
    return str(value) if isinstance(value, Step) else ""


@pytest.fixture
def board(make_sshd: Callable[[str], Sshd]) -> Board:
    return Board(make_sshd("board"))


# -- a step fails --------------------------------------------------------------------------------------


def spoil(*parts: str) -> Callable[[Board], None]:
    """Damage a file below the device's folder, as a bad card would."""

    def act(board: Board) -> None:
        file = board.root.joinpath(*parts)
        file.write_bytes(b"rotten" + file.read_bytes()[6:])

    return act


RELEASED = (APP, "releases", NEW.release, "model.onnx")


@pytest.mark.parametrize(
    ("step", "spoiled"),
    [
        (Step.OUTPUTS, spoil(*RELEASED)),
        (Step.SWITCH, spoil(*RELEASED)),
        (Step.VERIFY, spoil(*RELEASED)),
    ],
    ids=named,
)
def test_a_step_fails(board: Board, step: Step, spoiled: Callable[[Board], None]) -> None:
    ended = board.deploy(step, lambda: spoiled(board))
    assert isinstance(ended, OfaEdgeError)
    assert ended.details["state"] == "rolled-back"
    assert running(board.root) == OLD.release
    assert board.events()[-1] == "rolled-back"
    board.settle()


def test_what_rots_before_it_is_staged_is_sent_again(board: Board) -> None:
    ended = board.deploy(Step.STAGE, lambda: spoil("blobs", NEW.sha256("model.onnx"))(board))
    assert isinstance(ended, Outcome)
    assert ended.state is State.COMMITTED
    assert running(board.root) == NEW.release
    board.settle()


# -- processes are killed --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [Step.UPLOAD, Step.LATENCY, Step.COMMIT], ids=str)
def test_the_agent_is_killed(board: Board, step: Step) -> None:
    ended = board.deploy(step, lambda: os.kill(board.agent, signal.SIGKILL))
    assert isinstance(ended, DeviceLost)
    board.settle()


@pytest.mark.parametrize("step", [Step.OUTPUTS, Step.VERIFY, Step.PRUNE], ids=str)
def test_the_device_restarts(board: Board, step: Step) -> None:
    """Everything on it dies at once; its sshd comes back, its agent does not."""
    ended = board.deploy(step, board.server.crash)
    board.server.boot()
    assert isinstance(ended, DeviceLost if step is not Step.PRUNE else Outcome)
    board.settle()


@pytest.mark.parametrize("step", [Step.UPLOAD, Step.STAGE, Step.LATENCY], ids=str)
def test_the_host_is_killed(board: Board, tmp_path: Path, step: Step) -> None:
    """A real `ofa-edge deploy`, killed when it says that the step begins."""
    bundle.write(NEW, tmp_path / "bundle")
    command = [sys.executable, "-m", "ofa_edge.cli.app", "deploy", "--host", board.server.host]
    environment = {
        **os.environ,
        "OFA_EDGE_SSH_CONFIG": str(board.server.config),
        "OFA_EDGE_DEVICE_PYTHON": sys.executable,
        "PYTHONPATH": str(REPOSITORY),
    }
    with subprocess.Popen(
        [*command, "--bundle", str(tmp_path / "bundle"), "--json"],
        cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as host:  # fmt: skip
        assert host.stderr is not None
        said = []
        for line in host.stderr:
            said.append(line)
            if f": {step}" in line:
                host.kill()
    assert host.returncode == -signal.SIGKILL, said
    board.settle()


# -- the link is cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "carried"),
    [(Step.UPLOAD, BALLAST // 2), (Step.STAGE, 1), (Step.SWITCH, 1)],
    ids=named,
)
def test_the_link_is_cut_before_the_reply(board: Board, step: Step, carried: int) -> None:
    """After so many bytes of what the step sends; of an upload, the next deployment sends only the rest."""
    with Cable.to(board.server) as cable:
        assert isinstance(board.deploy(step, lambda: cable.cut_after(carried), host=cable.host), DeviceLost)
    assert len(list((board.root / "incoming").iterdir())) == (step is Step.UPLOAD)
    with Cable.to(board.server) as cable:
        board.settle(cable.host)
        assert cable.sent < BALLAST * 3 // 4


@pytest.mark.parametrize("step", [Step.STAGE, Step.SWITCH, Step.COMMIT], ids=str)
def test_the_link_is_cut_after_the_effect(board: Board, step: Step) -> None:
    """What was asked for happens, and the host never hears of it."""

    def seen() -> bool:
        if step is Step.STAGE:
            return (board.root / APP / "releases" / NEW.release).exists()
        if step is Step.SWITCH:
            return os.readlink(board.root / APP / "current").endswith(NEW.release)
        return board.events()[-1] == "committed" and len(board.events()) > len(before)

    def lose_the_reply() -> None:
        cable.mute = True
        threading.Thread(target=cut_when_seen, daemon=True).start()

    def cut_when_seen() -> None:
        while not seen():
            os.sched_yield()
        cable.cut()

    before = board.events()
    with Cable.to(board.server) as cable:
        assert isinstance(board.deploy(step, lose_the_reply, host=cable.host), DeviceLost)
    assert seen()
    board.settle()


# -- the disk is full ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(make_sshd: Callable[[str], Sshd]) -> Iterator[Board]:
    """A device whose folder is on a disk of its own."""
    server = make_sshd("small")
    server.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ENOUGH},mode=700", "ofa-edge-test", str(server.root)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk of limited size needs root, and a system that lets it mount a tmpfs")
    try:
        yield Board(server)
    finally:
        server.crash()
        subprocess.run(["umount", str(server.root)], check=True)
        server.boot()


@pytest.mark.parametrize("step", [Step.UPLOAD, Step.STAGE, Step.SWITCH, Step.COMMIT], ids=str)
def test_the_disk_is_full(small_disk: Board, step: Step) -> None:
    """Somebody else fills it to the last byte when the step begins, and makes room again afterwards."""
    filler = small_disk.root / "photos"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    ended = small_disk.deploy(step, fill)
    if step in (Step.UPLOAD, Step.STAGE):
        assert isinstance(ended, OfaEdgeError)
        assert "free in" in ended.message or "disk is full" in ended.message
        assert running(small_disk.root) == OLD.release
    filler.unlink()
    small_disk.settle()


# -- the network is gone --------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path) -> Iterator[tuple[Board, Namespace]]:
    """A device in a network of its own, whose sshd asks for signs of life."""
    if servers.MISSING:
        pytest.skip(servers.MISSING)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(namespace())
        except NoNamespaces as error:
            pytest.skip(str(error))
        server = servers.start(tmp_path / "far", address=found.address, within=found.within, alive=1)
        stack.callback(server.stop)
        yield Board(server), found


@pytest.mark.parametrize("step", [Step.UPLOAD, Step.SWITCH], ids=str)
def test_the_cable_is_pulled(net: tuple[Board, Namespace], step: Step) -> None:
    """No packet arrives and nobody is told: both ends must find out by themselves."""
    board, network = net
    assert isinstance(board.deploy(step, network.pull), DeviceLost)
    network.plug()
    board.settle()


# -- two at once ----------------------------------------------------------------------------------------------


def test_of_two_hosts_that_deploy_at_once_one_is_told_who_was_first_and_since_when(board: Board) -> None:
    told: list[LockHeld] = []

    def meanwhile() -> None:
        with board.open() as other, pytest.raises(LockHeld) as caught:
            run.deploy(other, SMALL, measure=once(other))
        told.append(caught.value)

    assert isinstance(board.deploy(Step.LATENCY, meanwhile), Outcome)
    (error,) = told
    assert error.details["state"] == "refused"
    assert "@" in error.message
    assert "has been deploying for" in error.message
    assert running(board.root) == NEW.release
    board.settle()


def test_two_hosts_that_start_together_both_come_to_an_end_and_one_wins(board: Board) -> None:
    """Real processes, through the whole of `ofa-edge deploy`'s path, released at the same moment."""
    code = (
        "import sys\n"
        "from ofa_edge.deploy import run\n"
        "from ofa_edge.device import ConnectOptions, open_device\n"
        "from ofa_edge.errors import LockHeld\n"
        "from tests.deploy.test_faults_ssh import NEW, once\n"
        "with open_device(sys.argv[1], options=ConnectOptions(python=sys.executable)) as session:\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    try:\n"
        "        print(run.deploy(session, NEW, measure=once(session)).state)\n"
        "    except LockHeld as error:\n"
        "        print('held:', error.message)\n"
    )
    environment = {**os.environ, "OFA_EDGE_SSH_CONFIG": str(board.server.config)}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", code, board.server.host],
            cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for host in hosts:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write("go\n")
        host.stdin.flush()
    said = sorted(host.communicate(timeout=120)[0].strip() for host in hosts)
    assert said[0] == "committed"
    assert said[1] == "unchanged" or (said[1].startswith("held:") and "deploying" in said[1])
    assert running(board.root) == NEW.release
    board.settle()


def test_a_holder_that_dies_leaves_a_lock_that_is_taken_over(board: Board) -> None:
    """Its record stays and names it; the next deployment's plan says from whom it takes over."""
    board.deploy(Step.STAGE, lambda: os.kill(board.agent, signal.SIGKILL))
    with board.open() as session:
        held = run.status(session, APP)["lock"]
        assert held["alive"] is False
        planned = run.deploy(session, NEW, measure=once(session), dry_run=True)
        (lock,) = [step for step in planned.steps if step.step is Step.LOCK]
        assert lock.detail == f"take over from {held['holder']}, which ended"
    board.settle()
