"""Checkpoints: a supernet's weights, BN bank and metadata in one safetensors file, read without torch.

Weights are stored in half precision and used in single. The metadata says what trained them, on what, from
what and under which licence; nothing in the file is ever executed or unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import write_whole
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import get_space
from ofa_edge.weights.bank import PREFIX, Bank, Statistics
from ofa_edge.weights.cut import Arrays, fold
from ofa_edge.weights.layout import supernet_shapes

FORMAT = "ofa-edge-supernet/1"

EMBEDDED = "embedded"
_EMBEDDED_FILE = "ofa-lite0.safetensors"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Where a checkpoint comes from. `recipe`, `data` and `bank` are free JSON objects, kept as they are."""

    space: str
    labels: tuple[str, ...]
    source: str
    licence: str
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    bank: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A supernet's arrays (float32, named as its parameters), bank and metadata; `sha256` of the file's bytes."""

    space: Space
    arrays: Arrays
    bank: Bank | None
    metadata: Metadata
    sha256: str

    def folded(self, arch: Arch, statistics: Statistics | None = None) -> Arrays:
        """Folded arrays of a subnet, by these batch-norm statistics or else the bank's.

        Raises:
            BadFile: there are neither.
            UsageError: the arch is not in the space.
        """
        if statistics is None:
            if self.bank is None:
                raise BadFile(
                    "the checkpoint has no BN bank, so a subnet of it has no batch-norm statistics",
                    hint="recalibrate with --data PATH",
                )
            statistics = self.bank.statistics(self.space, arch)
        return fold(self.space, self.arrays, arch, statistics)


def embedded_path() -> Path:
    """The file of the supernet that ships with the package."""
    return Path(str(importlib.resources.files("ofa_edge.weights") / "embedded" / _EMBEDDED_FILE))


def load(path: str | Path = EMBEDDED) -> Checkpoint:
    """Read a checkpoint, `embedded` naming the one that ships.

    Raises:
        UsageError: no such file.
        BadFile: it is not a checkpoint of this format, or its arrays are not all those of its space and finite.
    """
    file = embedded_path() if str(path) == EMBEDDED else Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read checkpoint {file}: {error.strerror}", hint="see `ofa-edge train`") from error
    try:
        arrays = safetensors.numpy.load(content)
        header = strict_json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:  # KeyError: a type numpy has not
        raise BadFile(f"{file} is not a safetensors file: {error}", hint="make one with `ofa-edge train`") from error
    metadata = _read_metadata(header.get("__metadata__", {}), file)
    space = _space(metadata, file)
    single = {name: value.astype(np.float32) for name, value in arrays.items()}
    weights = {name: value for name, value in single.items() if not name.startswith(PREFIX)}
    _check_arrays(space, weights, file)
    return Checkpoint(space, weights, Bank.from_arrays(single), metadata, hashlib.sha256(content).hexdigest())


def save(path: Path, arrays: Mapping[str, np.ndarray], bank: Bank | None, metadata: Metadata) -> str:
    """Write a checkpoint in half precision (temporary name, fsync, rename); returns its sha256.

    Raises:
        BadFile: a value is not finite, or too large for half precision.
    """
    tensors = {**arrays, **(bank.arrays() if bank else {})}
    with np.errstate(over="ignore"):  # found below, by name
        half = {name: np.ascontiguousarray(value, np.float16) for name, value in sorted(tensors.items())}
    if unfit := [name for name, value in half.items() if not np.isfinite(value).all()]:
        raise BadFile(f"{unfit[0]} does not fit half precision", hint="did training diverge? lower its rates")
    content = safetensors.numpy.save(
        half,
        metadata={
            "format": FORMAT,
            "space": metadata.space,
            "labels": strict_json.dumps(metadata.labels),
            "source": metadata.source,
            "licence": metadata.licence,
            "recipe": strict_json.canonical(metadata.recipe).decode(),
            "data": strict_json.canonical(metadata.data).decode(),
            "bank": strict_json.canonical(metadata.bank).decode(),
        },
    )
    content = _sorted_header(content)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _sorted_header(content: bytes) -> bytes:
    """The same file with its header's keys in order: safetensors writes metadata in a random one, and the sha256 of a
    checkpoint is its name in every table made with it."""
    size = int.from_bytes(content[:8], "little")
    header = strict_json.canonical(strict_json.loads(content[8 : 8 + size]))
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _read_metadata(raw: Mapping[str, str], file: Path) -> Metadata:
    if raw.get("format") != FORMAT:
        raise BadFile(
            f"{file} is not an ofa-edge checkpoint (format {raw.get('format')!r}, not {FORMAT!r})",
            hint="make one with `ofa-edge train`",
        )
    try:
        parsed = {name: strict_json.loads(raw[name]) for name in ("labels", "recipe", "data", "bank")}
        labels = parsed.pop("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("its labels are not a list of names")
        if wrong := [name for name, value in parsed.items() if not isinstance(value, dict)]:
            raise ValueError(f"its {wrong[0]} is not an object")
        return Metadata(raw["space"], tuple(labels), raw["source"], raw["licence"], **parsed)
    except KeyError as error:
        raise BadFile(f"{file} has no {error} in its metadata", hint="make one with `ofa-edge train`") from error
    except ValueError as error:
        raise BadFile(f"{file} has no valid metadata: {error}", hint="make one with `ofa-edge train`") from error


def _space(metadata: Metadata, file: Path) -> Space:
    try:
        return get_space(metadata.space)
    except UsageError as error:
        raise BadFile(
            f"{file} is of a space this ofa-edge does not know: {metadata.space!r}", hint=error.hint
        ) from error


def _check_arrays(space: Space, arrays: Arrays, file: Path) -> None:
    """Raises BadFile unless these are the arrays of the space's supernet, every one and no other."""
    expected, hint = supernet_shapes(space), "take another file, or make one with `ofa-edge train`"
    missing, extra = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
    if missing or extra:
        raise BadFile(
            f"{file} is not a supernet of {space.name}: missing {missing[:3]}, extra {extra[:3]}",
            hint=hint,
            details={"missing": missing, "extra": extra},
        )
    for name, value in arrays.items():
        if value.shape != expected[name]:
            raise BadFile(
                f"{file}: {name} has shape {value.shape}, space {space.name} needs {expected[name]}", hint=hint
            )
        if not np.isfinite(value).all():
            raise BadFile(f"{file}: {name} holds a value that is not finite", hint=hint)
