"""Is this TFLite file safe to hand to a runtime? Read with the standard library, so that it is known without one.

In: the bytes of a file. Out: what a runtime needs to know to open it, or BadFile. Rules kept: what the runtime would
look for elsewhere (weights beyond the file's end or in other files, custom operators, which are somebody's code) is
refused, each with its own sentence; no offset is followed out of the bytes, and no count is believed beyond what they
could hold. That the rest is well-formed is not proven here: whoever runs it does so in a process of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ofa_edge.errors import BadFile

_HINT = "write it again with `ofa-edge export`"
_SCHEMA_VERSION = 3
_CUSTOM = 32  # BuiltinOperator.CUSTOM
# Tables may point at each other's parts, so a small file can ask for endless reading; networks have some hundred.
_MOST_TABLES = 100_000

# Fields of the schema's tables, by the order in which it declares them.
_MODEL_VERSION, _MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 0, 1, 2, 4
_MODEL_EXTERNAL_GROUPS, _MODEL_EXTERNAL_BUFFERS = 8, 9
_SUBGRAPH_TENSORS, _SUBGRAPH_OPERATORS = 0, 3
_TENSOR_BUFFER, _TENSOR_EXTERNAL = 2, 10
_CODE_OLD, _CODE_CUSTOM, _CODE_VERSION, _CODE_NUMBER = 0, 1, 2, 3
_OPERATOR_CODE = 0
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Operator:
    """A kind of operator in a file: its number in the schema (BuiltinOperator), and the version of it."""

    number: int
    version: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file, as far as it decides who can open it.

    Attributes:
        operators: the kinds that are used, each once, in the order of the file.
        appended: constants lie behind the flatbuffer, in the same file, as the quantiser puts the larger ones there.
    """

    operators: tuple[Operator, ...]
    appended: bool


def load_tflite(model: bytes) -> Contents:
    """Look through a file that must hold all its data.

    Raises:
        BadFile: it is no TFLite file, or one that reaches outside itself.
    """
    if model[4:8] != b"TFL3":
        raise BadFile("this is not a TFLite model", hint=_HINT)
    try:
        return _checked(_Table(_File(model, _MOST_TABLES), _at(model, 0, "<I")))
    except (struct.error, IndexError) as error:
        raise BadFile("the TFLite model is damaged: it points outside its own bytes", hint=_HINT) from error


def _checked(model: _Table) -> Contents:
    version = model.number(_MODEL_VERSION, "<I")
    if version != _SCHEMA_VERSION:
        raise BadFile(f"the TFLite model is of schema {version}, runtimes read {_SCHEMA_VERSION}", hint=_HINT)
    if model.vector(_MODEL_EXTERNAL_GROUPS, 4)[1] or model.vector(_MODEL_EXTERNAL_BUFFERS, 4)[1]:
        raise BadFile("the TFLite model keeps weights in other files; a model must hold all its data", hint=_HINT)
    buffers, appended = 0, False
    for buffer in model.tables(_MODEL_BUFFERS):
        buffers += 1
        offset, size = buffer.number(_BUFFER_OFFSET, "<Q"), buffer.number(_BUFFER_SIZE, "<Q")
        if offset + size > model.file_size:
            raise BadFile("the TFLite model keeps weights beyond its end; a model must hold all its data", hint=_HINT)
        appended = appended or offset > 0
        buffer.vector(_BUFFER_DATA, 1)
    codes = []
    for code in model.tables(_MODEL_CODES):
        number = max(code.number(_CODE_OLD, "<b"), code.number(_CODE_NUMBER))  # the old field has 8 bits only
        if number == _CUSTOM:
            raise BadFile(f"the TFLite model has a custom operator {code.text(_CODE_CUSTOM)!r}", hint=_HINT)
        codes.append(Operator(number, code.number(_CODE_VERSION, default=1)))
    used: dict[Operator, None] = {}
    subgraphs = 0
    for subgraph in model.tables(_MODEL_SUBGRAPHS):
        subgraphs += 1
        for tensor in subgraph.tables(_SUBGRAPH_TENSORS):
            if tensor.number(_TENSOR_EXTERNAL, "<I"):
                raise BadFile("the TFLite model keeps a tensor in another file", hint=_HINT)
            if tensor.number(_TENSOR_BUFFER, "<I") >= buffers:
                raise BadFile("the TFLite model is damaged: a tensor's buffer is not there", hint=_HINT)
        for operator in subgraph.tables(_SUBGRAPH_OPERATORS):
            used[codes[operator.number(_OPERATOR_CODE, "<I")]] = None
    if subgraphs == 0 or not used:
        raise BadFile("the TFLite model has no operators", hint=_HINT)
    return Contents(tuple(used), appended)


@dataclass(slots=True)
class _File:
    """The bytes, and how many more tables will be read of them."""

    data: bytes
    left: int


class _Table:
    """A table of a flatbuffer, read field by field; IndexError and struct.error where it leads outside."""

    def __init__(self, file: _File, place: int):
        file.left -= 1
        if file.left < 0:
            raise BadFile(f"the TFLite model has more than {_MOST_TABLES} parts", hint=_HINT)
        self._file, self._data, self._place = file, file.data, place
        self._vtable = place - _at(file.data, place, "<i")
        self._length = _at(file.data, self._vtable, "<H")

    @property
    def file_size(self) -> int:
        return len(self._data)

    def number(self, field: int, kind: str = "<i", default: int = 0) -> int:
        """A scalar field; flatbuffers leave it out where it has its default."""
        offset = self._offset(field)
        return _at(self._data, self._place + offset, kind) if offset else default

    def vector(self, field: int, item: int) -> tuple[int, int]:
        """Where a vector's items of `item` bytes begin, and how many there are."""
        offset = self._offset(field)
        if not offset:
            return 0, 0
        place = self._follow(self._place + offset)
        count = _at(self._data, place, "<I")
        if place + 4 + count * item > len(self._data):
            raise IndexError
        return place + 4, count

    def tables(self, field: int) -> Iterator[_Table]:
        begin, count = self.vector(field, 4)
        for place in range(begin, begin + 4 * count, 4):
            yield _Table(self._file, self._follow(place))

    def text(self, field: int) -> str:
        begin, length = self.vector(field, 1)
        return self._data[begin : begin + min(length, 80)].decode("ascii", "backslashreplace")

    def _follow(self, place: int) -> int:
        return place + _at(self._data, place, "<I")

    def _offset(self, field: int) -> int:
        entry = 4 + 2 * field
        return _at(self._data, self._vtable + entry, "<H") if entry + 2 <= self._length else 0


def _at(data: bytes, place: int, kind: str) -> int:
    if place < 0:
        raise IndexError
    return int(struct.unpack_from(kind, data, place)[0])
