"""What a device must have to open a bundle: known from the models, demanded only where it is known."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import helper

from device_agents.wire import Facts
from ofa_edge.deploy import bundle
from ofa_edge.deploy.bundle import Bundle, Part, Tensors
from ofa_edge.deploy.fitting import at_least, fits
from ofa_edge.graph import build, quantize, reference, tflite
from ofa_edge.graph import onnx as writer
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays
from tests.deploy.double import FACTS, make_bundle, model
from tests.search.doubles import REDUCED

LAYERS = REDUCED.layers(REDUCED.smallest())
GRAPH = build.network(LAYERS, random_arrays(LAYERS, 0))
INPUTS = reference.golden_inputs(GRAPH, 1, 0)


def facts_with(**runtimes: str) -> Facts:
    return replace(FACTS, runtimes=runtimes)


def test_our_onnx_files_need_the_first_runtime_that_was_seen_to_open_them() -> None:
    float_file = writer.to_bytes(GRAPH)
    assert at_least("onnxruntime", float_file) == "1.12"
    assert at_least("onnxruntime", quantize.onnx_int8(float_file, INPUTS)) == "1.12"
    assert make_bundle().manifest.default.runs.at_least == "1.12"


def test_files_of_a_later_opset_are_not_judged() -> None:
    later = onnx.load_model_from_string(model(1.0))
    del later.opset_import[:]
    later.opset_import.append(helper.make_opsetid("", 18))
    assert at_least("onnxruntime", later.SerializeToString()) is None


def test_tflite_files_need_what_their_operators_and_their_layout_need() -> None:
    pytest.importorskip("ai_edge_litert")
    float_file = tflite.to_bytes(GRAPH)
    assert at_least("litert", float_file) in ("1.6", "1.15")
    pytest.importorskip("ai_edge_quantizer")
    layers = OFA_LITE0.layers(OFA_LITE0.smallest())
    graph = build.network(layers, random_arrays(layers, 0))
    inputs = reference.golden_inputs(graph, 1, 0)
    # Its larger constants lie behind the flatbuffer: tflite-runtime 2.14.0 reads them, 2.13.0 finds none.
    assert at_least("litert", quantize.tflite_int8(tflite.to_bytes(graph), inputs)) == "2.14"


def lite(needed: str | None) -> Bundle:
    """A bundle that says so of its model for LiteRT."""
    pytest.importorskip("ai_edge_litert")
    golden = Tensors(INPUTS, reference.run(GRAPH, INPUTS))
    made = bundle.build(
        app="camera",
        space=REDUCED,
        parts=[Part(REDUCED.smallest(), tflite.to_bytes(GRAPH), golden, RunsOn("litert"))],
        labels=("a",),
    )
    (mode,) = made.manifest.modes
    runs = mode.runs.model_copy(update={"at_least": needed})
    return replace(made, manifest=made.manifest.model_copy(update={"modes": (mode.model_copy(update={"runs": runs}),)}))


@pytest.mark.parametrize(
    ("installed", "needed", "reason"),
    [
        ("tflite-runtime 2.14.0", "2.14", ""),
        ("tflite-runtime 2.13.0", "2.14", "the model needs tflite-runtime 2.14 or later"),
        ("tflite-runtime 2.7.0", "1.15", ""),
        ("tflite-runtime", "2.14", ""),
        ("ai-edge-litert 1.0.1", "2.14", ""),
        ("ai-edge-litert 1.0.1", "2.21", ""),
        ("tflite-runtime 2.7.0", None, ""),
    ],
)
def test_litert_is_held_against_its_own_count_only(installed: str, needed: str | None, reason: str) -> None:
    found = fits(lite(needed).manifest, facts_with(litert=installed))
    assert found.endswith(reason) if reason else found == ""


@pytest.mark.parametrize(
    ("installed", "reason"),
    [("1.12.0", ""), ("1.31.1", ""), ("1.9.0", "has 1.9.0, the model needs onnxruntime 1.12 or later"), ("odd", "")],
)
def test_an_old_onnx_runtime_is_named(installed: str, reason: str) -> None:
    found = fits(make_bundle().manifest, facts_with(onnxruntime=installed))
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_runtime_that_is_not_there_is_named() -> None:
    found = fits(make_bundle().manifest, facts_with(litert="ai-edge-litert 2.3.0"))
    assert "has no runtime 'onnxruntime' (it has: litert)" in found


@pytest.mark.parametrize(
    ("made_for", "machine", "fitting"),
    [
        (None, "riscv64", True),
        ("aarch64", "aarch64", True),
        ("arm64", "aarch64", True),
        ("x86_64", "AMD64", True),
        ("aarch64", "x86_64", False),
        ("aarch64", "armv7l", False),
    ],
)
def test_a_bundle_for_one_processor_fits_no_other(made_for: str | None, machine: str, fitting: bool) -> None:
    found = fits(make_bundle().counted(0, made_for).manifest, replace(FACTS, machine=machine))
    assert (found == "") == fitting
    if not fitting:
        assert f"is made for {made_for}, " in found


def test_every_mode_must_fit() -> None:
    pytest.importorskip("ai_edge_litert")
    full, low = make_bundle().manifest, lite(None).manifest.default.model_copy(update={"name": "low"})
    both = full.model_copy(update={"modes": (full.default, low)})
    found = fits(both, facts_with(onnxruntime="1.31.1"))
    assert found.startswith("mode low: ")
    assert fits(both, facts_with(onnxruntime="1.31.1", litert="ai-edge-litert 2.3.0")) == ""
