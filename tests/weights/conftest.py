"""The tiny space under its name, so that checkpoints of it can be loaded."""

from __future__ import annotations

import pytest

from ofa_edge.space import spaces
from tests.train.tiny import TINY


@pytest.fixture(autouse=True)
def tiny_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(spaces.SPACES, TINY.name, TINY)
