"""OFA's arch dicts in and out.

`{"r": 176, "d": [...], "ks": [...], "e": [...]}` behind a mobile stem: `d` one depth per elastic stage, `ks` and `e`
one entry per block place, `max_depth` places a stage. `{"r": 176, "d": [...], "e": [...], "w": [...]}` behind a resnet
stem: `d` first says whether the stem's optional convolution runs (the greatest depth) or not (any other), then how many
blocks more than the fewest each stage has; `w` says for the stem's middle, the stem and each stage which of its widths
it has, as a number from 0. Rules kept: inactive entries are read without looking and written as the axis' smallest
value, and of equal widths the first is written, so dict -> Arch -> dict is canonical.
`r` may be [int]; `wid` is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import read_bytes
from ofa_edge.space.arch import Arch, BlockChoice, Space, Stage
from ofa_edge.space.ends import ResNetStem

# The keys that say something; further ones are read past.
_MOBILE, _RESNET = ("r", "d", "ks", "e"), ("r", "d", "e", "w")
_IGNORED = {"wid", "w"}

# No axis of a space reaches it.
_MOST = 1_000_000


def encode(space: Space, arch: Arch) -> dict[str, Any]:
    """The canonical OFA dict of an arch."""
    space.check(arch)
    kernels: list[int] = []
    expands: list[float] = []
    for stage, choice in zip(space.stages, arch.stages, strict=True):
        rest = stage.max_depth - len(choice)
        kernels += [c.kernel for c in choice] + [min(stage.kernels)] * rest
        own = _own_expands(stage)
        expands += [own[c.expand] for c in choice] + [min(stage.expands)] * rest
    if not isinstance(space.stem, ResNetStem):
        return {"r": arch.resolution, "d": list(arch.depths), "ks": kernels, "e": expands}
    depths = [_deepest(space) if arch.stem_depth else 0]
    depths += [depth - min(stage.depths) for stage, depth in zip(space.stages, arch.depths, strict=True)]
    widths = [listed.index(width) for listed, width in zip(_widths(space, space.stem), arch.widths, strict=True)]
    return {"r": arch.resolution, "d": depths, "e": expands, "w": widths}


def decode(space: Space, value: Mapping[str, Any]) -> Arch:
    """Read an OFA dict.

    Raises:
        UsageError: a key is missing or unknown, a list has the wrong length, or a value is not in the space.
    """
    keys = _RESNET if isinstance(space.stem, ResNetStem) else _MOBILE
    hint = _hint(space)
    if not isinstance(value, Mapping):
        raise UsageError(f"an arch must be a JSON object, not {type(value).__name__}", hint=hint)
    if unknown := sorted(repr(key)[:80] for key in set(value) - {*keys, *_IGNORED}):
        raise UsageError(f"unknown key {unknown[0]} in the arch", hint=hint)
    if missing := [key for key in keys if key not in value]:
        raise UsageError(f"the arch has no {missing[0]!r}", hint=hint)
    resolution = value["r"][0] if isinstance(value["r"], list) and len(value["r"]) == 1 else value["r"]
    if not _is_number(resolution, (int,)):
        raise UsageError(f"'r' must be a whole number, not {repr(resolution)[:80]}", hint=hint)
    if isinstance(space.stem, ResNetStem):
        arch = _decode_resnet(space, space.stem, resolution, value)
    else:
        depths = _integers(space, "d", value["d"], len(space.stages))
        kernels = _integers(space, "ks", value["ks"], _places(space))
        arch = Arch(resolution, _stages(space, depths, kernels, _expands(space, value["e"])))
    space.check(arch)
    return arch


def _decode_resnet(space: Space, stem: ResNetStem, resolution: int, value: Mapping[str, Any]) -> Arch:
    first, *more = _integers(space, "d", value["d"], 1 + len(space.stages))
    deepest = _deepest(space)
    if not 0 <= first <= deepest:
        raise UsageError(f"stem: depth {first} is not one of {list(range(deepest + 1))}", hint=_hint(space))
    depths = [min(stage.depths) + extra for stage, extra in zip(space.stages, more, strict=True)]
    stages = _stages(space, depths, [3] * _places(space), _expands(space, value["e"]))
    widths = []
    listed = _widths(space, stem)
    for place, (choices, index) in enumerate(zip(listed, _integers(space, "w", value["w"], len(listed)), strict=True)):
        if not 0 <= index < len(choices):
            allowed = list(range(len(choices)))
            raise UsageError(f"width {place}: number {index} is not one of {allowed}", hint=_hint(space))
        widths.append(choices[index])
    return Arch(resolution, stages, tuple(widths), int(first == deepest))


def _stages(
    space: Space, depths: Sequence[int], kernels: Sequence[int], expands: Sequence[float]
) -> tuple[tuple[BlockChoice, ...], ...]:
    """The active entries of each stage as its choices."""
    stages = []
    start = 0
    for s, (stage, depth) in enumerate(zip(space.stages, depths, strict=True)):
        if depth not in stage.depths:
            raise UsageError(f"stage {s}: depth {depth} is not one of {list(stage.depths)}")
        active = slice(start, start + depth)
        own = _own_expands(stage)
        stages.append(tuple([_choice(k, own.get(e, e)) for k, e in zip(kernels[active], expands[active], strict=True)]))
        start += stage.max_depth
    return tuple(stages)


def _own_expands(stage: Stage) -> dict[float, float]:
    """The stage's own form of each of its values, so that 6.0 read where it has 6 is written as 6."""
    return {expand: expand for expand in stage.expands}


@lru_cache(maxsize=1024, typed=True)  # one value where a table of 2,000 subnets has it 30,000 times
def _choice(kernel: int, expand: float) -> BlockChoice:
    return BlockChoice(kernel, expand)


def _places(space: Space) -> int:
    return sum(stage.max_depth for stage in space.stages)


def _deepest(space: Space) -> int:
    """The greatest number in OFA's `d` behind a resnet stem."""
    return max(1, *(max(stage.depths) - min(stage.depths) for stage in space.stages))


def _widths(space: Space, stem: ResNetStem) -> list[tuple[int, ...]]:
    """What each entry of OFA's `w` counts."""
    return [stem.mid_widths, stem.out_widths, *(stage.widths or (stage.out_channels,) for stage in space.stages)]


def read_archs(space: Space, path: str) -> list[Arch]:
    """Archs of a JSON file holding one dict or a list; '-' reads standard input.

    Raises:
        UsageError: no such file, an empty list, or an arch that is not in the space.
        BadFile: the file is not (strict) JSON.
    """
    data = sys.stdin.buffer.read() if path == "-" else read_bytes(path, hint=_hint(space))
    try:
        value = strict_json.loads(data)
    except ValueError as error:
        raise BadFile(f"{path} is not JSON: {error}", hint=_hint(space)) from error
    if value == []:
        raise UsageError(f"{path} holds no arch", hint=_hint(space))
    return [decode(space, item) for item in (value if isinstance(value, list) else [value])]


def _expands(space: Space, value: Any) -> list[float]:
    if all(isinstance(expand, int) for stage in space.stages for expand in stage.expands):
        return [*_integers(space, "e", value, _places(space))]
    return _long(space, "e", _list(space, "e", value, (int, float), "numbers"), _places(space))


def _integers(space: Space, key: str, value: Any, length: int) -> list[int]:
    return _long(space, key, _list(space, key, value, (int,), "whole numbers"), length)


def _list(space: Space, key: str, value: Any, types: tuple[type, ...], what: str) -> list[Any]:
    if not isinstance(value, list) or not _are_numbers(value, types):
        raise UsageError(f"{key!r} must be a list of {what}", hint=_hint(space))
    return value


def _are_numbers(values: list[Any], types: tuple[type, ...]) -> bool:
    """`_is_number` of each; a table's 2,000 archs have 100,000 of them, nearly always plain whole numbers."""
    if values and set(map(type, values)) == {int}:
        return bool(min(values) > -_MOST and max(values) < _MOST)
    return all(_is_number(value, types) for value in values)


def _is_number(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it is one of these types and of a size that can be reckoned with and printed."""
    return isinstance(value, types) and not isinstance(value, bool) and -_MOST < value < _MOST  # type: ignore[operator]


def _long(space: Space, key: str, value: list[Any], length: int) -> list[Any]:
    if len(value) != length:
        raise UsageError(f"{key!r} has {len(value)} entries, the space has {length}", hint=_hint(space))
    return value


def _hint(space: Space) -> str:
    keys = _RESNET if isinstance(space.stem, ResNetStem) else _MOBILE
    example = ",".join(f'"{key}":{128 if key == "r" else "[...]"}' for key in keys)
    return f"an arch looks like {{{example}}}; `ofa-edge select` prints one"
