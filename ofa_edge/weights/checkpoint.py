"""Checkpoints: weights, batch-norm statistics and metadata in one safetensors file, read without torch.

In: a file of a supernet, or of one subnet alone. Out: a Checkpoint, of which every subnet it holds can be folded.
Rules kept: trained weights are stored in half precision and published ones as they came, all are used in single;
the metadata says what trained them, on what, from what and under which licence, and defines the space unless it is a
built-in one; nothing in the file is ever executed or unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge import strict_json, tensor_file
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import write_result
from ofa_edge.limits import LIMITS
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import SPACES, definition, named
from ofa_edge.weights import bank as banks
from ofa_edge.weights.bank import Bank, Statistics
from ofa_edge.weights.cut import Arrays, fold
from ofa_edge.weights.layout import arch_shapes, batch_norms, require_names, supernet_shapes

FORMAT = "ofa-edge-supernet/1"

EMBEDDED = "embedded"
_EMBEDDED_FILE = "ofa-lite0.safetensors"

# Running statistics are stored as `running.<batch norm>.mean|var`, in single precision: half holds no variance
# above 65,504.
RUNNING = "running."

_MAKE = "make one with `ofa-edge train`"
_TAKE_ANOTHER = f"take another file, or {_MAKE}"


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
    """Weights (float32, named as a supernet's parameters), statistics and metadata; `sha256` of the file's bytes.

    Attributes:
        space: with as many classes as there are labels.
        bank: predicts the statistics of any subnet.
        running: statistics by batch norm, of which a subnet takes its first channels: what a network trained alone,
            or published weights, came with.
        arch: the one subnet that `arrays` are of, or None where they are a supernet's.
    """

    space: Space
    arrays: Arrays
    bank: Bank | None
    metadata: Metadata
    sha256: str
    running: Statistics | None = None
    arch: Arch | None = None

    @property
    def usual_bn(self) -> str:
        """Which statistics count where nobody says: a supernet's 'bank', the 'running' ones of a single subnet."""
        return "bank" if self.arch is None else "running"

    def statistics_of(self, arch: Arch, bn: str = "") -> Statistics:
        """Batch-norm statistics of a subnet, cut to its channels.

        Args:
            bn: 'bank', 'running', or '' for `usual_bn`.

        Raises:
            BadFile: the checkpoint has none of this kind.
            UsageError: the arch is not in the space, or is not the one subnet that this checkpoint is of.
        """
        self.check(arch)
        if (bn or self.usual_bn) == "bank":
            if self.bank is None:
                hint = (
                    "use its running statistics with --bn running" if self.running else "recalibrate with --data PATH"
                )
                raise BadFile(
                    "the checkpoint has no BN bank, so a subnet of it has no batch-norm statistics", hint=hint
                )
            return self.bank.statistics(self.space, arch)
        if self.running is None:
            raise BadFile("the checkpoint has no running statistics", hint="use its bank, or recalibrate with --data")
        names = batch_norms(self.space, arch)
        return {name: (self.running[name][0][:width], self.running[name][1][:width]) for name, width in names}

    def folded(self, arch: Arch, statistics: Statistics | None = None) -> Arrays:
        """Folded arrays of a subnet, by these batch-norm statistics or else those of `statistics_of`.

        Raises:
            BadFile: there are neither.
            UsageError: the arch is not in the space, or is not the one subnet that this checkpoint is of.
        """
        self.check(arch)
        return fold(self.space, self.arrays, arch, self.statistics_of(arch) if statistics is None else statistics)

    def check(self, arch: Arch) -> None:
        """Raises UsageError where this is the checkpoint of one subnet, and the arch is another."""
        if self.arch is not None and arch.at(0) != self.arch.at(0):
            raise UsageError(
                "the checkpoint holds one subnet, and this arch is another",
                hint="`ofa-edge supernet info` prints the arch that it holds",
            )


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
        if not file.is_file() and file.exists():
            raise UsageError(f"{file} is not a file", hint="give a .safetensors file, or 'embedded'")
        if file.stat().st_size > LIMITS.checkpoint_bytes:
            raise BadFile(f"{file} is too large for a checkpoint", hint=_TAKE_ANOTHER)
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read checkpoint {file}: {error.strerror}", hint="see `ofa-edge train`") from error
    try:
        arrays, raw = tensor_file.parse(content)
    except ValueError as error:
        raise BadFile(f"{file} is not a safetensors file: {error}", hint=_MAKE) from error
    metadata = _read_metadata(raw, file)
    space = _space(raw, metadata, file)
    arch = _arch(raw, space, file)
    if odd := [name for name, value in arrays.items() if value.dtype.kind not in "fiub"]:
        raise BadFile(f"{file}: {odd[0]} does not hold real numbers", hint=_TAKE_ANOTHER)
    single = {name: value.astype(np.float32) for name, value in arrays.items()}
    weights = {n: value for n, value in single.items() if not n.startswith((banks.PREFIX, RUNNING))}
    _check_arrays(space, arch, weights, file)
    running = _read_running(space, arch, single, file)
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(space, weights, Bank.from_arrays(single), metadata, digest, running, arch)


def save(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    bank: Bank | None,
    metadata: Metadata,
    *,
    space: Space | None = None,
    running: Statistics | None = None,
    arch: Arch | None = None,
    single_precision: bool = False,
) -> str:
    """Write a checkpoint (temporary name, fsync, rename); returns its sha256.

    Args:
        space: the space, where it may not be a built-in one; its definition is then kept in the file.
        running: statistics of the batch norms of the largest subnet, or of `arch`.
        arch: the one subnet that the arrays are of; needs `space`.
        single_precision: store weights as float32, not in half precision.

    Raises:
        BadFile: a value is not finite, or too large for half precision.
        OfaEdgeError: the file cannot be written.
    """
    tensors = {**arrays, **(bank.arrays() if bank else {})}
    with np.errstate(over="ignore"):  # found below, by name
        stored = {
            name: np.ascontiguousarray(value, np.float32 if single_precision else np.float16)
            for name, value in tensors.items()
        }
    for name, pair in (running or {}).items():
        for kind, value in zip(("mean", "var"), pair, strict=True):
            stored[f"{RUNNING}{name}.{kind}"] = np.ascontiguousarray(value, np.float32)
    stored = dict(sorted(stored.items()))
    if unfit := [name for name, value in stored.items() if not np.isfinite(value).all()]:
        raise BadFile(
            f"{unfit[0]} is not finite, or does not fit half precision", hint="did training diverge? lower its rates"
        )
    raw = {
        "format": FORMAT,
        "space": metadata.space,
        "labels": strict_json.dumps(metadata.labels),
        "source": metadata.source,
        "licence": metadata.licence,
        "recipe": strict_json.canonical(metadata.recipe).decode(),
        "data": strict_json.canonical(metadata.data).decode(),
        "bank": strict_json.canonical(metadata.bank).decode(),
    }
    if space is not None and space.name not in SPACES:
        raw["definition"] = strict_json.canonical(definition(space)).decode()
    if space is not None and arch is not None:
        raw["arch"] = strict_json.canonical(codecs.encode(space, arch)).decode()
    content = tensor_file.serialise(stored, raw)
    write_result(path, content)
    return hashlib.sha256(content).hexdigest()


def _read_metadata(raw: Mapping[str, str], file: Path) -> Metadata:
    if raw.get("format") != FORMAT:
        raise BadFile(
            f"{file} is not an ofa-edge checkpoint (format {raw.get('format')!r}, not {FORMAT!r})",
            hint=_MAKE,
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
        raise BadFile(f"{file} has no {error} in its metadata", hint=_MAKE) from error
    except ValueError as error:
        raise BadFile(f"{file} has no valid metadata: {error}", hint=_MAKE) from error


def _space(raw: Mapping[str, str], metadata: Metadata, file: Path) -> Space:
    """The space that the file names or defines, with a class for each of its labels."""
    own = _object(raw, "definition", file) if "definition" in raw else None
    try:
        space = named(metadata.space, own, str(file))
    except UsageError as error:
        raise BadFile(
            f"{file} is of a space this ofa-edge does not know: {metadata.space!r}",
            hint=f"it knows {', '.join(SPACES)}, and spaces that a file defines itself",
        ) from error
    classes = len(metadata.labels) or space.classes
    return space if classes == space.classes else space.with_classes(classes)


def _arch(raw: Mapping[str, str], space: Space, file: Path) -> Arch | None:
    if "arch" not in raw:
        return None
    try:
        return codecs.decode(space, _object(raw, "arch", file))
    except UsageError as error:
        raise BadFile(f"{file} holds a subnet that is not in its space: {error.message}", hint=_TAKE_ANOTHER) from error


def _object(raw: Mapping[str, str], key: str, file: Path) -> Mapping[str, Any]:
    try:
        value = strict_json.loads(raw[key])
    except ValueError as error:
        raise BadFile(f"{file} has no valid metadata: {key}: {error}", hint=_TAKE_ANOTHER) from error
    if not isinstance(value, dict):
        raise BadFile(f"{file} has no valid metadata: its {key} is not an object", hint=_TAKE_ANOTHER)
    return value


def _check_arrays(space: Space, arch: Arch | None, arrays: Arrays, file: Path) -> None:
    """Raises BadFile unless these are the arrays of the supernet or subnet, every one and no other."""
    expected = supernet_shapes(space) if arch is None else arch_shapes(space, arch)
    what = f"a supernet of {space.name}" if arch is None else f"the subnet of {space.name} that it names"
    require_names(arrays.keys(), expected.keys(), f"{file} is not {what}", _TAKE_ANOTHER)
    for name, value in arrays.items():
        if value.shape != expected[name]:
            raise BadFile(
                f"{file}: {name} has shape {value.shape}, space {space.name} needs {expected[name]}",
                hint=_TAKE_ANOTHER,
            )
        if not np.isfinite(value).all():
            raise BadFile(f"{file}: {name} holds a value that is not finite", hint=_TAKE_ANOTHER)


def _read_running(space: Space, arch: Arch | None, arrays: Arrays, file: Path) -> Statistics | None:
    """The running statistics among a file's arrays, or None where it has none.

    Raises:
        BadFile: one is missing, extra or of another shape, or is not finite, or a variance is negative.
    """
    found = {name for name in arrays if name.startswith(RUNNING)}
    if not found:
        return None
    norms = batch_norms(space, arch or space.largest())
    expected = {f"{RUNNING}{name}.{kind}": width for name, width in norms for kind in ("mean", "var")}
    if wrong := sorted(found ^ expected.keys()):
        raise BadFile(
            f"{file}: {wrong[0]} is {'extra' if wrong[0] in found else 'missing'}",
            hint=_TAKE_ANOTHER,
            details={"wrong": wrong},
        )
    for name, width in expected.items():
        value = arrays[name]
        if value.shape != (width,) or not np.isfinite(value).all() or (name.endswith(".var") and (value < 0).any()):
            raise BadFile(f"{file}: {name} is not {width} finite statistics", hint=_TAKE_ANOTHER)
    return {name: (arrays[f"{RUNNING}{name}.mean"], arrays[f"{RUNNING}{name}.var"]) for name, _ in norms}
