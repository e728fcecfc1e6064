"""The lab's device, started once; skipped with a sentence where it cannot be built."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from device_agents import wire
from ofa_edge import settings
from ofa_edge.device import ConnectOptions, connect, open_device, runtime_setup
from ofa_edge.errors import OfaEdgeError
from ofa_edge.latency.proof import proof
from tests.lab import pi as lab


@pytest.fixture(scope="session")
def bare_pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Pi]:
    """It runs, and has nothing of ours."""
    if reason := lab.unavailable():
        pytest.skip(reason)
    try:
        lab.build()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the lab's Debian could not be had: {(error.stderr or b'')[-300:].decode(errors='replace')}")
    started = lab.start(tmp_path_factory.mktemp("pi"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def unprepared(bare_pi: lab.Pi) -> wire.Facts:
    """What it said about itself before anything was set up."""
    with open_device(bare_pi.host, options=ConnectOptions(ssh_config=bare_pi.config)) as session:
        return session.facts


@pytest.fixture(scope="session")
def ready(bare_pi: lab.Pi, unprepared: wire.Facts, tmp_path_factory: pytest.TempPathFactory) -> runtime_setup.Ready:
    """ONNX Runtime was set up there."""
    with closing(connect(bare_pi.host, options=ConnectOptions(ssh_config=bare_pi.config))) as link:
        try:
            return runtime_setup.setup(
                link, "onnxruntime", lambda: proof("onnxruntime"), cache=lab.folder() / "packages"
            )
        except OfaEdgeError as error:
            if error.message.startswith("pip cannot bring"):
                pytest.skip(f"no package index here: {error.message}")
            raise


@pytest.fixture
def pi(bare_pi: lab.Pi, ready: runtime_setup.Ready, monkeypatch: pytest.MonkeyPatch) -> lab.Pi:
    """With a runtime, calm, and the ssh configuration that knows it."""
    monkeypatch.setenv("OFA_EDGE_SSH_CONFIG", str(bare_pi.config))
    (settings.home() / "cache").mkdir(parents=True)
    (settings.home() / "cache/sites").symlink_to(lab.folder() / "packages")
    bare_pi.calm()
    return bare_pi


@pytest.fixture
def ours(pi: lab.Pi) -> Path:
    """Our folder on it."""
    return pi.home / ".ofa-edge"
