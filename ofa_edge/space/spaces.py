"""The named spaces, as data, and the way from a name, a TOML file or a stored definition to a Space.

In: a name, or the path of a file ending in .toml (schema.py says what stands in it). Out: a Space. Rules kept: a name
means one space, so a definition that takes the name of a built-in one may differ from it in the number of classes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space import schema
from ofa_edge.space.arch import Preprocess, Space, Stage
from ofa_edge.space.block import make_divisible
from ofa_edge.space.ends import Head, MobileStem, ResNetStem

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

# What the three families of Once-for-All (Cai et al., ICLR 2020) share.
_IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), crop=0.875)
_RESOLUTIONS = tuple(range(128, 225, 4))


def mobilenet_v3(name: str, width: float) -> Space:
    """Once-for-All's MobileNetV3 space, all its channels times `width`."""
    stem, first, *stages, head, features = (
        make_divisible(channels * width) for channels in (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    )
    base = Stage(0, 2, (2, 3, 4), (3, 5, 7), (3, 4, 6), "h_swish")
    return Space(
        name=name,
        resolutions=_RESOLUTIONS,
        stem=MobileStem(stem, "h_swish", first, "relu"),
        stages=(
            replace(base, out_channels=stages[0], activation="relu"),
            replace(base, out_channels=stages[1], activation="relu", se=True),
            replace(base, out_channels=stages[2]),
            replace(base, out_channels=stages[3], stride=1, se=True),
            replace(base, out_channels=stages[4], se=True),
        ),
        head=Head(channels=head, activation="h_swish", features=features),
        classes=1000,
        preprocess=_IMAGENET,
        bn_eps=1e-5,
    )


def proxyless(name: str, width: float) -> Space:
    """Once-for-All's ProxylessNAS space, all its channels times `width`; its last stage is one block."""
    stem, first, *stages, head = (
        make_divisible(channels * width) for channels in (32, 16, 24, 40, 80, 96, 192, 320, 1280)
    )
    return Space(
        name=name,
        resolutions=_RESOLUTIONS,
        stem=MobileStem(stem, "relu6", first, "relu6"),
        stages=tuple(
            Stage(channels, stride, depths, (3, 5, 7), (3, 4, 6), "relu6")
            for channels, stride, depths in zip(stages, (2, 2, 2, 1, 2, 1), [(2, 3, 4)] * 5 + [(1,)], strict=True)
        ),
        head=Head(channels=head, activation="relu6"),
        classes=1000,
        preprocess=_IMAGENET,
        bn_eps=1e-3,
    )


def resnet_d(name: str, multipliers: tuple[float, ...] = (0.65, 0.8, 1.0)) -> Space:
    """Once-for-All's ResNet-50-D space; each width is one of `multipliers` times ResNet-50's.

    A width that two multipliers round to stands twice, since OFA's `w` counts multipliers; it is one value all the
    same (arch.py).
    """
    stem = tuple(make_divisible(64 * m) for m in multipliers)
    stages = []
    for channels, stride, blocks in zip((256, 512, 1024, 2048), (1, 2, 2, 2), (2, 2, 4, 2), strict=True):
        widths = tuple(make_divisible(channels * m) for m in multipliers)
        depths = (blocks, blocks + 1, blocks + 2)
        expands = (0.2, 0.25, 0.35)
        stages.append(Stage(max(widths), stride, depths, (3,), expands, "relu", widths=widths, block="bottleneck"))
    return Space(
        name=name,
        resolutions=_RESOLUTIONS,
        stem=ResNetStem(tuple(make_divisible(channels // 2) for channels in stem), stem, "relu"),
        stages=tuple(stages),
        head=Head(),
        classes=1000,
        preprocess=_IMAGENET,
        bn_eps=1e-5,
    )


OFA_MBV3_W10 = mobilenet_v3("ofa-mbv3-w1.0", 1.0)
OFA_MBV3_W12 = mobilenet_v3("ofa-mbv3-w1.2", 1.2)
OFA_PROXYLESS_W13 = proxyless("ofa-proxyless-w1.3", 1.3)
OFA_RESNET50D = resnet_d("ofa-resnet50d")

SPACES: dict[str, Space] = {
    space.name: space for space in (OFA_LITE0, OFA_MBV3_W10, OFA_MBV3_W12, OFA_PROXYLESS_W13, OFA_RESNET50D)
}


def get_space(name: str) -> Space:
    """A built-in space by its name, or a user's space by the path of its .toml file.

    Raises:
        UsageError: there is no such space, or the file cannot be read.
        BadFile: the file is no space; the message names the key and what is allowed there.
    """
    if name.endswith(".toml"):
        return _own(schema.read_toml(Path(name)), name)
    try:
        return SPACES[name]
    except KeyError:
        hint = f"use one of: {', '.join(SPACES)}; or a file ending in .toml with a space of your own"
        raise UsageError(f"there is no space {name!r}", hint=hint) from None


def definition(space: Space) -> dict[str, Any]:
    """The space as plain values that JSON and TOML can hold; `from_definition` reads it back."""
    return schema.as_dict(space)


def from_definition(value: Mapping[str, Any], source: str = "the definition of the space") -> Space:
    """Read a definition back.

    Args:
        source: the file it is from, for the message.

    Raises:
        BadFile: it is not the definition of a space.
    """
    return _own(schema.as_space(value, source), source)


def own_definition(space: Space) -> dict[str, Any] | None:
    """What a file must hold of a space beside its name, for `named` to find it: nothing where the name says it all."""
    return None if SPACES.get(space.name) == space else definition(space)


def named(name: str, own: Mapping[str, Any] | None, source: str) -> Space:
    """The space that a file names: a built-in one, or the one whose definition (`own`) stands beside the name.

    Raises:
        UsageError: there is no such built-in space, and no definition.
        BadFile: the definition is none, or of a space with another name.
    """
    if own is None:
        if name in SPACES:
            return SPACES[name]
        raise UsageError(f"there is no space {name!r}", hint=f"use one of: {', '.join(SPACES)}")
    space = from_definition(own, source)
    if space.name != name:
        raise BadFile(f"{source} is of space {name!r} and defines {space.name!r}", hint="write it again")
    return space


def _own(space: Space, source: str) -> Space:
    builtin = SPACES.get(space.name)
    if builtin is not None and space.with_classes(builtin.classes) != builtin:
        raise BadFile(
            f"{source}: name: {space.name!r} is a built-in space, and this one differs from it",
            hint="give the space a name of its own",
        )
    return space
