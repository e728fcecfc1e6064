"""OFA's arch dicts in and out.

`{"r": 176, "d": [...], "ks": [...], "e": [...]}`: `d` one depth per elastic stage, `ks` and `e` one entry
per block place, `max_depth` places a stage. Inactive entries are read without looking and written as
the axis' smallest value, so dict -> Arch -> dict is canonical. `r` may be [int]; `wid` is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space.arch import Arch, BlockChoice, Space

_KNOWN = {"r", "d", "ks", "e", "wid", "w"}
_EXAMPLE = 'an arch looks like {"r":128,"d":[...],"ks":[...],"e":[...]}; `ofa-edge select` prints one'


def encode(space: Space, arch: Arch) -> dict[str, Any]:
    """The canonical OFA dict of an arch."""
    space.check(arch)
    kernels: list[int] = []
    expands: list[int] = []
    for stage, choice in zip(space.stages, arch.stages, strict=True):
        rest = stage.max_depth - len(choice)
        kernels += [c.kernel for c in choice] + [min(stage.kernels)] * rest
        expands += [c.expand for c in choice] + [min(stage.expands)] * rest
    return {"r": arch.resolution, "d": list(arch.depths), "ks": kernels, "e": expands}


def decode(space: Space, value: Mapping[str, Any]) -> Arch:
    """Read an OFA dict.

    Raises:
        UsageError: a key is missing or unknown, a list has the wrong length, or a value is not in the space.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"an arch must be a JSON object, not {type(value).__name__}", hint=_EXAMPLE)
    if unknown := sorted(set(value) - _KNOWN):
        raise UsageError(f"unknown key {unknown[0]!r} in the arch", hint=_EXAMPLE)
    if missing := [key for key in ("r", "d", "ks", "e") if key not in value]:
        raise UsageError(f"the arch has no {missing[0]!r}", hint=_EXAMPLE)
    resolution = value["r"][0] if isinstance(value["r"], list) and len(value["r"]) == 1 else value["r"]
    depths = _integers("d", value["d"], len(space.stages))
    places = sum(stage.max_depth for stage in space.stages)
    kernels = _integers("ks", value["ks"], places)
    expands = _integers("e", value["e"], places)
    if not isinstance(resolution, int) or isinstance(resolution, bool):
        raise UsageError(f"'r' must be a whole number, not {resolution!r}", hint=_EXAMPLE)
    stages = []
    start = 0
    for s, (stage, depth) in enumerate(zip(space.stages, depths, strict=True)):
        if depth not in stage.depths:
            raise UsageError(f"stage {s}: depth {depth} is not one of {list(stage.depths)}")
        stages.append(tuple(map(BlockChoice, kernels[start : start + depth], expands[start : start + depth])))
        start += stage.max_depth
    arch = Arch(resolution, tuple(stages))
    space.check(arch)
    return arch


def read_archs(space: Space, path: str) -> list[Arch]:
    """Archs of a JSON file holding one dict or a list; '-' reads standard input.

    Raises:
        UsageError: no such file, an empty list, or an arch that is not in the space.
        BadFile: the file is not (strict) JSON.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=_EXAMPLE) from error
    try:
        value = strict_json.loads(data)
    except ValueError as error:
        raise BadFile(f"{path} is not JSON: {error}", hint=_EXAMPLE) from error
    if value == []:
        raise UsageError(f"{path} holds no arch", hint=_EXAMPLE)
    return [decode(space, item) for item in (value if isinstance(value, list) else [value])]


def _integers(key: str, value: Any, length: int) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise UsageError(f"{key!r} must be a list of whole numbers", hint=_EXAMPLE)
    if len(value) != length:
        raise UsageError(f"{key!r} has {len(value)} entries, the space has {length}", hint=_EXAMPLE)
    return value
