"""Conditions: what is one device, how models are run on it, and what old tables do not say."""

from __future__ import annotations

import json

import pytest

from ofa_edge import shipped, strict_json
from ofa_edge.latency.conditions import (
    DEVICE,
    FLOAT,
    UNKNOWN,
    Conditions,
    RunsOn,
    conditions,
    mismatches,
    same_device,
)
from ofa_edge.latency.table import LatencyTable
from tests.simulated import FACTS

BOARD = {
    "device_model": "Board", "soc": "one", "runtime": "onnxruntime", "runtime_version": "1.2", "delegate": "none",
    "threads": 1, "cores": [0, 1], "governor": "performance", "precision": "fp32", "batch": 1, "emulated": False,
    "method": 1, "thermal": "burst",
}  # fmt: skip


def board(**changed: object) -> Conditions:
    return Conditions.model_validate(BOARD | changed)


# -- activations ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, FLOAT),
        ({"precision": UNKNOWN}, FLOAT),
        ({"precision": "int8"}, "uint8"),
        ({"precision": "int8", "runtime": "litert"}, "int8"),
        ({"precision": "int8", "activations": "int8"}, "int8"),
    ],
)
def test_tables_from_before_say_what_activations_they_had(changed: dict[str, str], expected: str) -> None:
    found = board(**changed)
    assert found.activations == expected
    assert Conditions.model_validate_json(found.model_dump_json()) == found


def test_what_is_usual_is_not_written_so_that_headers_stay_as_they_were() -> None:
    assert board().model_dump(mode="json") == BOARD
    assert board(precision="int8").model_dump(mode="json") == BOARD | {"precision": "int8"}
    odd = board(precision="int8", activations="int8")
    assert odd.model_dump(mode="json") == BOARD | {"precision": "int8", "activations": "int8"}
    for path in (shipped.tables() / "latency").glob("*.jsonl"):
        with path.open() as file:
            written = json.loads(file.readline())
        assert LatencyTable.read(path).header.as_json()["conditions"] == written["conditions"]


def test_tables_of_two_activation_types_do_not_match() -> None:
    one, other = board(precision="int8"), board(precision="int8", activations="int8")
    assert [str(found) for found in mismatches(one, other)] == ["activations: 'uint8' and 'int8'"]
    assert strict_json.sha256(one.model_dump(mode="json")) != strict_json.sha256(other.model_dump(mode="json"))


def test_what_is_measured_has_the_activations_that_were_asked_for() -> None:
    for activations, expected in ((None, "uint8"), ("int8", "int8")):
        runs_on = RunsOn(precision="int8", activations=activations)
        found = conditions(FACTS, runs_on)
        assert found.activations == expected
        assert found.runs_on == RunsOn(cores=FACTS.core_mask, precision="int8", activations=expected)
    assert conditions(FACTS, RunsOn()).activations == FLOAT


# -- one device -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", "litert"), ("runtime_version", "2"), ("delegate", "xnnpack"), ("threads", 4), ("cores", [2]),
        ("precision", "int8"), ("device_model", "Phone"), ("soc", "two"), ("governor", "powersave"), ("batch", 2),
        ("emulated", True), ("method", 2), ("thermal", "sustained"), ("activations", "int8"),
    ],
)  # fmt: skip
def test_a_device_is_the_same_however_models_are_run(name: str, value: object) -> None:
    assert same_device(board(), board(**{name: value})) == (name not in DEVICE)


def test_every_condition_is_of_the_device_or_of_how_models_run() -> None:
    how = {"runtime", "runtime_version", "delegate", "threads", "cores", "precision", "activations"}
    assert {*DEVICE} | how == {*Conditions.model_fields}
    assert not {*DEVICE} & how


def test_what_nobody_knows_is_never_the_same() -> None:
    for name in ("device_model", "soc", "governor", "emulated"):
        unknown = board(**{name: UNKNOWN})
        assert not same_device(unknown, unknown)


def test_how_models_were_run_is_known_or_none() -> None:
    assert board().runs_on == RunsOn("onnxruntime", 1, (0, 1), "fp32")
    for name in ("runtime", "threads", "cores", "precision"):
        assert board(**{name: UNKNOWN}).runs_on is None


def test_a_way_to_run_is_told_in_few_words() -> None:
    assert str(RunsOn()) == "onnxruntime, fp32, 1 thread"
    assert str(RunsOn("litert", 4, None, "int8")) == "litert, int8, 4 threads"
    assert str(RunsOn("onnxruntime", 1, None, "int8", activations="int8")) == (
        "onnxruntime, int8 (int8 activations), 1 thread"
    )
