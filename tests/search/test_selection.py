"""A selection's file is a lock file: equal selections are equal bytes, and nothing but a selection is read."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.cli.selection_texts import describe
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen
from ofa_edge.search.selection import Measured, Selection
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, mobilenet_v3

FORMATS = Path(__file__).parents[1] / "formats"
ARCH = OFA_LITE0.smallest(128)
SELECTION = Selection(
    space=OFA_LITE0,
    arch=ARCH,
    top1=Top1(0.91, 0.9, 0.92),
    latency_ms=Estimate(7.5, 7.25, 7.75),
    cost=cost(OFA_LITE0.blocks(ARCH)),
    budget=Budget(latency_ms=8.0, memory_bytes=8_000_000),
    strategy="exact",
    confidence=0.95,
    model="greatest predicted top-1",
    proven_optimal=True,
    bound=0.91,
    inputs={"latency-table": "a" * 64, "accuracy-table": "b" * 64},
    seed=0,
)
MEASURED = Measured(Top1(0.9, 0.87, 0.93), 500, Estimate(7.6, 7.5, 7.7), 0.89)


def changed(**fields):
    """The file with top-level fields replaced, or left out where None."""
    value = json.loads(SELECTION.to_bytes()) | fields
    return json.dumps({key: item for key, item in value.items() if item is not None}).encode()


def test_reads_back_equal(tmp_path):
    path = tmp_path / "new folder" / "selection.json"
    SELECTION.write(path)
    assert Selection.read(path) == SELECTION
    assert Selection.read(path).to_bytes() == path.read_bytes() == SELECTION.to_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["selection.json"]


@pytest.mark.parametrize(
    "selection",
    [
        replace(SELECTION, latency_ms=Estimate(7.5)),
        replace(SELECTION, budget=Budget(macs=10**9), strategy="table", proven_optimal=False),
        replace(SELECTION, budget=Budget(latency_ms=8.0, p90_ms=9.5)),
        replace(SELECTION, inputs={}),
        replace(SELECTION, strategy="evolution", inputs={"predictor": "c" * 64}),
        replace(SELECTION, measured=MEASURED, headers={"latency-table": "d" * 64}),
        replace(SELECTION, measured=Measured(latency_ms=Estimate(7.6))),
        replace(SELECTION, measured=replace(MEASURED, latency_ms=None, corrected_top1=None)),
        replace(SELECTION, runs_on=RunsOn("litert", 4, (0, 3))),
        replace(SELECTION, runs_on=RunsOn("onnxruntime", 1, None, "int8", activations="uint8")),
    ],
)
def test_reads_back_equal_whatever_is_unknown(selection):
    assert Selection.from_bytes(selection.to_bytes(), "it") == selection


def test_a_space_of_ones_own_travels_in_the_file():
    own = replace(mobilenet_v3("mine", 0.5), resolutions=(96,), classes=7)
    arch = own.smallest()
    selection = replace(SELECTION, space=own, arch=arch, cost=cost(own.blocks(arch)))
    assert Selection.from_bytes(selection.to_bytes(), "it") == selection
    value = json.loads(selection.to_bytes())
    with pytest.raises(BadFile, match="no space 'mine'"):
        Selection.from_bytes(json.dumps({k: v for k, v in value.items() if k != "definition"}).encode(), "it")
    with pytest.raises(BadFile, match="is of space 'other' and defines 'mine'"):
        Selection.from_bytes(json.dumps(value | {"space": "other"}).encode(), "it")
    value["definition"]["classes"] = 0
    with pytest.raises(BadFile, match="classes: Input should be greater"):
        Selection.from_bytes(json.dumps(value).encode(), "it")
    assert "definition" not in json.loads(SELECTION.to_bytes())


def test_files_of_earlier_versions_read_as_they_did():
    """Frozen: 1.0, and 1.1 with a space of one's own."""
    first = Selection.read(FORMATS / "selection-1.0.json")
    assert first == SELECTION
    second = Selection.read(FORMATS / "selection-1.1.json")
    assert (second.space.name, second.space.classes, second.strategy) == ("mine", 7, "random")
    assert second.cost == cost(second.space.blocks(second.arch))
    assert first.measured is second.measured is None
    assert first.runs_on is second.runs_on is None


def test_a_file_of_two_ways_to_run_reads_as_it_did():
    """Frozen: 1.3, of the shipped tables with both runtimes."""
    path = FORMATS / "selection-1.3.json"
    found = Selection.read(path)
    assert found.runs_on == RunsOn("litert", 1, (1,), "fp32")
    assert {"latency-table", "latency-table-2"} <= found.inputs.keys()
    assert found.to_bytes() == path.read_bytes()


RUNS = {"runtime": "litert", "threads": 1, "cores": None, "precision": "int8", "activations": "int8"}


def test_how_it_runs_is_read_with_or_without_cores():
    assert Selection.from_bytes(changed(runs=RUNS), "it").runs_on == RunsOn(
        "litert", 1, None, "int8", activations="int8"
    )
    short = {name: RUNS[name] for name in ("runtime", "threads", "precision")}
    assert Selection.from_bytes(changed(runs=short), "it").runs_on == RunsOn("litert", 1, None, "int8")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"corrected_top1": 0.5},
        {"top1": MEASURED.top1},
        {"latency_ms": MEASURED.latency_ms, "n": 5},
        {"latency_ms": MEASURED.latency_ms, "corrected_top1": 0.5},
        {"top1": MEASURED.top1, "n": 0},
        {"top1": MEASURED.top1, "n": 5, "corrected_top1": 1.5},
    ],
)
def test_what_was_measured_does_not_contradict_itself(fields):
    with pytest.raises(ValueError, match="measured"):
        Measured(**fields)


def test_bytes_do_not_depend_on_the_order_of_the_inputs():
    backwards = replace(SELECTION, inputs=dict(reversed(SELECTION.inputs.items())))
    assert backwards.to_bytes() == SELECTION.to_bytes()
    assert replace(SELECTION, seed=1).to_bytes() != SELECTION.to_bytes()


def test_the_file_holds_what_scripts_rely_on():
    value = json.loads(SELECTION.to_bytes())
    assert value["arch"]["r"] == 128
    assert value["predicted"]["latency_ms"] == {"value": 7.5, "low": 7.25, "high": 7.75}
    assert value["predicted"]["top1"] == {"value": 0.91, "low": 0.9, "high": 0.92}
    assert value["budget"] == {"latency_ms": 8.0, "memory_bytes": 8_000_000}
    assert list(value["inputs"]) == ["accuracy-table", "latency-table"]
    assert value["tool"].startswith("ofa-edge ")


def predicted(**fields):
    return json.loads(SELECTION.to_bytes())["predicted"] | fields


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "does not say that it is one"),
        (b'{"schema":"latency-table"}', "does not say that it is one"),
        (b" " * (1 << 20) + b"{}", "larger than 1048576 bytes"),
        (SELECTION.to_bytes().replace(b'"seed": 0', b'"seed": NaN'), "NaN is not allowed"),
        (SELECTION.to_bytes().replace(b'"seed": 0', b'"seed": 0, "seed": 1'), "duplicate key 'seed'"),
        (changed(version="2.0"), "its version is '2.0', this ofa-edge reads 1.x"),
        (changed(version=1), "its version is '1'"),
        (changed(seed=None), "seed is missing"),
        (changed(seed=-1), "seed is negative"),
        (changed(seed=True), "seed is not of type int"),
        (changed(seed=1 << 63), "seed is greater than anything it could count"),
        (changed(confidence=10**400), "confidence is greater than anything"),
        (changed(bound=1.5), "bound is no share"),
        (changed(model="x" * 30_000), "model has 30,000 characters"),
        (changed(inputs={f"file {i}": "a" * 64 for i in range(1000)}), "inputs has 1,000 entries"),
        (changed(inputs={"x" * 100: "a" * 64}), "is not a sha256"),
        (changed(budget={"macs": 10**400}), "budget.macs is greater than anything"),
        (changed(budget={"macs": 10**17}), "macs of 1e+17 limits nothing"),
        (changed(predicted=predicted(macs=10**400)), "predicted.macs is greater than anything"),
        (changed(**{f"field {i}": 1 for i in range(100)}), "it has 114 fields"),
        (changed(version="1." + "9" * 5000), "its version is"),
        (changed(hurry=1), "unknown field hurry"),
        (changed(space="ofa-nothing"), "there is no space 'ofa-nothing'"),
        (changed(arch={"r": 128}), "the arch has no 'd'"),
        (changed(strategy="luck"), "strategy 'luck' is not one of exact, evolution, random, table"),
        (changed(confidence=1), "confidence is not between 0 and 1"),
        (changed(proven_optimal="yes"), "proven_optimal is not of type bool"),
        (changed(inputs={"latency-table": "../../etc"}), "inputs.latency-table is not a sha256"),
        (changed(headers={"latency-table": "x"}), "headers.latency-table is not a sha256"),
        (changed(runs={"runtime": "litert"}), "runs.threads is missing"),
        (changed(runs=RUNS | {"threads": 0}), "runs.threads is not a number of threads"),
        (changed(runs=RUNS | {"runtime": "../sh"}), "runs.runtime is no name"),
        (changed(runs=RUNS | {"cores": ["0"]}), "runs.cores is not a list of cores"),
        (changed(runs=RUNS | {"delegate": "gpu"}), "unknown field runs.delegate"),
        (changed(budget={}), "the budget has no limit"),
        (changed(budget={"latency_ms": -1.0}), "latency must be greater than 0"),
        (changed(budget={"latency_ms": 8.0, "speed": 1}), "unknown field budget.speed"),
        (changed(predicted=[]), "predicted is not of type dict"),
        (changed(predicted=predicted(macs=1.5)), "predicted.macs is not of type int"),
        (changed(predicted=predicted(joy=1)), "unknown field predicted.joy"),
        (changed(predicted=predicted(top1={"value": 1.2, "low": 0.9, "high": 1.3})), "predicted.top1: low, value"),
        (changed(predicted=predicted(latency_ms={"value": 7, "low": 8, "high": 9})), "predicted.latency_ms: low"),
        (changed(predicted=predicted(latency_ms={"low": 8, "high": 9})), "predicted.latency_ms.value is missing"),
        (changed(measured=[]), "measured is not of type dict"),
        (changed(measured={}), "measured holds neither a top1 nor a latency_ms"),
        (changed(measured={"top1": None, "mood": 1}), "unknown field measured.mood"),
        (changed(measured={"top1": {"value": 1, "low": 1, "high": 1}}), "measured.top1 and measured.n belong together"),
        (changed(measured={"latency_ms": {"value": 7, "low": 8, "high": 9}}), "measured.latency_ms: low"),
    ],
)
def test_anything_else_is_refused_by_name(data, said):
    with pytest.raises(BadFile) as caught:
        Selection.from_bytes(data, "lock.json")
    assert caught.value.message.startswith("lock.json is not a selection of this version: ")
    assert said in caught.value.message
    assert caught.value.hint


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([10**400, -(10**400), "", "x" * 30_000, "1." + "9" * 5000, "a" * 64, 1e308, 5e-324, 2**63])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    value=VALUES | st.integers(0, 2000).map(lambda n: {f"k{i}": "a" * 64 for i in range(n)}),
)
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_place_of_a_value_it_is_a_selection_or_refused(path, value):
    """And what is read can be written, printed, and read again."""
    whole = json.loads(replace(SELECTION, measured=MEASURED, headers={"latency-table": "d" * 64}).to_bytes())
    place = whole
    for step in path[:-1]:
        inner = place[list(place)[step % len(place)]] if isinstance(place, dict) else place[step % len(place)]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
    keys = list(place) if isinstance(place, dict) else range(len(place))
    place[keys[path[-1] % len(keys)]] = value
    with contextlib.suppress(BadFile):
        found = Selection.from_bytes(json.dumps(whole).encode(), "it")
        assert Selection.from_bytes(found.to_bytes(), "it") == found
        assert describe(Chosen(found, (), 0.0).as_json())


def test_a_later_minor_version_may_say_more():
    assert Selection.from_bytes(changed(version="1.7", mood="fine"), "it") == SELECTION


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read .*nothing.json"):
        Selection.read(tmp_path / "nothing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OfaEdgeError, match="cannot write"):
        SELECTION.write(tmp_path / "file" / "selection.json")
