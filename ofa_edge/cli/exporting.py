"""`ofa-edge export`: subnets as model files, each checked against reference outputs before it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ofa_edge.cli import options
from ofa_edge.cli.export_archs import Asked, wanted
from ofa_edge.cli.output import Output, fields, size
from ofa_edge.errors import UsageError
from ofa_edge.files import write_result
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.weights.bank import Statistics

if TYPE_CHECKING:
    from ofa_edge.cli.export_images import Images
    from ofa_edge.cli.inputs import Weights
    from ofa_edge.graph.compiling import Compiled
    from ofa_edge.graph.ir import Graph
    from ofa_edge.graph.quantize import Activations
    from ofa_edge.latency.conditions import RunsOn

_BN = ("bank", "running", "recalibrated")


def export(
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write; a folder for several subnets.")
    ],
    arch: options.MaybeArchFile = None,
    selection: Annotated[
        Path | None, typer.Option("--selection", metavar="FILE", help="Of `select --out`: its subnet, or one a mode.")
    ] = None,
    front: Annotated[
        int | None,
        typer.Option(
            "--front", metavar="N", min=1, max=1000, help="N subnets of the exact front, evenly in log latency."
        ),
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", metavar="FILE", help="For --front; the newest where left out.")
    ] = None,
    accuracy_table: options.AccuracyTableFile = None,
    supernet: options.Supernet = "embedded",
    random_weights: options.RandomWeights = None,
    space: options.SpaceName = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="onnx|tflite", help="Of the file; left out: as selected, else onnx."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|int8",
            help="fp16: weights only; int8: calibrated on --data. Left out: as selected, else fp32.",
        ),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            metavar="uint8|int8",
            help="Of int8 ONNX: uint8 for x86-64 (and safe anywhere), int8 for ARM.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Images: recalibrate batch norm (unless --bn says otherwise), calibrate int8, count accuracy on val.",
        ),
    ] = None,
    bn: Annotated[
        str | None,
        typer.Option(
            "--bn",
            metavar="KIND",
            help="Batch-norm statistics: bank, running (as the weights came with) or recalibrated (on --data).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write subnets as ONNX or TFLite files with batch norm folded, each checked against the reference.

    The reference is our own numpy arithmetic on the same folded arrays, so a wrong node or a runtime's faulty
    optimisation is found here and not on the device. A file that fails is not written. Several subnets (a list of
    archs, a family's modes, --front N) become a folder with a file each. A selection's subnets are written for the
    runtime and precision they were selected for, where no option says otherwise.
    """
    from ofa_edge.cli import inputs
    from ofa_edge.graph.compiling import FORMATS
    from ofa_edge.graph.stored import HALF

    out = Output(as_json)
    told = _Told(format_, precision, activations)
    weights = inputs.weights(supernet, random_weights, space)
    found = wanted(Asked(arch, selection, front, latency_table, accuracy_table), weights, supernet, out)
    hows = [told.of(one.runs_on) for one in found]
    if contradicted := told.contradicted([one.runs_on for one in found if one.runs_on is not None]):
        out.notice(f"{selection} was selected for {contradicted}; it is written as the options say")
    elif any(one.runs_on not in (None, how) for one, how in zip(found, hows, strict=True)):
        out.notice(f"fp16 runs as {selection} predicts, by a table of fp32: {HALF}")
    statistics = _bn(weights, bn, data)
    images = _images(data, weights, any(how.precision == "int8" for how in hows), out)
    export = _Export(weights, images, statistics, out)
    if len(found) == 1:
        value = export.write(found[0].arch, hows[0], out_file)
        out.result(value, lambda: _describe(value))
        return
    if out_file.exists() and not out_file.is_dir():
        raise UsageError(f"{out_file} is a file, and {len(found)} subnets need a folder", hint="name a folder")
    values = []
    with out.progress("export", len(found)) as bar:
        for one, how in zip(found, hows, strict=True):
            values.append(export.write(one.arch, how, out_file / f"{one.stem}.{FORMATS[how.runtime]}"))
            bar.advance(detail=one.stem)
    out.result(values, lambda: "\n\n".join(map(_describe, values)))


@dataclass(frozen=True, slots=True)
class _Export:
    """How subnets become files.

    Attributes:
        bn: 'bank', 'running', 'recalibrated', or 'none (random weights)'.
    """

    weights: Weights
    images: Images | None
    bn: str
    out: Output

    def write(self, arch: Arch, how: RunsOn, path: Path) -> dict[str, Any]:
        """Compile, check, count and write one; what --json says of it."""
        from ofa_edge.graph import build, compiling

        graph = build.network(self.weights.space.layers(arch), self.weights.arrays(arch, self._statistics(arch)))
        calibration = self.images.calibration(arch.resolution) if self.images and how.precision == "int8" else None
        compiled = compiling.compile_graph(
            graph,
            runtime=how.runtime,
            precision=how.precision,
            calibration=calibration,
            activations=how.activations,
            name=str(path),
        )
        accuracy = self._accuracy(arch, graph, compiled)
        write_result(path, compiled.content)
        for notice in compiled.notices:
            self.out.notice(f"{path.name}: {notice}")
        return {
            "file": str(path),
            "sha256": hashlib.sha256(compiled.content).hexdigest(),
            "bytes": len(compiled.content),
            "parity": {"max_abs": compiled.parity.max_abs, "rel": compiled.parity.rel},
            "ops": dict(compiled.ops),
            "partitions": compiled.partitions,
            "bn": self.bn,
            "outside": dict(compiled.outside),
            "format": compiled.format,
            "precision": compiled.precision,
            "activations": compiled.activations or None,
            "arch": codecs.encode(self.weights.space, arch),
            "accuracy": accuracy,
            "notices": list(compiled.notices),
        }

    def _statistics(self, arch: Arch) -> Statistics | None:
        checkpoint = self.weights.checkpoint
        if checkpoint is None:
            return None
        if self.images is not None and self.bn == "recalibrated":
            return self.images.statistics(arch)
        return checkpoint.statistics_of(arch, self.bn)

    def _accuracy(self, arch: Arch, graph: Graph, compiled: Compiled) -> dict[str, Any] | None:
        """Top-1 of this file and of the same in fp32, in percent; None without images, or with random weights."""
        from ofa_edge.graph import compiling

        if self.images is None or self.weights.checkpoint is None:
            return None
        found = self.images.top1(compiled.content, arch.resolution)
        before = found
        if compiled.precision != "fp32":
            before = self.images.top1(compiling.write(graph, compiled.runtime), arch.resolution)
        held_out = self.images.held_out
        return {"split": held_out.split, "images": len(held_out.images), "fp32": before, "file": found}


# -- what was asked -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Told:
    """--format, --precision and --activations; None for those that were not given."""

    format: str | None
    precision: str | None
    activations: str | None

    def of(self, selected: RunsOn | None) -> RunsOn:
        """What to write for: as selected, or as usual, but for what was told.

        Raises:
            UsageError: there is no such format, precision, activations, or no package to write it.
        """
        from ofa_edge.graph.compiling import FORMATS, PRECISIONS
        from ofa_edge.latency.conditions import RunsOn

        runtimes = {format_: runtime for runtime, format_ in FORMATS.items()}
        own = selected or RunsOn()
        if self.format not in (None, *runtimes):
            raise UsageError(f"there is no format {self.format!r}", hint=f"use --format {' or '.join(runtimes)}")
        if self.precision not in (None, *PRECISIONS):
            raise UsageError(
                f"there is no precision {self.precision!r}", hint=f"use --precision {' or '.join(PRECISIONS)}"
            )
        runtime = own.runtime if self.format is None else runtimes[self.format]
        if runtime not in FORMATS:
            raise UsageError(
                f"no file is written for runtime {runtime!r}", hint=f"add --format {' or '.join(runtimes)}"
            )
        precision = self.precision or own.precision
        if self.activations is not None and (precision, runtime) != ("int8", "onnxruntime"):
            message = f"--activations is for int8 ONNX files, not for {precision} {FORMATS[runtime]}"
            raise UsageError(message, hint="leave it out")
        if self.activations not in (None, "uint8", "int8"):
            raise UsageError(
                f"there are no activations of type {self.activations!r}", hint="use --activations uint8 or int8"
            )
        as_selected = (own.runtime, own.precision) == (runtime, precision)
        activations = self.activations or (own.activations if as_selected else None)
        how = replace(own, runtime=runtime, precision=precision, activations=cast("Activations | None", activations))
        options.require_writers(how)
        return how

    def contradicted(self, selected: Sequence[RunsOn]) -> str:
        """What was selected and the options say otherwise; '' where they agree."""
        own = [(one, self.of(one)) for one in selected]
        other = [one.kind for one, how in own if how not in (one, replace(one, precision="fp16"))]
        return " and ".join(dict.fromkeys(other))


def _bn(weights: Weights, bn: str | None, data: Path | None) -> str:
    """Which batch-norm statistics, in a word; raises UsageError where --bn and --data contradict each other."""
    if weights.checkpoint is None:
        if bn is not None:
            raise UsageError("random weights have no batch norm", hint="leave --bn out")
        return "none (random weights)"
    kind = bn or ("recalibrated" if data else weights.checkpoint.usual_bn)
    if kind not in _BN:
        raise UsageError(f"there is no --bn {kind}", hint="use bank, running or recalibrated")
    if kind == "recalibrated" and data is None:
        raise UsageError("--bn recalibrated needs images", hint="--data PATH goes with --bn recalibrated")
    return kind


def _images(data: Path | None, weights: Weights, lossy: bool, out: Output) -> Images | None:
    """Raises UsageError where int8 has no images, or random weights have some that nothing needs."""
    if data is None:
        if lossy:
            raise UsageError("int8 is calibrated on images, and there are none", hint="add --data PATH")
        return None
    if weights.checkpoint is None and not lossy:
        raise UsageError("random weights have no batch norm to recalibrate", hint="leave --data out")
    from ofa_edge.cli.export_images import Images

    return Images(data, weights, out)


# -- what is said ---------------------------------------------------------------------------------
def _describe(value: dict[str, Any]) -> str:
    operators = ", ".join(f"{count} {name}" for name, count in value["ops"].items())
    told = {
        "file": value["file"],
        "size": size(value["bytes"]),
        "sha256": value["sha256"],
        "parity": f"{value['parity']['rel']:.1e} relative, {value['parity']['max_abs']:.1e} absolute",
        "operators": operators,
        "batch norm": value["bn"],
    }
    if value["partitions"] != 1:
        told["partitions"] = str(value["partitions"])
    if accuracy := value["accuracy"]:
        of = f"of {accuracy['images']} images ({accuracy['split']})"
        fp32 = "" if value["precision"] == "fp32" else f", {accuracy['fp32']:.1f} % in fp32"
        told["top-1"] = f"{accuracy['file']:.1f} %{fp32}, {of}"
    return fields(told)
