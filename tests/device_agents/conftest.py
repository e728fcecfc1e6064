from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ofa_edge.device import provision


@pytest.fixture
def root() -> Iterator[Path]:
    """A device's folder, in memory where the system has such a place: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="ofa-edge-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as it is shipped."""
    file = tmp_path_factory.mktemp("agent") / "agent.pyz"
    file.write_bytes(provision.agent().data)
    return file
