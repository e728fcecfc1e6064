"""How many archs a second are predicted, latency and accuracy: our tables against the reference implementation's code.

    python benchmarks/throughput.py --tables FOLDER [--archs 100000] [--reference-archs 1000] [--repeats 7] [--json]

FOLDER holds Once-for-All's latency tables of OFA-MobileNetV3 w1.2 (those of the Note10 are published), a yaml file a
resolution: RESOLUTION_lookup_table.yaml. The reference (PyPI `ofa`, tutorial/latency_table.py, accuracy_predictor.py)
looks up block after block, and makes a tensor of each arch for its network; its constructors download and are left out,
so the tables come from FOLDER and its network has random weights. Ours are asked for the same archs, as arrays:

    additive    fitted on made-up accuracies of 600 subnets, as tables
    pairwise    the same
    mlp         the reference's own network and weights

All runs are of one process with one thread and alternate, --repeats of each; times are medians of the CPU's, which a
busy machine changes less than the clock's, per arch. `population of 100` is what one generation of an evolution asks at
once; `from archs` adds what it takes to make arrays of Arch values. The last line has the greatest relative difference
to the reference's latency (our table has one figure for a block that several resolutions share: their mean), and the
greatest difference of its network's outputs.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ofa_edge.accuracy.family import AccuracyPredictor
from ofa_edge.accuracy.mlp import MlpAccuracy
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows, Validation
from ofa_edge.latency.exchange import formats
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.search.batch import BatchAccuracy, BatchCosts
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_MBV3_W12

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import reference_ofa

SPACE = OFA_MBV3_W12
SIZES = (160, 176, 192, 208, 224)  # those that the reference searches at
_GENERATION, _CALLS = 100, 50
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def tutorial(name: str) -> types.ModuleType:
    """A module of the reference's tutorial by itself: the others there want packages that download weights."""
    utils = reference_ofa.module("utils")
    path = Path(str(utils.__file__)).parents[1] / "tutorial" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Reference:
    """The reference implementation's own query and predictor."""

    def __init__(self, tables: Mapping[int, Path]):
        latency = tutorial("latency_table")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.tables = {}
        for size, path in tables.items():
            self.tables[size] = latency.LatencyEstimator.__new__(latency.LatencyEstimator)
            self.tables[size].lut = yaml.load(path.read_text(), loader)
        self.module = tutorial("accuracy_predictor")
        self.accuracy = self.module.AccuracyPredictor(pretrained=False, device="cpu")

    def latency_ms(self, specs: Sequence[dict[str, Any]]) -> list[float]:
        return [self.tables[spec["r"][0]].predict_network_latency_given_spec(spec) for spec in specs]

    def scores(self, specs: Sequence[dict[str, Any]]) -> np.ndarray:
        """Asked for a generation at once, as its evolution does."""
        parts = [specs[i : i + _GENERATION] for i in range(0, len(specs), _GENERATION)]
        return np.concatenate([self.accuracy.predict_accuracy(part).numpy()[:, 0] for part in parts])

    def as_ours(self) -> MlpAccuracy:
        """Its network with its inputs in our order; it has five stages of four places, and sizes from 112 on."""
        linears = [layer for layer in self.accuracy.model if hasattr(layer, "weight")]
        layers = [(x.weight.detach().numpy().T.copy(), x.bias.detach().numpy().copy()) for x in linears]
        rows = [120 + (size - 112) // 16 for size in SIZES]
        for place in range(20):
            rows += [3 * place + self.module.ks_map[k] for k in (3, 5, 7)]
            rows += [60 + 3 * place + self.module.ex_map[e] for e in (3, 4, 6)]
        layers[0] = (np.ascontiguousarray(layers[0][0][rows]), layers[0][1])
        unknown = Validation(1, 0.0, 0.0)
        return MlpAccuracy(SPACE, SIZES, 1, 2, unknown, 0.5, tuple(layers), (np.zeros(1), np.zeros(1)))


def specs_of(archs: Sequence[Arch]) -> list[dict[str, Any]]:
    """As the reference's search has them."""
    found = []
    for arch in archs:
        spec = codecs.encode(SPACE, arch)
        found.append({"wid": None, "ks": spec["ks"], "e": spec["e"], "d": spec["d"], "r": [arch.resolution]})
    return found


def predictors(reference: Reference) -> dict[str, AccuracyPredictor]:
    rng = np.random.default_rng(1)
    archs = [SPACE.sample(rng, int(rng.choice(SIZES))) for _ in range(600)]
    choices = [[block for stage in arch.stages for block in stage] for arch in archs]
    worth = [sum(block.expand + block.kernel for block in some) / 200 for some in choices]
    odds = [w + arch.resolution / 500 + rng.normal(0, 0.05) for w, arch in zip(worth, archs, strict=True)]
    rows = Rows.of(SPACE, archs, [round(1000 / (1 + np.exp(-odd))) for odd in odds], [1000] * len(archs))
    return {
        "additive": AdditiveAccuracy.fit_measured(rows),
        "pairwise": PairwiseAccuracy.fit_measured(rows),
        "mlp": reference.as_ours(),
    }


def seconds(action: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        action()
    return (time.process_time() - start) / calls


def agreement(reference: Reference, costs: BatchCosts, mlp: AccuracyPredictor, archs: ArchArrays) -> dict[str, float]:
    specs = specs_of(archs.archs())
    theirs = np.array(reference.latency_ms(specs))
    outputs = np.clip(0.5 + reference.scores(copy.deepcopy(specs)), 0, 1)
    return {
        "latency, relative": float(np.max(np.abs(costs.latency_ms(archs) / theirs - 1))),
        "mlp": float(np.max(np.abs(mlp.predict_arrays(archs) - outputs))),
    }


def figures(tables: Mapping[int, Path], count: int, reference_count: int, repeats: int) -> dict[str, Any]:
    """Microseconds an arch, and archs a second."""
    reference = Reference(tables)
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder:
        latency = model_of(formats.import_yaml(list(tables.values()), Path(folder, "table.jsonl")).table)
    made = predictors(reference)
    batch = {kind: BatchAccuracy(predictor, SIZES) for kind, predictor in made.items()}
    costs = BatchCosts(SPACE, latency, SIZES)
    archs = ArchArrays.sample(SPACE, np.random.default_rng(0), count, SIZES)
    few, generation = archs.take(slice(reference_count)), archs.take(slice(_GENERATION))
    values = few.archs()
    specs = specs_of(values)
    actions: dict[str, tuple[int, Callable[[], Any]]] = {
        "reference: table query": (len(specs), lambda: reference.latency_ms(specs)),
        "reference: predictor": (len(specs), lambda: reference.scores(specs)),
        "latency": (count, lambda: costs.latency_ms(archs)),
        "latency, population of 100": (_GENERATION, lambda: costs.latency_ms(generation)),
        "arrays from archs": (len(values), lambda: ArchArrays.of(SPACE, values)),
    }
    for kind, accuracy in batch.items():
        actions[kind] = count, lambda accuracy=accuracy: accuracy.top1(archs)
        actions[f"{kind}, population of 100"] = _GENERATION, lambda accuracy=accuracy: accuracy.top1(generation)
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats + 1):
        for name, (n, action) in actions.items():
            found = seconds(action, _CALLS if n == _GENERATION else 1) / n
            taken[name] += [found] if repeat else []
    us = {name: 1e6 * statistics.median(times) for name, times in taken.items()}
    theirs = us["reference: table query"] + us["reference: predictor"]
    rates = {}
    for kind in batch:
        for case, own in (
            ("", us["latency"] + us[kind]),
            (", population of 100", us["latency, population of 100"] + us[f"{kind}, population of 100"]),
            (", from archs", us["arrays from archs"] + us["latency"] + us[kind]),
        ):
            rates[kind + case] = {"archs_per_second": 1e6 / own, "times_the_reference": theirs / own}
    return {
        "archs": count,
        "us_per_arch": us,
        "reference_archs_per_second": 1e6 / theirs,
        "ours": rates,
        "agree": agreement(reference, costs, made["mlp"], few),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the yaml files; without it nothing is compared")
    parser.add_argument("--archs", type=int, default=100_000)
    parser.add_argument("--reference-archs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.tables is None:
        print("no --tables: nothing to compare with")
        return
    if not os.environ.items() >= _ONE_THREAD.items():  # libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _ONE_THREAD)
    tables = {size: options.tables / f"{size}_lookup_table.yaml" for size in SIZES}
    value = figures(tables, options.archs, options.reference_archs, options.repeats)
    if options.json:
        print(json.dumps(value))
        return
    for name, us in value["us_per_arch"].items():
        print(f"{name:34}{us:10.3f} us an arch")
    print(f"{'reference: archs a second':34}{value['reference_archs_per_second']:12,.0f}")
    for name, rate in value["ours"].items():
        print(f"{name:34}{rate['archs_per_second']:12,.0f} archs a second, {rate['times_the_reference']:7.1f} x")
    print("greatest differences:", ", ".join(f"{name} {d:.2g}" for name, d in value["agree"].items()))


if __name__ == "__main__":
    main()
