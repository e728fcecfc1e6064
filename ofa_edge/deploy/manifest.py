"""The manifest of a bundle: what a release is, where it came from and what it promises.

In: JSON text from a file or a device. Out: a Manifest, checked, or BadFile. Rules kept: nothing unknown
and nothing out of range passes; file names are fixed, so none of them can be a path; the release id is a hash
of all the rest, so an id names exact bytes and an exact promise, and equal content has an equal id (there is
no time in it).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ofa_edge import strict_json
from ofa_edge.errors import BadFile
from ofa_edge.latency.conditions import Conditions, RunsOn

MODEL = "model.onnx"
GOLDEN_INPUT, GOLDEN_OUTPUT = "golden-input.f32", "golden-output.f32"
FILES = (MODEL, GOLDEN_INPUT, GOLDEN_OUTPUT)

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
ID_LENGTH = 16  # hex digits of the sha256 that a release is called by; the agent counts the same
VERSION = 1
TOLERANCE = 1e-4  # greatest difference of a golden output, relative to the largest

HINT = "write the bundle again with `ofa-edge bundle build`"

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(min_length=1, max_length=8)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileEntry(_Value):
    """A file of the bundle."""

    name: Literal["model.onnx", "golden-input.f32", "golden-output.f32"]
    sha256: Sha256
    size: Annotated[int, Field(ge=1)]


class Golden(_Value):
    """Shapes of the golden tensors, and how far a device's outputs may be off: greatest absolute difference
    over the greatest absolute golden output."""

    input_shape: Shape
    output_shape: Shape
    tolerance: Annotated[float, Field(gt=0, le=0.01)] = TOLERANCE


class Input(_Value):
    """What the application feeds: RGB, (x - mean) / std on 0..255 after a resize of the short side to
    resolution / crop and a centre crop; NCHW float32. Mean and deviation are one number, or one a channel."""

    resolution: Annotated[int, Field(ge=1, le=65_536)]
    mean: float | Channels
    std: Positive | tuple[Positive, Positive, Positive]
    crop: Annotated[float, Field(gt=0, le=1)]


class ArchDict(_Value):
    """The arch in OFA's form: `ks` where kernels are elastic, `w` where widths are."""

    r: int
    d: tuple[int, ...]
    ks: tuple[int, ...] | None = None
    e: tuple[int | float, ...]
    w: tuple[int, ...] | None = None


class Budget(_Value):
    """The limits the subnet was chosen under; the latency is the promise that is checked on the device."""

    latency_ms: Milliseconds | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    macs: Annotated[int, Field(gt=0)] | None = None


class Predicted(_Value):
    """The latency Estimate in ms; the interval is absent where it is unknown."""

    value: Milliseconds
    low: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    high: Milliseconds | None = None


class Runs(_Value):
    """How the model runs; `cores` None is all that the device gives."""

    runtime: Name
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    cores: tuple[Annotated[int, Field(ge=0, le=4096)], ...] | None = None
    precision: Text = "fp32"

    @classmethod
    def of(cls, runs_on: RunsOn) -> Self:
        return cls(runtime=runs_on.runtime, threads=runs_on.threads, cores=runs_on.cores, precision=runs_on.precision)

    def runs_on(self) -> RunsOn:
        return RunsOn(self.runtime, self.threads, self.cores, self.precision)


class Sources(_Value):
    """Where it came from: sha256 of the checkpoint and of the tables it was chosen with, where there were any,
    and where the batch-norm statistics are from."""

    checkpoint: Sha256 | None = None
    latency_table: Sha256 | None = None
    accuracy_table: Sha256 | None = None
    bn: Literal["bank", "recalibrated", "running"] | None = None


class Manifest(_Value):
    """All a device and its user may know about a release.

    `top1` is the predicted accuracy in percent; `conditions` are those of the latency table, None where the
    prediction came from none.
    """

    format: Literal["ofa-edge-bundle"] = "ofa-edge-bundle"
    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION
    app: Name
    release: Name
    space: Text
    arch: ArchDict
    input: Input
    labels: Annotated[tuple[Text, ...], Field(max_length=10_000)]
    budget: Budget
    predicted: Predicted | None
    top1: Annotated[float, Field(ge=0, le=100)] | None
    runs: Runs
    conditions: Conditions | None
    sources: Sources
    golden: Golden
    files: Annotated[tuple[FileEntry, ...], Field(min_length=len(FILES), max_length=len(FILES))]

    def file(self, name: str) -> FileEntry:
        return next(entry for entry in self.files if entry.name == name)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Check a manifest and that its release id is the hash of the rest; `name` is what errors call it.

    Raises:
        BadFile: it is not valid, or was changed.
    """
    try:
        value = strict_json.loads(data)
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BadFile(f"{name} is not a valid manifest: {where}: {first['msg']}", hint=HINT) from error
    except ValueError as error:
        raise BadFile(f"{name} is not a valid manifest: {error}", hint=HINT) from error
    if manifest.release != release_id(value):
        raise BadFile(f"{name} was changed: its content is not that of release {manifest.release}", hint=HINT)
    names = sorted(entry.name for entry in manifest.files)
    if names != sorted(FILES):
        raise BadFile(f"{name} lists {', '.join(names)} in place of {', '.join(FILES)}", hint=HINT)
    for entry, shape in ((GOLDEN_INPUT, manifest.golden.input_shape), (GOLDEN_OUTPUT, manifest.golden.output_shape)):
        if manifest.file(entry).size != 4 * prod(shape):
            raise BadFile(f"{name}: {entry} has not the size of shape {list(shape)}", hint=HINT)
    return manifest


def release_id(manifest: Mapping[str, Any]) -> str:
    """What a release is called: the first hex digits of the sha256 of its manifest, the id itself left out."""
    return strict_json.sha256({key: value for key, value in manifest.items() if key != "release"})[:ID_LENGTH]
