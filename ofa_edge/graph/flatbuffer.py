"""The container of a TFLite model: tensors, constants and operators by name -> bytes.

In: calls in the order of the operators. Out: a flatbuffer of schema version 3. Rules kept: equal calls give equal
bytes; constants lie at multiples of 16 bytes, as the schema asks (its Python classes do not see to it, and a 32-bit Arm
CPU may fault on a float elsewhere); nothing here knows what an operator means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ALIGNMENT = 16
_SCHEMA_VERSION = 3
_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8"}


class File:
    """One model with one subgraph.

    Raises:
        ModuleNotFoundError: ai-edge-litert, whose schema classes this uses, is not installed.
    """

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self._buffers: list[Any] = [schema_py_generated.BufferT()]  # the first is the empty one, by convention
        self._tensors: list[Any] = []
        self._index: dict[str, int] = {}
        self._codes: dict[tuple[int, int], int] = {}
        self._operators: list[Any] = []

    def enum(self, kind: str, name: str) -> int:
        """A number of the schema."""
        return int(getattr(getattr(self._schema, kind), name))

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        signature: Sequence[int] | None = None,
        *,
        dtype: str = "float32",
        quantization: Quantized | None = None,
    ) -> None:
        """A value that an operator makes, or the input. `signature` has -1 where a size is free."""
        self._add(name, shape, dtype, signature, quantization)

    def constant(self, name: str, array: np.ndarray, quantization: Quantized | None = None) -> str:
        """Stored once for a name; that name."""
        if name not in self._index:
            added = self._add(name, array.shape, array.dtype.name, None, quantization)
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            buffer = _aligned(self._schema)()
            buffer.data = np.frombuffer(np.ascontiguousarray(little).tobytes(), np.uint8)
            added.buffer = len(self._buffers)
            self._buffers.append(buffer)
        return name

    def operator(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: str = "",
        *,
        version: int = 1,
        **values: Any,
    ) -> None:
        """An operator on tensors by name, with a table of the schema as its options."""
        schema = self._schema
        added = schema.OperatorT()
        code = self.enum("BuiltinOperator", name), version
        added.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        added.inputs = [self._index[one] for one in inputs]
        added.outputs = [self._index[one] for one in outputs]
        if options:
            added.builtinOptionsType = self.enum("BuiltinOptions", options)
            added.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                if not hasattr(added.builtinOptions, key):
                    raise AttributeError(f"{options} has no {key}")
                setattr(added.builtinOptions, key, value)
        self._operators.append(added)

    def bytes(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """The file."""
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT()
        graph.name = b"main"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = [self._index[name] for name in inputs]
        graph.outputs = [self._index[name] for name in outputs]
        model = schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = b"ofa-edge"
        model.buffers, model.subgraphs = self._buffers, [graph]
        model.operatorCodes = [self._code(*code) for code in self._codes]
        model.signatureDefs = [
            self._signature(
                dict(zip(inputs, graph.inputs, strict=True)), dict(zip(outputs, graph.outputs, strict=True))
            )
        ]
        size = sum(len(buffer.data) for buffer in self._buffers[1:]) + (1 << 14)
        builder = flatbuffers.Builder(size)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _add(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        signature: Sequence[int] | None,
        quantization: Quantized | None,
    ) -> Any:
        added = self._schema.TensorT()
        added.name = name.encode()
        added.shape = [int(size) for size in shape]
        if signature is not None:
            added.shapeSignature = [int(size) for size in signature]
        added.type = self.enum("TensorType", _TYPES[dtype])
        added.buffer = 0
        if quantization is not None:
            added.quantization = quantization.table(self._schema)
        self._index[name] = len(self._tensors)
        self._tensors.append(added)
        return added

    def _code(self, builtin: int, version: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, 127)  # what readers before schema 3a look at
        code.version = version
        return code

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        schema = self._schema
        signature = schema.SignatureDefT()
        signature.signatureKey = b"serving_default"
        signature.subgraphIndex = 0
        for entries, field in ((inputs, "inputs"), (outputs, "outputs")):
            maps = []
            for name, index in entries.items():
                one = schema.TensorMapT()
                one.name, one.tensorIndex = name.encode(), index
                maps.append(one)
            setattr(signature, field, maps)
        return signature


class Quantized:
    """What the integers of a tensor stand for: (value - zero_point) * scale, one of each or one a channel of `axis`."""

    def __init__(self, scale: Sequence[float], zero_point: Sequence[int], axis: int = 0):
        self.scale, self.zero_point, self.axis = scale, zero_point, axis

    def table(self, schema: Any) -> Any:
        """The schema's own."""
        table = schema.QuantizationParametersT()
        table.scale = [float(value) for value in self.scale]
        table.zeroPoint = [int(value) for value in self.zero_point]
        table.quantizedDimension = self.axis
        return table


def _aligned(schema: Any) -> Any:
    """The schema's buffer, packed at a multiple of 16 bytes."""

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> int:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            head = builder.Head() - len(self.data)
            builder.head = head
            builder.Bytes[head : head + len(self.data)] = self.data.tobytes()
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return int(schema.BufferEnd(builder))

    return Buffer
