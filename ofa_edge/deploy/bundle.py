"""Bundles: a compiled model with everything needed to deploy it, check it and know where it came from.

In: a model, golden tensors, and what was predicted and promised. Out: a Bundle, in memory or as a folder of
four files with fixed names:

    manifest.json       what the release is and promises (manifest.py)
    model.onnx          self-contained: external data is refused
    golden-input.f32    one input, raw little-endian float32
    golden-output.f32   the outputs the model must give for it, to `tolerance`

Rules kept: the manifest holds the sha256 and size of the other files, so its id stands for all of them. A
file is opened only under the names above, never through a link, and read up to a cap.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge import strict_json
from ofa_edge.deploy.manifest import (
    FILES,
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    HINT,
    MODEL,
    NAME,
    TOLERANCE,
    VERSION,
    Budget,
    Manifest,
    Predicted,
    Runs,
    Sources,
    parse_manifest,
    release_id,
)
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import write_whole
from ofa_edge.graph import check
from ofa_edge.latency.conditions import Conditions, RunsOn
from ofa_edge.limits import LIMITS, Limits
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Tensors:
    """Golden tensors: float32, the input (1, C, H, W) and the output (1, ...)."""

    input: np.ndarray
    output: np.ndarray


@dataclass(frozen=True, slots=True)
class Promise:
    """What the manifest says about the choice; see Manifest and its parts."""

    budget: Budget = field(default_factory=Budget)
    predicted: Predicted | None = None
    top1: float | None = None
    conditions: Conditions | None = None
    sources: Sources = field(default_factory=Sources)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A manifest and the bytes of all files, manifest.json included."""

    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def release(self) -> str:
        return self.manifest.release

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def blobs(self) -> dict[str, bytes]:
        """sha256 -> bytes, the form in which files travel."""
        return {self.sha256(name): data for name, data in self.files.items()}

    def with_latency_budget(self, milliseconds: float) -> Bundle:
        """The same model under another promise, which makes it another release."""
        budget = self.manifest.budget.model_copy(update={"latency_ms": milliseconds})
        if budget == self.manifest.budget:
            return self
        value = {**self.manifest.as_json(), "budget": budget.model_dump(mode="json")}
        return _sealed(value, self.files)


def build(
    *,
    app: str,
    space: Space,
    arch: Arch,
    model: bytes,
    golden: Tensors,
    labels: tuple[str, ...],
    runs_on: RunsOn,
    promise: Promise,
) -> Bundle:
    """Put a bundle together.

    Raises:
        BadFile: the model has external data or is no valid ONNX, or a value is out of its range.
        UsageError: `app` is not a plain lower-case name.
    """
    if not re.fullmatch(NAME, app):
        raise UsageError(f"{app[:80]!r} cannot be the name of an app", hint="use lower-case letters, digits, . _ -")
    _check_model(model)
    files = {MODEL: model, GOLDEN_INPUT: _raw(golden.input), GOLDEN_OUTPUT: _raw(golden.output)}
    manifest = {
        "format": "ofa-edge-bundle",
        "version": VERSION,
        "app": app,
        "space": space.name,
        "arch": codecs.encode(space, arch),
        "input": {"resolution": arch.resolution, **space.preprocess.as_json()},
        "labels": list(labels),
        "budget": promise.budget.model_dump(mode="json"),
        "predicted": promise.predicted.model_dump(mode="json") if promise.predicted else None,
        "top1": promise.top1,
        "runs": Runs.of(runs_on).model_dump(mode="json"),
        "conditions": promise.conditions.model_dump(mode="json") if promise.conditions else None,
        "sources": promise.sources.model_dump(mode="json"),
        "golden": {
            "input_shape": list(golden.input.shape),
            "output_shape": list(golden.output.shape),
            "tolerance": TOLERANCE,
        },
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
        ],
    }
    return _sealed(manifest, files)


def write(bundle: Bundle, folder: Path | str) -> None:
    """Write a bundle's files, manifest last; the folder is made where it is missing, its files are replaced.

    Raises:
        OfaEdgeError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        for name in (*FILES, MANIFEST):
            write_whole(folder / name, bundle.files[name])
    except OSError as error:
        raise OfaEdgeError(f"cannot write {folder}: {error.strerror}", hint="check the path and the space") from error


def read(folder: Path | str, limits: Limits = LIMITS) -> Bundle:
    """Read and check a bundle.

    Raises:
        UsageError: there is no such folder.
        BadFile: a file is missing, too large, a link, or not what the manifest says; or the manifest is not valid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="a bundle is a folder with a manifest.json")
    data = _read_file(folder / MANIFEST, limits.manifest_bytes)
    manifest = parse_manifest(data, str(folder / MANIFEST))
    files = {MANIFEST: data}
    for entry in manifest.files:
        files[entry.name] = content = _read_file(folder / entry.name, limits.bundle_file_bytes)
        if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BadFile(f"{folder / entry.name} is not the file its manifest names", hint=HINT)
    _check_model(files[MODEL])
    return Bundle(manifest, files)


def _sealed(value: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Give a manifest its id and check it as if it had been read."""
    try:
        value = {**value, "release": release_id(value)}
        data = strict_json.dumps(value, indent=1).encode() + b"\n"
        if len(data) > LIMITS.manifest_bytes:
            raise BadFile(f"the manifest would have {len(data)} bytes, the cap is {LIMITS.manifest_bytes}")
        manifest = parse_manifest(data, "the new bundle")
    except ValueError as error:
        raise BadFile(f"the manifest cannot be written: {error}") from error
    return Bundle(manifest, {**files, MANIFEST: data})


def _check_model(model: bytes) -> None:
    try:
        check.load(model)
    except BadFile as error:
        raise BadFile(f"{MODEL}: {error.message}", hint=error.hint) from error


def _raw(tensor: np.ndarray) -> bytes:
    return np.ascontiguousarray(tensor, dtype="<f4").tobytes()


def _read_file(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadFile(f"cannot open {path} as a file of a bundle: {error.strerror}", hint=HINT) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadFile(f"{path} is not a regular file", hint=HINT)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BadFile(f"{path} is larger than {limit} bytes", hint="this is not a bundle for an edge device")
    return data
