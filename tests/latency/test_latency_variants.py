"""Which of two files is faster: certain differences are taken, uncertain ones leave what is usual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ofa_edge.device import ConnectOptions, open_device
from ofa_edge.graph import reference
from ofa_edge.graph.build import network
from ofa_edge.latency.campaign import variants
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.weights.random import random_arrays
from tests.search.doubles import REDUCED
from tests.simulated import FACTS, SimulatedDevice
from tests.train.tiny import TINY

SMALL, LARGE = REDUCED.smallest(32), REDUCED.largest(48)


def simulated(first, second, **what) -> SimulatedDevice:
    """A board that knows the files "a" (beside which "b" runs) and "b" as these networks."""
    return SimulatedDevice(REDUCED, anchor=first, named={"b": second}, **what)


FILES = {"a": b"first", "b": b"second"}


@pytest.mark.parametrize(("first", "second", "expected"), [(SMALL, LARGE, "a"), (LARGE, SMALL, "b")])
def test_the_faster_file_is_taken_whatever_is_usual(first, second, expected) -> None:
    for usual in FILES:
        found = variants.faster(simulated(first, second, noise=0.01), FILES, RunsOn(), usual=usual)
        assert found.name == expected
        assert found.ratio is not None
        assert (found.ratio.median > 1) == (expected == "a")
        assert "times as long as a" in found.reason


def test_equal_files_leave_what_is_usual() -> None:
    for usual in FILES:
        found = variants.faster(simulated(SMALL, SMALL, noise=0.02, seed=3), FILES, RunsOn(), usual=usual, processes=5)
        assert found.name == usual
        assert "as usual there" in found.reason


def test_a_file_that_crashes_leaves_what_is_usual_and_the_reason() -> None:
    found = variants.faster(simulated(SMALL, LARGE, crashes=frozenset("b")), FILES, RunsOn(), usual="b")
    assert (found.name, found.ratio) == ("b", None)
    assert "measuring failed" in found.reason


def test_both_kinds_of_int8_file_are_measured_beside_each_other() -> None:
    layers = TINY.layers(TINY.smallest())
    graph = network(layers, random_arrays(layers, 0))
    device = SimulatedDevice(REDUCED, anchor=LARGE, named={"int8": SMALL}, noise=0.01)
    kind, found = variants.activations(device, graph, reference.golden_inputs(graph, 2, 0), RunsOn(precision="int8"))
    assert (kind, found.name) == ("int8", "int8")
    assert {fresh for _, fresh in device.asked} == {True}
    assert len(device.blobs) == 2
    same = SimulatedDevice(REDUCED, anchor=SMALL, named={"int8": SMALL}, facts=replace(FACTS, machine="x86_64"))
    assert variants.activations(same, graph, np.ones(graph.input.shape, np.float32), RunsOn())[0] == "uint8"


@pytest.mark.slow
def test_a_real_agent_measures_both_kinds(tmp_path) -> None:
    layers = TINY.layers(TINY.smallest())
    graph = network(layers, random_arrays(layers, 0))

    with open_device("local", options=ConnectOptions(root=str(tmp_path))) as session:
        kind, found = variants.activations(session, graph, reference.golden_inputs(graph, 2, 0), RunsOn())
    assert kind == found.name
    assert found.ratio is not None
    assert found.ratio.n == variants.PROCESSES
