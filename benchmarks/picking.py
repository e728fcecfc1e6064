"""Picking the best of a shortlist by noisy figures: what is claimed, and what it is really worth.

    python benchmarks/picking.py --accuracies DIR [--images 2000,4000,10000] [--fits 20] [--json]

DIR holds CSV files with measured ImageNet top-1 (50,000 images) of ofa-mbv3-w1.0 subnets (2,162 of them, DyNAS-T
notebooks, IntelLabs/DyNAS-T), which are taken for the truth. So the predictor's errors are real ones: an additive
predictor is fitted to 300 drawn subnets, each with the noise of the images drawn for it, and for budgets in MACs the
best 20 by prediction of the other subnets are the shortlist. Each is then 'measured' on so many images (binomial, the
images drawn anew). For each number of images, in points of top-1, averaged: by how much the greatest measured figure is
above the truth of that subnet, and the corrected figure (search/truth/posterior.py) above that of its own pick; and how
far the picks (by prediction, by the greatest measured, by the greatest corrected) stay below the best of the shortlist.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge.accuracy.importing import import_csv
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import OfaEdgeError
from ofa_edge.search.truth.posterior import corrected, predictors_error
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_MBV3_W10

SHORTLIST = 20
ROWS = 300
BUDGETS = np.linspace(0.15, 0.95, 9)  # quantiles of MACs
DRAWS = 20
CONFIDENCE = 0.95


def trial(table: AccuracyTable, macs: np.ndarray, images: int, seed: int) -> np.ndarray:
    """(budgets x draws, 5) of one fit: claims of raw and corrected above the truth, and three regrets."""
    rng = np.random.default_rng(seed)
    archs, truth = list(table.frame["arch"]), table.frame["top1"].to_numpy()
    order = rng.permutation(len(archs))
    known, others = order[:ROWS], order[ROWS:]
    correct = rng.binomial(images, truth[known])
    model = AdditiveAccuracy.fit_measured(
        Rows.of(OFA_MBV3_W10, [archs[i] for i in known], correct, [images] * ROWS), seed=seed
    )
    predicted = model.intervals([archs[i] for i in others], CONFIDENCE)
    rows = []
    for budget in np.quantile(macs[others], BUDGETS):
        fitting = np.flatnonzero(macs[others] <= budget)
        chosen = fitting[np.argsort(-predicted[fitting, 0], kind="stable")[:SHORTLIST]]
        value, low, high = predicted[chosen].T
        true = truth[others[chosen]]
        sampling = float(np.mean(value * (1 - value))) / images
        error = predictors_error((high - low) / 2, CONFIDENCE, sampling)
        for _ in range(DRAWS):
            measured = rng.binomial(images, true) / images
            found = corrected(value, measured, sampling, error).top1
            raw, best = measured.argmax(), found.argmax()
            claims = measured[raw] - true[raw], found[best] - true[best]
            rows.append([*claims, *(true.max() - true[[value.argmax(), raw, best]])])
    return np.array(rows)


def figures(table: AccuracyTable, images: Sequence[int], fits: int) -> list[dict[str, Any]]:
    """Means over fits, and the standard error of the claims over fits, in points."""
    macs = np.array([cost(OFA_MBV3_W10.blocks(arch)).macs for arch in table.frame["arch"]])
    result = []
    names = ("raw_claim", "corrected_claim", "regret_predicted", "regret_raw", "regret_corrected")
    for count in images:
        means = np.array([trial(table, macs, count, seed).mean(axis=0) for seed in range(fits)])
        result.append(
            {"images": count, "shortlists": fits * len(BUDGETS) * DRAWS}
            | {name: round(100 * float(x), 3) for name, x in zip(names, means.mean(axis=0), strict=True)}
            | {"corrected_claim_se": round(100 * float(means[:, 1].std(ddof=1)) / fits**0.5, 3)}
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracies", type=Path, required=True)
    parser.add_argument("--images", default="2000,4000,10000")
    parser.add_argument("--fits", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "accuracies.jsonl")
        import_csv(sorted(options.accuracies.glob("*.csv")), OFA_MBV3_W10, 50_000, path, data="DyNAS-T")
        table = AccuracyTable.read(path)
    rows = figures(table, [int(count) for count in options.images.split(",")], options.fits)
    print(json.dumps(rows) if options.json else "\n".join(json.dumps(row) for row in rows))


if __name__ == "__main__":
    try:
        main()
    except OfaEdgeError as error:
        sys.exit(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
