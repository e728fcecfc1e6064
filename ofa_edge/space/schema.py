"""A space as a TOML file, or as the JSON of a checkpoint: one form, checked key by key.

In: a file or plain values. Out: a Space, or BadFile that names the file, the key and what is allowed there. Rules kept:
nothing unknown passes; whatever passes can be built, cut and counted; a Space written and read back is equal to itself.

    name = "my-space"
    resolutions = [96, 128]              # input sizes in pixels
    classes = 10
    bn_eps = 1e-5                        # of every batch norm

    [preprocess]                         # (x - mean) / std on RGB in 0..255, after a resize of the short side to
    mean = [123.675, 116.28, 103.53]     # resolution / crop and a centre crop; one number, or one a channel
    std = [58.395, 57.12, 57.375]
    crop = 0.875

    [stem]                               # type = "mobile": a 3x3 convolution of stride 2, then a depthwise-separable
    type = "mobile"                      # block. type = "resnet" has mid_widths, out_widths, activation and depths
    channels = 16                        # (of its optional convolution: [0], [1] or [0, 1]) instead
    activation = "h_swish"
    first_channels = 16
    first_activation = "relu"

    [[stages]]                           # once a stage; a resnet stem is followed by bottlenecks
    out_channels = 24
    stride = 2                           # of its first block
    depths = [2, 3, 4]                   # numbers of blocks
    kernels = [3, 5, 7]
    expands = [3, 4, 6]                  # mid channels to in channels (in a bottleneck: to out channels)
    activation = "relu"                  # none, relu, relu6 or h_swish
    se = false                           # squeeze-and-excitation
    widths = []                          # elastic out channels, of bottlenecks only; the greatest is out_channels

    [head]
    channels = 960                       # of a 1x1 convolution before pooling; 0: none
    activation = "h_swish"
    features = 1280                      # of one after pooling, without batch norm; 0: none
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ofa_edge.errors import BadFile
from ofa_edge.files import read_bytes
from ofa_edge.space.arch import Preprocess, Space, Stage
from ofa_edge.space.ends import Head, MobileStem, ResNetStem

_HINT = "`ofa-edge spaces ofa-mbv3-w1.0 --toml` prints a space to start from"

# A file larger than this is no space; the largest built-in one has 2 KB. The TOML parser takes time quadratic in the
# number of dots on a line.
_MOST_BYTES = 1 << 17
_MOST_IN_LINE = 8192

# What is counted, listed or built of a space stays within seconds and some hundred MB. The largest built-in one has
# 4,075 rows of blocks at its resolutions together, and 21 places for blocks in its stages.
_MOST_BLOCKS = 500_000
_MOST_PLACES = 512


def _rising(values: list[Any]) -> list[Any]:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError("values must rise, none of them twice")
    return values


def _not_falling(values: list[int]) -> list[int]:
    if any(a > b for a, b in pairwise(values)):
        raise ValueError("values must not fall")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("a kernel has an odd side")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (int, float)) else value


def _one_or_three(values: list[float]) -> list[float]:
    if len(values) not in (1, 3):
        raise ValueError("give one number, or three")
    return values


def _whole_as_int(value: float) -> float:
    return int(value) if value == int(value) else value


_Channels = Annotated[int, Field(ge=1, le=16_384)]
_OrNone = Annotated[int, Field(ge=0, le=16_384)]
_Kernel = Annotated[int, Field(ge=3, le=15), AfterValidator(_odd)]
_Expand = Annotated[float, Field(gt=0, le=16), AfterValidator(_whole_as_int)]
_Deviation = Annotated[float, Field(ge=1e-3)]
_Activation = Literal["none", "relu", "relu6", "h_swish"]
_Some = Field(min_length=1, max_length=64)
_Widths = Annotated[list[_Channels], Field(max_length=64), AfterValidator(_not_falling)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def fields(self) -> dict[str, Any]:
        """As the value of a space has them, `type` aside."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self if name != "type"}


class _Mobile(_Value):
    type: Literal["mobile"]
    channels: _Channels
    activation: _Activation
    first_channels: _Channels
    first_activation: _Activation


class _ResNet(_Value):
    type: Literal["resnet"]
    mid_widths: Annotated[_Widths, _Some]
    out_widths: Annotated[_Widths, _Some]
    activation: _Activation
    depths: Annotated[list[Annotated[int, Field(ge=0, le=1)]], _Some, AfterValidator(_rising)] = [0, 1]


class _Stage(_Value):
    out_channels: _Channels
    stride: Annotated[int, Field(ge=1, le=2)]
    depths: Annotated[list[Annotated[int, Field(ge=1, le=32)]], _Some, AfterValidator(_rising)]
    kernels: Annotated[list[_Kernel], _Some, AfterValidator(_rising)]
    expands: Annotated[list[_Expand], _Some, AfterValidator(_rising)]
    activation: _Activation
    se: bool = False
    widths: _Widths = []

    @model_validator(mode="after")
    def _greatest_width(self) -> _Stage:
        if self.widths and max(self.widths) != self.out_channels:
            raise ValueError("out_channels must be the greatest of widths")
        return self


class _Head(_Value):
    channels: _OrNone = 0
    activation: _Activation = "none"
    features: _OrNone = 0


class _Preprocess(_Value):
    mean: Annotated[list[float], BeforeValidator(_as_list), AfterValidator(_one_or_three)]
    std: Annotated[list[_Deviation], BeforeValidator(_as_list), AfterValidator(_one_or_three)]
    crop: Annotated[float, Field(ge=0.1, le=1)]  # images are made 1 / crop times as large as the input


class _Space(_Value):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    resolutions: Annotated[
        list[Annotated[int, Field(ge=8, le=4096)]], Field(min_length=1, max_length=1024), AfterValidator(_rising)
    ]
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    bn_eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    preprocess: _Preprocess
    stem: Annotated[_Mobile | _ResNet, Field(discriminator="type")]
    stages: Annotated[list[_Stage], Field(min_length=1, max_length=64)]
    head: _Head = _Head()

    @model_validator(mode="after")
    def _fits(self) -> _Space:
        """What a resnet stem and bottlenecks have, others have not."""
        for s, stage in enumerate(self.stages):
            if isinstance(self.stem, _Mobile) and stage.widths:
                raise ValueError(f"stages[{s}].widths: widths are elastic behind a resnet stem only")
            if isinstance(self.stem, _ResNet) and (stage.se or stage.kernels != [3]):
                raise ValueError(f"stages[{s}]: bottlenecks, behind a resnet stem, have kernels = [3] and no se")
        return self


def read_toml(path: Path) -> Space:
    """A space from a user's file.

    Raises:
        UsageError: the file cannot be read.
        BadFile: it is not TOML, or not a space.
    """
    data = read_bytes(path, _MOST_BYTES + 1, hint=_HINT)
    if len(data) > _MOST_BYTES:
        raise BadFile(f"{path} is larger than {_MOST_BYTES:,} bytes", hint=_HINT)
    if max(map(len, data.split(b"\n"))) > _MOST_IN_LINE:
        raise BadFile(f"{path} has a line of more than {_MOST_IN_LINE:,} bytes", hint=_HINT)
    try:
        content = tomllib.loads(data.decode("utf-8-sig"))  # some editors write a byte order mark
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is not TOML: {error}", hint=_HINT) from error
    space = as_space(content, str(path))
    _check_expands(space, str(path))
    return space


def as_space(value: Mapping[str, Any], source: str) -> Space:
    """The space of plain values; `source` is the file they are from.

    Raises:
        BadFile: a key is missing or unknown, or a value is not allowed; the first mistake is named.
    """
    try:
        found = _Space.model_validate(value)
    except ValidationError as error:
        raise BadFile(f"{source}: {_first(error)}", hint=_HINT) from error
    resnet = isinstance(found.stem, _ResNet)
    block = "bottleneck" if resnet else "expanded_conv"
    parts = found.fields() | {
        "preprocess": Preprocess(
            _per_channel(found.preprocess.mean), _per_channel(found.preprocess.std), found.preprocess.crop
        ),
        "stem": (ResNetStem if resnet else MobileStem)(**found.stem.fields()),
        "stages": tuple(Stage(**stage.fields(), block=block) for stage in found.stages),
        "head": Head(**found.head.fields()),
    }
    space = Space(**parts)
    _check_size(space, source)
    _check_expansion(space, source)
    return space


def as_dict(space: Space) -> dict[str, Any]:
    """Plain values of a space, keys in the order of the module's docstring."""
    kind = "resnet" if isinstance(space.stem, ResNetStem) else "mobile"
    return {
        "name": space.name,
        "resolutions": list(space.resolutions),
        "classes": space.classes,
        "bn_eps": space.bn_eps,
        "preprocess": space.preprocess.as_json(),
        "stem": {"type": kind, **_plain(space.stem)},
        "stages": [_plain(stage) for stage in space.stages],
        "head": _plain(space.head),
    }


def as_toml(space: Space) -> str:
    """The TOML file of a space."""
    tables, lines = [], []
    for key, value in as_dict(space).items():
        if isinstance(value, dict):
            tables.append((f"[{key}]", value))
        elif key == "stages":
            tables += [(f"[[{key}]]", stage) for stage in value]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    for title, table in tables:
        lines += ["", title, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _plain(part: MobileStem | ResNetStem | Stage | Head) -> dict[str, Any]:
    """Its fields as JSON and TOML have them; a stage's `block` follows from the stem, and no widths need no line."""
    found = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(part).items() if name != "block"}
    if found.get("widths") == []:
        del found["widths"]
    return found


def _per_channel(values: list[float]) -> float | tuple[float, float, float]:
    return values[0] if len(values) == 1 else (values[0], values[1], values[2])


def _check_size(space: Space, source: str) -> None:
    """Refuse spaces of which nobody can list the blocks."""
    places = sum(stage.max_depth for stage in space.stages)
    if places > _MOST_PLACES:
        raise BadFile(
            f"{source}: stages: they have up to {places:,} blocks, more than {_MOST_PLACES}",
            hint="take fewer stages, or lower their depths",
        )
    blocks, before = math.prod(map(len, space.stem.width_choices)), len(space.stem.out_channels)
    for stage in space.stages:
        widths = len(stage.width_choices)
        blocks += len(stage.kernels) * len(stage.expands) * widths * (before + 1)
        before = widths
    if (total := blocks * len(space.resolutions)) > _MOST_BLOCKS:
        raise BadFile(
            f"{source}: its subnets have about {total:,} different blocks, more than {_MOST_BLOCKS:,}",
            hint="take fewer resolutions, or fewer kernels, expands and widths",
        )


def _check_expansion(space: Space, source: str) -> None:
    """Refuse expand ratios whose greatest leaves the 1x1 expansion out, and another does not: the supernet, which is
    made as wide as the greatest, would lack it."""
    before = max(space.stem.out_channels)
    for s, stage in enumerate(space.stages):
        for in_channels in (before, stage.out_channels)[: stage.max_depth]:
            mids = {stage.mid_channels(in_channels, stage.out_channels, expand) for expand in stage.expands}
            if stage.block == "expanded_conv" and len(mids) > 1 and max(mids) == in_channels:
                raise BadFile(
                    f"{source}: stages[{s}].expands: the greatest, {max(stage.expands)}, leaves {in_channels} channels "
                    "as they are, so that a supernet has no expansion for the others to be cut from",
                    hint="add a greater one, or keep only this one",
                )
        before = stage.out_channels


def _check_expands(space: Space, source: str) -> None:
    """Refuse expand ratios that round to one width even where channels are most: one of them was meant otherwise."""
    before = max(space.stem.out_channels)
    for s, stage in enumerate(space.stages):
        mids: dict[int, float] = {}
        for expand in stage.expands:
            mid = stage.mid_channels(before, stage.out_channels, expand)
            if mid in mids:
                raise BadFile(
                    f"{source}: stages[{s}].expands: {mids[mid]} and {expand} both give {mid} channels",
                    hint="leave one of them out, or take more channels",
                )
            mids[mid] = expand
        before = stage.out_channels


def _first(error: ValidationError) -> str:
    """The first mistake: its key, what is allowed."""
    mistake = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ""
    for part in mistake["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part not in ("mobile", "resnet"):  # which of the stems it is
            name = part if part.isprintable() else repr(part)
            key += f".{name}" if key else name
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        message = "there is no such key"
    return f"{key}: {message}" if key else message
