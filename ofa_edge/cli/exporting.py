"""`ofa-edge export`: a subnet as a model file, checked against reference outputs before it counts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.images import heldout_of, read_images
from ofa_edge.cli.output import Output, fields, size
from ofa_edge.errors import UsageError
from ofa_edge.files import write_result
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.weights.bank import Statistics

if TYPE_CHECKING:
    from ofa_edge.cli.inputs import Weights


def export(
    arch: options.ArchFile,
    out_file: options.Out,
    supernet: options.Supernet = "embedded",
    random_weights: options.RandomWeights = None,
    space: options.SpaceName = None,
    format_: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    precision: Annotated[str, typer.Option("--precision", help="fp32.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Recalibrate batch norm on these images, instead of the bank."),
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
    """Write one subnet as an ONNX file with batch norm folded, and check its outputs against the reference.

    The reference is our own numpy arithmetic on the same folded arrays, so a wrong node or a runtime's faulty
    optimisation is found here and not on the device. A file that fails is not written.
    """
    from ofa_edge.cli import inputs
    from ofa_edge.graph import build, check, onnx, reference

    out = Output(as_json)
    if format_ != "onnx" or precision != "fp32":
        raise UsageError(f"--format {format_} --precision {precision} is not in this version", hint="use onnx and fp32")
    weights = inputs.weights(supernet, random_weights, space)
    archs = codecs.read_archs(weights.space, arch)
    if len(archs) != 1:
        raise UsageError(f"export writes one subnet, {arch} holds {len(archs)}", hint="give one arch a file")
    one = archs[0]
    statistics, kind = _statistics(weights, one, bn, data, out)
    graph = build.network(weights.space.layers(one), weights.arrays(one, statistics))
    content = onnx.to_bytes(graph)
    golden = reference.golden_inputs(graph, 2, seed=0)
    parity = check.parity(content, golden, reference.run(graph, golden))
    check.require_equal(parity, str(out_file))
    write_result(out_file, content)
    value = {
        "file": str(out_file),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "parity": {"max_abs": parity.max_abs, "rel": parity.rel},
        "ops": check.operators(content),
        "partitions": 1,
        "bn": kind,
    }
    out.result(value, lambda: _describe(value))


def _statistics(
    weights: Weights, arch: Arch, bn: str | None, data: Path | None, out: Output
) -> tuple[Statistics | None, str]:
    """The subnet's batch-norm statistics, and in a word what they are; None for random weights.

    Raises:
        UsageError: --bn and --data contradict each other or the weights.
        BadFile: the checkpoint has no such statistics.
    """
    if weights.checkpoint is None:
        if data is not None or bn is not None:
            raise UsageError("random weights have no batch norm", hint="leave --data and --bn out")
        return None, "none (random weights)"
    bn = bn or ("recalibrated" if data else weights.checkpoint.usual_bn)
    if bn not in ("bank", "running", "recalibrated"):
        raise UsageError(f"there is no --bn {bn}", hint="use bank, running or recalibrated")
    if (bn == "recalibrated") != (data is not None):
        raise UsageError(
            f"--bn {bn} {'takes no' if data else 'needs'} images", hint="--data PATH goes with --bn recalibrated"
        )
    if data is None:
        return weights.checkpoint.statistics_of(arch, bn), bn
    from ofa_edge.accuracy.recalibrate import Recalibrator
    from ofa_edge.train import images

    loaded = read_images(data, "train", weights.space, out)
    splits = images.split_training(loaded, heldout_of(weights.checkpoint))
    return Recalibrator(weights.checkpoint, splits.train)(arch), bn


def _describe(value: dict[str, Any]) -> str:
    return fields(
        {
            "file": value["file"],
            "size": size(value["bytes"]),
            "sha256": value["sha256"],
            "parity": f"{value['parity']['rel']:.1e} relative, {value['parity']['max_abs']:.1e} absolute",
            "operators": ", ".join(f"{count} {name}" for name, count in value["ops"].items()),
            "batch norm": value["bn"],
        }
    )
