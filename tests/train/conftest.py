"""The tiny space under its name, one thread (these networks are too small to share), banks of few subnets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ofa_edge.space import spaces
from ofa_edge.train import bank
from tests.train import runs
from tests.train.tiny import TINY


@pytest.fixture(autouse=True, scope="module")
def small_scale() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(spaces.SPACES, TINY.name, TINY)
        patch.setattr(bank, "BANK_PHASE_SUBNETS", runs.BANK_SUBNETS)
        patch.setattr(bank, "BANK_SUBNETS", runs.BANK_SUBNETS)
        patch.setattr(bank, "BANK_CHECK_SUBNETS", 4)
        yield
    torch.set_num_threads(threads)
