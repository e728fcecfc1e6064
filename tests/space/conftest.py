"""A space small enough to list every subnet of it, with each kind of place: strided, plain, SE, widening."""

from __future__ import annotations

import pytest

from ofa_edge.space.arch import Preprocess, Space, Stage
from ofa_edge.space.ends import Head, MobileStem

REDUCED = Space(
    name="reduced",
    resolutions=(17, 32),
    stem=MobileStem(8, "relu6", 8, "relu6"),
    stages=(
        Stage(16, 2, (1, 2), (3, 5), (3, 6), "relu6"),
        Stage(16, 1, (2,), (3,), (1, 4), "h_swish", se=True),
        Stage(24, 2, (1, 2), (5, 7), (4,), "relu"),
    ),
    head=Head(64, "relu6"),
    classes=5,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)


@pytest.fixture(scope="session")
def reduced() -> Space:
    return REDUCED
