"""The manifest of a bundle: what a release is, where it came from and what it promises.

In: JSON text from a file or a device. Out: a Manifest, checked, or BadFile. A release holds a subnet for each of its
modes, each with its own model, golden tensors and promise; the first is the default. Rules kept: nothing unknown and
nothing out of range passes; file names follow from mode and runtime, so none of them can be a path; the release id is
a hash of all the rest, so an id names exact bytes and an exact promise, and equal content has an equal id (there is
no time in it).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ofa_edge import preprocess, strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import Activations, Conditions, RunsOn

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
MODE_NAME = r"[a-z0-9][a-z0-9-]{0,31}"
DEFAULT_MODE = "default"  # what the only mode of a release is called
MAX_MODES = 8
ID_LENGTH = 16  # hex digits of the sha256 that a release is called by; the agent counts the same
VERSION = 2
TOLERANCE = 1e-4  # greatest difference of a golden output, relative to the largest

HINT = "write the bundle again with `ofa-edge bundle build`"

# The model format of each runtime, as the ending of its file, and the order of the axes of its input.
FORMATS = {"onnxruntime": "onnx", "litert": "tflite"}
LAYOUTS: dict[str, Literal["NCHW", "NHWC"]] = {"onnxruntime": "NCHW", "litert": "NHWC"}

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
ModeName = Annotated[str, Field(pattern=f"^{MODE_NAME}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(min_length=1, max_length=8)]


class FileNames(NamedTuple):
    """What the files of a mode are called."""

    model: str
    golden_input: str
    golden_output: str

    @classmethod
    def of(cls, mode: str, runtime: str, *, is_default: bool) -> Self:
        """The default mode's have no mode in them: an application that knows no modes opens `model.onnx`.

        Raises:
            UsageError: no model format is known for such a runtime.
        """
        if runtime not in FORMATS:
            raise UsageError(f"no bundle runs on {runtime!r}", hint=f"use {' or '.join(FORMATS)}")
        end = "" if is_default else f"-{mode}"
        return cls(f"model{end}.{FORMATS[runtime]}", f"golden-input{end}.f32", f"golden-output{end}.f32")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileEntry(_Value):
    """A file of the bundle."""

    name: Name
    sha256: Sha256
    size: Annotated[int, Field(ge=1)]


class Golden(_Value):
    """Files and shapes of the golden tensors (float32, NCHW whatever the model's layout), and how far a device's
    outputs may be off: greatest absolute difference over the greatest absolute golden output."""

    input: Name
    output: Name
    input_shape: Shape
    output_shape: Shape
    tolerance: Annotated[float, Field(gt=0, le=0.5)] = TOLERANCE


class Input(_Value):
    """What the application feeds: RGB, (x - mean) / std on 0..255 after a resize (`resize` names the filter) of the
    short side to resolution / crop and a centre crop; float32 in this layout. Mean and deviation are one number, or one
    a channel. An image whose short side is longer than `reduce_to` is resized to that first. ofa_edge/preprocess.py
    does it, and is shipped with the example for applications."""

    resolution: Annotated[int, Field(ge=1, le=65_536)]
    mean: float | Channels
    std: Positive | tuple[Positive, Positive, Positive]
    crop: Annotated[float, Field(gt=0, le=1)]
    resize: Literal["bicubic"] = "bicubic"
    reduce_to: Annotated[int, Field(ge=1, le=65_536)] = preprocess.REDUCE_TO
    layout: Literal["NCHW", "NHWC"] = "NCHW"


class ArchDict(_Value):
    """The arch in OFA's form: `ks` where kernels are elastic, `w` where widths are."""

    r: int
    d: tuple[int, ...]
    ks: tuple[int, ...] | None = None
    e: tuple[int | float, ...]
    w: tuple[int, ...] | None = None


class Budget(_Value):
    """The limits the subnet was chosen under; the latency is the promise that is checked on the device: the median of
    fresh processes, and where `p90_ms` is given also the 90th percentile of their runs."""

    latency_ms: Milliseconds | None = None
    p90_ms: Milliseconds | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    macs: Annotated[int, Field(gt=0)] | None = None


class Predicted(_Value):
    """The latency Estimate in ms; the interval is absent where it is unknown."""

    value: Milliseconds
    low: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    high: Milliseconds | None = None


class Runs(_Value):
    """How the model runs; `cores` None is all that the device gives, `at_least` the oldest version of the runtime
    that opens the file, where one is known, `activations` their type in an int8 file."""

    runtime: Name
    at_least: Text | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    cores: tuple[Annotated[int, Field(ge=0, le=4096)], ...] | None = None
    precision: Text = "fp32"
    activations: Activations | None = None

    @classmethod
    def of(cls, runs_on: RunsOn) -> Self:
        return cls(
            runtime=runs_on.runtime,
            threads=runs_on.threads,
            cores=runs_on.cores,
            precision=runs_on.precision,
            activations=runs_on.activations,
        )

    def runs_on(self) -> RunsOn:
        return RunsOn(self.runtime, self.threads, self.cores, self.precision, activations=self.activations)

    def measured_as(self) -> RunsOn:
        """As `measured_as`."""
        return measured_as(self.runs_on())


def measured_as(runs_on: RunsOn) -> RunsOn:
    """How a latency table says it: weights in half precision are widened when the file is loaded, so it runs in
    single."""
    return replace(runs_on, precision="fp32" if runs_on.precision == "fp16" else runs_on.precision)


class Sources(_Value):
    """Where it came from: sha256 of the checkpoint and of the tables it was chosen with, where there were any,
    and where the batch-norm statistics are from."""

    checkpoint: Sha256 | None = None
    latency_table: Sha256 | None = None
    accuracy_table: Sha256 | None = None
    bn: Literal["bank", "recalibrated", "running"] | None = None


class Mode(_Value):
    """One subnet of a release. `top1` is the predicted accuracy in percent; `conditions` are those of the latency
    table, None where the prediction came from none."""

    name: ModeName = DEFAULT_MODE
    arch: ArchDict
    input: Input
    budget: Budget
    predicted: Predicted | None
    top1: Annotated[float, Field(ge=0, le=100)] | None
    runs: Runs
    conditions: Conditions | None
    model: Name
    golden: Golden

    @property
    def files(self) -> FileNames:
        return FileNames(self.model, self.golden.input, self.golden.output)


class Manifest(_Value):
    """All a device and its user may know about a release.

    `counter` grows from release to release where the maker counts them: a device refuses a lower one. `machine` is the
    processor architecture it was made for, None for any.
    """

    format: Literal["ofa-edge-bundle"] = "ofa-edge-bundle"
    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION
    app: Name
    release: Name
    counter: Annotated[int, Field(ge=0, le=1 << 53)] = 0
    space: Text
    labels: Annotated[tuple[Text, ...], Field(max_length=10_000)]
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=MAX_MODES)]
    sources: Sources
    machine: Text | None = None
    files: Annotated[tuple[FileEntry, ...], Field(min_length=3, max_length=3 * MAX_MODES)]

    @property
    def default(self) -> Mode:
        return self.modes[0]

    def mode(self, name: str | None) -> Mode:
        """The mode of that name, the default for None.

        Raises:
            UsageError: there is none.
        """
        for mode in self.modes:
            if name in (None, mode.name):
                return mode
        names = ", ".join(mode.name for mode in self.modes)
        raise UsageError(f"release {self.release} has no mode {name!r}", hint=f"it has {names}")

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
    if problem := _contradiction(manifest):
        raise BadFile(f"{name}: {problem}", hint=HINT)
    return manifest


def _contradiction(manifest: Manifest) -> str:
    """What in a manifest does not go together, '' for nothing."""
    modes = [mode.name for mode in manifest.modes]
    if len(set(modes)) < len(modes):
        return "it names a mode twice"
    for number, mode in enumerate(manifest.modes):
        if mode.runs.runtime not in FORMATS:
            return f"mode {mode.name} runs on {mode.runs.runtime}, which has no model format here"
        expected = FileNames.of(mode.name, mode.runs.runtime, is_default=number == 0)
        if mode.files != expected:
            return f"mode {mode.name} names the files {', '.join(mode.files)} in place of {', '.join(expected)}"
        if mode.input.layout != LAYOUTS[mode.runs.runtime]:
            return f"mode {mode.name} feeds {mode.runs.runtime} in the layout {mode.input.layout}"
    names = sorted(entry.name for entry in manifest.files)
    if names != sorted(itertools.chain.from_iterable(mode.files for mode in manifest.modes)):
        return f"it lists the files {', '.join(names)}, which are not those of its modes"
    for mode in manifest.modes:
        golden = mode.golden
        for file, shape in ((golden.input, golden.input_shape), (golden.output, golden.output_shape)):
            if manifest.file(file).size != 4 * prod(shape):
                return f"{file} has not the size of shape {list(shape)}"
    return ""


def release_id(manifest: Mapping[str, Any]) -> str:
    """What a release is called: the first hex digits of the sha256 of its manifest, the id itself left out."""
    return strict_json.sha256({key: value for key, value in manifest.items() if key != "release"})[:ID_LENGTH]
