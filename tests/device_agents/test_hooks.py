"""Commands of the user in a deployment: started as an argument list, bounded in time and output, killed as a whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents import hooks
from device_agents.disk import Disk
from device_agents.root import Root
from device_agents.slots import OPS
from device_agents.wire import AgentError

APP = "camera"


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as path:
        Root(path).prepare()
        made = Disk(path)
        OPS["lock"](made, {"app": APP, "holder": "me"})
        yield made


def hook(disk: Disk, *argv: Any, timeout_s: float = 60, kind: str = "health", **more: Any) -> dict[str, Any]:
    args = {"app": APP, "release": "r1", "kind": kind, "argv": list(argv), "timeout_s": timeout_s, **more}
    return OPS["hook"](disk, args)


def python(disk: Disk, code: str, **options: Any) -> dict[str, Any]:
    return hook(disk, sys.executable, "-c", code, **options)


def ended(pid: int) -> bool:
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True


def test_a_command_gets_its_arguments_as_they_are_and_the_deployment_in_its_environment(disk: Disk) -> None:
    tricks = ["; rm -rf /", "$(id)", "a b", "*", ""]
    names = ["OFA_EDGE_APP", "OFA_EDGE_RELEASE", "OFA_EDGE_KIND", "OFA_EDGE_CURRENT"]
    code = f"import os, sys; print([os.getcwd(), *(os.environ[n] for n in {names})]); print(sys.argv[1:])"
    found = hook(disk, sys.executable, "-c", code, *tricks, kind="post-switch")
    folder = f"{disk.path}/{APP}"
    said = f"{[folder, APP, 'r1', 'post-switch', f'{folder}/current']} | {tricks}"
    assert (found["exit"], found["output"]) == (0, said)
    assert 0 < found["seconds"] < 60


def test_an_exit_status_and_what_was_said_last_come_back(disk: Disk) -> None:
    found = python(disk, "import sys; print('out'); print('err\\x1b[2J', file=sys.stderr); sys.exit(7)")
    assert found["exit"] == 7
    assert set(found["output"].split(" | ")) == {"out", "err [2J"}
    assert python(disk, "import os; os.kill(os.getpid(), 9)")["exit"] == -9


def test_a_chatty_command_costs_no_memory_and_its_last_words_are_kept(disk: Disk) -> None:
    found = python(disk, "for n in range(200_000): print('line', n)")
    assert len(found["output"]) <= hooks.OUTPUT
    assert found["output"].endswith("| line 199999")


def test_a_program_that_cannot_be_started_has_no_exit_status_and_says_why(disk: Disk) -> None:
    found = hook(disk, "/no/such/program")
    assert found["exit"] is None
    assert "cannot be started" in found["output"]
    assert "No such file" in found["output"]
    assert hook(disk, disk.path)["exit"] is None


def test_at_its_limit_the_whole_group_is_killed(disk: Disk) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "print('restarting', flush=True)\n"
        "time.sleep(600)"
    )
    found = python(disk, code, timeout_s=2)
    assert found["exit"] is None
    assert found["output"] == "restarting | stopped after 2 s"
    pids = [int(pid) for pid in Path(disk.path, APP, "pids").read_text().split()]
    while not all(map(ended, pids)):
        os.sched_yield()


def test_what_a_command_leaves_running_is_left_alone_and_not_waited_for(disk: Disk) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)"
    )
    found = python(disk, code)
    pid = int(found["output"])
    assert found["exit"] == 0
    assert not ended(pid)
    os.kill(pid, 9)


def test_an_agent_that_has_to_end_kills_what_runs(disk: Disk) -> None:
    import threading

    started = Path(disk.path, APP, "started")
    found: list[dict[str, Any]] = []
    code = "import time; open('started', 'w').close(); time.sleep(600)"
    thread = threading.Thread(target=lambda: found.append(python(disk, code, timeout_s=600)))
    thread.start()
    while not started.exists():
        os.sched_yield()
    hooks.stop()
    thread.join(60)
    assert found[0]["exit"] == -9


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_command_of_another_user_that_cannot_be_killed_is_not_waited_for(disk: Disk) -> None:
    """As `sudo systemctl restart` is for an agent that is not root: here the agent may kill nobody else's processes."""
    argv = ["setpriv", "--reuid", "65534", "--clear-groups", "sleep", "600"]
    code = (
        "import json, os, sys\n"
        "from device_agents import hooks\n"
        "from device_agents.disk import Disk\n"
        "from device_agents.slots import OPS\n"
        "disk = Disk(sys.argv[1])\n"
        f"OPS['lock'](disk, {{'app': {APP!r}, 'holder': 'me'}})\n"
        f"args = {{'app': {APP!r}, 'release': 'r1', 'kind': 'health', 'argv': {argv!r}, 'timeout_s': 1}}\n"
        "answer = OPS['hook'](disk, args)\n"
        "children = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "hooks._running.update(map(int, children))\n"
        "hooks.stop()\n"
        "print(json.dumps([answer, children]))\n"
    )
    OPS["unlock"](disk, {"app": APP})
    agent = ["setpriv", "--bounding-set", "-kill", sys.executable, "-c", code, disk.path]
    ran = subprocess.run(agent, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    answer, children = json.loads(ran.stdout)
    for child in children:
        os.kill(int(child), 9)
    assert answer["exit"] is None
    assert answer["output"] == "stopped after 1 s, but it belongs to another user and still runs"
    assert len(children) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []}, {"argv": "ls"}, {"argv": [""]}, {"argv": ["ls", 1]}, {"argv": ["ls", "a\0b"]},
        {"argv": ["x"] * 65}, {"argv": ["x" * 5000]}, {"timeout_s": 0}, {"timeout_s": 1e9}, {"kind": "shell"},
        {"release": "../x"}, {"app": "../x"}, {"shell": True},
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(disk: Disk, changes: dict[str, Any]) -> None:
    args = {"app": APP, "release": "r1", "kind": "health", "argv": ["true"], "timeout_s": 1, **changes}
    with pytest.raises(AgentError) as caught:
        OPS["hook"](disk, args)
    assert caught.value.kind == "usage"


def test_a_command_needs_the_deployment_lock(disk: Disk) -> None:
    OPS["unlock"](disk, {"app": APP})
    with pytest.raises(AgentError, match="lock"):
        hook(disk, "true")
