"""How long it takes to write ONNX files: one block, and a whole network, in steps.

    python benchmarks/export.py [--repeats 30] [--json]

Median milliseconds over the repeats, after one that is not counted. One process, one thread of ours; run
it on a quiet machine. `check` is what every export pays on top: the full ONNX check of the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from ofa_edge.graph.build import network
from ofa_edge.graph.check import load
from ofa_edge.graph.onnx import to_bytes
from ofa_edge.space.block import Layer
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays


def median_ms(action: Callable[[], Any], repeats: int) -> float:
    """Median time of `action` in ms, the first run left out."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def steps(name: str, layers: Sequence[Layer], repeats: int) -> dict[str, Any]:
    """Times of each step from layers to a checked file, and the file's size in bytes."""
    arrays = random_arrays(layers, 0)
    graph = network(layers, arrays)
    model = to_bytes(graph)
    return {
        "what": name,
        "bytes": len(model),
        "weights_ms": median_ms(lambda: random_arrays(layers, 0), repeats),
        "build_ms": median_ms(lambda: network(layers, arrays), repeats),
        "write_ms": median_ms(lambda: to_bytes(graph), repeats),
        "check_ms": median_ms(lambda: load(model), repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    largest = OFA_LITE0.layers(OFA_LITE0.largest())
    smallest = OFA_LITE0.layers(OFA_LITE0.smallest())
    cases: list[tuple[str, Sequence[Layer]]] = [("largest network", largest), ("smallest network", smallest)]
    cases += [(f"block {largest[i].path}", [Layer("", largest[i].block)]) for i in (0, 3, len(largest) // 2, -3, -1)]
    rows = [steps(name, layers, options.repeats) for name, layers in cases]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'':18}{'bytes':>12}{'weights':>10}{'build':>10}{'write':>10}{'check':>10}   (median ms)")
    for row in rows:
        figures = "".join(f"{row[f'{step}_ms']:10.2f}" for step in ("weights", "build", "write", "check"))
        print(f"{row['what']:18}{row['bytes']:12,}{figures}")


if __name__ == "__main__":
    main()
