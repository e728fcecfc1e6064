"""The tiny space under its name, and one thread: these networks are too small to share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ofa_edge.space import spaces
from tests.train.tiny import TINY


@pytest.fixture(autouse=True)
def tiny_space(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(spaces.SPACES, TINY.name, TINY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
