"""Selection against evolution: the optimum, its bound and proof, and what Once-for-All's evolution finds instead.

    python benchmarks/selection.py --latency-yaml DIR --accuracies DIR [--budgets 15,18,22,26,32,40] [--seeds 30]
                                   [--sizes 160,176,192,208,224] [--models additive,pairwise,mlp] [--keep DIR] [--json]

Needs two public data sets: DIR of a Once-for-All latency table, one yaml file a resolution (the Samsung Note10's of
ofa-mbv3-w1.2, CompOFA, gatech-sysml/CompOFA), and DIR of CSV files with measured top-1 of ofa-mbv3-w1.0 subnets (2,162
of them, DyNAS-T notebooks, IntelLabs/DyNAS-T). The objective is synthetic: the accuracies are of width 1.0 and the
latencies of width 1.2, and all were measured at 224 pixels, so each subnet is put at one drawn of the --sizes, where
its log-odds are .45 x (224 / size - 1) lower, about 4 points at 160. `--sizes 224` leaves them as measured. So what is
shown is how well a search maximises, not how accurate a network is.

For each budget, of an additive and of a pairwise predictor (and with --models mlp of Once-for-All's network, which
torch trains) fitted to the same rows: the chosen subnet's predicted top-1, the gap to the proven bound, seconds (of
choosing, the models being loaded); and over the seeds how far evolution (100 subnets, 500 generations) stays below on
the same objective, on average and at worst, and its seconds. Besides: seconds of the exact front of all sizes and
budgets, of each step of one selection, and the additive optimum against brute force over a subspace of 4^10 subnets.
Seconds are the processor's, so that other work on the machine does not count; set OPENBLAS_NUM_THREADS=1, or several
threads are added up. --keep DIR keeps tables and fitted predictors for the next run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge.accuracy import family
from ofa_edge.accuracy.importing import import_csv
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.ridge import FOLDS
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.accuracy.validation import Rows, Validation
from ofa_edge.errors import InfeasibleBudget, OfaEdgeError
from ofa_edge.latency.exchange.formats import import_yaml
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search import choose
from ofa_edge.search.batch import BatchAccuracy, BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import LATENCY
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.search.models import CostModels
from ofa_edge.search.nonadditive import polish
from ofa_edge.space.arch import Space
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import OFA_MBV3_W10, OFA_MBV3_W12

IMAGES = 50_000
SPACE = OFA_MBV3_W12
KINDS: dict[str, Any] = {"additive": AdditiveAccuracy, "pairwise": PairwiseAccuracy}


# -- the models ---------------------------------------------------------------------------------
def accuracy_table(folder: Path, sizes: Sequence[int], out: Path) -> AccuracyTable:
    """The measured subnets as subnets of SPACE, each at one of the sizes."""
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as temporary:
        measured = Path(temporary, "measured.jsonl")
        import_csv(sorted(folder.glob("*.csv")), OFA_MBV3_W10, IMAGES, measured, data="ImageNet, val")
        frame = AccuracyTable.read(measured).frame
    rng = np.random.default_rng(0)
    header = AccuracyHeader.of(SPACE, checkpoint="unknown", data="synthetic, see selection.py", bn="unknown", seed=0)
    with AccuracyWriter.open(out, SPACE, header) as writer:
        for arch, correct in zip(frame["arch"], frame["correct"], strict=True):
            size = int(rng.choice(sizes))
            odds = np.log(correct / (IMAGES - correct)) - 0.45 * (224 / size - 1)
            writer.add(arch.at(size), round(IMAGES / (1 + np.exp(-odds))), IMAGES)
        writer.finish()
    return AccuracyTable.read(out)


def predictors(table: AccuracyTable, kinds: Sequence[str], folder: Path) -> dict[str, Any]:
    """Fitted, or as kept from before."""
    found = {}
    for kind in kinds:
        path = folder / f"{kind}.predictor"
        if not path.exists():
            print(f"fitting the {kind} predictor", file=sys.stderr)
            if kind not in KINDS:
                family.save(family.fit(kind, SPACE, table), path)
                found[kind] = family.load(path, SPACE).predictor
                continue
            rows = Rows.of_table(SPACE, table)
            fitted = KINDS[kind].fit_measured(rows)
            quality = fitted.quality
            validation = Validation(FOLDS, quality.rmse, quality.spearman)
            header = table.header
            whole = family.Fitted(
                fitted, validation, quality.rows, quality.subnets, table.sha256, header.checkpoint, header.data, 0
            )
            family.save(whole, path)
        found[kind] = family.load(path, SPACE).predictor
    return found


# -- what is measured ---------------------------------------------------------------------------
def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the processor's seconds."""
    start = time.process_time()
    return action(), round(time.process_time() - start, 3)


def chosen_at(predictor: Any, latency: LatencyModel, budget: Budget, sizes: Sequence[int]) -> dict[str, Any]:
    """The selection, and how far the exchange moves alone come where the model is no sum."""
    additive = predictor.kind == "additive"
    search = choose.choose if additive else polish.choose
    selection, seconds = timed(
        lambda: search(CostModels(SPACE, latency, sizes), predictor, budget, inputs={}).selection
    )
    found = {
        "top1": round(100 * selection.top1.value, 4),
        "gap_to_bound": None if selection.bound is None else round(100 * (selection.bound - selection.top1.value), 6),
        "proven": selection.proven_optimal,
        "latency_ms": round(selection.latency_ms.value, 3),
        "resolution": selection.arch.resolution,
        "seconds": seconds,
    }
    if not additive:
        limits = Limits.of(budget, latency.margin())
        moves, seconds = timed(lambda: polish.search(SPACE, latency, predictor, limits, sizes, proof=False))
        value = float(polish.score_of(predictor).top1(moves.scores[0]))
        found |= {"moves_gap": round(100 * (selection.top1.value - value), 4), "moves_seconds": seconds}
    return found


def evolved(
    predictor: Any, latency: LatencyModel, budget: Budget, sizes: Sequence[int], seeds: Sequence[int], best: float
) -> dict[str, Any] | str:
    """How far evolution stays below the best, in points."""
    try:
        from ofa_edge.search.sampled.evolution import evolve
    except ImportError:
        return "evolution is not in this version, so nothing is compared with it"
    costs, limits = BatchCosts(SPACE, latency, sizes), Limits.of(budget, latency.margin())
    objective = BatchAccuracy(predictor, sizes).top1
    gaps, times = [], []
    for seed in seeds:
        found, seconds = timed(
            lambda seed=seed: evolve(  # type: ignore[misc]
                SPACE, objective, lambda archs: costs.keep(archs, limits), seed=seed, resolutions=sizes
            )
        )
        gaps.append(best - 100 * found.value)
        times.append(seconds)
    return {
        "mean_gap": round(statistics.mean(gaps), 4),
        "worst_gap": round(max(gaps), 4),
        "best_gap": round(max(0.0, min(gaps)), 4),
        "seconds": round(statistics.median(times), 3),
        "seeds": len(gaps),
        "gaps": [round(gap, 4) for gap in gaps],
    }


def by_model(predictor: Any, latency: LatencyModel, options: Any) -> dict[str, Any]:
    """Each budget's selection and evolution."""
    additive = predictor.kind == "additive"
    shared = choose.shared_resolutions if additive else polish.shared_resolutions
    sizes = shared(latency.resolutions, predictor)
    budgets: dict[str, Any] = {}
    for ms in options.budgets:
        budget = Budget(latency_ms=ms)
        try:
            found = chosen_at(predictor, latency, budget, sizes)
        except InfeasibleBudget as error:
            budgets[str(budget)] = error.message
            continue
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        found["evolution"] = evolved(predictor, latency, budget, sizes, seeds, found["top1"]) if seeds else {}
        budgets[str(budget)] = found
        print(f"{predictor.kind}, {budget}: {found}", file=sys.stderr)
    return {"model": predictor.describe(), "sizes": list(sizes), "budgets": budgets}


def of_front(predictor: Any, latency: LatencyModel, repeats: int = 5) -> dict[str, Any]:
    """Seconds of the front of all sizes and budgets; median of the repeats after one that is not counted."""
    sizes = choose.shared_resolutions(latency.resolutions, predictor)
    exact_front(SPACE, latency, predictor, sizes)
    runs = [timed(lambda: exact_front(SPACE, latency, predictor, sizes)) for _ in range(repeats)]
    return {
        "sizes": len(sizes),
        "subnets": f"{float(SPACE.count()) * len(sizes):.2g}",
        "points": len(runs[0][0]),
        "seconds": statistics.median(seconds for _, seconds in runs),
    }


def of_one_selection(latency_table: Path, accuracy_file: Path, ms: float) -> dict[str, float]:
    """Seconds of each step from files to a selection."""
    steps = {}
    table, steps["read latency table"] = timed(lambda: LatencyTable.read(latency_table))
    latency, steps["latency model"] = timed(lambda: model_of(table))
    accuracies, steps["read accuracy table"] = timed(lambda: AccuracyTable.read(accuracy_file))
    predictor, steps["fit the additive predictor"] = timed(lambda: AdditiveAccuracy.fit(SPACE, accuracies))
    sizes = choose.shared_resolutions(latency.resolutions, predictor)
    _, steps["margin of the latency model"] = timed(latency.margin)
    _, steps["choose"] = timed(
        lambda: choose.choose(CostModels(SPACE, latency, sizes), predictor, Budget(latency_ms=ms), inputs={})
    )
    return {**steps, "together": round(sum(steps.values()), 3)}


# -- brute force --------------------------------------------------------------------------------
class OfSubspace:
    """The scores of a space, asked for choices of a subspace."""

    def __init__(self, score: Any, space: Space):
        self._score, self._space = score, space

    def offset(self, resolution: int) -> float:
        return float(self._score.offset(resolution))

    def stage_scores(self, stage_index: int, values: StageArrays) -> Any:
        stage = self._space.stages[stage_index]
        choices = [values.choice(row) for row in range(len(values))]
        return self._score.stage_scores(stage_index, StageArrays.of(stage, choices))

    def width_scores(self, place: int) -> Any:
        return self._score.width_scores(place)

    def stem_depth_scores(self) -> Any:
        return self._score.stem_depth_scores()


def against_brute_force(predictor: Any, latency: LatencyModel) -> dict[str, Any]:
    """The front of a subspace, of depth 2 and two kernels and expand ratios, by listing all of its subnets."""
    size = max(predictor.resolutions)
    part = replace(SPACE, stages=tuple(replace(s, depths=(2,), kernels=(3, 7), expands=(3, 6)) for s in SPACE.stages))
    front, seconds = timed(lambda: exact_front(part, latency, OfSubspace(predictor, SPACE), [size]))
    codes = [1 + 3 * k + e for k in (0, 2) for e in (0, 2)]  # of kernels 3 and 7, expand ratios 3 and 6
    every = np.array(codes)[np.indices((4,) * 10).reshape(10, -1).T]
    stages = tuple(np.pad(every[:, 2 * s : 2 * s + 2], ((0, 0), (0, 2))) for s in range(5))
    n = len(every)
    zeros = np.zeros(n, dtype=np.int64)
    archs = ArchArrays(SPACE, zeros + size, np.full((n, 5), 2), stages, np.zeros((n, 0), dtype=np.int64), zeros)
    ps = BatchCosts(SPACE, latency, [size]).rows(archs, [LATENCY])[:, LATENCY]
    scores = PlaceScores.of(SPACE, predictor, [size]).scores(archs)
    order = np.lexsort((-scores, ps))
    best = np.maximum.accumulate(scores[order])
    # At each latency of the front the best of all subnets that are no slower.
    at = np.searchsorted(ps[order], front.costs[:, LATENCY], side="right") - 1
    better = scores[order] > np.concatenate([[-np.inf], best[:-1]]) + 1e-11
    return {
        "subnets": n,
        "points": len(front),
        "points_by_listing": int(better.sum()),
        "greatest_difference": float(np.abs(best[at] - front.score).max()),
        "every_latency_is_one_of_a_subnet": bool(np.isin(front.costs[:, LATENCY], ps).all()),
        "front_seconds": seconds,
    }


# -- the command --------------------------------------------------------------------------------
def run(options: Any, folder: Path) -> dict[str, Any]:
    latency_file, accuracy_file = (
        folder / "latency.jsonl",
        folder / f"accuracy-{'-'.join(map(str, options.sizes))}.jsonl",
    )
    if not latency_file.exists():
        import_yaml(sorted(options.latency_yaml.glob("*.yaml")), latency_file, space=SPACE)
    if not accuracy_file.exists():
        accuracy_table(options.accuracies, options.sizes, accuracy_file)
    latency = model_of(LatencyTable.read(latency_file))
    own = folder / accuracy_file.stem
    own.mkdir(exist_ok=True)
    fitted = predictors(AccuracyTable.read(accuracy_file), options.models, own)
    found: dict[str, Any] = {
        "note": "a synthetic objective: accuracies of width 1.0 on latencies of width 1.2"
        + ("" if options.sizes == [224] else ", and at sizes below 224 by a made-up rule"),
        "margin": round(latency.margin(), 5),
    }
    if "additive" in fitted:
        found["front"] = of_front(fitted["additive"], latency)
        found["one selection"] = of_one_selection(latency_file, accuracy_file, max(options.budgets))
        found["brute force"] = against_brute_force(fitted["additive"], latency)
    return found | {kind: by_model(predictor, latency, options) for kind, predictor in fitted.items()}


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """A line for everything without dictionaries two levels down."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and any(_deep(inner) for inner in item.values()):
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_line(item)}")
    return lines


def _deep(item: Any) -> bool:
    return isinstance(item, dict) and (len(item) > 5 or any(isinstance(inner, dict) for inner in item.values()))


def _line(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    return ", ".join(f"{key} ({_line(x)})" if isinstance(x, dict) else f"{key} {x}" for key, x in item.items())


def main() -> None:
    def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-yaml", type=Path, required=True, help="folder of RESOLUTION_lookup_table.yaml files")
    parser.add_argument("--accuracies", type=Path, required=True, help="folder of CSV files of measured top-1")
    parser.add_argument("--budgets", type=numbers(float), default=[15.0, 18.0, 22.0, 26.0, 32.0, 40.0], help="ms")
    parser.add_argument("--sizes", type=numbers(int), default=[160, 176, 192, 208, 224])
    parser.add_argument("--models", type=lambda text: text.split(","), default=["additive", "pairwise"])
    parser.add_argument("--seeds", type=int, default=30, help="of evolution; 0 leaves it out")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for tables and predictors")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(options, folder)
    for kind in () if options.json else options.models:
        for found in result[kind]["budgets"].values():
            if isinstance(found, dict) and isinstance(found["evolution"], dict):
                found["evolution"].pop("gaps", None)
    print(json.dumps(result) if options.json else "\n".join(_lines(result)))


if __name__ == "__main__":
    try:
        main()
    except OfaEdgeError as error:
        sys.exit(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
