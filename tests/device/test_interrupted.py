"""Ctrl-C while a device is being asked: the session goes on, so that a deployment can go back at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from ofa_edge.device import open_session
from ofa_edge.device.local import LocalLink


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_after_ctrl_c_in_a_request_the_next_one_gets_its_own_reply(tmp_path: Path) -> None:
    """The hook itself asks for the Ctrl-C, once it runs: its reply comes after it."""
    root, app = tmp_path / "root", {"app": "camera"}
    with open_session(LocalLink(root=str(root))) as session:
        session.call("lock", {**app, "holder": "me"})
        os.mkfifo(root / "camera" / "runs")

        def interrupt() -> None:
            (root / "camera" / "runs").read_bytes()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        argv = ["sh", "-c", "echo > runs; sleep 2"]
        with pytest.raises(KeyboardInterrupt):
            session.call("hook", {**app, "release": "r1", "kind": "health", "argv": argv, "timeout_s": 60})
        args = {"reason": "interrupted", "blame": False, "facts": {}}
        assert session.call("recover", {**app, **args}) == {"recovered": None}
        assert session.call("unlock", app) == {"released": True}
