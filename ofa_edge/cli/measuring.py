"""`ofa-edge predict` and `measure`: what a latency table says of archs, and what they take on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, milliseconds, size, table
from ofa_edge.cli.profiling import say_device
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import read_bytes
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import OFA_LITE0, get_space

if TYPE_CHECKING:
    from ofa_edge.latency.conditions import RunsOn
    from ofa_edge.latency.models.model import LatencyModel
    from ofa_edge.latency.trials import Trial
    from ofa_edge.latency.workload import Source


def predict(
    arch: options.ArchFile,
    table_file: options.LatencyTableFile = None,
    confidence: options.Confidence = 0.95,
    as_json: options.Json = False,
) -> None:
    """The latency of archs from a table, with intervals; no device and no weights are needed."""
    from ofa_edge.cli.inputs import named_latency_table
    from ofa_edge.graph.stored import Stored
    from ofa_edge.latency.models.predictors import model_of

    out = Output(as_json)
    latencies = named_latency_table(table_file, None, out)
    model = model_of(latencies)
    stored = Stored.of(latencies.conditions)
    rows = []
    for prediction in model.predict(codecs.read_archs(model.space, arch), confidence):
        costs = stored.cost(model.space.blocks(prediction.arch))
        rows.append(
            {
                "arch": codecs.encode(model.space, prediction.arch),
                "latency_ms": None if prediction.latency is None else prediction.latency.as_json(),
                "macs": costs.macs,
                "params": costs.params,
                "weight_bytes": costs.weight_bytes,
                "peak_activation_bytes": costs.peak_activation_bytes,
                "missing": list(prediction.missing),
            }
        )
    out.result(rows, lambda: _predictions_text(rows))


def _predictions_text(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            row["arch"]["r"],
            "-" if row["latency_ms"] is None else milliseconds(**row["latency_ms"]),
            f"{row['macs'] / 1e6:.1f} M",
            size(row["weight_bytes"]),
            size(row["peak_activation_bytes"]),
            len(row["missing"]),
        ]
        for row in rows
    ]
    return table(["r", "latency", "MACs", "weights", "peak activation", "missing blocks"], cells)


@reaches
def measure(
    reach: Reach,
    host: options.Host,
    arch: options.MaybeArchFile = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="An ONNX or TFLite file of fixed shape.")
    ] = None,
    supernet: options.Supernet = "embedded",
    random_weights: options.RandomWeights = None,
    space: options.SpaceName = None,
    runtime: options.MaybeRuntime = None,
    threads: options.Threads = 1,
    cores: options.Cores = None,
    precision: options.Precision = "fp32",
    processes: Annotated[int, typer.Option("--processes", min=1, help="Fresh processes a network.")] = 5,
    table_file: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="A latency table whose anchor reference anchored_ms is held to."),
    ] = None,
    accept_unknown: options.AcceptUnknown = False,
) -> None:
    """Measure whole networks on a device in fresh processes, interleaved with an anchor network.

    Exit 1 where one of them failed; its row says why.
    """
    from ofa_edge.graph import check
    from ofa_edge.latency import plan, trials, workload
    from ofa_edge.latency.conditions import conditions, require_match
    from ofa_edge.latency.models.predictors import model_of
    from ofa_edge.latency.table import LatencyTable

    out = reach.out
    options.exactly_one(arch=arch, model=model)
    content = None if model is None else _model_file(model, runtime)
    fitting = runtime or ("litert" if check.is_tflite(content) else "onnxruntime")
    runs_on = options.runs_on(fitting, threads, cores, precision)
    options.require_writers(runs_on)
    found = None if table_file is None else LatencyTable.read(table_file)
    if found is not None and found.conditions.runs_on is not None and found.conditions.precision == precision:
        runs_on = replace(runs_on, activations=found.conditions.runs_on.activations)
    if content is not None:
        target, archs, sources = _one_file(content, space)
    else:
        target, archs, sources = _archs(str(arch), supernet, random_weights, space, runs_on)
    latency: LatencyModel | None = None
    anchor = workload.network_source(target, plan.middle(target, target.resolutions), runs_on)
    if found is not None:
        latency = model_of(found)
        anchor = workload.network_source(latency.space, latency.anchor, runs_on)
    with reach.open(host) as session:
        say_device(out, session.facts)
        now = conditions(session.facts, runs_on)
        if found is not None:
            require_match(found.conditions, now, names=(found.path, "this device"), accept_unknown=accept_unknown)
        with out.progress("measure", len(sources) * processes) as bar:

            def on_process(key: str, trial: Trial) -> None:
                bar.advance(0 if trial.attempt > 1 else 1, key)

            results = trials.measure_networks(
                session,
                sources,
                runs_on=runs_on,
                processes=processes,
                anchor=anchor,
                reference_ms=latency.reference_ms if latency else None,
                on_process=on_process,
            )
    rows = [
        {"arch": None if one is None else codecs.encode(target, one), **result.as_json()}
        for one, result in zip(archs, results, strict=True)
    ]
    out.result(rows, lambda: _measured_text(rows))
    if any(row["failed"] for row in rows):
        raise typer.Exit(1)


_Sources = tuple[Space, Sequence[Arch | None], dict[str, "Source"]]
"""The space of the anchor, the archs (None for a model file), and where each model comes from, in that order."""


def _model_file(path: Path, runtime: str | None) -> bytes:
    """A model that a user brings.

    Raises:
        UsageError: it cannot be read, or is of another runtime than the one asked for.
        BadFile: it is neither a TFLite file nor an ONNX file that we run.
    """
    from ofa_edge.graph import check

    content = read_bytes(path, hint="--model takes an ONNX or TFLite file")
    fitting = "litert" if check.is_tflite(content) else "onnxruntime"
    if runtime not in (None, fitting):
        raise UsageError(f"{path} is not a file for {runtime}", hint=f"use --runtime {fitting}")
    if fitting == "onnxruntime":
        try:
            check.load(content)
        except BadFile as error:
            raise BadFile(f"{path}: {error.message}", hint=error.hint) from error
    return content


def _one_file(content: bytes, space: str | None) -> _Sources:
    from ofa_edge.latency.workload import Source

    return get_space(space or OFA_LITE0.name), [None], {"model": Source(lambda: content)}


def _archs(arch: str, supernet: str, random_weights: int | None, space: str | None, runs_on: RunsOn) -> _Sources:
    from ofa_edge.cli.inputs import weights
    from ofa_edge.graph import build
    from ofa_edge.latency.workload import Source, model_file

    given = weights(supernet, random_weights, space)

    def source(one: Arch) -> Source:
        return Source(lambda: model_file(build.network(given.space.layers(one), given.arrays(one)), runs_on))

    archs = codecs.read_archs(given.space, arch)
    return given.space, archs, {f"arch {i}": source(one) for i, one in enumerate(archs, 1)}


def _measured_text(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        figures, anchored = row["latency_ms"], row["anchored_ms"]
        cells.append(
            [
                "-" if row["arch"] is None else row["arch"]["r"],
                row["failed"] or milliseconds(figures["median"], figures["low"], figures["high"]),
                "-" if anchored is None else milliseconds(anchored["median"]),
                row["repeats"],
                " ".join(row["flags"]),
            ]
        )
    return table(["r", "median of processes", "anchored", "repeats", "flags"], cells)
