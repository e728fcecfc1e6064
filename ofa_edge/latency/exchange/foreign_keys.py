"""How Once-for-All and ProxylessNAS name blocks in their latency tables, for the blocks of a space.

In: a space, a resolution. Out: their key -> the Blocks it stands for. Rules kept: a key is never taken apart to guess
a block; the keys of a space are written down and looked up, so a table of another space is found out.

    Once-for-All    expanded_conv-input:HxWxC-output:HxWxC-expand:MID-kernel:K-stride:S-idskip:0|1-se:0|1-hs:0|1
    ProxylessNAS    expanded_conv-input:HxWxC-output:HxWxC-expand:RATIO-kernel:K-stride:S-idskip:0|1

MID is the number of channels of the depthwise convolution, RATIO the expand ratio. Once-for-All has keys of the form
TYPE-input:..-output:.. for Conv, Conv_1, AvgPool2D, Conv_2 and Logits; ProxylessNAS has none for the pooling, whose
time its Logits (input: the map before pooling) holds too. Source: ofa/nas/efficiency_predictor/latency_lookup_table.py
of the reference implementation (PyPI ofa).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import BlockChoice, Space
from ofa_edge.space.block import Block
from ofa_edge.space.ends import MobileStem

OFA, PROXYLESS = "ofa-yaml", "proxyless-yaml"

_SHAPE = "[0-9]{1,5}x[0-9]{1,5}x[0-9]{1,6}"
_KEY = re.compile(
    rf"[A-Za-z]\w{{0,40}}-input:{_SHAPE}-output:(?:{_SHAPE}|[0-9]{{1,7}})"
    r"(?P<block>-expand:[0-9]{1,6}-kernel:[0-9]{1,3}-stride:[0-9]{1,3}-idskip:[01](?P<ofa>-se:[01]-hs:[01])?)?"
)


class Meaning(NamedTuple):
    """One block behind a key, and its share of the key's time; the shares of a key's blocks add up to 1."""

    block: Block
    share: float


def keys(space: Space, resolution: int, format: str) -> dict[str, tuple[Meaning, ...]]:
    """Every key that a table of this space has for one resolution.

    ProxylessNAS's Logits is split between the pooling and the classifier by what they add up: H x W against the
    number of classes, a channel.

    Raises:
        UsageError: the resolution is not in the space, or the format has no keys for its blocks.
    """
    if not isinstance(space.stem, MobileStem) or any(stage.block != "expanded_conv" for stage in space.stages):
        raise UsageError(
            f"{format} has no keys for the blocks of {space.name}", hint="use --format csv, which holds any block"
        )
    if format == PROXYLESS and (space.head.features or not space.head.channels or any(s.se for s in space.stages)):
        raise UsageError(
            f"proxyless-yaml cannot tell the blocks of {space.name} apart", hint="use --format ofa-yaml or csv"
        )
    fixed = [x.block for x in space.layers(space.smallest(resolution)) if not x.path.startswith("stages.")]
    if format == OFA:
        elastic = [block for block, _ in _elastic(space, resolution)]
        return {_ofa(block): (Meaning(block, 1.0),) for block in [*fixed, *elastic]}
    *before, pool, logits = fixed
    expanded = [*((block, 1.0) for block in before), *_elastic(space, resolution)]
    found: dict[str, tuple[Meaning, ...]] = {
        _proxyless(block, ratio): (Meaning(block, 1.0),) for block, ratio in expanded
    }
    pooling = pool.in_size**2 / (pool.in_size**2 + logits.out_channels)
    name = f"Logits-input:{_map(pool.in_size, pool.in_channels)}-output:{logits.out_channels}"
    found[name] = (Meaning(pool, pooling), Meaning(logits, 1 - pooling))
    return found


def style(key: str) -> str | None:
    """Which format a key is of: OFA or PROXYLESS; '' where it could be either, None where it is no key at all."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    return OFA if match["ofa"] else PROXYLESS if match["block"] else ""


def _elastic(space: Space, resolution: int) -> Iterator[tuple[Block, float]]:
    """The blocks of the stages, each with its expand ratio; the third of a stage is as the second."""
    for s, (stage, size) in enumerate(zip(space.stages, space.stage_sizes(resolution), strict=False)):
        for i in range(min(stage.max_depth, 2)):
            for kernel in stage.kernels:
                for expand in stage.expands:
                    in_size = -(-size // stage.stride) if i else size
                    yield space.stage_block(s, i, BlockChoice(kernel, expand), in_size), expand


def _map(size: int, channels: int) -> str:
    return f"{size}x{size}x{channels}"


def _plain(block: Block) -> str:
    out = str(block.out_channels) if block.type == "Logits" else _map(block.out_size, block.out_channels)
    return f"{block.type}-input:{_map(block.in_size, block.in_channels)}-output:{out}"


def _proxyless(block: Block, ratio: float) -> str:
    """`ratio` of the fixed block behind the stem is 1: it does not expand."""
    if block.type != "expanded_conv":
        return _plain(block)
    if ratio != int(ratio):
        raise UsageError(f"proxyless-yaml has no key for expand ratio {ratio}", hint="use --format ofa-yaml or csv")
    return f"{_plain(block)}-expand:{int(ratio)}-kernel:{block.kernel}-stride:{block.stride}-idskip:{block.skip:d}"


def _ofa(block: Block) -> str:
    if block.type != "expanded_conv":
        return _plain(block)
    swish = block.activation == "h_swish"
    return (
        f"{_plain(block)}-expand:{block.mid_channels}-kernel:{block.kernel}-stride:{block.stride}"
        f"-idskip:{block.skip:d}-se:{block.se:d}-hs:{swish:d}"
    )
