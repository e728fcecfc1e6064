"""Bundles: a compiled model with everything needed to deploy it, check it and know where it came from.

In: models, golden tensors, and what was predicted and promised. Out: a Bundle, in memory, as a folder or as one file
(archive.py), of files with fixed names, the three in the middle again for every further mode (manifest.FileNames):

    manifest.json       what the release is and promises (manifest.py)
    model.onnx          or model.tflite; self-contained: external data is refused
    golden-input.f32    one input, raw little-endian float32
    golden-output.f32   the outputs the model must give for it, to `tolerance`
    manifest.sig        who made it (signature.py), where it is signed

Rules kept: the manifest holds the sha256 and size of the other files, so its id stands for all of them. A
file is opened only under the names above, never through a link, and read up to a cap.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_edge import preprocess, strict_json
from ofa_edge.deploy import archive, fitting, signature
from ofa_edge.deploy.manifest import (
    DEFAULT_MODE,
    HINT,
    LAYOUTS,
    MODE_NAME,
    NAME,
    TOLERANCE,
    VERSION,
    Budget,
    FileNames,
    Manifest,
    Predicted,
    Runs,
    Sources,
    parse_manifest,
    release_id,
)
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph import check
from ofa_edge.graph.check_tflite import load_tflite
from ofa_edge.latency.conditions import Conditions, RunsOn
from ofa_edge.limits import LIMITS, Limits
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"


@dataclass(frozen=True, slots=True)
class Tensors:
    """Golden tensors: float32, the input (1, C, H, W) and the output (1, ...)."""

    input: np.ndarray
    output: np.ndarray


@dataclass(frozen=True, slots=True)
class Promise:
    """What the manifest says about the choice of a mode; see manifest.Mode."""

    budget: Budget = field(default_factory=Budget)
    predicted: Predicted | None = None
    top1: float | None = None
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One mode of a bundle: its subnet, compiled, and what was promised of it.

    Attributes:
        model: the file's bytes, in the format of `runs_on.runtime`.
        tolerance: of the golden outputs; see manifest.Golden.
    """

    arch: Arch
    model: bytes
    golden: Tensors
    runs_on: RunsOn
    promise: Promise = field(default_factory=Promise)
    name: str = DEFAULT_MODE
    tolerance: float = TOLERANCE


@dataclass(frozen=True, eq=False)
class Bundle:
    """A manifest and the bytes of all files, manifest.json included.

    Attributes:
        signature: the content of manifest.sig, None where the bundle is not signed.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    signature: bytes | None = None

    @property
    def release(self) -> str:
        return self.manifest.release

    @property
    def signed_by(self) -> str | None:
        """The public key (hex) that signed the manifest, None where none did. Raises BadFile for a false signature."""
        return None if self.signature is None else signature.signer(self.files[MANIFEST], self.signature, SIGNATURE)

    @property
    def signature_sha256(self) -> str | None:
        return None if self.signature is None else hashlib.sha256(self.signature).hexdigest()

    def signed(self, key: Ed25519PrivateKey) -> Bundle:
        """The same release, signed; equal keys give equal bytes."""
        return replace(self, signature=signature.sign(self.files[MANIFEST], key))

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def blobs(self) -> dict[str, bytes]:
        """sha256 -> bytes, the form in which files travel; the signature too, where there is one."""
        contents = [*self.files.values(), *([] if self.signature is None else [self.signature])]
        return {hashlib.sha256(data).hexdigest(): data for data in contents}

    def counted(self, counter: int, machine: str | None = None) -> Bundle:
        """The same models as the release of this number, for this kind of processor; see Manifest."""
        if (counter, machine) == (self.manifest.counter, self.manifest.machine):
            return self
        return _sealed({**self._json(), "counter": counter, "machine": machine}, self.files)

    def _json(self) -> dict[str, Any]:
        """The manifest as it is spelled, which its id is a hash of."""
        value: dict[str, Any] = strict_json.loads(self.files[MANIFEST])
        return value


def build(
    *,
    app: str,
    space: Space,
    parts: Sequence[Part],
    labels: tuple[str, ...],
    sources: Sources | None = None,
) -> Bundle:
    """Put a bundle together.

    Args:
        parts: one for each mode, the default first.

    Raises:
        BadFile: a model has external data or is not valid, or a value is out of its range.
        UsageError: `app` or the name of a mode is not a plain lower-case name.
    """
    _require_name(app, NAME, "an app", "use lower-case letters, digits, . _ -")
    files: dict[str, bytes] = {}
    modes = []
    for number, part in enumerate(parts):
        _require_name(part.name, MODE_NAME, "a mode", "use lower-case letters, digits and -")
        names = FileNames.of(part.name, part.runs_on.runtime, is_default=number == 0)
        _check_model(names.model, part.model)
        files |= {
            names.model: part.model,
            names.golden_input: _raw(part.golden.input),
            names.golden_output: _raw(part.golden.output),
        }
        modes.append(_mode(part, space, names))
    manifest = {
        "format": "ofa-edge-bundle",
        "version": VERSION,
        "app": app,
        "counter": 0,
        "space": space.name,
        "labels": list(labels),
        "modes": modes,
        "sources": (sources or Sources()).model_dump(mode="json"),
        "machine": None,
        "files": _listed(files),
    }
    return _sealed(manifest, files)


def _listed(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
    ]


def _mode(part: Part, space: Space, names: FileNames) -> dict[str, Any]:
    """A mode as the manifest says it."""
    promise, layout = part.promise, LAYOUTS[part.runs_on.runtime]
    return {
        "name": part.name,
        "arch": codecs.encode(space, part.arch),
        "input": {
            "resolution": part.arch.resolution,
            **space.preprocess.as_json(),
            "resize": "bicubic",
            "reduce_to": preprocess.REDUCE_TO,
            "layout": layout,
        },
        "budget": promise.budget.model_dump(mode="json"),
        "predicted": promise.predicted.model_dump(mode="json") if promise.predicted else None,
        "top1": promise.top1,
        "runs": {
            **Runs.of(part.runs_on).model_dump(mode="json"),
            "at_least": fitting.at_least(part.runs_on.runtime, part.model),
        },
        "conditions": promise.conditions.model_dump(mode="json") if promise.conditions else None,
        "model": names.model,
        "golden": {
            "input": names.golden_input,
            "output": names.golden_output,
            "input_shape": list(part.golden.input.shape),
            "output_shape": list(part.golden.output.shape),
            "tolerance": part.tolerance,
        },
    }


def _require_name(name: str, pattern: str, what: str, hint: str) -> None:
    if not re.fullmatch(pattern, name):
        raise UsageError(f"{name[:80]!r} cannot be the name of {what}", hint=hint)


def write(bundle: Bundle, path: Path | str, *, one_file: bool = False) -> None:
    """Write a bundle: as one file where that is asked for or the path ends in .ofab, else into a folder, which is made
    where it is missing and whose files are replaced, the manifest near the end.

    Raises:
        UsageError: the folder is a link.
        OfaEdgeError: it cannot be written.
    """
    path = Path(path)
    files = dict(bundle.files)
    if bundle.signature is not None:
        files[SIGNATURE] = bundle.signature
    if one_file or path.name.endswith(archive.ENDING):
        archive.write_file(path, files)
        return
    order = [*(entry.name for entry in bundle.manifest.files), MANIFEST, *([SIGNATURE] if SIGNATURE in files else [])]
    archive.write_folder(path, files, order, stale=[SIGNATURE])


def read(path: Path | str, limits: Limits = LIMITS, *, trusted: Sequence[signature.TrustedKey] = ()) -> Bundle:
    """Read and check a bundle, a folder or one file. A signature must be the manifest's.

    Args:
        trusted: keys one of which must have signed it, which is asked before the manifest or a model is parsed: only
            what somebody trusted made reaches their parsers. () for any or none.

    Raises:
        UsageError: there is nothing at that path.
        BadFile: a file is missing, too large, a link, or not what the manifest says; or the manifest is not valid, or
            not signed by a trusted key.
    """
    path = Path(path)
    with archive.opened(path, limits) as source:
        data = source.read(MANIFEST, limits.manifest_bytes)
        signed = source.read(SIGNATURE, signature.MAX_BYTES) if source.has(SIGNATURE) else None
        if trusted:
            signed_by = None if signed is None else signature.signer(data, signed, str(path / SIGNATURE))
            signature.require_trusted(signed_by, trusted, str(path))
        manifest = parse_manifest(data, str(path / MANIFEST))
        files = {MANIFEST: data}
        source.require_only([*(entry.name for entry in manifest.files), MANIFEST, SIGNATURE])
        _require_small(manifest, limits, str(path))
        for entry in manifest.files:
            files[entry.name] = content = source.read(entry.name, limits.bundle_bytes)
            if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
                raise BadFile(f"{path / entry.name} is not the file its manifest names", hint=HINT)
    if signed is not None:
        signature.signer(data, signed, str(path / SIGNATURE))
    for mode in manifest.modes:
        _check_model(mode.model, files[mode.model])
    return Bundle(manifest, files, signed)


def _sealed(value: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Give a manifest its id and check it as if it had been read."""
    try:
        value = {**value, "release": release_id(value)}
        data = strict_json.dumps(value, indent=1).encode() + b"\n"
        if len(data) > LIMITS.manifest_bytes:
            raise BadFile(f"the manifest would have {len(data)} bytes, the cap is {LIMITS.manifest_bytes}")
        manifest = parse_manifest(data, "the new bundle")
        _require_small(manifest, LIMITS, "the new bundle")
    except ValueError as error:
        raise BadFile(f"the manifest cannot be written: {error}") from error
    return Bundle(manifest, {**files, MANIFEST: data})


def _require_small(manifest: Manifest, limits: Limits, name: str) -> None:
    """The same for a folder and for one file, so that what is written in one form is read in the other."""
    if (size := sum(entry.size for entry in manifest.files)) > limits.bundle_bytes:
        raise BadFile(
            f"{name}: its files have {size} bytes, the cap is {limits.bundle_bytes}",
            hint="this is not a bundle for an edge device",
        )


def _check_model(name: str, model: bytes) -> None:
    """Raises BadFile where it is no self-contained model of the format that its name says."""
    try:
        load_tflite(model) if name.endswith(".tflite") else check.load(model)
    except BadFile as error:
        raise BadFile(f"{name}: {error.message}", hint=error.hint) from error


def _raw(tensor: np.ndarray) -> bytes:
    return np.ascontiguousarray(tensor, dtype="<f4").tobytes()
