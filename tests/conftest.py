"""What all tests share: a home of their own, real peers on loopback, a tiny model."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread each for numpy and torch, told before they are imported: what tests compute is small, and those of several
# workers, and of the processes that tests start, would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from tests import sshd as server

# How long an example takes says nothing on a busy machine. By default the examples are the same in every run, so that
# a change is judged by what it changed; `make fuzz` draws others, for which OFA_EDGE_FUZZ is set.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("others", deadline=None, print_blob=True)
hypothesis.settings.load_profile("others" if os.environ.get("OFA_EDGE_FUZZ") else "same")


def pytest_collection_finish() -> None:
    """All modules are loaded, and stay: looking through them again and again for garbage took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the user's files: HOME, OFA_EDGE_HOME and ssh's configuration are the test's own."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OFA_EDGE_HOME", str(home / "ofa-edge"))
    config = home / "ssh_config"
    config.write_text(f"Host *\n  UserKnownHostsFile {home}/known_hosts\n  GlobalKnownHostsFile none\n")
    monkeypatch.setenv("OFA_EDGE_SSH_CONFIG", str(config))
    for name in ("SSH_AUTH_SOCK", "OFA_EDGE_DEVICE_PYTHON", "OFA_EDGE_EMULATED"):
        monkeypatch.delenv(name, raising=False)
    return home / "ofa-edge"


@pytest.fixture
def make_sshd(tmp_path: Path) -> Iterator[Callable[[str], server.Sshd]]:
    """Starts servers of the test's own, which it may break; called with a name each."""
    if server.MISSING:
        pytest.skip(server.MISSING)
    with contextlib.ExitStack() as stack:

        def make(name: str) -> server.Sshd:
            started = server.start(tmp_path / name)
            stack.callback(started.stop)
            return started

        yield make


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Sshd]:
    """One server for all tests that only use it."""
    if server.MISSING:
        pytest.skip(server.MISSING)
    started = server.start(tmp_path_factory.mktemp("sshd"))
    yield started
    started.stop()


@pytest.fixture
def sshd(shared_sshd: server.Sshd, monkeypatch: pytest.MonkeyPatch) -> server.Sshd:
    """A device behind a real sshd: `sshd.host` is its HOST, this interpreter its Python, its host key known."""
    import sys

    monkeypatch.setenv("OFA_EDGE_SSH_CONFIG", str(shared_sshd.config))
    monkeypatch.setenv("OFA_EDGE_DEVICE_PYTHON", sys.executable)
    return shared_sshd


@pytest.fixture(scope="session")
def tiny_onnx() -> bytes:
    """A 3x3 convolution from 3 to 4 channels with named height and width, 'input' -> 'output', every weight .5."""
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4, 3, 3, 3], [0.5] * 108)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], ["output"], pads=[1, 1, 1, 1])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4, "h", "w"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Also where the tests themselves run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
