"""A selection becomes a bundle that says what was promised, and only with the weights it was made for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from device_agents import wire
from ofa_edge.accuracy.predictor import Top1
from ofa_edge.deploy import assemble
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.device_state import parse_state
from ofa_edge.deploy.outcome import Timing
from ofa_edge.deploy.plan import plan
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph import check
from ofa_edge.latency.conditions import UNKNOWN, Conditions, RunsOn, conditions
from ofa_edge.latency.models.model import Estimate, LatencyModel
from ofa_edge.latency.trials import ANCHOR_OFF
from ofa_edge.search.budget import Budget
from ofa_edge.search.selection import Selection
from ofa_edge.space import codecs
from ofa_edge.space.cost import cost
from ofa_edge.weights import checkpoint as checkpoints
from ofa_edge.weights.checkpoint import Checkpoint
from tests.deploy.test_plan import EMPTY
from tests.reduced import REDUCED, registered, simulated, write_latencies, write_supernet
from tests.simulated import FACTS, SimulatedDevice

ARCH = REDUCED.sample(np.random.default_rng(5), 32)


@pytest.fixture(scope="module", autouse=True)
def _space() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("supernet") / "reduced.safetensors"
    write_supernet(path)
    return checkpoints.load(path)


@pytest.fixture(scope="module")
def latency(tmp_path_factory: pytest.TempPathFactory) -> LatencyModel:
    return LatencyModel.from_table(write_latencies(tmp_path_factory.mktemp("table") / "t.jsonl").table)


@pytest.fixture(scope="module")
def selection(checkpoint: Checkpoint) -> Selection:
    return Selection(
        space=REDUCED,
        arch=ARCH,
        top1=Top1(0.85, 0.8, 0.9),
        latency_ms=Estimate(2.0, 1.9, 2.1),
        cost=cost(REDUCED.blocks(ARCH)),
        budget=Budget(latency_ms=2.5, macs=10**9),
        strategy="exact",
        confidence=0.95,
        model="drawn",
        proven_optimal=True,
        bound=0.85,
        inputs={"supernet": checkpoint.sha256, "latency-table": "1" * 64, "accuracy-table": "2" * 64},
        seed=0,
    )


def of(
    selection: Selection,
    checkpoint: Checkpoint,
    runs_on: RunsOn | None = None,
    conditions: Conditions | None = None,
    *,
    app: str = "door",
) -> Bundle:
    """A bundle of one mode."""
    return assemble.assemble([assemble.Choice(selection, runs_on or RunsOn(), conditions)], checkpoint, app=app)


@pytest.fixture(scope="module")
def bundle(selection: Selection, checkpoint: Checkpoint, latency: LatencyModel) -> Bundle:
    return of(selection, checkpoint, RunsOn(threads=2))


def test_a_bundle_says_what_was_promised_and_where_it_came_from(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest, mode = bundle.manifest, bundle.manifest.default
    assert (manifest.app, manifest.space) == ("door", "reduced")
    assert mode.arch.model_dump(mode="json", exclude_none=True) == codecs.encode(REDUCED, ARCH)
    assert (mode.budget.latency_ms, mode.budget.macs, mode.budget.size_bytes) == (2.5, 10**9, None)
    assert mode.predicted is not None
    assert (mode.predicted.value, mode.predicted.high) == (2.0, 2.1)
    assert mode.top1 == 85.0
    assert (mode.runs.runtime, mode.runs.threads) == ("onnxruntime", 2)
    assert manifest.labels == checkpoint.metadata.labels
    sources = manifest.sources
    assert (sources.checkpoint, sources.latency_table, sources.accuracy_table, sources.bn) == (
        checkpoint.sha256,
        "1" * 64,
        "2" * 64,
        "bank",
    )


def test_its_golden_outputs_are_those_of_its_model(bundle: Bundle) -> None:
    golden = bundle.manifest.default.golden
    inputs = np.frombuffer(bundle.files[golden.input], "<f4").reshape(golden.input_shape)
    outputs = np.frombuffer(bundle.files[golden.output], "<f4").reshape(golden.output_shape)
    assert check.parity(bundle.files[bundle.manifest.default.model], inputs, outputs).rel < golden.tolerance
    assert inputs.shape == (1, 3, 32, 32)


def test_the_same_selection_is_the_same_release(bundle: Bundle, selection: Selection, checkpoint: Checkpoint) -> None:
    again = of(selection, checkpoint, RunsOn(threads=2))
    assert again.files == bundle.files
    other = of(selection, checkpoint)
    assert other.release != bundle.release


def test_a_selection_for_another_checkpoint_is_refused(selection: Selection, checkpoint: Checkpoint) -> None:
    other = replace(selection, inputs={**selection.inputs, "supernet": "0" * 64})
    with pytest.raises(BadFile, match="made for checkpoint 000000000000, this one is") as found:
        of(other, checkpoint)
    assert "--supernet" in found.value.hint


def test_one_that_names_no_checkpoint_is_taken(selection: Selection, checkpoint: Checkpoint) -> None:
    assemble.require_checkpoint(replace(selection, inputs={}), checkpoint)


def test_an_app_is_a_plain_name(selection: Selection, checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="cannot be the name of an app"):
        of(selection, checkpoint, app="../door")


@pytest.mark.parametrize(
    ("runs_on", "predicted_for", "message", "hint"),
    [
        (RunsOn("tensorrt"), None, "no bundle can be made of runtime 'tensorrt'", "onnxruntime or litert"),
        (RunsOn(precision="fp8"), None, "no bundle can be made of precision 'fp8'", "fp32 or fp16 or int8"),
        (RunsOn(), RunsOn("litert"), "was predicted for runtime litert", "deploy with --runtime litert"),
        (RunsOn(), RunsOn(precision="int8"), "was predicted for precision int8", "profile --precision fp32"),
        (RunsOn(precision="int8"), RunsOn(), "was predicted for precision fp32", "deploy with --precision fp32"),
        (
            RunsOn(precision="int8", activations="int8"),
            RunsOn(precision="int8", activations="uint8"),
            "was predicted for activations uint8",
            "uint8",
        ),
    ],
)
def test_a_bundle_is_made_only_of_what_it_promises(
    selection: Selection, checkpoint: Checkpoint, runs_on: RunsOn, predicted_for: RunsOn | None, message: str, hint: str
) -> None:
    facts = replace(FACTS, runtimes={"onnxruntime": "1", "litert": "2"})
    promised = None if predicted_for is None else conditions(facts, predicted_for)
    with pytest.raises(UsageError, match=message) as found:
        of(selection, checkpoint, runs_on, promised)
    assert hint in found.value.hint


def noise(resolution: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3, resolution, resolution), dtype=np.float32)


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_runtime_and_precision_has_its_bundle(
    selection: Selection, checkpoint: Checkpoint, runtime: str, precision: str
) -> None:
    runs_on = RunsOn(runtime, precision=precision)
    measured = replace(runs_on, precision="fp32" if precision == "fp16" else precision)
    promised = conditions(replace(FACTS, runtimes={runtime: "1.20"}), measured)
    choice = assemble.Choice(selection, runs_on, promised, "full")
    made = assemble.assemble([choice], checkpoint, app="door", calibration=noise)
    mode = made.manifest.default
    assert (mode.name, mode.runs.runtime, mode.runs.precision) == ("full", runtime, precision)
    assert mode.runs.activations == {"onnxruntime": "uint8", "litert": "int8"}[runtime] if precision == "int8" else True
    state = parse_state(EMPTY, replace(FACTS, runtimes={runtime: "1.20"}))
    assert plan(state, made.manifest).verdict == "deploy", "what it was predicted for is what it is"
    inputs = np.frombuffer(made.files[mode.golden.input], "<f4").reshape(mode.golden.input_shape)
    outputs = np.frombuffer(made.files[mode.golden.output], "<f4").reshape(mode.golden.output_shape)
    found = check.compare(check.run(made.files[mode.model], inputs), outputs)
    assert found.rel <= mode.golden.tolerance


def test_int8_follows_the_machine_where_no_table_says(selection: Selection, checkpoint: Checkpoint) -> None:
    choice = assemble.Choice(selection, RunsOn(precision="int8"), None)
    for machine, kind in (("x86_64", "uint8"), ("aarch64", "int8")):
        made = assemble.assemble([choice], checkpoint, app="door", calibration=noise, machine=machine)
        assert made.manifest.default.runs.activations == kind


def test_int8_is_never_calibrated_on_nothing(selection: Selection, checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="images to calibrate on"):
        of(selection, checkpoint, RunsOn(precision="int8"))


def test_modes_become_one_release(selection: Selection, checkpoint: Checkpoint) -> None:
    low = replace(selection, arch=REDUCED.smallest(), inputs={**selection.inputs, "latency-table": "3" * 64})
    choices = [
        assemble.Choice(selection, RunsOn(), None, "full"),
        assemble.Choice(low, RunsOn("litert", 2), None, "low"),
    ]
    made = assemble.assemble(choices, checkpoint, app="door")
    assert [(mode.name, mode.model) for mode in made.manifest.modes] == [
        ("full", "model.onnx"),
        ("low", "model-low.tflite"),
    ]
    sources = made.manifest.sources
    assert (sources.checkpoint, sources.latency_table, sources.accuracy_table) == (
        checkpoint.sha256,
        None,
        "2" * 64,
    ), "what the modes do not share is nobody's"


def test_conditions_that_an_imported_table_does_not_tell_refuse_nothing() -> None:
    known = conditions(FACTS, RunsOn())
    assemble.require_deployable(RunsOn(), known.model_copy(update={"runtime": UNKNOWN, "precision": UNKNOWN}))


def test_without_a_bank_there_is_no_bundle(selection: Selection, checkpoint: Checkpoint) -> None:
    with pytest.raises(BadFile, match="no BN bank"):
        of(selection, replace(checkpoint, bank=None))


# -- measuring the promise ------------------------------------------------------------------------
def board(bundle: Bundle, **what: object) -> SimulatedDevice:
    """A board on which the bundle's model is the network of ARCH."""
    return simulated(named={bundle.release: ARCH}, **what)


def measured(device: SimulatedDevice, bundle: Bundle, latency: LatencyModel | None) -> Timing | wire.Failed:
    device.push(bundle.blobs())
    default = bundle.manifest.default
    return assemble.measurer(device, {default.name: latency})(bundle.manifest, default)


def true_ms(device: SimulatedDevice) -> float:
    return device.law.network(REDUCED.blocks(ARCH))


def test_a_promise_is_measured_in_fresh_processes(bundle: Bundle, latency: LatencyModel) -> None:
    device = board(bundle)
    timing = measured(device, bundle, latency)
    assert timing == Timing(pytest.approx(true_ms(device)), p90_ms=pytest.approx(true_ms(device), rel=0.02))
    assert timing.p90_ms > timing.median_ms, "of the runs of a process, not of the processes"
    assert device.asked == [(bundle.release, True)] * assemble.TRIAL_PROCESSES


@pytest.mark.parametrize(("disturbed", "counts"), [(2, False), (3, True)])
def test_it_is_disturbed_where_most_processes_were(
    bundle: Bundle, latency: LatencyModel, disturbed: int, counts: bool
) -> None:
    device = board(bundle, flags=lambda key, before: ("cpu-starved", "short") if before < disturbed else ())
    timing = measured(device, bundle, latency)
    assert isinstance(timing, Timing)
    assert timing.disturbed == (("cpu-starved",) if counts else ())


def test_a_slow_anchor_disturbs_only_where_its_reference_is_known(bundle: Bundle, latency: LatencyModel) -> None:
    for model, disturbed in ((latency, (ANCHOR_OFF,)), (None, ())):
        timing = measured(board(bundle, speed=lambda now: 1.3), bundle, model)
        assert isinstance(timing, Timing)
        assert timing.disturbed == disturbed


def test_a_model_that_crashes_is_a_failure_with_its_reason(bundle: Bundle, latency: LatencyModel) -> None:
    device = board(bundle, crashes=frozenset({bundle.release}))
    found = measured(device, bundle, latency)
    assert isinstance(found, wire.Failed)
    assert "signal 11" in found.reason


def test_a_model_that_crashes_in_one_process_of_five_keeps_no_promise(
    bundle: Bundle, latency: LatencyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, asked = board(bundle), list[int]()
    measure = device.measure

    def once(jobs: Sequence[wire.MeasureJob], *, fresh: bool = False) -> list[wire.Measured | wire.Failed]:
        asked.append(len(asked))
        return [wire.Failed(jobs[0].key, "signal 11")] if len(asked) == 3 else [*measure(jobs, fresh=fresh)]

    monkeypatch.setattr(device, "measure", once)
    found = measured(device, bundle, latency)
    assert isinstance(found, wire.Failed)
    assert found.reason == "1 of 5 processes: signal 11"
