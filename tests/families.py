"""A small space of each family of Once-for-All: MobileNetV3 with SE and Conv_2, and ResNet-50-D with elastic widths."""

from __future__ import annotations

from ofa_edge.space.arch import Preprocess, Space, Stage
from ofa_edge.space.ends import Head, MobileStem, ResNetStem
from tests.train.tiny import TINY

_PREPROCESS = Preprocess(mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0), crop=0.875)

SMALL_MBV3 = Space(
    name="small-mbv3",
    resolutions=(24, 33),
    stem=MobileStem(8, "h_swish", 8, "relu"),
    stages=(
        Stage(16, 2, (1, 2), (3, 5, 7), (3, 4, 6), "relu", se=True),
        Stage(24, 2, (1, 2, 3), (3, 5, 7), (2, 3), "h_swish", se=True),
    ),
    head=Head(48, "h_swish", features=40),
    classes=4,
    preprocess=_PREPROCESS,
)

SMALL_RESNET = Space(
    name="small-resnet",
    resolutions=(28, 33),
    stem=ResNetStem((8, 16), (16, 24), "relu"),
    stages=(
        Stage(48, 1, (1, 2), (3,), (0.25, 0.35, 0.5), "relu", widths=(32, 48), block="bottleneck"),
        Stage(64, 2, (2, 3), (3,), (0.25, 0.5), "relu", widths=(40, 64), block="bottleneck"),
    ),
    head=Head(),
    classes=5,
    preprocess=_PREPROCESS,
)

SMALL_SPACES = (TINY, SMALL_MBV3, SMALL_RESNET)
