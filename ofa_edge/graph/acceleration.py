"""How much of a file runs the fast way on this machine, and what is left outside.

In: the bytes of a file. Out: an Acceleration: the pieces that XNNPACK takes of a TFLite file, the pieces in integers of
an int8 ONNX file, and the operators beside them. Rule kept: it is read from what the runtime made of the file, not from
what the file holds; another machine's runtime may make something else of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ofa_edge.graph import check, running

_DELEGATE = "DELEGATE"
_BETWEEN = ("QuantizeLinear", "DequantizeLinear")
# What a convolution takes along where its runtime can; standing alone it is one more pass over the map.
_ACTIVATIONS = ("Clip", "Relu", "HardSigmoid", "HardSwish")


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Attributes:
    partitions: pieces of the network that run the fast way; 1 where it is whole, 0 where nothing does.
    outside: operators beside them, by name.
    """

    partitions: int
    outside: Mapping[str, int]


def of(model: bytes) -> Acceleration:
    """What the runtime on this machine makes of a file.

    TFLite: partitions are XNNPACK's, outside is what it does not take. ONNX: ONNX Runtime's CPU kernels take all of it
    as one, but float parts of an int8 file cut the integers into pieces; outside is what computes in float there, and
    activations in float files that no convolution takes along.

    Raises:
        BadFile: the runtime refuses it.
    """
    return _tflite(model) if running.is_tflite(model) else _onnx(model)


# -- TFLite ---------------------------------------------------------------------------------------
def _tflite(model: bytes) -> Acceleration:
    interpreter = running.interpreter(model)
    entries: Sequence[Mapping[str, Any]] = interpreter._get_ops_details()
    delegates = [entry for entry in entries if entry["op_name"] == _DELEGATE]
    plain = [entry for entry in entries if entry["op_name"] != _DELEGATE]
    makers = {int(tensor): i for i, entry in enumerate(plain) for tensor in entry["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        given = set(map(int, delegate["inputs"]))
        ahead = [int(tensor) for tensor in delegate["outputs"]]
        while ahead:
            maker = makers.get(ahead.pop())
            if maker is not None and maker not in taken:
                taken.add(maker)
                ahead += [int(tensor) for tensor in plain[maker]["inputs"] if int(tensor) not in given]
    # What is computed from constants alone, such as weights in half precision, is computed once.
    known = {int(entry["index"]) for entry in interpreter.get_input_details()}
    outside: Counter[str] = Counter()
    for i, entry in enumerate(plain):
        if known.isdisjoint(map(int, entry["inputs"])):
            continue
        known.update(map(int, entry["outputs"]))
        outside[entry["op_name"]] += i not in taken
    return Acceleration(len(delegates), dict((+outside).most_common()))


# -- ONNX -----------------------------------------------------------------------------------------
def _onnx(model: bytes) -> Acceleration:
    if not {"QuantizeLinear", "DequantizeLinear"} & set(check.operators(model)):
        left = check.optimized_operators(model)
        return Acceleration(1, {name: count for name, count in left.items() if name in _ACTIVATIONS})
    graph = check.optimized(model)
    islands = {value.name: value.name for value in graph.input}  # a float tensor -> one of its island

    def island(name: str) -> str:
        while islands[name] != name:
            name = islands[name]
        return name

    outside: Counter[str] = Counter()
    computing: set[str] = set()
    for node in graph.node:
        read = [name for name in node.input if name in islands]
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "DequantizeLinear":
            islands[node.output[0]] = node.output[0]
        elif read:
            outside[node.op_type] += 1
            whole = island(read[0])
            for name in read[1:]:
                islands[island(name)] = whole
            islands.update(dict.fromkeys(node.output, whole))
            computing.add(whole)
    pieces = {island(name) for name in computing}
    # A piece at the network's beginning or end cuts nothing in two.
    border = {island(value.name) for value in (*graph.input, *graph.output) if value.name in islands}
    return Acceleration(1 + len(pieces - border), dict(outside.most_common()))
