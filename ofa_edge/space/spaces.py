"""The named spaces, as data."""

from __future__ import annotations

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Head, MobileStem, Preprocess, Space, Stage

# EfficientNet-Lite0 (Tan & Le, ICML 2019, and its 'lite' release: ReLU6, no SE, fixed stem and head) made
# elastic. Widths, strides and greatest depths are Lite0's; 5x5 stages may shrink to 3x3.
OFA_LITE0 = Space(
    name="ofa-lite0",
    resolutions=(96, 112, 128, 144, 160),
    stem=MobileStem(channels=32, activation="relu6", first_channels=16, first_activation="relu6"),
    stages=(
        Stage(24, 2, (1, 2), (3,), (3, 4, 6), "relu6"),
        Stage(40, 2, (1, 2), (3, 5), (3, 4, 6), "relu6"),
        Stage(80, 2, (1, 2, 3), (3,), (3, 4, 6), "relu6"),
        Stage(112, 1, (1, 2, 3), (3, 5), (3, 4, 6), "relu6"),
        Stage(192, 2, (1, 2, 3, 4), (3, 5), (3, 4, 6), "relu6"),
        Stage(320, 1, (1,), (3,), (3, 4, 6), "relu6"),
    ),
    head=Head(channels=1280, activation="relu6"),
    classes=10,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)

SPACES: dict[str, Space] = {space.name: space for space in (OFA_LITE0,)}


def get_space(name: str) -> Space:
    """Raises UsageError, listing the names, where there is no such space."""
    try:
        return SPACES[name]
    except KeyError:
        raise UsageError(f"there is no space {name!r}", hint=f"use one of: {', '.join(SPACES)}") from None
