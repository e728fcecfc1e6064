"""A TFLite file is known to hold all its data before any runtime opens it, and without one."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile
from ofa_edge.graph import check_tflite
from ofa_edge.graph.check_tflite import load_tflite

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

from ofa_edge.graph.flatbuffer import File  # noqa: E402


def tiny(change: Callable[[Any], None] = lambda model: None) -> bytes:
    """x + 1, after a change to the schema's own objects."""
    import flatbuffers

    file = File()
    for name in ("x", "y"):
        file.tensor(name, (1, 2, 2, 3))
    one = file.constant("one", np.ones((3,), np.float32))
    file.operator("ADD", ["x", one], ["y"], "AddOptions")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.bytes(["x"], ["y"]), 0))
    change(model)
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_operators_of_a_sound_file_are_told_with_their_versions() -> None:
    found = load_tflite(tiny())
    assert [(one.number, one.version) for one in found.operators] == [(schema.BuiltinOperator.ADD, 1)]
    assert not found.appended


def test_a_later_version_and_a_number_beyond_eight_bits_are_read() -> None:
    def change(model: Any) -> None:
        (code,) = model.operatorCodes
        code.version, code.builtinCode, code.deprecatedBuiltinCode = 7, 150, 127

    (one,) = load_tflite(tiny(change)).operators
    assert (one.number, one.version) == (150, 7)


def external_group(model: Any) -> None:
    group = schema.ExternalBufferGroupT()
    group.name = b"../../etc/passwd"
    model.externalBufferGroups = [group]


def external_buffer(model: Any) -> None:
    model.externalBuffers = [schema.ExternalBufferT()]


def external_tensor(model: Any) -> None:
    model.subgraphs[0].tensors[0].externalBuffer = 1


def beyond_the_end(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 1 << 40, 12


def wrapped_around(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 8, (1 << 64) - 8


def custom(model: Any) -> None:
    (code,) = model.operatorCodes
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"RunShell"


def no_operators(model: Any) -> None:
    model.subgraphs[0].operators = []


def no_such_code(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 9


def no_such_buffer(model: Any) -> None:
    model.subgraphs[0].tensors[0].buffer = 9


def another_schema(model: Any) -> None:
    model.version = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_group, "keeps weights in other files"),
        (external_buffer, "keeps weights in other files"),
        (external_tensor, "keeps a tensor in another file"),
        (beyond_the_end, "keeps weights beyond its end"),
        (wrapped_around, "keeps weights beyond its end"),
        (custom, "has a custom operator 'RunShell'"),
        (no_operators, "has no operators"),
        (no_such_code, "points outside its own bytes"),
        (no_such_buffer, "a tensor's buffer is not there"),
        (another_schema, "is of schema 4"),
    ],
)
def test_what_reaches_outside_the_file_is_refused(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(BadFile, match=message):
        load_tflite(tiny(change))


def test_constants_behind_the_flatbuffer_are_inside_the_file() -> None:
    """As ai-edge-quantizer writes the larger ones."""
    size = len(tiny(lambda model: setattr(model.buffers[1], "offset", 1)))

    def change(model: Any) -> None:
        model.buffers[1].offset, model.buffers[1].size, model.buffers[1].data = size, 12, None

    short = tiny(change)
    with pytest.raises(BadFile, match="beyond its end"):
        load_tflite(short)
    assert load_tflite(short + bytes(size + 12 - len(short))).appended


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"xxxxTFL3", b"\x00\x00\x00\x00TFL3", b"\xff\xff\xff\x7fTFL3" + b"\0" * 64]
)
def test_what_is_no_flatbuffer_is_refused(data: bytes) -> None:
    with pytest.raises(BadFile):
        load_tflite(data)


def test_a_small_file_cannot_ask_for_endless_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def many(model: Any) -> None:
        model.subgraphs = model.subgraphs * 40

    monkeypatch.setattr(check_tflite, "_MOST_TABLES", 100)
    with pytest.raises(BadFile, match="parts"):
        load_tflite(tiny(many))


SOUND = tiny()


@given(st.data())
@settings(max_examples=400)
def test_damaged_bytes_end_in_a_bad_file_or_in_a_sound_one(data: st.DataObject) -> None:
    damaged = bytearray(SOUND)
    for place in data.draw(st.lists(st.integers(0, len(SOUND) - 4), min_size=1, max_size=6)):
        value = data.draw(
            st.one_of(st.integers(0, 255).map(lambda n: bytes([n])), st.integers(0, 2**32 - 1).map(_word))
        )
        damaged[place : place + len(value)] = value
    cut = data.draw(st.integers(0, len(damaged)))
    for content in (bytes(damaged), bytes(damaged[:cut])):
        with contextlib.suppress(BadFile):
            load_tflite(content)


def _word(number: int) -> bytes:
    return struct.pack("<I", number)
