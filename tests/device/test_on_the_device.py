"""What a deployment leaves on a device for people and timers there, and what dies with its agent; shipped and started
for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.device import Session, open_session, provision
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import DeviceLost, OfaEdgeError, UsageError
from tests.sshd import lives

APP = "camera"


@pytest.fixture
def link(tmp_path: Path) -> LocalLink:
    return LocalLink(python=sys.executable, root=str(tmp_path / "device"))


@pytest.fixture
def session(link: LocalLink) -> Iterator[Session]:
    with open_session(link) as opened:
        opened.call("lock", {"app": APP, "holder": "me"})
        yield opened


def hook(session: Session, code: str, *, timeout_s: float = 60) -> dict[str, Any]:
    args = {"release": "r1", "kind": "health", "argv": [sys.executable, "-c", code], "timeout_s": timeout_s}
    return session.call("hook", {"app": APP, **args})


def test_the_agent_that_deployed_last_has_a_name_that_stays(session: Session, link: LocalLink) -> None:
    name = Path(session.root, "agent", "agent.pyz")
    assert os.readlink(name) == f"{provision.agent().sha256}.pyz"
    name.unlink()
    name.symlink_to(f"{'0' * 64}.pyz")  # of a version that is gone
    session.close()
    with open_session(link) as other:
        assert os.readlink(name) == f"{'0' * 64}.pyz"
        other.call("lock", {"app": APP, "holder": "me"})
        assert os.readlink(name) == f"{provision.agent().sha256}.pyz"
    done = subprocess.run([sys.executable, name, "mode", "--app", APP, "--root", session.root], capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"deploy one first" in done.stderr


def test_a_hook_runs_in_the_agent_and_its_end_comes_over_the_wire(session: Session) -> None:
    found = hook(session, "import os; print(os.environ['OFA_EDGE_APP']); raise SystemExit(3)")
    assert (found["exit"], found["output"]) == (3, APP)
    assert hook(session, "import time; time.sleep(60)", timeout_s=0.5)["exit"] is None
    with pytest.raises(UsageError):
        session.call("hook", {"app": APP, "release": "r1", "kind": "health", "argv": "rm -rf /", "timeout_s": 1})
    with pytest.raises(OfaEdgeError, match="deploy one first"):
        session.call("mode", {"app": APP, "mode": "low"})


STOPPING = """
import sys
from device_agents import supervisor
supervisor.STOP_SECONDS = 0.5
root = sys.argv[1]
supervisor.main("nonce", root, [sys.executable, "-c", ""])
"""


def test_a_hook_does_not_outlive_an_agent_whose_host_is_gone(tmp_path: Path) -> None:
    """After half a minute; here the agent is less patient."""
    agent = subprocess.Popen(
        [sys.executable, "-c", STOPPING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert agent.stdin is not None
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'pid.there'); time.sleep(600)"
    args = {"app": APP, "release": "r1", "kind": "health", "argv": [sys.executable, "-c", code], "timeout_s": 600}
    for number, (op, given) in enumerate((("lock", {"app": APP, "holder": "me"}), ("hook", args))):
        agent.stdin.write(json.dumps({"id": number, "op": op, "args": given}).encode() + b"\n")
    agent.stdin.flush()
    told = tmp_path / APP / "pid.there"
    wait(told.exists)
    pid = int(told.read_text())
    agent.stdin.close()
    assert agent.wait(60) == 1
    assert agent.stdout is not None
    agent.stdout.close()
    wait(lambda: not lives(pid))


def wait(until: Callable[[], bool]) -> None:
    while not until():
        os.sched_yield()


def test_an_agent_whose_link_is_cut_leaves_a_lock_that_holds_nothing(session: Session, link: LocalLink) -> None:
    pid = json.loads(Path(session.root, APP, "lock").read_text())["pid"]
    os.kill(pid, 9)
    with pytest.raises(DeviceLost):
        session.call("space", {})
    with open_session(link) as other:
        assert other.call("state", {"app": APP})["lock"]["alive"] is False
        assert other.call("lock", {"app": APP, "holder": "you"}) == {"taken_over": "me"}
